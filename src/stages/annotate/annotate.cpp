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

struct Picture {
  image::Image image;
  std::string category;  // empty where the annotator is not told
};

/// A mask as it is stored.
struct Mask {
  std::string png;
  std::int64_t area = -1;
  std::int32_t annotator = -1;
  std::vector<float> scores;
};

/// What the annotators made of the pictures, by row.
struct Masks {
  Masks(std::size_t rows, std::size_t annotators)
      : heap(rows), areas(rows, -1), chosen(rows, -1), scores(annotators, std::vector<float>(rows, kNoScore)) {}

  void set(std::size_t row, Mask&& mask) {
    heap[row] = std::move(mask.png);
    areas[row] = mask.area;
    chosen[row] = mask.annotator;
    DIVERGEN_CHECK(mask.scores.size() == scores.size(), mask.scores.size());
    for (std::size_t n = 0; n < scores.size(); ++n) scores[n][row] = mask.scores[n];
  }

  std::vector<std::string> heap;
  std::vector<std::int64_t> areas;
  std::vector<std::int32_t> chosen;
  std::vector<std::vector<float>> scores;  // of each annotator that was chosen from
};

std::vector<Mask> annotate(models::Annotator& annotator, const std::vector<Picture>& pictures) {
  std::vector<image::Image> images;
  std::vector<std::string> categories;
  for (const Picture& picture : pictures) {
    images.push_back(picture.image);
    categories.push_back(picture.category);
  }
  std::vector<Mask> out;
  for (models::Annotation& made : annotator.annotate(images, categories))
    out.push_back({image::encode_png(made.mask), mask_area(made.mask), made.annotator, std::move(made.scores)});
  DIVERGEN_CHECK(out.size() == pictures.size(), out.size());
  return out;
}

using Take = FixedBatch<Picture, Mask>::Take;
using Fail = FixedBatch<Picture, Mask>::Fail;

/// Gathers pictures of one size until a batch is full.
class BatchMaker {
 public:
  BatchMaker(models::Annotator& annotator, std::int64_t batch, bool isolate, Take take, Fail fail)
      : batch_(
            static_cast<std::size_t>(batch), isolate,
            [&annotator](const std::vector<Picture>& pictures) { return annotate(annotator, pictures); },
            std::move(take), std::move(fail)) {}

  void add(std::size_t row, Picture picture) {
    of_size(picture.image.width, picture.image.height);
    batch_.add(row, std::move(picture));
  }
  void skip(std::size_t row, int width, int height) {
    of_size(width, height);
    batch_.skip(row);
  }
  void flush() { batch_.flush(); }

 private:
  void of_size(int width, int height) {
    if (width != width_ || height != height_) batch_.flush();
    width_ = width;
    height_ = height;
  }

  FixedBatch<Picture, Mask> batch_;
  int width_ = 0, height_ = 0;  // of the pictures in it
};

/// Gathers pictures of one size and category until a group is full. The annotator fills up what is missing by itself:
/// its masks depend on all of the group.
class GroupMaker {
 public:
  GroupMaker(models::Annotator& annotator, const ShardRequest& request, Take take, Fail fail)
      : annotator_(annotator),
        request_(request),
        size_(static_cast<std::size_t>(annotator.group())),
        take_(std::move(take)),
        fail_(std::move(fail)) {}

  void add(std::size_t row, Picture picture) {
    const Key key{picture.category, picture.image.height, picture.image.width};
    Group& group = open_[key];
    group.rows.push_back(row);
    group.pictures.push_back(std::move(picture));
    if (group.rows.size() < size_) return;
    make(group);
    open_.erase(key);
  }
  void flush() {
    for (const auto& [key, group] : open_) make(group);
    open_.clear();
  }

 private:
  using Key = std::tuple<std::string, int, int>;
  struct Group {
    std::vector<std::size_t> rows;
    std::vector<Picture> pictures;
  };

  void make(const Group& group) {
    if (std::none_of(group.rows.begin(), group.rows.end(), [&](std::size_t row) { return request_.wants(row); }))
      return;
    try {
      run(group);
    } catch (const std::exception&) {
      if (!request_.isolate) throw;
      for (std::size_t i = 0; i < group.rows.size(); ++i) alone(group.rows[i], group.pictures[i]);
    }
  }
  void run(const Group& group) {
    std::vector<Mask> made = annotate(annotator_, group.pictures);
    for (std::size_t i = 0; i < made.size(); ++i)
      if (request_.wants(group.rows[i])) take_(group.rows[i], std::move(made[i]));
  }
  /// A picture of a group that failed, as a group of its own.
  void alone(std::size_t row, const Picture& picture) {
    if (!request_.wants(row)) return;
    try {
      run({{row}, {picture}});
    } catch (const std::exception& error) {
      fail_(row, error.what());
    }
  }

  models::Annotator& annotator_;
  const ShardRequest& request_;
  std::size_t size_;
  Take take_;
  Fail fail_;
  std::map<Key, Group> open_;
};

/// Whether a kept row's picture could be read, and so has a place among the others.
bool was_readable(const store::Table& kept, std::size_t row) {
  if (kept.has("readable")) return kept.get<std::uint8_t>("readable")[row] != 0;  // a fused shard
  return kept.get<std::int64_t>("area")[row] >= 0;
}

