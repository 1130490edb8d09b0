// divergen bench loader: how fast training samples can be made on this machine, without a trainer that takes them.

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "driver/commands.hpp"
#include "stages/augment/aspect_groups.hpp"
#include "stages/augment/sample_maker.hpp"
#include "stages/common/run_directory.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string config, training;
  std::vector<std::string> overrides;
  std::int64_t threads = -1, samples = 500;
  bool json = false;
};

struct Usage {
  double wall = 0, cpu = 0;  // seconds
  static Usage now() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    const auto wall = std::chrono::steady_clock::now().time_since_epoch();
    return {std::chrono::duration<double>(wall).count(), seconds(usage.ru_utime) + seconds(usage.ru_stime)};
  }
};

/// MiB that this process has in memory; 0 where the system does not say.
double resident_mib() {
  std::ifstream file("/proc/self/statm");
  double pages = 0, resident = 0;
  if (!(file >> pages >> resident)) return 0;
  return resident * 4096 / (1 << 20);
}

const config::TrainSettings& training_of(const config::RunConfig& config, const std::string& name) {
  for (const auto& training : config.trainings)
    if (name.empty() || training.name == name) return training;
  std::string names;
  for (const auto& training : config.trainings) names += (names.empty() ? "" : ", ") + training.name;
  fail(ErrorKind::Usage,
       {"there is no such training", name.empty() ? "[[trainings]]" : name, "",
        names.empty() ? "the configuration has none: add [[trainings]]" : cat("use one of: ", names)});
}

/// What samples are made of.
struct Inputs {
  config::RunConfig config;
  config::TrainSettings training;
  lvis::Dataset dataset;
  std::unique_ptr<stages::SampleMaker> maker;

  explicit Inputs(const Options& o)
      : config(config::read_run_config(o.config, o.overrides)), training(training_of(config, o.training)) {
    dataset = lvis::read_dataset(config.data.train_json);
    const stages::ClassMap classes = stages::read_class_map(config.data.categories);
    stages::AreaStatistics areas;
    std::shared_ptr<const stages::InstancePool> pool;
    if (training.use_pool) {
      const Path folder = stages::RunDirectory(config.run.dir).library();
      if (!std::filesystem::exists(folder / "index.h5"))
        fail(ErrorKind::Io, {"the training pastes instances, and there is no library of them yet", folder.string(), "",
                             "run the stages up to pool first, or choose a training without: --training NAME"});
      pool = std::make_shared<const stages::InstancePool>(std::make_shared<const store::Library>(folder), training,
                                                          classes);
      if (!config.data.area_stats.empty()) areas = stages::read_area_statistics(config.data.area_stats);
    }
    maker = std::make_unique<stages::SampleMaker>(dataset, config.data.train_images, classes, std::move(areas),
                                                  config.augment, std::move(pool), training.seed,
                                                  stages::self_copy_of(training));
  }
};

/// Sums over the samples of a run, and what their batches would waste on padding.
class Tally {
 public:
  explicit Tally(std::int64_t batch) : batch_(batch) {}
  void add(const stages::Sample& sample) {
    ++samples_;
    objects_ += static_cast<std::int64_t>(sample.objects.size());
    for (const auto& object : sample.objects) pasted_ += object.source == 1 ? 1 : 0;
    const double pixels = static_cast<double>(sample.rgb.height) * sample.rgb.width;
    pixels_ += pixels;
    batch_pixels_ += pixels;
    height_ = std::max(height_, sample.rgb.height);
    width_ = std::max(width_, sample.rgb.width);
    if (samples_ % batch_ != 0) return;
    used_ += batch_pixels_;
    padded_ += static_cast<double>(batch_) * height_ * width_;
    batch_pixels_ = 0;
    height_ = width_ = 0;
  }
  nlohmann::json json() const {
    const auto n = static_cast<double>(std::max<std::int64_t>(samples_, 1));
    return {{"objects", static_cast<double>(objects_) / n},
            {"pasted", static_cast<double>(pasted_) / n},
            {"megapixels", 1e-6 * pixels_ / n},
            {"padding", padded_ > 0 ? 1 - used_ / padded_ : 0.0}};
  }

 private:
  std::int64_t batch_, samples_ = 0, objects_ = 0, pasted_ = 0;
  double pixels_ = 0, batch_pixels_ = 0, used_ = 0, padded_ = 0;
  int height_ = 0, width_ = 0;
};

