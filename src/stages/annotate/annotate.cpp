#include "stages/annotate/annotate.hpp"

#include <ATen/Parallel.h>

#include <limits>
#include <map>
#include <tuple>

#include <nlohmann/json.hpp>

#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/time_use.hpp"
#include "nn/device.hpp"
#include "stages/common/sharded.hpp"
#include "stages/generate/generate.hpp"
#include "stages/plan/plan.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kStage = "annotate";
/// Pictures of one pass: SAM's encoder works on 1024 px (4,096 tokens), more of them gain nothing and cost memory.
constexpr std::int64_t kBatch = 4;

constexpr float kNoScore = std::numeric_limits<float>::quiet_NaN();  // of pictures that could not be read

/// What the annotators made of the pictures, by row.
struct Masks {
  std::vector<std::string> heap;
  std::vector<std::int64_t> areas;
  std::vector<std::int32_t> chosen;
  std::vector<std::vector<float>> scores;  // of each annotator that was chosen from
};

/// Gathers pictures of one size, and where the annotator asks for it of one category, until a batch is full.
class MaskMaker {
 public:
  MaskMaker(models::Annotator& annotator, std::int64_t batch, std::size_t rows)
      : annotator_(annotator),
        is_by_category_(annotator.group() > 0),
        batch_(static_cast<std::size_t>(is_by_category_ ? annotator.group() : batch)),
        masks_{std::vector<std::string>(rows), std::vector<std::int64_t>(rows, -1), std::vector<std::int32_t>(rows, -1),
               std::vector(annotator.names().size(), std::vector<float>(rows, kNoScore))} {}

  void add(std::size_t row, image::Image picture, const std::string& category) {
    const Key key{is_by_category_ ? category : "", picture.height, picture.width};
    // One batch is open at a time, unless categories are kept apart: then each has its own.
    if (!is_by_category_ && !open_.contains(key)) make_all();
    Batch& batch = open_[key];
    batch.rows.push_back(row);
    batch.pictures.push_back(std::move(picture));
    batch.categories.push_back(category);
    if (batch.rows.size() < batch_) return;
    make(batch);
    open_.erase(key);
  }
  Masks finish() {
    make_all();
    return std::move(masks_);
  }

 private:
  using Key = std::tuple<std::string, int, int>;
  struct Batch {
    std::vector<std::size_t> rows;
    std::vector<image::Image> pictures;
    std::vector<std::string> categories;
  };

  void make_all() {
    for (auto& [key, batch] : open_) make(batch);
    open_.clear();
  }
  void make(Batch& batch) {
    // A group's annotator fills up what is missing by itself: its masks depend on all of the group.
    while (!is_by_category_ && batch.pictures.size() < batch_) {
      batch.pictures.push_back(batch.pictures.back());
      batch.categories.push_back(batch.categories.back());
    }
    const std::vector<models::Annotation> made = annotator_.annotate(batch.pictures, batch.categories);
    DIVERGEN_CHECK(made.size() == batch.pictures.size());
    for (std::size_t i = 0; i < batch.rows.size(); ++i) {
      const std::size_t row = batch.rows[i];
      masks_.heap[row] = image::encode_png(made[i].mask);
      masks_.areas[row] = mask_area(made[i].mask);
      masks_.chosen[row] = made[i].annotator;
      DIVERGEN_CHECK(made[i].scores.size() == masks_.scores.size());
      for (std::size_t n = 0; n < made[i].scores.size(); ++n) masks_.scores[n][row] = made[i].scores[n];
    }
  }

  models::Annotator& annotator_;
  bool is_by_category_;
  std::size_t batch_;
  Masks masks_;
  std::map<Key, Batch> open_;
};

