#include "stages/generate/generate.hpp"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <future>
#include <iterator>
#include <set>

#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/time_use.hpp"
#include "nn/device.hpp"
#include "stages/common/sharded.hpp"

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

/// Hashes the weights of all generators on rank 0, which finds out what is missing before any rank starts to work.
std::string fingerprint(const RunContext& context, const Plan& plan) {
  std::string text = cat(kPicturesFormat, kPicturesVersion, '\n', to_hex(plan.hash()), '\n');
  context.world.together([&] {
    if (!context.world.is_root()) return;
    for (std::size_t g = 0; g < plan.generators.size(); ++g) {
      const auto& settings = generator_settings(context.config, plan, static_cast<std::int32_t>(g));
      text += description(settings, models::hash_weights(settings));
    }
  });
  return to_hex(hash128(context.world.broadcast_text(std::move(text))));
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

/// The one model that a rank holds: shards come sorted by generator, so that it is seldom exchanged.
class CurrentModel {
 public:
  CurrentModel(const RunContext& context, const Plan& plan)
      : config_(context.config), world_(context.world), plan_(plan) {}

  models::TextToImage& of(std::int32_t generator) {
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

 private:
  const config::RunConfig& config_;
  const comm::World& world_;
  const Plan& plan_;
  std::unique_ptr<models::TextToImage> model_;
  std::int32_t loaded_ = -1;
};

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

namespace {

struct Written {
  std::vector<std::int32_t> widths, heights;
  std::vector<std::string> files;
};

/// The first `count` pictures of a batch as PNG.
Written write(const std::vector<image::Image>& pictures, std::size_t size, std::size_t count) {
  DIVERGEN_CHECK(pictures.size() == size, pictures.size(), " pictures of ", size, " items");
  Written out;
  for (std::size_t i = 0; i < count; ++i) {
    out.widths.push_back(pictures[i].width);
    out.heights.push_back(pictures[i].height);
    out.files.push_back(image::encode_png(pictures[i]));
  }
  return out;
}

}  // namespace

store::Table make_pictures(const Plan& plan, Plan::Range range, models::TextToImage& model, std::int64_t batch) {
  DIVERGEN_CHECK(range.first < range.last && range.last <= plan.size() && batch > 0, range.first, " ", range.last);
  std::vector<std::int32_t> widths, heights;
  std::vector<std::string> heap;
  const auto size = static_cast<std::size_t>(batch);
  std::future<Written> done;  // PNGs of one batch are made on a thread of their own while the next batch is computed
  const auto take = [&](std::future<Written>& future) {
    if (!future.valid()) return;
    Written written = future.get();
    widths.insert(widths.end(), written.widths.begin(), written.widths.end());
    heights.insert(heights.end(), written.heights.begin(), written.heights.end());
    std::move(written.files.begin(), written.files.end(), std::back_inserter(heap));
  };
  for (std::size_t first = range.first; first < range.last; first += size) {
    const std::size_t count = std::min(size, range.last - first);
    std::vector<models::GenerationItem> items;
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t row = first + std::min(i, count - 1);
      items.push_back({plan.prompts[static_cast<std::size_t>(plan.prompt[row])], plan.seed[row]});
    }
    auto finish = model.start(items);
    take(done);  // of the batch before, which was written while this one was made
    done = std::async(std::launch::async,
                      [finish = std::move(finish), size, count] { return write(finish(), size, count); });
  }
  take(done);

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
  return table;
}

void run_generate(const RunContext& context) {
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  std::string plan_fingerprint;
  Plan plan;
  context.world.together([&] {
    plan_fingerprint = fingerprint_of(context.dir, "plan");
    plan = read_plan(context.dir.plan());
  });
  CurrentModel model(context, plan);

  ShardedStage stage;
  stage.name = kStage;
  stage.shards = plan.shards();
  stage.fingerprint = fingerprint(context, plan);
  stage.items = [&](std::size_t shard) {
    const auto range = plan.shard(shard);
    return static_cast<std::int64_t>(range.last - range.first);
  };
  stage.make = [&](std::size_t shard) {
    const auto range = plan.shard(shard);
    const std::int32_t generator = plan.generator[range.first];
    const auto& settings = generator_settings(context.config, plan, generator);
    models::TextToImage& loaded = model.of(generator);
    store::Table table = make_pictures(plan, range, loaded, settings.batch);
    table.attributes["generator"] = settings.name;
    table.attributes["weights_hash"] = loaded.weights_hash();
    table.attributes["sampler"] = settings.sampler;
    table.attributes["steps"] = std::to_string(settings.steps);
    table.attributes["guidance"] = cat(settings.guidance);
    table.attributes["batch"] = std::to_string(settings.batch);
    table.attributes["libtorch"] = TORCH_VERSION;
    return table;
  };
  run_sharded(context, stage);
}

}  // namespace divergen::stages