std::string kind_of(const config::AnnotatorSettings& settings) {
  return settings.choose_from.empty() ? settings.kind : "best cut-out";
}

}  // namespace

std::int64_t mask_area(const image::Image& mask) {
  return std::count_if(mask.pixels.begin(), mask.pixels.end(), [](std::uint8_t p) { return p > kMaskThreshold; });
}

store::Table make_masks(const store::Table& pictures, models::Annotator& annotator, std::int64_t batch,
                        const std::map<std::int32_t, std::string>& names, const ShardRequest& request) {
  const auto& ids = pictures.get<std::uint64_t>("item_id");
  const std::vector<std::int32_t>* categories = names.empty() ? nullptr : &pictures.get<std::int32_t>("category");
  const std::vector<std::string> annotators = annotator.names();
  Masks masks(pictures.rows(), annotators.size());
  std::int64_t unreadable = 0, failed = 0;
  const Take take = [&](std::size_t row, Mask&& mask) { masks.set(row, std::move(mask)); };
  const Fail fail = [&](std::size_t row, const char* why) {
    ++failed;
    log::warn("annotate: item ", to_hex(ids[row]), " cannot be cut out: ", why);
  };
  const bool is_grouped = annotator.group() > 0;
  BatchMaker batches(annotator, batch, request.isolate, take, fail);
  GroupMaker groups(annotator, request, take, fail);
  for (std::size_t row = 0; row < pictures.rows(); ++row) {
    if (!request.wants(row) && !is_grouped) {
      if (was_readable(request.kept->rows, request.kept_row(row)))
        batches.skip(row, pictures.get<std::int32_t>("width")[row], pictures.get<std::int32_t>("height")[row]);
      continue;
    }
    image::Decoded picture = image::decode(pictures.heap(row));
    if (!picture.image) {
      if (!request.wants(row)) continue;
      ++unreadable;
      log::warn("annotate: item ", to_hex(ids[row]), " is left out: its picture cannot be read: ", picture.problem);
      continue;
    }
    Picture input{std::move(*picture.image), categories == nullptr ? "" : names.at((*categories)[row])};
    if (is_grouped) groups.add(row, std::move(input));
    else batches.add(row, std::move(input));
  }
  batches.flush();
  groups.flush();

  store::Table table(kMasksFormat, kMasksVersion);
  table.add("item_id", ids);
  table.add("area", std::move(masks.areas));
  if (!annotators.empty()) {
    table.add(kChosen, std::move(masks.chosen));
    for (std::size_t n = 0; n < annotators.size(); ++n) table.add(kScoreOf + annotators[n], std::move(masks.scores[n]));
    table.documents[kAnnotators] = nlohmann::json(annotators).dump();
  }
  table.set_heap(masks.heap);
  set_rejected(table, {{kUnreadable, unreadable}, {kFailed, failed}});
  return table;
}

std::map<std::int32_t, std::string> names_of(const Plan& plan) {
  std::map<std::int32_t, std::string> names;
  for (const PlanCategory& category : plan.categories) names[category.id] = category.name;
  return names;
}

at::Device annotate_device(const comm::World& world) { return nn::device_of(world); }

std::int64_t annotate_batch(const Plan& plan) { return std::min<std::int64_t>(kBatch, plan.shard_items); }

Masking::Masking(const RunContext& context, const Plan& plan)
    : config_(context.config),
      device_(annotate_device(context.world)),
      names_(names_of(plan)),
      batch_(annotate_batch(plan)) {
  const auto& settings = config_.annotator;
  context.world.together([&] {
    if (settings.choose_from.empty() && settings.weights.empty() && settings.kind != "full")
      fail(ErrorKind::Config, {"no weights of the annotator are named", "annotator.weights", "it is missing",
                               "name a SAM checkpoint, or set choose_from"});
    if (!context.world.is_root()) return;
    text_ = cat(kind_of(settings), '\n', settings.margin, '\n', models::annotators_hash(config_));
  });
  text_ = context.world.broadcast_text(std::move(text_));
}

models::Annotator& Masking::annotator() {
  if (!annotator_) {
    const TimeUseTimer timer(TimeUse::Load);
    annotator_ = models::make_annotator(config_, device_);
  }
  return *annotator_;
}

store::Table Masking::make(const store::Table& pictures, const ShardRequest& request) {
  store::Table table = make_masks(pictures, annotator(), batch_, names_, request);
  table.attributes["annotator"] = kind_of(config_.annotator);
  table.attributes["weights_hash"] = annotator().weights_hash();
  return table;
}

void run_annotate(const RunContext& context) {
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  Plan plan;
  std::vector<std::string> pictures;  // fingerprints
  context.world.together([&] {
    plan = read_plan(context.dir);
    pictures = fingerprints_of(context.dir, "generate", plan.rounds());
  });
  Masking masking(context, plan);

  ShardedStage stage;
  stage.name = kStage;
  set_rounds(stage, plan, [&](std::size_t round) {
    return to_hex(hash128(cat(kMasksFormat, kMasksVersion, '\n', pictures[round], '\n', masking.text())));
  });
  stage.make_rows = [&](std::size_t shard, const ShardRequest& request) {
    return masking.make(read_shard(context.dir, "generate", shard, kPicturesFormat), request);
  };
  stage.make = [&](std::size_t shard) { return stage.make_rows(shard, {}); };
  run_sharded(context, stage);
}

}  // namespace divergen::stages
