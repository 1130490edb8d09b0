#include "stages/generate/generate.hpp"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <algorithm>
#include <future>
#include <set>

#include "base/fault.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/machine.hpp"
#include "base/time_use.hpp"
#include "nn/device.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kStage = "generate";

/// All of a generator's settings that its pictures depend on.
std::string description(const config::GeneratorSettings& g, const std::string& weights_hash) {
  std::string text = cat(g.name, '\n', g.kind, '\n', weights_hash, '\n', g.steps, '\n', g.guidance, '\n', g.sampler,
                         '\n', g.size, '\n', g.batch, '\n', g.negative_prompt, '\n');
  // What came later is told only where it is not the default, so that finished shards stay valid.
  if (g.precision != "fp32") text += cat("precision ", g.precision, '\n');
  if (!g.timesteps.empty()) text += cat("timesteps ", g.timesteps, '\n');
  if (g.clean_caption) text += "clean caption\n";
  if (!g.stage2.empty())
    text +=
        cat("stage2 ", g.stage2_steps, '\n', g.stage2_guidance, '\n', g.stage2_timesteps, '\n', g.noise_level, '\n');
  return text;
}

/// Where a generator's settings want it to run.
at::Device device_for(const config::GeneratorSettings& settings, const comm::World& world) {
  if (settings.device == "cpu") return at::kCPU;
  const at::Device device = nn::device_of(world);
  if (settings.device == "cuda" && device.is_cpu())
    fail(ErrorKind::Config, {"there is no GPU for a generator", cat("[generators.", settings.name, "] device = cuda"),
                             "LibTorch sees none on this node", "set device = \"auto\", or run where there is one"});
  return device;
}

/// Prompts of all the plan's items of a generator, each once.
std::vector<std::string> prompts_of(const Plan& plan, std::int32_t generator) {
  std::set<std::int32_t> distinct;
  for (std::size_t row = 0; row < plan.size(); ++row)
    if (plan.generator[row] == generator) distinct.insert(plan.prompt[row]);
  std::vector<std::string> out;
  for (const std::int32_t prompt : distinct) out.push_back(plan.prompts[static_cast<std::size_t>(prompt)]);
  return out;
}

}  // namespace

const config::GeneratorSettings& generator_settings(const config::RunConfig& config, const Plan& plan,
                                                    std::int32_t generator) {
  const std::string& name = plan.generators.at(static_cast<std::size_t>(generator));
  for (const auto& settings : config.generators)
    if (settings.name == name) return settings;
  fail(ErrorKind::Config, {"the plan names a generator that the configuration does not have", name,
                           "the configuration has changed since the run was planned",
                           cat("restore [generators.", name, "], or plan again in a run.dir of its own")});
}

CurrentModel::CurrentModel(const RunContext& context, const Plan& plan)
    : config_(context.config), world_(context.world), plan_(plan) {
  const at::Device device = nn::device_of(world_);
  device_name_ = device.is_cpu() ? "" : cat(device.str(), " ", nn::gpu_name(device.index()));
}

models::TextToImage& CurrentModel::of(std::int32_t generator) {
  if (generator != loaded_) {
    const TimeUseTimer timer(TimeUse::Load);
    model_.reset();  // before the next one is loaded: two may not fit
    loaded_ = -1;
    const auto& settings = generator_settings(config_, plan_, generator);
    log::info("generate: loading ", settings.name, " from ", settings.weights.string());
    model_ = models::make_generator(settings, device_for(settings, world_));
    if (settings.free_text_encoder) model_->prepare(prompts_of(plan_, generator));
    loaded_ = generator;
  }
  return *model_;
}

