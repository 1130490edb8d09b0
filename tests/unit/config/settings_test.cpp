#include "config/settings.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.hpp"
#include "support/fixtures.hpp"

namespace divergen::config {
namespace {

Path source(const std::string& name) { return Path(DIVERGEN_SOURCE_DIR) / name; }

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(Settings, AllShippedConfigurationsAreValid) {
  int n = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(source("configs"))) {
    if (entry.path().extension() != ".toml") continue;
    if (entry.path().parent_path().filename() == "common") continue;  // layers of others, no studies
    if (read_file(entry.path()).starts_with("#") && read_file(entry.path()).find("\ntask = ") != std::string::npos)
      continue;  // of divergen-pretrain
    EXPECT_NO_THROW(read_run_config(entry.path())) << entry.path();
    ++n;
  }
  EXPECT_GE(n, 5);
}

TEST(Settings, ALayerReplacesListsAndKeepsTheRest) {
  const RunConfig base = read_run_config(source("configs/mini.toml"));
  const RunConfig layered = read_run_config(source("configs/ablation/amount.toml"));
  ASSERT_EQ(layered.trainings.size(), 4u);
  EXPECT_EQ(layered.trainings[1].pool_per_category, 3);
  EXPECT_EQ(layered.trainings[1].iterations, base.trainings[0].iterations);
  EXPECT_FALSE(layered.trainings[0].use_pool);
  EXPECT_TRUE(layered.trainings[3].use_pool);
  EXPECT_EQ(layered.generators.at(0).weights, base.generators.at(0).weights);
}

TEST(Settings, AnUnknownKeyNamesTheNearestAndItsLine) {
  const test::TemporaryFolder folder;
  const Path file = folder / "study.toml";
  std::ofstream(file) << "[run]\ndir = \"runs/x\"\n[train]\niteratoins = 5\n";
  const std::string text = message_of([&] { read_run_config(file); });
  EXPECT_NE(text.find("iterations"), std::string::npos) << text;
  EXPECT_NE(text.find("study.toml:4"), std::string::npos) << text;
}

TEST(Settings, TheAnnotatorMayChooseFromSeveral) {
  const test::TemporaryFolder folder;
  const Path file = folder / "study.toml";
  const auto with = [&](const std::string& text) {
    std::ofstream(file) << "[run]\ndir = \"runs/x\"\n" << text;
    return read_run_config(file);
  };
  const std::string two =
      "[annotators.small]\nkind = \"u2net\"\nweights = \"u2netp.pth\"\n[annotators.all]\nkind = \"full\"\n";

  const RunConfig several = with(two + "[annotator]\nchoose_from = [\"all\", \"small\"]\n");
  ASSERT_EQ(several.used_annotators().size(), 2u);
  EXPECT_EQ(several.used_annotators()[0].kind, "full");
  EXPECT_EQ(several.used_annotators()[1].weights, "u2netp.pth");
  const RunConfig one = with(two + "[annotator]\nweights = \"sam.pth\"\n");
  ASSERT_EQ(one.used_annotators().size(), 1u);
  EXPECT_EQ(one.used_annotators()[0].kind, "sam_background");

  const auto refused = [&](const std::string& text, const std::string& says) {
    const std::string message = message_of([&] { with(text); });
    EXPECT_NE(message.find(says), std::string::npos) << message;
  };
  refused(two + "[annotator]\nchoose_from = [\"smal\"]\n", "did you mean 'small'");
  refused(two + "[annotator]\nchoose_from = [\"all\", \"all\"]\n", "'all' twice");
  refused("[annotators.x]\nweights = \"a\"\n", "annotators.x.kind");
  refused("[annotators.x]\nkind = \"ufo\"\n", "annotators.x.weights");
  refused("[annotators.x]\nkind = \"u3net\"\nweights = \"a\"\n", "u2net");
}

TEST(Settings, ReferencesBetweenSectionsAreChecked) {
  const auto with = [&](const std::string& override) {
    return message_of([&] { read_run_config(source("configs/mini.toml"), {override}); });
  };
  EXPECT_NE(with("generators.sd.prompts=[\"manuel\"]").find("manual"), std::string::npos);
  EXPECT_NE(with("filter.min_area=0.99").find("max_area"), std::string::npos);
  EXPECT_NE(with("plan.frequencies=[\"x\"]").find("frequenc"), std::string::npos);
  EXPECT_NE(with("augment.blend=[\"fancy\"]").find("gaussian"), std::string::npos);
}

TEST(Settings, TheHashForgetsWhereButNotWhat) {
  const auto hash = [](const std::vector<std::string>& overrides) {
    return read_run_config(source("configs/mini.toml"), overrides).hash();
  };
  EXPECT_EQ(hash({}), hash({"run.dir=\"elsewhere\"", "run.threads_per_rank=2"}));
  EXPECT_NE(hash({}), hash({"seed=8"}));
}

}  // namespace
}  // namespace divergen::config