std::string fingerprint(const RunContext& context) {
  std::string text;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    const auto& settings = context.config.annotator;
    text = cat(kMasksFormat, kMasksVersion, '\n', fingerprint_of(context.dir, "generate"), '\n',
               settings.choose_from.empty() ? settings.kind : "best cut-out", '\n', settings.margin, '\n',
               models::annotators_hash(context.config));
  });
  return to_hex(hash128(context.world.broadcast_text(std::move(text))));
}

}  // namespace

std::int64_t mask_area(const image::Image& mask) {
  return std::count_if(mask.pixels.begin(), mask.pixels.end(), [](std::uint8_t p) { return p > kMaskThreshold; });
}

store::Table make_masks(const store::Table& pictures, models::Annotator& annotator, std::int64_t batch,
                        const std::map<std::int32_t, std::string>& names) {
  const auto& ids = pictures.get<std::uint64_t>("item_id");
  const std::vector<std::int32_t>* categories = names.empty() ? nullptr : &pictures.get<std::int32_t>("category");
  std::int64_t unreadable = 0;
  MaskMaker maker(annotator, batch, pictures.rows());
  for (std::size_t row = 0; row < pictures.rows(); ++row) {
    image::Decoded picture = image::decode(pictures.heap(row));
    if (!picture.image) {
      ++unreadable;
      log::warn("annotate: item ", to_hex(ids[row]), " is left out: its picture cannot be read: ", picture.problem);
      continue;
    }
    maker.add(row, std::move(*picture.image), categories == nullptr ? "" : names.at((*categories)[row]));
  }
  Masks masks = maker.finish();

  store::Table table(kMasksFormat, kMasksVersion);
  table.add("item_id", ids);
  table.add("area", std::move(masks.areas));
  if (const std::vector<std::string> annotators = annotator.names(); !annotators.empty()) {
    table.add(kChosen, std::move(masks.chosen));
    for (std::size_t n = 0; n < annotators.size(); ++n) table.add(kScoreOf + annotators[n], std::move(masks.scores[n]));
    table.documents[kAnnotators] = nlohmann::json(annotators).dump();
  }
  table.set_heap(masks.heap);
  set_rejected(table, {{kUnreadable, unreadable}});
  return table;
}

std::map<std::int32_t, std::string> names_of(const Plan& plan) {
  std::map<std::int32_t, std::string> names;
  for (const PlanCategory& category : plan.categories) names[category.id] = category.name;
  return names;
}

at::Device annotate_device(const comm::World& world) { return nn::device_of(world); }

std::int64_t annotate_batch(const Plan& plan) { return std::min<std::int64_t>(kBatch, plan.shard_items); }

void run_annotate(const RunContext& context) {
  const auto& settings = context.config.annotator;
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  Plan plan;
  context.world.together([&] {
    if (settings.choose_from.empty() && settings.weights.empty() && settings.kind != "full")
      fail(ErrorKind::Config, {"no weights of the annotator are named", "annotator.weights", "it is missing",
                               "name a SAM checkpoint, or set choose_from"});
    plan = read_plan(context.dir.plan());
  });
  const std::int64_t batch = annotate_batch(plan);
  std::unique_ptr<models::Annotator> annotator;

  ShardedStage stage;
  stage.name = kStage;
  stage.shards = plan.shards();
  stage.fingerprint = fingerprint(context);
  stage.items = [&](std::size_t shard) {
    const auto range = plan.shard(shard);
    return static_cast<std::int64_t>(range.last - range.first);
  };
  stage.make = [&](std::size_t shard) {
    if (!annotator) {
      const TimeUseTimer timer(TimeUse::Load);
      annotator = models::make_annotator(context.config, annotate_device(context.world));
    }
    store::Table table =
        make_masks(read_shard(context.dir, "generate", shard, kPicturesFormat), *annotator, batch, names_of(plan));
    table.attributes["annotator"] = settings.choose_from.empty() ? settings.kind : "best cut-out";
    table.attributes["weights_hash"] = annotator->weights_hash();
    return table;
  };
  run_sharded(context, stage);
}

}  // namespace divergen::stages
