#include "stages/pool/rows.hpp"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

// As in annotate.hpp, which drags the models along.
constexpr const char *kAnnotators = "annotators", *kChosen = "annotator", *kScoreOf = "annotator_score.";

/// A list of names that a stage left in its tables.
std::vector<std::string> texts_of(const store::Table& table, const char* document, const char* stage) {
  try {
    return nlohmann::json::parse(table.documents.at(document)).get<std::vector<std::string>>();
  } catch (const std::exception& error) {
    fail(ErrorKind::Data, {"a list of names in a stage's table cannot be read", cat("document '", document, "'"),
                           error.what(), cat("run `divergen ", stage, "` again")});
  }
}

}  // namespace

void check_rows(const Plan& plan, Plan::Range range, const store::Table& table) {
  const auto& ids = table.get<std::uint64_t>("item_id");
  if (ids.size() == range.last - range.first &&
      std::equal(ids.begin(), ids.end(), plan.item_id.begin() + static_cast<std::ptrdiff_t>(range.first)))
    return;
  fail(ErrorKind::Data, {"a shard does not hold the items of the plan", cat("a '", table.format(), "' table"),
                         cat(ids.size(), " rows for items ", range.first, " to ", range.last, " of the plan"),
                         "run the stages again from `divergen generate` on: they make again what does not fit"});
}

Verdicts::Verdicts(const store::Table& table) : table_(table), reasons_(texts_of(table, "reasons", "filter")) {}

const std::string* Verdicts::rejected(std::size_t row) const {
  if (table_.get<std::uint8_t>("kept")[row] != 0) return nullptr;
  const std::int32_t reason = table_.get<std::int32_t>("reason")[row];
  if (reason < 0 || static_cast<std::size_t>(reason) >= reasons_.size())
    fail(ErrorKind::Data,
         {"a verdict has no reason", cat("row ", row), cat("reason ", reason), "run `divergen filter` again"});
  return &reasons_[static_cast<std::size_t>(reason)];
}

AnnotatorChoice::AnnotatorChoice(const store::Table& table) : table_(table) {
  if (table.has(kChosen)) names_ = texts_of(table, kAnnotators, "annotate");
}

void AnnotatorChoice::tell(std::size_t row, store::Instance& out) const {
  if (!table_.has(kChosen)) return;
  for (const std::string& name : names_)
    out.annotator_scores.emplace_back(name, table_.get<float>(kScoreOf + name)[row]);
  const auto chosen = static_cast<std::size_t>(table_.get<std::int32_t>(kChosen)[row]);
  DIVERGEN_CHECK(chosen < names_.size(), chosen);
  out.annotator = names_[chosen];
}

CutRow cut_row(const store::Table& pictures, const store::Table& masks, std::size_t row, int alpha_threshold) {
  const auto picture = image::decode(pictures.heap(row), image::Channels::Rgb);
  const auto mask = image::decode(masks.heap(row), image::Channels::Grey);
  CutRow out;
  if (!picture.image || !mask.image || picture.image->width != mask.image->width ||
      picture.image->height != mask.image->height)
    return out;
  out.cut = cut_out(*picture.image, *mask.image, alpha_threshold);
  out.state = out.cut.problem == CutProblem::None    ? CutState::Cut
              : out.cut.problem == CutProblem::Empty ? CutState::Empty
                                                     : CutState::Thin;
  return out;
}

const char* reason_of(CutState state) {
  switch (state) {
    case CutState::Empty:
      return "empty";
    case CutState::Thin:
      return "thin";
    default:
      return "unreadable";
  }
}

std::uint32_t flags_of(const CutOut& cut) {
  return (cut.touches_border ? store::kTouchesBorder : 0) | (cut.parts_dropped ? store::kPartsDropped : 0);
}

store::Instance planned_part(const store::Table& pictures, std::size_t row) {
  store::Instance out;
  out.item_id = pictures.get<std::uint64_t>("item_id")[row];
  out.seed = pictures.get<std::uint64_t>("seed")[row];
  out.category_id = pictures.get<std::int32_t>("category")[row];
  out.generator = pictures.get<std::int32_t>("generator")[row];
  out.prompt = pictures.get<std::int32_t>("prompt")[row];
  out.sample = pictures.get<std::int32_t>("sample")[row];
  out.source_width = pictures.get<std::int32_t>("width")[row];
  out.source_height = pictures.get<std::int32_t>("height")[row];
  return out;
}

}  // namespace divergen::stages
