// plan -> generate -> annotate -> filter on tiny models with the official layouts: the same rows on 1, 2 and 3 ranks,
// after losing shards, and clear ends when something is missing. The program starts itself under mpiexec.

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <iostream>

#include "base/log.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "comm/world.hpp"
#include "lvis/dataset.hpp"
#include "models/clip/clip.hpp"
#include "nn/tensor_io.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/common/sharded.hpp"
#include "stages/filter/filter.hpp"
#include "stages/filter/reference.hpp"
#include "stages/filter/verdict.hpp"
#include "stages/generate/generate.hpp"
#include "stages/plan/plan_stage.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

std::string own_path;  // of this program

/// The run's configuration; `changes` are "key=value".
config::RunConfig config_of(const Path& root, const Path& run, const std::vector<std::string>& changes) {
  const Path models = test::fixtures("generation");
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
  }
  return config;
}

int run_worker(int argc, char** argv) {
  comm::World world(&argc, &argv);
  log::init({world.rank(), "", log::Level::Warn});
  const config::RunConfig config = config_of(argv[2], argv[3], {argv + 5, argv + argc});
  const RunContext context{config, RunDirectory(argv[3]), world};
  const std::string stages = argv[4];
  try {
    if (stages.find('p') != std::string::npos) run_plan(context);
    if (stages.find('g') != std::string::npos) run_generate(context);
    if (stages.find('a') != std::string::npos) run_annotate(context);
    if (stages.find('f') != std::string::npos) run_filter(context);
  } catch (const Error& error) {
    std::cerr << error.what() << std::endl;
    return exit_code(error.kind());
  }
  return 0;
}

// ---- the data ------------------------------------------------------------------------------------------------------

void write_clip(const Path& folder) {
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
  std::filesystem::copy_file(test::fixtures("generation") / "sd_tiny/tokenizer/merges.txt", folder / "merges.txt");
}

/// Pictures with noise, of which one is no picture; four annotations of each of two categories in every picture.
void write_data_set(const Path& root) {
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

class mpi_stages : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = std::make_unique<test::TemporaryFolder>();
    write_data_set(*root_ / "data");
    write_clip(*root_ / "data/clip");
    ASSERT_EQ(run(1, "one", "pgaf"), 0) << output_;
  }
  static void TearDownTestSuite() { root_.reset(); }

  /// Exit code of the stages on `ranks` ranks in the run directory `name`; what they print goes to output_.
  static int run(int ranks, const std::string& name, const std::string& stages, const std::string& changes = "") {
    const Path text = *root_ / "output";
    const std::string command = cat(DIVERGEN_MPIEXEC, " --oversubscribe --bind-to none -n ", ranks, " '", own_path,
                                    "' --worker '", (*root_ / "data").string(), "' '", (*root_ / name).string(), "' ",
                                    stages, " ", changes, " > '", text.string(), "' 2>&1");
    const int status = std::system(command.c_str());
    output_ = read_file(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  static RunDirectory directory(const std::string& name) { return RunDirectory(*root_ / name); }
  /// Hash over the rows of every table of a run, by path.
  static std::map<std::string, std::uint64_t> hashes(const std::string& name) {
    std::map<std::string, std::uint64_t> out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(*root_ / name))
      if (entry.path().extension() == ".h5")
        out[std::filesystem::relative(entry.path(), *root_ / name).string()] =
            store::read_table_head(entry.path()).table_hash;
    return out;
  }
  static void copy_run(const std::string& name) {
    std::filesystem::copy(*root_ / "one", *root_ / name, std::filesystem::copy_options::recursive);
  }

  static std::unique_ptr<test::TemporaryFolder> root_;
  static std::string output_;
};
std::unique_ptr<test::TemporaryFolder> mpi_stages::root_;
std::string mpi_stages::output_;

// 3 categories x 2 samples of the first generator, 3 + 2 prompts of the second: shards of 3.
constexpr std::int64_t kItems = 11;
constexpr std::size_t kShards = 4;

}  // namespace

TEST_F(mpi_stages, AllItemsGoThroughAllStages) {
  const auto filter = read_record(directory("one"), "filter");
  ASSERT_TRUE(filter);
  EXPECT_EQ(filter->items, kItems);
  std::int64_t rows = 0, kept = 0;
  for (std::size_t s = 0; s < kShards; ++s) {
    const store::Table verdicts = read_shard(directory("one"), "filter", s, kVerdictsFormat);
    const store::Table pictures = read_shard(directory("one"), "generate", s, kPicturesFormat);
    EXPECT_EQ(verdicts.get<std::uint64_t>("item_id"), pictures.get<std::uint64_t>("item_id"));
    rows += static_cast<std::int64_t>(verdicts.rows());
    auto counts = count_reasons(verdicts);
    kept += counts["kept"];
    for (std::size_t row = 0; row < verdicts.rows(); ++row) {
      const float similarity = verdicts.get<float>("similarity")[row];
      const bool is_extra = pictures.get<std::int32_t>("category")[row] == 900;
      EXPECT_TRUE(is_extra ? similarity == kNoSimilarity : similarity > -1 && similarity <= 1) << similarity;
      EXPECT_EQ(image::decode(pictures.heap(row)).image->width, 64);
    }
  }
  EXPECT_EQ(rows, kItems);
  EXPECT_EQ(filter->figures.at("kept"), static_cast<double>(kept));
}