store::Table CurrentModel::pictures(std::size_t shard, const ShardRequest& request) {
  const auto range = plan_.shard(shard);
  const std::int32_t generator = plan_.generator[range.first];
  const auto& settings = generator_settings(config_, plan_, generator);
  models::TextToImage& model = of(generator);
  store::Table table = make_pictures(plan_, range, model, settings.batch, request);
  table.attributes["generator"] = settings.name;
  table.attributes["weights_hash"] = model.weights_hash();
  table.attributes["sampler"] = settings.sampler;
  table.attributes["steps"] = std::to_string(settings.steps);
  table.attributes["guidance"] = cat(settings.guidance);
  table.attributes["batch"] = std::to_string(settings.batch);
  table.attributes["libtorch"] = TORCH_VERSION;
  return table;
}

Canary CurrentModel::canary(std::size_t shard, const std::string& generators) {
  fault::reach("generate.canary");
  const std::int32_t generator = plan_.generator[plan_.shard(shard).first];
  const auto first = static_cast<std::size_t>(std::find(plan_.generator.begin(), plan_.generator.end(), generator) -
                                              plan_.generator.begin());
  const models::GenerationItem item{plan_.prompts[static_cast<std::size_t>(plan_.prompt[first])], plan_.seed[first]};
  const image::Image picture = of(generator).generate({&item, 1}).at(0);
  const std::string_view bytes(reinterpret_cast<const char*>(picture.pixels.data()), picture.pixels.size());
  // Bits are promised on one kind of processor.
  const std::string device = device_name_.empty() ? processor_name() : nn::gpu_name(nn::device_of(world_).index());
  return {cat(plan_.generators[static_cast<std::size_t>(generator)], " ", to_hex(hash128(generators)), " ", device, " ",
              at::get_num_threads(), " threads, divergen " DIVERGEN_VERSION ", LibTorch " TORCH_VERSION),
          to_hex(hash64(bytes))};
}

namespace {

/// A picture as it is stored.
struct Written {
  std::int32_t width = 0, height = 0;
  std::string png;
};

std::vector<Written> write(const std::vector<image::Image>& pictures) {
  std::vector<Written> out;
  for (const image::Image& picture : pictures)
    out.push_back({picture.width, picture.height, image::encode_png(picture)});
  return out;
}

/// Pictures of a range of the plan by row, made batch by batch.
class PictureMaker {
 public:
  PictureMaker(const Plan& plan, Plan::Range range, models::TextToImage& model, std::int64_t batch)
      : plan_(plan), range_(range), model_(model), size_(static_cast<std::size_t>(batch)) {
    written_.resize(range.last - range.first);
  }

  /// PNGs of one batch are made on a thread of their own while the next batch is computed.
  void make(const ShardRequest& request) {
    std::future<std::vector<Written>> done;
    std::size_t first_done = 0;
    const auto take = [&] {
      if (!done.valid()) return;
      std::vector<Written> batch = done.get();
      for (std::size_t i = 0; i < batch.size(); ++i) written_[first_done + i] = std::move(batch[i]);
    };
    for (std::size_t first = 0; first < written_.size(); first += size_) {
      const std::size_t count = std::min(size_, written_.size() - first);
      bool is_wanted = false;
      for (std::size_t i = first; i < first + count; ++i) is_wanted = is_wanted || request.wants(i);
      if (!is_wanted) continue;
      auto finish = model_.start(items_of(first, count));
      take();  // the batch before, which was written while this one was made
      first_done = first;
      done = std::async(std::launch::async, [finish = std::move(finish), count, size = size_] {
        std::vector<image::Image> pictures = finish();
        DIVERGEN_CHECK(pictures.size() == size, pictures.size(), " pictures of ", size, " items");
        pictures.resize(count);
        return write(pictures);
      });
    }
    take();
  }

  /// One batch after another; a batch that fails item by item, each in its own place. Returns how many failed.
  std::int64_t isolate(const ShardRequest& request) {
    std::int64_t failed = 0;
    FixedBatch<models::GenerationItem, Written> batch(
        size_, true, [&](const std::vector<models::GenerationItem>& items) { return write(model_.generate(items)); },
        [&](std::size_t row, Written&& one) { written_[row] = std::move(one); },
        [&](std::size_t row, const char* why) {
          ++failed;
          log::warn("generate: item ", to_hex(plan_.item_id[range_.first + row]), " cannot be made: ", why);
        });
    for (std::size_t row = 0; row < written_.size(); ++row) {
      if (request.wants(row)) batch.add(row, item_of(row));
      else batch.skip(row);
    }
    batch.flush();
    return failed;
  }

