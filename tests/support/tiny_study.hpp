#pragma once
// The stages plan to pool as a run has them, on models of some ten thousand numbers with random weights in the official
// layouts, and data of the same size: a whole run takes a second or two. A test program starts itself under mpiexec, as
// one process a rank (run_worker), so that ranks can be counted, shuffled and killed. For programs with LibTorch.

#include <ATen/CPUGeneratorImpl.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "comm/world.hpp"
#include "lvis/dataset.hpp"
#include "models/clip/clip.hpp"
#include "nn/tensor_io.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/filter/filter.hpp"
#include "stages/fused/fused.hpp"
#include "stages/generate/generate.hpp"
#include "stages/plan/plan_stage.hpp"
#include "stages/pool/pool.hpp"
#include "stages/retry/retry.hpp"
#include "support/fixtures.hpp"

namespace divergen::test {

// ---- the run -------------------------------------------------------------------------------------------------------

/// The run's configuration; `changes` are "key=value".
inline config::RunConfig tiny_config(const Path& root, const Path& run, const std::vector<std::string>& changes) {
  const Path models = fixtures("generation");
  config::RunConfig config;
  config.seed = 5;
  config.run.dir = run;
  config.data = {root / "train.json", root / "images", {}, {}, root / "categories.json", {}};
  config.plan.shard_items = 3;
  config.prompts = {{"manual", "template", {}, 0}, {"gpt", "folder", root / "gpt", 0}};
  for (const char* name : {"first", "second"}) {
    config::GeneratorSettings generator;
    generator.name = name;
    generator.weights = models / "sd_tiny";
    generator.steps = 2;
    generator.sampler = "ddim";
    generator.size = 64;
    generator.batch = 2;
    generator.samples_per_prompt = 2;
    generator.prompts = {"manual"};
    config.generators.push_back(generator);
  }
  config.generators[1].guidance = 2;
  config.generators[1].samples_per_prompt = 1;
  config.generators[1].prompts = {"manual", "gpt"};
  config.annotator.weights = models / "sam256/sam_tiny.pth";
  config.filter.clip = root / "clip";
  config.filter.batch = 2;
  config.filter.similarity = -1;
  for (const std::string& change : changes) {
    const auto parts = split(change, '=');
    if (parts[0] == "samples") config.generators[0].samples_per_prompt = std::stoi(parts[1]);
    if (parts[0] == "similarity") config.filter.similarity = std::stod(parts[1]);
    if (parts[0] == "clip") config.filter.clip = parts[1];
    if (parts[0] == "train_images") config.data.train_images = parts[1];
    if (parts[0] == "shard_items") config.plan.shard_items = std::stoi(parts[1]);
    if (parts[0] == "batch")
      for (auto& generator : config.generators) generator.batch = std::stoi(parts[1]);
    if (parts[0] == "fused") config.run.fused = parts[1] == "1";
    if (parts[0] == "retry") config.plan.retry_rejected = std::stoi(parts[1]);
    if (parts[0] == "filter_batch") config.filter.batch = std::stoi(parts[1]);
  }
  return config;
}

/// Of a test program that was started with "--worker": what one rank does. Stages: p(lan) g(enerate) a(nnotate)
/// f(ilter) l(ibrary, the stage "pool") F(used) R(etry). The change "shuffle=N" shuffles the order in which shards are
/// claimed.
inline int run_worker(int argc, char** argv) {
  comm::World world(&argc, &argv);
  log::init({world.rank(), "", log::Level::Warn});
  const std::vector<std::string> changes(argv + 5, argv + argc);
  const config::RunConfig config = tiny_config(argv[2], argv[3], changes);
  const stages::RunContext context{config, stages::RunDirectory(argv[3]), world};
  for (const std::string& change : changes)
    if (change.starts_with("shuffle=")) ::setenv("DIVERGEN_CLAIM_SHUFFLE", split(change, '=')[1].c_str(), 1);
  const std::string names = argv[4];
  try {
    if (names.find('p') != std::string::npos) stages::run_plan(context);
    if (names.find('g') != std::string::npos) stages::run_generate(context);
    if (names.find('a') != std::string::npos) stages::run_annotate(context);
    if (names.find('f') != std::string::npos) stages::run_filter(context);
    if (names.find('l') != std::string::npos) stages::run_pool(context);
    if (names.find('F') != std::string::npos) stages::run_fused(context);
    if (names.find('R') != std::string::npos) stages::run_retry(context);
  } catch (const Error& error) {
    std::cerr << error.what() << std::endl;
    return exit_code(error.kind());
  }
  return 0;
}

// ---- the data ------------------------------------------------------------------------------------------------------

inline void write_tiny_clip(const Path& folder) {
  models::ClipTextConfig text;
  text.hidden_size = 32;
  text.intermediate_size = 64;
  text.layers = 2;
  text.heads = 2;
  const models::ClipVisionConfig vision{32, 64, 2, 2, 16, 64};
  models::Clip clip(text, vision, 16);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(3);
  models::init_clip(clip, generator);
  make_folder(folder);
  nn::save_module(clip, folder / "model.safetensors", at::kHalf, {{"format", "pt"}});
  write_file_atomic(folder / "config.json", models::clip_config_json(text, vision, 16).dump());
  std::filesystem::copy_file(fixtures("generation") / "sd_tiny/tokenizer/merges.txt", folder / "merges.txt");
}

/// Pictures with noise, of which one is no picture; four annotations of each of two categories in every picture.
inline void write_tiny_data_set(const Path& root) {
  lvis::Dataset dataset;
  dataset.categories = {{1, "red_thing", "f", 3}, {2, "dog", "r", 3}};
  Rng rng(9);
  make_folder(root / "images/train");
  for (int i = 1; i <= 4; ++i) {
    const int height = 70 + i, width = 90;
    image::Image picture(height, width, 3);
    for (auto& p : picture.pixels) p = static_cast<std::uint8_t>(rng.below(256));
    const std::string file = cat("train/", i, ".png");  // folder and name, as data sets are read
    write_file_atomic(root / "images" / file, i == 4 ? "not a picture" : image::encode_png(picture));
    dataset.images.push_back({i, height, width, file, true, {}, {}});
    for (int k = 0; k < 8; ++k) {
      lvis::Annotation a;
      a.id = 10 * i + k;
      a.image_id = i;
      a.category_id = 1 + k % 2;
      const double x = 5 + 9 * k, y = 10 + 5 * k;
      a.box = {x, y, 12, 10};
      a.area = 120;
      a.polygons = {{x, y, x + 12, y, x + 12, y + 10, x, y + 10}};
      dataset.annotations.push_back(a);
    }
  }
  dataset.rebuild_indices();
  lvis::write_dataset(dataset, root / "train.json");
  write_file_atomic(root / "categories.json",
                    R"([{"id": 1, "name": "red_thing", "def": "it is red", "frequency": "f"},
                        {"id": 2, "name": "dog", "def": "an animal", "frequency": "r"},
                        {"id": 900, "name": "koala", "def": "a bear", "role": "extra"}])");
  make_folder(root / "gpt");
  write_file_atomic(root / "gpt/2.txt", "a small dog\na large dog\n");
}

