#include "stages/propose/propose.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

// Debian's package wordnet-base, which tools/setup.sh installs.
const WordNet& wordnet() {
  static const WordNet loaded("/usr/share/wordnet");
  return loaded;
}

Path shipped(const char* name) { return Path(DIVERGEN_SOURCE_DIR) / "data/lvis" / name; }

/// Categories (and extra ones) of DiverGen's file: ids up to 1203 are LVIS's, those above are its ImageNet classes.
json published() { return json::parse(read_file(shipped("ImageNet2012_filtered04_lvis_v1_train_cat_info_250.json"))); }

template <class Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST(WordNet, FindsSynsetsByNameAndByImageNetsId) {
  const auto tench = wordnet().find("tench.n.01");
  ASSERT_TRUE(tench);
  EXPECT_EQ(wordnet().find("n01440764"), tench);
  EXPECT_EQ(wordnet().name(*tench), "tench.n.01");
  EXPECT_EQ(wordnet().lemmas(*tench), (std::vector<std::string>{"tench", "Tinca_tinca"}));
  EXPECT_EQ(wordnet().definition(*tench),
            "freshwater dace-like game fish of Europe and western Asia noted for ability to survive outside water");
  for (const char* absent :
       {"tench.n.02", "tench.v.01", "no_such_thing.n.01", "n99999999", "tench", "", "n.01", ".n.01"})
    EXPECT_FALSE(wordnet().find(absent)) << absent;
}

TEST(WordNet, SimilaritiesAreThoseOfNltk) {
  // The examples of nltk's documentation of its WordNet interface.
  const auto dog = *wordnet().find("dog.n.01"), cat = *wordnet().find("cat.n.01");
  EXPECT_DOUBLE_EQ(wordnet().path_similarity(dog, cat), 0.2);
  EXPECT_DOUBLE_EQ(wordnet().wup_similarity(dog, cat), 12.0 / 14.0);
  EXPECT_DOUBLE_EQ(wordnet().path_similarity(dog, dog), 1.0);
  EXPECT_DOUBLE_EQ(wordnet().path_similarity(cat, dog), wordnet().path_similarity(dog, cat));
}

TEST(WordNet, NamesFileAndLineOfADamagedDatabase) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "index.noun", "entity n 1 1 ~ 1 1 00001740\n");
  write_file_atomic(folder / "data.noun", "  1 licence\n00001740 03 n 01 entity 0 x | all\n");
  EXPECT_NE(refusal([&] { WordNet damaged(folder.path()); }).find("data.noun:2"), std::string::npos);
  write_file_atomic(folder / "data.noun", "00001740 03 n 01 entity 0 001 @ 00000007 n 0000 | all\n");
  EXPECT_NE(refusal([&] { WordNet damaged(folder.path()); }).find("hypernym 7"), std::string::npos);
  EXPECT_NE(refusal([&] { WordNet absent(folder / "none"); }).find("wordnet-base"), std::string::npos);
}

TEST(Propose, FindsThePapers566CategoriesAndItsPublished250) {
  std::vector<std::string> published_extra, proposed;
  for (const json& entry : published())
    if (entry["id"] > 1203) published_extra.push_back(entry["synset"]);
  const auto known = read_known_categories(shipped("lvis_v1_train_cat_info.json"));
  ASSERT_EQ(known.size(), 1203u);

  for (const Candidate& c :
       propose(wordnet(), known, read_synsets(Path(DIVERGEN_SOURCE_DIR) / "data/imagenet/synsets.txt"), {}).candidates)
    if (c.is_proposed) proposed.push_back(c.synset);

  EXPECT_EQ(proposed.size(), 566u);
  proposed.resize(250);
  EXPECT_EQ(proposed, published_extra);
}

TEST(Propose, TakesNoneOfTheKnownCategories) {
  std::vector<std::string> own;
  for (const json& entry : published())
    if (entry["id"] <= 1203) own.push_back(entry["synset"]);
  const Proposal proposal = propose(wordnet(), read_known_categories(shipped("lvis_v1_train_cat_info.json")), own, {});
  for (const Candidate& c : proposal.candidates) EXPECT_FALSE(c.is_proposed) << c.given;
  // LVIS made this synset up.
  EXPECT_EQ(proposal.unknown_categories, std::vector<std::string>{"stop_sign"});
}

TEST(Propose, NearestOverAllCategoriesEqualsThePairs) {
  std::vector<KnownCategory> known;
  for (const char* synset : {"goldfish.n.01", "crow.n.01", "car.n.01", "apple.n.01", "shark.n.01"})
    known.push_back({synset, synset});
  const std::vector<std::string> synsets{"tench.n.01", "robin.n.02", "ambulance.n.01", "fig.n.04", "entity.n.01"};
  for (const char* measure : {"path", "wup"}) {
    const Proposal proposal = propose(wordnet(), known, synsets, {measure, 0.4});
    for (const Candidate& c : proposal.candidates) {
      double largest = 0;
      for (const auto& k : known) {
        const auto a = *wordnet().find(c.given), b = *wordnet().find(k.synset);
        largest = std::max(
            largest, std::string(measure) == "path" ? wordnet().path_similarity(a, b) : wordnet().wup_similarity(a, b));
      }
      EXPECT_DOUBLE_EQ(c.similarity, largest) << measure << " " << c.given;
    }
  }
}

TEST(Propose, SaysWhyNot) {
  const Proposal proposal =
      propose(wordnet(), {{"shark", "shark.n.01"}}, {"shark.n.01", "tench.n.01", "n01440764", "unheard_of.n.01"}, {});
  std::vector<std::string> reasons;
  for (const Candidate& c : proposal.candidates) reasons.push_back(c.why_not);
  EXPECT_EQ(reasons, (std::vector<std::string>{"too near", "", "listed twice", "unknown synset"}));
}

TEST(Propose, WritesACategoryFileWithRoles) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "eval.json", R"([{"id": 5, "name": "shark", "synset": "shark.n.01", "frequency": "r"}])");
  const Proposal proposal = propose(wordnet(), read_known_categories(folder / "eval.json"), {"tench.n.01"}, {});

  const json list = json::parse(with_extra_categories(folder / "eval.json", wordnet(), proposal, 0));

  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["role"], "eval");
  EXPECT_EQ(list[0]["frequency"], "r");
  EXPECT_EQ(list[1]["id"], 6);
  EXPECT_EQ(list[1]["name"], "tench");
  EXPECT_EQ(list[1]["role"], "extra");
  EXPECT_NE(refusal([&] { with_extra_categories(folder / "eval.json", wordnet(), proposal, 5); }).find("collide"),
            std::string::npos);
}

TEST(Propose, ReadsListsOfSynsets) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "a.txt", "# ImageNet\nn01440764 tench, Tinca tinca\n\nrobin.n.02\r\n");
  write_file_atomic(folder / "b.json", R"(["robin.n.02", {"synset": "tench.n.01"}])");
  write_file_atomic(folder / "c.json", R"([3])");
  write_file_atomic(folder / "d.txt", "# nothing\n");
  EXPECT_EQ(read_synsets(folder / "a.txt"), (std::vector<std::string>{"n01440764", "robin.n.02"}));
  EXPECT_EQ(read_synsets(folder / "b.json"), (std::vector<std::string>{"robin.n.02", "tench.n.01"}));
  EXPECT_NE(refusal([&] { read_synsets(folder / "c.json"); }).find("entry 0"), std::string::npos);
  EXPECT_NE(refusal([&] { read_synsets(folder / "d.txt"); }).find("empty"), std::string::npos);
}

}  // namespace divergen::stages