  std::vector<Written>& written() { return written_; }

 private:
  models::GenerationItem item_of(std::size_t row) const {
    const std::size_t at = range_.first + row;
    return {plan_.prompts[static_cast<std::size_t>(plan_.prompt[at])], plan_.seed[at]};
  }
  std::vector<models::GenerationItem> items_of(std::size_t first, std::size_t count) const {
    std::vector<models::GenerationItem> items;
    for (std::size_t i = 0; i < size_; ++i) items.push_back(item_of(first + std::min(i, count - 1)));
    return items;
  }

  const Plan& plan_;
  Plan::Range range_;
  models::TextToImage& model_;
  std::size_t size_;
  std::vector<Written> written_;
};

}  // namespace

store::Table make_pictures(const Plan& plan, Plan::Range range, models::TextToImage& model, std::int64_t batch,
                           const ShardRequest& request) {
  DIVERGEN_CHECK(range.first < range.last && range.last <= plan.size() && batch > 0, range.first, " ", range.last);
  PictureMaker maker(plan, range, model, batch);
  std::int64_t failed = 0;
  if (request.isolate) failed = maker.isolate(request);
  else maker.make(request);

  std::vector<std::int32_t> widths, heights;
  std::vector<std::string> heap;
  for (Written& one : maker.written()) {
    widths.push_back(one.width);
    heights.push_back(one.height);
    heap.push_back(std::move(one.png));
  }
  const auto rows = [&](const auto& column) {
    return std::vector(column.begin() + static_cast<std::ptrdiff_t>(range.first),
                       column.begin() + static_cast<std::ptrdiff_t>(range.last));
  };
  std::vector<std::int32_t> categories = rows(plan.category);
  for (std::int32_t& category : categories) category = plan.categories[static_cast<std::size_t>(category)].id;
  store::Table table(kPicturesFormat, kPicturesVersion);
  table.add("item_id", rows(plan.item_id));
  table.add("category", std::move(categories));
  table.add("generator", rows(plan.generator));
  table.add("prompt", rows(plan.prompt));
  table.add("sample", rows(plan.sample));
  table.add("seed", rows(plan.seed));
  table.add("width", std::move(widths));
  table.add("height", std::move(heights));
  table.set_heap(heap);
  if (failed > 0) set_rejected(table, {{kFailed, failed}});
  return table;
}

std::string generators_text(const RunContext& context, const Plan& plan) {
  std::string text;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    for (std::size_t g = 0; g < plan.generators.size(); ++g) {
      const auto& settings = generator_settings(context.config, plan, static_cast<std::int32_t>(g));
      text += description(settings, models::hash_weights(settings));
    }
  });
  return context.world.broadcast_text(std::move(text));
}

std::string pictures_fingerprint(std::uint64_t plan_hash, const std::string& generators) {
  return to_hex(hash128(cat(kPicturesFormat, kPicturesVersion, '\n', to_hex(plan_hash), '\n', generators)));
}

void run_generate(const RunContext& context) {
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  Plan plan;
  context.world.together([&] {
    fingerprint_of(context.dir, "plan");
    plan = read_plan(context.dir);
  });
  CurrentModel model(context, plan);
  const std::string generators = generators_text(context, plan);

  ShardedStage stage;
  stage.name = kStage;
  set_rounds(stage, plan, [&](std::size_t round) { return pictures_fingerprint(plan.hash(round), generators); });
  stage.make = [&](std::size_t shard) { return model.pictures(shard); };
  stage.make_rows = [&](std::size_t shard, const ShardRequest& request) { return model.pictures(shard, request); };
  stage.canary = [&](std::size_t shard) { return model.canary(shard, generators); };
  stage.device = model.device_name();
  run_sharded(context, stage);
}

}  // namespace divergen::stages
