#include "store/inspect.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.hpp"
#include "support/fixtures.hpp"
#include "support/library_cases.hpp"

namespace divergen::store {
namespace {

using test::instances;
using test::tables;

/// A run directory: a plan, generate shards of 5 items, and the library of the same items.
class Run : public testing::Test {
 protected:
  static constexpr std::size_t kItems = 20, kRows = 5;

  Run() {
    Table plan("divergen-plan", 1);
    plan.add("item_id", ids(0, kItems));
    write_table(plan, folder / "plan.h5");
    for (const char* name : {"generate", "pool", "stages"}) make_folder(folder / name);
    for (std::size_t s = 0; s < kItems / kRows; ++s) {
      write_generate(s, ids(s * kRows, (s + 1) * kRows));
      write_pool(s, {all.begin() + static_cast<std::ptrdiff_t>(s * kRows),
                     all.begin() + static_cast<std::ptrdiff_t>((s + 1) * kRows)});
    }
    write_library_index(folder / "pool");
    write_file_atomic(folder / "stages" / "generate.json", "{}");
  }

  std::vector<std::uint64_t> ids(std::size_t first, std::size_t last) const {
    std::vector<std::uint64_t> out;
    for (std::size_t i = first; i < last; ++i) out.push_back(all[i].item_id);
    return out;
  }
  Path shard(const char* stage, std::size_t index) const { return folder / stage / cat("shard-", index, ".h5"); }
  void write_generate(std::size_t index, const std::vector<std::uint64_t>& items) const {
    Table table("divergen-pictures", 1);
    table.add("item_id", items);
    table.set_heap(std::vector<std::string>(items.size(), "a picture"));
    write_table(table, shard("generate", index));
  }
  void write_pool(std::size_t index, const std::vector<Instance>& some) const {
    write_library_shard(shard("pool", index), some, tables());
  }
  void flip(const Path& file, const std::string& bytes, std::size_t at) const {
    std::string text = read_file(file);
    const std::size_t found = text.find(bytes);
    ASSERT_NE(found, std::string::npos);
    text[found + at] ^= 1;
    write_file_atomic(file, text);
  }
  /// The one problem that is found.
  RunProblem only_problem() const {
    const RunReport report = verify_run(folder.path());
    EXPECT_EQ(report.problems.size(), 1u) << report.to_json().dump(1);
    return report.problems.empty() ? RunProblem{} : report.problems[0];
  }