TEST_F(mpi_stages, CropsOfADamagedPictureAreLeftOutAndCounted) {
  const store::Table reference = store::read_table(directory("one").reference());
  const auto record = read_record(directory("one"), "filter.reference");

  EXPECT_EQ(reference.get<std::int64_t>("crops"), (std::vector<std::int64_t>{12, 12}));
  ASSERT_TRUE(record);
  EXPECT_EQ(record->rejected, (std::map<std::string, std::int64_t>{{"unreadable_picture", 8}}));
}

TEST_F(mpi_stages, RowsAreTheSameOnAnyNumberOfRanks) {
  const auto expected = hashes("one");
  EXPECT_EQ(expected.size(), 1 + 4 * kShards + 1 + 1);  // plan, four folders of shards, sums of crops, their means

  for (const int ranks : {2, 3}) {
    ASSERT_EQ(run(ranks, cat("np", ranks), "pgaf"), 0) << output_;
    EXPECT_EQ(hashes(cat("np", ranks)), expected) << ranks << " ranks";
  }
}

TEST_F(mpi_stages, WhatWasLostIsMadeAgain) {
  const auto expected = hashes("one");
  copy_run("lost");
  std::filesystem::remove(directory("lost").shard("generate", 1));
  std::filesystem::remove(directory("lost").shard("annotate", 2));
  write_file_atomic(directory("lost").shard("filter", 0), "damaged");
  std::filesystem::remove(directory("lost").record("filter"));  // as if killed before the stage was complete
  std::filesystem::remove(directory("lost").reference());

  ASSERT_EQ(run(2, "lost", "pgaf"), 0) << output_;

  EXPECT_EQ(hashes("lost"), expected);
}

TEST_F(mpi_stages, OtherBoundsMakeVerdictsAgainButNotScores) {
  copy_run("strict");
  const Path scores = directory("strict").shard("filter.scores", 0), verdicts = directory("strict").shard("filter", 0);
  const auto scored = std::filesystem::last_write_time(scores), judged = std::filesystem::last_write_time(verdicts);

  ASSERT_EQ(run(2, "strict", "f", "similarity=1"), 0) << output_;

  EXPECT_EQ(std::filesystem::last_write_time(scores), scored);
  EXPECT_NE(std::filesystem::last_write_time(verdicts), judged);
  EXPECT_GT(read_record(directory("strict"), "filter")->rejected.at("unlike_real_crops"), 0);
}

TEST_F(mpi_stages, ADamagedPictureIsCountedAndTheRunGoesOn) {
  copy_run("torn");
  const Path file = directory("torn").shard("generate", 0);
  store::Table table = store::read_table(file);
  std::vector<std::string> heap;
  for (std::size_t row = 0; row < table.rows(); ++row) heap.emplace_back(table.heap(row));
  heap[1].resize(heap[1].size() / 2);
  table.set_heap(heap);
  store::write_table(table, file);
  std::filesystem::remove(directory("torn").shard("annotate", 0));
  std::filesystem::remove_all(*root_ / "torn/filter.scores");
  std::filesystem::remove(directory("torn").shard("filter", 0));

  ASSERT_EQ(run(2, "torn", "gaf"), 0) << output_;

  EXPECT_EQ(read_record(directory("torn"), "annotate")->rejected.at("unreadable"), 1);
  EXPECT_EQ(read_record(directory("torn"), "filter")->rejected.at("unreadable"), 1);
  EXPECT_NE(output_.find("cannot be read"), std::string::npos);
}

TEST_F(mpi_stages, AnotherPlanIsRefusedWhilePicturesStand) {
  const auto before = hashes("one");

  EXPECT_EQ(run(1, "one", "p", "samples=3"), 64);

  EXPECT_NE(output_.find("pictures of another plan"), std::string::npos) << output_;
  EXPECT_EQ(hashes("one"), before);
}

TEST_F(mpi_stages, WhatIsMissingIsNamedBeforeWorkStarts) {
  EXPECT_NE(run(2, "early", "g"), 0);
  EXPECT_NE(output_.find("'plan' is not complete"), std::string::npos) << output_;
  copy_run("missing");
  EXPECT_NE(run(2, "missing", "f", "clip=/nowhere"), 0);
  EXPECT_NE(output_.find("/nowhere/config.json"), std::string::npos) << output_;
  EXPECT_NE(run(2, "missing", "f", "train_images=/nowhere"), 0);
  EXPECT_NE(output_.find("data.train_images"), std::string::npos) << output_;
  std::filesystem::remove(directory("missing").reference());
  EXPECT_EQ(run(1, "missing", "f", cat("train_images='", (*root_ / "data/gpt").string(), "'")), 74) << output_;
  EXPECT_NE(output_.find("train/1.png"), std::string::npos) << output_;
}

}  // namespace divergen::stages

int main(int argc, char** argv) {
  if (argc > 4 && std::string(argv[1]) == "--worker") return divergen::stages::run_worker(argc, argv);
  divergen::stages::own_path = std::filesystem::canonical("/proc/self/exe").string();
  for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMP_NUM_THREADS"})
    ::setenv(name, "1", 1);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
