#include "stages/annotate/annotate.hpp"

#include <ATen/Parallel.h>

#include "base/hash.hpp"
#include "base/log.hpp"
#include "models/generator.hpp"
#include "stages/common/sharded.hpp"
#include "stages/generate/generate.hpp"
#include "stages/plan/plan.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kStage = "annotate";
/// Pictures of one pass: SAM's encoder works on 1024 px (4,096 tokens), more of them gain nothing and cost memory.
constexpr std::int64_t kBatch = 4;

/// Gathers pictures of one size until a batch is full.
class MaskMaker {
 public:
  MaskMaker(models::Annotator& annotator, std::int64_t batch, std::vector<std::string>& heap,
            std::vector<std::int64_t>& areas)
      : annotator_(annotator), batch_(static_cast<std::size_t>(batch)), heap_(heap), areas_(areas) {}

  void add(std::size_t row, image::Image picture) {
    const bool is_other_size =
        !pictures_.empty() && (picture.height != pictures_.front().height || picture.width != pictures_.front().width);
    if (is_other_size) flush();
    rows_.push_back(row);
    pictures_.push_back(std::move(picture));
    if (pictures_.size() == batch_) flush();
  }
  void flush() {
    if (pictures_.empty()) return;
    while (pictures_.size() < batch_) pictures_.push_back(pictures_.back());
    const std::vector<image::Image> masks = annotator_.annotate(pictures_);
    DIVERGEN_CHECK(masks.size() == pictures_.size());
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      heap_[rows_[i]] = image::encode_png(masks[i]);
      areas_[rows_[i]] = mask_area(masks[i]);
    }
    rows_.clear();
    pictures_.clear();
  }

 private:
  models::Annotator& annotator_;
  std::size_t batch_;
  std::vector<std::string>& heap_;
  std::vector<std::int64_t>& areas_;
  std::vector<std::size_t> rows_;
  std::vector<image::Image> pictures_;
};

std::string fingerprint(const RunContext& context) {
  std::string text;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    const auto& settings = context.config.annotator;
    text = cat(kMasksFormat, kMasksVersion, '\n', fingerprint_of(context.dir, "generate"), '\n', settings.kind, '\n',
               settings.margin, '\n', models::hash_weights(settings.weights));
  });
  return to_hex(hash128(context.world.broadcast_text(std::move(text))));
}

}  // namespace

std::int64_t mask_area(const image::Image& mask) {
  return std::count_if(mask.pixels.begin(), mask.pixels.end(), [](std::uint8_t p) { return p > kMaskThreshold; });
}

store::Table make_masks(const store::Table& pictures, models::Annotator& annotator, std::int64_t batch) {
  const auto& ids = pictures.get<std::uint64_t>("item_id");
  std::vector<std::string> heap(pictures.rows());
  std::vector<std::int64_t> areas(pictures.rows(), -1);
  std::int64_t unreadable = 0;
  MaskMaker maker(annotator, batch, heap, areas);
  for (std::size_t row = 0; row < pictures.rows(); ++row) {
    image::Decoded picture = image::decode(pictures.heap(row));
    if (!picture.image) {
      ++unreadable;
      log::warn("annotate: item ", to_hex(ids[row]), " is left out: its picture cannot be read: ", picture.problem);
      continue;
    }
    maker.add(row, std::move(*picture.image));
  }
  maker.flush();

  store::Table table(kMasksFormat, kMasksVersion);
  table.add("item_id", ids);
  table.add("area", std::move(areas));
  table.set_heap(heap);
  set_rejected(table, {{kUnreadable, unreadable}});
  return table;
}

std::int64_t annotate_batch(const Plan& plan) { return std::min<std::int64_t>(kBatch, plan.shard_items); }

void run_annotate(const RunContext& context) {
  const auto& settings = context.config.annotator;
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  Plan plan;
  context.world.together([&] {
    if (settings.weights.empty())
      fail(ErrorKind::Config,
           {"no weights of the annotator are named", "annotator.weights", "it is missing", "name a SAM checkpoint"});
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
    if (!annotator) annotator = models::make_annotator(settings);
    store::Table table = make_masks(read_shard(context.dir, "generate", shard, kPicturesFormat), *annotator, batch);
    table.attributes["annotator"] = settings.kind;
    table.attributes["weights_hash"] = annotator->weights_hash();
    return table;
  };
  run_sharded(context, stage);
}

}  // namespace divergen::stages