nlohmann::json measure(const Options& o) {
  const Inputs in(o);
  const std::int64_t threads = o.threads >= 0 ? o.threads : in.training.loader_threads;
  const auto group = static_cast<std::uint64_t>(in.training.batch);
  const stages::AspectGroups groups([&](std::uint64_t position) { return in.maker->is_wide(position); }, group, 1);
  const auto make = [&](std::uint64_t index) {
    return in.maker->make(in.config.augment.aspect_grouping ? groups.position(index) : index);
  };
  stages::SampleLoader loader(make, 0, 1, threads, in.training.loader_depth);
  const double before = resident_mib();
  double most = before;
  Tally tally(in.training.batch);
  const Usage start = Usage::now();
  for (std::int64_t i = 0; i < o.samples; ++i) {
    tally.add(loader.next());
    if (i % 16 == 0) most = std::max(most, resident_mib());
  }
  const Usage end = Usage::now();
  const auto n = static_cast<double>(o.samples);
  nlohmann::json out{{"training", in.training.name},
                     {"threads", threads},
                     {"samples", o.samples},
                     {"samples_per_second", n / (end.wall - start.wall)},
                     {"samples_per_cpu_second", n / (end.cpu - start.cpu)},
                     {"waited", loader.waited_seconds() / (end.wall - start.wall)},
                     {"memory_mib", {{"before", before}, {"most", most}, {"after", resident_mib()}}},
                     {"sample", tally.json()}};
  const auto laps = in.maker->lap_seconds();
  double sum = 0;
  for (const double seconds : laps) sum += seconds;
  for (std::size_t i = 0; i < laps.size(); ++i) out["shares"][stages::kLapNames[i]] = sum > 0 ? laps[i] / sum : 0.0;
  out["unreadable"] = {{"images", in.maker->unreadable_images().size()},
                       {"instances", in.maker->unreadable_instances().size()}};
  return out;
}

void print(const nlohmann::json& result) {
  const auto number = [&](const char* section, const char* key) { return result.at(section).at(key).get<double>(); };
  std::printf("%s: %lld samples, %lld threads\n", result.at("training").get<std::string>().c_str(),
              static_cast<long long>(result.at("samples").get<std::int64_t>()),
              static_cast<long long>(result.at("threads").get<std::int64_t>()));
  std::printf("  %.1f samples/s, %.1f a CPU second; the taker waited %.0f %% of the time\n",
              result.at("samples_per_second").get<double>(), result.at("samples_per_cpu_second").get<double>(),
              100 * result.at("waited").get<double>());
  std::printf("  a sample: %.1f objects, %.1f of them pasted, %.2f megapixels; %.0f %% of a batch is padding\n",
              number("sample", "objects"), number("sample", "pasted"), number("sample", "megapixels"),
              100 * number("sample", "padding"));
  std::printf("  time:");
  for (const char* name : stages::kLapNames) std::printf(" %s %.0f %%", name, 100 * number("shares", name));
  std::printf("\n  memory: %.0f MiB before, %.0f most, %.0f after\n", number("memory_mib", "before"),
              number("memory_mib", "most"), number("memory_mib", "after"));
}

int bench_loader(const Options& o) {
  const nlohmann::json result = measure(o);
  if (o.json) std::cout << result.dump(2) << '\n';
  else print(result);
  return 0;
}

}  // namespace

void add_bench_command(CLI::App& app, Action& action) {
  auto* bench = app.add_subcommand("bench", "measurements of parts of the system alone");
  bench->require_subcommand(1);
  auto o = std::make_shared<Options>();
  auto* loader = bench->add_subcommand("loader",
                                       "training samples a second, without a trainer\n\n"
                                       "Example: divergen bench loader configs/mini.toml --threads 4 --samples 2000");
  loader->add_option("config", o->config, "configuration of the run")->required();
  loader->add_option("--set", o->overrides, "section.key=value, over the file's");
  loader->add_option("--training", o->training, "one of [[trainings]]; the first without it");
  loader->add_option("--threads", o->threads, "that make samples; 0: none but the taker; default: loader_threads")
      ->check(CLI::Range(0, 1024));
  loader->add_option("--samples", o->samples, "how many")->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  loader->add_flag("--json", o->json, "machine-readable, on stdout");
  loader->callback([o, &action] { action = [o] { return bench_loader(*o); }; });
}

}  // namespace divergen::driver