  test::TemporaryFolder folder;
  std::vector<Instance> all = instances(kItems);
};

}  // namespace

TEST_F(Run, IsWhole) {
  const RunReport report = verify_run(folder.path());

  EXPECT_TRUE(report.problems.empty()) << report.to_json().dump(1);
  EXPECT_EQ(report.files, 1 + 4 + 4 + 1 + 1);
  EXPECT_EQ(report.rows, static_cast<std::int64_t>(3 * kItems + 3));  // and the index's row for each of 3 categories
}

TEST_F(Run, NamesTheRowsOfFlippedBits) {
  flip(shard("pool", 2), all[11].png, 30);
  const RunProblem found = only_problem();
  EXPECT_EQ(found.file, shard("pool", 2));
  EXPECT_EQ(found.row, std::optional<std::size_t>(1));

  const auto removed = repair_run(folder.path(), verify_run(folder.path()));
  ASSERT_EQ(removed.size(), 1u);
  EXPECT_EQ(removed[0].file, shard("pool", 2));
  EXPECT_EQ(removed[0].rows, kRows);
  EXPECT_EQ(removed[0].kept, kRows - 1);
  EXPECT_FALSE(std::filesystem::exists(shard("pool", 2)));
  write_pool(2, {all.begin() + 10, all.begin() + 15});  // as the stage makes it again
  EXPECT_TRUE(verify_run(folder.path()).problems.empty());
}

TEST_F(Run, FindsAPictureOfAnotherSizeThanItsRow) {
  std::vector<Instance> some(all.begin(), all.begin() + 5);
  ++some[3].width;
  some[4].png = "no picture";
  write_pool(0, some);
  write_library_index(folder / "pool");

  const RunReport report = verify_run(folder.path());

  ASSERT_EQ(report.problems.size(), 2u);
  EXPECT_EQ(report.problems[0].row, std::optional<std::size_t>(3));
  EXPECT_EQ(report.problems[1].row, std::optional<std::size_t>(4));
}

TEST_F(Run, FindsAnIndexThatDoesNotFit) {
  write_pool(1, {all.begin() + 5, all.begin() + 9});
  EXPECT_EQ(only_problem().file, folder / "pool" / "index.h5");
}

TEST_F(Run, FindsItemsThatAreMissingTwiceOrNotPlanned) {
  std::filesystem::remove(shard("generate", 3));
  EXPECT_NE(only_problem().why.find("5 items of the plan are missing"), std::string::npos);

  write_generate(3, {all[15].item_id, all[16].item_id, all[17].item_id, all[18].item_id, all[19].item_id, 12345});
  EXPECT_NE(only_problem().why.find("not in the plan"), std::string::npos);

  write_generate(3,
                 {all[15].item_id, all[16].item_id, all[17].item_id, all[18].item_id, all[19].item_id, all[2].item_id});
  const RunProblem twice = only_problem();
  EXPECT_EQ(twice.row, std::optional<std::size_t>(5));
  EXPECT_NE(twice.why.find("shard-0.h5"), std::string::npos);
}

TEST_F(Run, FindsTruncatedTablesAndRecords) {
  const std::string bytes = read_file(shard("generate", 0));
  write_file_atomic(shard("generate", 0), bytes.substr(0, bytes.size() - 100));
  write_file_atomic(folder / "stages" / "generate.json", "{\"stage\": ");
  write_file_atomic(folder / "generate" / "x.part", "left over");

  const RunReport report = verify_run(folder.path());

  EXPECT_EQ(report.leftovers, 1);
  ASSERT_EQ(report.problems.size(), 3u) << report.to_json().dump(1);  // and the items of the lost shard
  EXPECT_EQ(repair_run(folder.path(), report).size(), 2u);
}

TEST_F(Run, SaysWhenThereIsNothingToCheck) {
  const test::TemporaryFolder empty;
  EXPECT_THROW(verify_run(empty.path()), Error);
  EXPECT_THROW(verify_run(empty / "absent"), Error);
}

TEST_F(Run, IsInspected) {
  const auto facts = inspect_library(folder / "pool");

  EXPECT_EQ(facts.at("instances"), kItems);
  EXPECT_EQ(facts.at("hash"), Library(folder / "pool").hash());
  EXPECT_EQ(facts.at("shards"), 4);
  std::int64_t by_category = 0, by_generator = 0;
  for (const auto& c : facts.at("categories")) by_category += c.at("instances").get<std::int64_t>();
  for (const auto& g : facts.at("generators")) by_generator += g.at("instances").get<std::int64_t>();
  EXPECT_EQ(by_category, static_cast<std::int64_t>(kItems));
  EXPECT_EQ(by_generator, static_cast<std::int64_t>(kItems));
  EXPECT_EQ(facts.at("prompts"), 4);
  EXPECT_LE(facts.at("width").at("min"), facts.at("width").at("max"));
}

TEST(ContactSheet, ShowsOpaqueCutOutsOnACheckeredGround) {
  const test::TemporaryFolder folder;
  auto some = instances(3);  // one of each category
  for (Instance& one : some) {
    image::Image rgba(40, 20, 4);
    for (int y = 0; y < 40; ++y)
      for (int x = 0; x < 20; ++x) {
        rgba.at(y, x)[0] = 10;
        rgba.at(y, x)[1] = 200;
        rgba.at(y, x)[3] = y < 20 ? 255 : 0;  // the lower half is transparent
      }
    one.png = image::encode_png(rgba);
    one.width = 20;
    one.height = 40;
  }
  write_library_shard(folder / "shard-0.h5", some, tables());
  write_library_index(folder.path());
  ContactSheetOptions options;
  options.columns = 4;
  options.rows = 2;
  options.cell = 40;

  const image::Image sheet = contact_sheet(Library(folder.path()), options);

  ASSERT_EQ(sheet.channels, 3);
  // The first cell lies below its label; its cut-out is 20 px wide in the middle of 40.
  const int top = 4 + 18, left = 4;
  EXPECT_EQ(sheet.at(top + 5, left + 20)[0], 10);
  EXPECT_EQ(sheet.at(top + 5, left + 20)[1], 200);
  const int ground = sheet.at(top + 30, left + 20)[1], beside = sheet.at(top + 5, left + 2)[1];
  EXPECT_TRUE(ground == 255 || ground == 214) << ground;
  EXPECT_TRUE(beside == 255 || beside == 214) << beside;
  EXPECT_EQ(sheet.height, 2 * (18 + 40 + 4) + 4);
}

TEST(ContactSheet, MarksAPictureThatCannotBeRead) {
  const test::TemporaryFolder folder;
  write_library_shard(folder / "shard-0.h5", instances(3), tables());
  write_library_index(folder.path());
  std::filesystem::remove(folder / "shard-0.h5");

  const image::Image sheet = contact_sheet(Library(folder.path()));

  EXPECT_EQ(sheet.at(4 + 18 + 10, 4 + 10)[0], 200);
}

}  // namespace divergen::store
