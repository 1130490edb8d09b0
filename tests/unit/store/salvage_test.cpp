#include "store/salvage.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "support/fixtures.hpp"

namespace divergen::store {
namespace {

constexpr std::size_t kRows = 12;

Table table_of() {
  Table table("divergen-pictures", 3);
  std::vector<std::uint64_t> ids;
  std::vector<float> scores;
  std::vector<std::string> heap;
  for (std::size_t row = 0; row < kRows; ++row) {
    ids.push_back(derive_seed(row, "id"));
    scores.push_back(static_cast<float>(row) / 7);
    heap.push_back(row == 5 ? "" : cat("the bytes of row ", row, " ", ids.back()));
  }
  table.add("item_id", ids);
  table.add("score", scores);
  table.set_heap(heap);
  table.attributes["rejected"] = R"({"unreadable":1})";
  table.documents["prompts"] = R"(["a dog"])";
  return table;
}

class Salvage : public testing::Test {
 protected:
  Salvage() { write_table(table, file); }
  void flip(const std::string& part, std::size_t at) {
    std::string bytes = read_file(file);
    const std::size_t found = bytes.find(part);
    ASSERT_NE(found, std::string::npos) << part;
    bytes[found + at] ^= 2;
    write_file_atomic(file, bytes);
  }
  /// The table again, with rows that are not kept blank before they are made.
  Table mended(const KeptRows& kept) const {
    Table made(table.format(), table.version());
    auto ids = table.get<std::uint64_t>("item_id");
    auto scores = table.get<float>("score");
    std::vector<std::string> heap;
    for (std::size_t row = 0; row < kRows; ++row) heap.emplace_back(table.heap(row));
    for (const std::size_t place : kept.places) ids[place] = 0, scores[place] = -1, heap[place] = "blank";
    made.add("item_id", ids);
    made.add("score", scores);
    made.set_heap(heap);
    return merge_rows(made, kept);
  }

  const test::TemporaryFolder folder;
  const Path file = folder / "shard-000007.h5";
  const Table table = table_of();
};

}  // namespace

TEST_F(Salvage, KeepsAllRowsButTheDamagedOneAndTheWholeProvesToBeTheOriginal) {
  flip("the bytes of row 3", 4);
  const auto kept = salvage_table(file);
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->total, kRows);
  EXPECT_EQ(kept->table_hash, table.table_hash());
  EXPECT_EQ(kept->places, (std::vector<std::size_t>{0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(kept->rows.heap(3), table.heap(4));

  write_kept_rows(*kept, kept_rows_file(file));
  const KeptRows again = read_kept_rows(folder / "kept-000007.h5");
  EXPECT_EQ(again.places, kept->places);
  EXPECT_EQ(again.rows.table_hash(), kept->rows.table_hash());
  EXPECT_EQ(again.rows.format(), "divergen-pictures");
  EXPECT_EQ(again.rows.version(), 3);
  EXPECT_EQ(mended(again).table_hash(), table.table_hash());
  EXPECT_EQ(mended(again).attributes, table.attributes);
  // The hash tells, too, when a row was not made as it was.
  KeptRows wrong = again;
  wrong.places.back() = 3;
  std::sort(wrong.places.begin(), wrong.places.end());
  EXPECT_NE(mended(wrong).table_hash(), table.table_hash());
}

TEST_F(Salvage, ABitOfAColumnCostsItsRowAlone) {
  const std::uint64_t id = table.get<std::uint64_t>("item_id")[9];
  flip(std::string(reinterpret_cast<const char*>(&id), sizeof id), 2);
  const auto kept = salvage_table(file);
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->places.size(), kRows - 1);
  EXPECT_EQ(std::count(kept->places.begin(), kept->places.end(), 9u), 0);
}

TEST_F(Salvage, NothingIsKeptOfWhatCannotBeToldApart) {
  flip("a dog", 2);  // a document speaks for all rows
  EXPECT_FALSE(salvage_table(file));
  write_file_atomic(file, read_file(file).substr(0, 700));
  EXPECT_FALSE(salvage_table(file));
  EXPECT_THROW(salvage_table(folder / "absent.h5"), Error);
}

TEST_F(Salvage, KeptRowsOfAnotherKindOfTableAreRefused) {
  KeptRows kept{table, {}, kRows, table.table_hash()};
  for (std::size_t row = 0; row < kRows; ++row) kept.places.push_back(row);
  Table other("divergen-pictures", 3);
  other.add("item_id", table.get<std::uint64_t>("item_id"));
  EXPECT_THROW(merge_rows(other, kept), Error);
  EXPECT_THROW(read_kept_rows(file), Error) << "a shard is no table of kept rows";
}

TEST_F(Salvage, OnlyShardsHaveAPlaceForKeptRows) {
  EXPECT_EQ(kept_rows_file("run/pool/shard-000001.h5"), Path("run/pool/kept-000001.h5"));
  EXPECT_EQ(kept_rows_file("run/pool/index.h5"), Path());
}

}  // namespace divergen::store