// ---- starting it ---------------------------------------------------------------------------------------------------

/// A folder with the data, and runs beside it.
class TinyStudy {
 public:
  explicit TinyStudy(std::string mpiexec) : mpiexec_(std::move(mpiexec)) {
    write_tiny_data_set(folder_ / "data");
    write_tiny_clip(folder_ / "data/clip");
    for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMP_NUM_THREADS"})
      ::setenv(name, "1", 1);
  }

  Path path(const std::string& name) const { return folder_ / name; }
  stages::RunDirectory directory(const std::string& name) const { return stages::RunDirectory(folder_ / name); }
  /// What the last run() printed.
  const std::string& output() const { return output_; }

  /// mpiexec in a process group of its own; what it prints goes to the file path("output").
  pid_t start(int ranks, const std::string& name, const std::string& stages,
              const std::vector<std::string>& changes = {}) const {
    std::vector<std::string> words{
        mpiexec_,   "--oversubscribe",     "--bind-to",         "none", "-n", std::to_string(ranks), own_path(),
        "--worker", path("data").string(), path(name).string(), stages};
    words.insert(words.end(), changes.begin(), changes.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const std::string out = path("output").string();
    const pid_t child = ::fork();
    DIVERGEN_CHECK(child >= 0);
    if (child != 0) return child;
    ::setpgid(0, 0);
    const int fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(fd, 1);
    ::dup2(fd, 2);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  /// Exit code of the stages on `ranks` ranks in the run directory `name`; -1 after a signal.
  int run(int ranks, const std::string& name, const std::string& stages, const std::vector<std::string>& changes = {}) {
    int status = 0;
    const pid_t child = start(ranks, name, stages, changes);
    DIVERGEN_CHECK(::waitpid(child, &status, 0) == child);
    output_ = read_file(path("output"));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  /// Hash over the rows of every table of a run, by path.
  std::map<std::string, std::uint64_t> hashes(const std::string& name) const {
    std::map<std::string, std::uint64_t> out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path(name)))
      if (entry.path().extension() == ".h5")
        out[std::filesystem::relative(entry.path(), path(name)).string()] =
            store::read_table_head(entry.path()).table_hash;
    return out;
  }

  static std::string own_path() { return std::filesystem::canonical("/proc/self/exe").string(); }

 private:
  std::string mpiexec_;
  TemporaryFolder folder_;
  std::string output_;
};

/// main() of a program that uses it.
inline int tiny_study_main(int argc, char** argv) {
  if (argc > 4 && std::string(argv[1]) == "--worker") return run_worker(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace divergen::test
