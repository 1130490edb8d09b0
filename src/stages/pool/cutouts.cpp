#include "stages/pool/cutouts.hpp"

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "image/image.hpp"
#include "stages/pool/pool.hpp"
#include "stages/pool/rows.hpp"

namespace divergen::stages {
namespace {

/// The columns that cutting adds.
struct Columns {
  explicit Columns(std::size_t rows)
      : state(rows, static_cast<std::uint8_t>(CutState::Unreadable)),
        width(rows),
        height(rows),
        x(rows),
        y(rows),
        area(rows),
        flags(rows),
        png(rows) {}

  void set(std::size_t row, const CutRow& cut) {
    state[row] = static_cast<std::uint8_t>(cut.state);
    if (cut.state != CutState::Cut) return;
    width[row] = cut.cut.rgba.width;
    height[row] = cut.cut.rgba.height;
    x[row] = cut.cut.x;
    y[row] = cut.cut.y;
    area[row] = cut.cut.area;
    flags[row] = flags_of(cut.cut);
    png[row] = image::encode_png(cut.cut.rgba);
  }

  std::vector<std::uint8_t> state;
  std::vector<std::int32_t> width, height, x, y;
  std::vector<std::int64_t> area;
  std::vector<std::uint32_t> flags;
  std::vector<std::string> png;
};

store::Instance instance_of(const store::Table& cutouts, const store::Table& verdicts, const AnnotatorChoice& choice,
                            std::size_t row) {
  store::Instance out = planned_part(cutouts, row);
  out.width = cutouts.get<std::int32_t>("cut_width")[row];
  out.height = cutouts.get<std::int32_t>("cut_height")[row];
  out.box_x = cutouts.get<std::int32_t>("box_x")[row];
  out.box_y = cutouts.get<std::int32_t>("box_y")[row];
  out.area = cutouts.get<std::int64_t>("area")[row];
  out.flags = cutouts.get<std::uint32_t>("flags")[row];
  out.similarity = verdicts.get<float>("similarity")[row];
  out.clip_score = verdicts.get<float>("clip_score")[row];
  choice.tell(row, out);
  out.png = cutouts.heap(row);
  return out;
}

}  // namespace

store::Table make_cutouts(const store::Table& pictures, const store::Table& masks, const store::Table& scores,
                          int alpha_threshold, const ShardRequest& request) {
  const auto& ids = pictures.get<std::uint64_t>("item_id");
  DIVERGEN_CHECK(ids == masks.get<std::uint64_t>("item_id") && ids == scores.get<std::uint64_t>("item_id"));
  Columns columns(pictures.rows());
  for (std::size_t row = 0; row < pictures.rows(); ++row) {
    if (!request.wants(row) || scores.get<std::uint8_t>("readable")[row] == 0) continue;
    try {
      columns.set(row, cut_row(pictures, masks, row, alpha_threshold));
    } catch (const std::exception& error) {
      if (!request.isolate) throw;
      log::warn("fused: item ", to_hex(ids[row]), " cannot be cut out: ", error.what());
    }
  }
  store::Table table(kCutoutsFormat, kCutoutsVersion);
  const auto add_all = [&](const store::Table& from, std::string_view which = "") {
    for (const store::Column& column : from.columns())
      if (!table.has(column.name) && column.name.starts_with(which))
        std::visit([&](const auto& values) { table.add(column.name, values); }, column.values);
  };
  add_all(pictures);
  add_all(scores);
  add_all(masks, "annotator");  // whose mask it is, where several were chosen from
  table.documents = masks.documents;
  table.add("cut", std::move(columns.state));
  table.add("cut_width", std::move(columns.width));
  table.add("cut_height", std::move(columns.height));
  table.add("box_x", std::move(columns.x));
  table.add("box_y", std::move(columns.y));
  table.add("area", std::move(columns.area));
  table.add("flags", std::move(columns.flags));
  table.set_heap(columns.png);
  table.attributes = pictures.attributes;
  const auto copy = [&](const store::Table& from, const char* name, const char* as) {
    if (const auto found = from.attributes.find(name); found != from.attributes.end())
      table.attributes[as] = found->second;
  };
  copy(masks, "annotator", "annotator");
  copy(masks, "weights_hash", "annotator_hash");
  copy(scores, "weights_hash", "clip_hash");
  return table;
}

void pool_cutouts(const Plan& plan, Plan::Range range, const store::Table& cutouts, const store::Table& verdicts,
                  std::vector<store::Instance>& instances, std::map<std::string, std::int64_t>& rejected) {
  check_rows(plan, range, cutouts);
  check_rows(plan, range, verdicts);
  const Verdicts judged(verdicts);
  const AnnotatorChoice choice(cutouts);
  const auto& cut = cutouts.get<std::uint8_t>("cut");
  for (std::size_t row = 0; row < cut.size(); ++row) {
    if (const std::string* reason = judged.rejected(row)) {
      ++rejected[*reason];
    } else if (const auto state = static_cast<CutState>(cut[row]); state == CutState::Cut) {
      instances.push_back(instance_of(cutouts, verdicts, choice, row));
    } else {
      ++rejected[reason_of(state)];
    }
  }
}

}  // namespace divergen::stages
