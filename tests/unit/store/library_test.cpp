#include "store/library.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "store/table_file.hpp"
#include "support/fixtures.hpp"
#include "support/library_cases.hpp"

namespace divergen::store {
namespace {

using test::instances;
using test::tables;

void expect_equal(const Instance& a, const Instance& b) {
  EXPECT_EQ(a.item_id, b.item_id);
  EXPECT_EQ(a.png, b.png);
  EXPECT_EQ(record_hash(a, tables()), record_hash(b, tables()));
}

class InstanceLibrary : public testing::Test {
 protected:
  /// Writes `all` in shards of `rows` and the index.
  void write(const std::vector<Instance>& all, std::size_t rows, const LibraryTables& with = tables()) const {
    for (std::size_t first = 0, n = 0; first < all.size(); first += rows, ++n)
      write_library_shard(folder / cat("shard-", n, ".h5"),
                          {all.begin() + static_cast<std::ptrdiff_t>(first),
                           all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), first + rows))},
                          with);
    write_library_index(folder.path());
  }
  test::TemporaryFolder folder;
};

}  // namespace

TEST_F(InstanceLibrary, GivesBackEveryInstance) {
  const auto all = instances(25);
  write(all, 10);

  const Library library(folder.path());

  ASSERT_EQ(library.size(), all.size());
  EXPECT_EQ(library.per_category().at(3), 9);
  for (std::size_t i = 0; i < library.size(); ++i) {
    const auto& entry = library.entries()[i];
    const Instance& expected = all[entry.shard * 10 + entry.row];
    EXPECT_EQ(entry.category_id, expected.category_id);
    EXPECT_EQ(entry.width, expected.width);
    EXPECT_EQ(entry.similarity, expected.similarity);
    EXPECT_EQ(library.read_png(i), expected.png);
    const Instance read = library.read(i);
    expect_equal(read, expected);
    EXPECT_EQ(library.tables().prompts[static_cast<std::size_t>(read.prompt)],
              tables().prompts[static_cast<std::size_t>(expected.prompt)]);
  }
  EXPECT_TRUE(std::is_sorted(library.entries().begin(), library.entries().end(), [](const auto& a, const auto& b) {
    return std::pair(a.category_id, a.item_id) < std::pair(b.category_id, b.item_id);
  }));
}

TEST_F(InstanceLibrary, HasTheSameHashWhateverTheShardingAndTheOrderOfItsTables) {
  auto all = instances(24);
  write(all, 5);
  const std::string hash = Library(folder.path()).hash();

  // The same instances, in another order, in other shards, under other indices of prompts and generators.
  LibraryTables other = tables();
  std::swap(other.prompts[0], other.prompts[3]);
  std::swap(other.generators[0], other.generators[1]);
  for (Instance& one : all) {
    one.prompt = one.prompt == 0 ? 3 : one.prompt == 3 ? 0 : one.prompt;
    one.generator = 1 - one.generator;
  }
  std::reverse(all.begin(), all.end());
  const test::TemporaryFolder second;
  for (std::size_t n = 0; n < 2; ++n)
    write_library_shard(
        second / cat("shard-", n, ".h5"),
        {all.begin() + static_cast<std::ptrdiff_t>(12 * n), all.begin() + static_cast<std::ptrdiff_t>(12 * n + 12)},
        other);
  write_library_index(second.path());
  EXPECT_EQ(Library(second.path()).hash(), hash);

  all[3].similarity += 1e-3F;
  write_library_shard(second / "shard-0.h5", {all.begin(), all.begin() + 12}, other);
  write_library_index(second.path());
  EXPECT_NE(Library(second.path()).hash(), hash);
}

TEST_F(InstanceLibrary, RecordHashCoversEveryField) {
  const Instance base = instances(1)[0];
  std::vector<Instance> changed;
  const auto with = [&](auto change) {
    Instance copy = base;
    change(copy);
    changed.push_back(copy);
  };
  with([](Instance& i) { ++i.item_id; });
  with([](Instance& i) { ++i.seed; });
  with([](Instance& i) { i.category_id = 7; });
  with([](Instance& i) { i.generator = 1; });
  with([](Instance& i) { i.prompt = 1; });
  with([](Instance& i) { ++i.sample; });
  with([](Instance& i) { ++i.width; });
  with([](Instance& i) { ++i.height; });
  with([](Instance& i) { ++i.box_x; });
  with([](Instance& i) { ++i.box_y; });
  with([](Instance& i) { ++i.source_width; });
  with([](Instance& i) { ++i.source_height; });
  with([](Instance& i) { ++i.area; });
  with([](Instance& i) { i.similarity += 0.01F; });
  with([](Instance& i) { i.clip_score += 0.01F; });
  with([](Instance& i) { i.flags ^= kPartsDropped; });
  with([](Instance& i) { i.png.back() ^= 1; });

  std::vector<std::uint64_t> hashes{record_hash(base, tables())};
  for (const Instance& one : changed) hashes.push_back(record_hash(one, tables()));
  LibraryTables other = tables();
  other.generators[0].weights_hash = "ab13";
  hashes.push_back(record_hash(base, other));

  std::sort(hashes.begin(), hashes.end());
  EXPECT_EQ(std::adjacent_find(hashes.begin(), hashes.end()), hashes.end());
}

TEST_F(InstanceLibrary, KeepsWhichAnnotatorWasChosenOutsideTheHash) {
  const LibraryTables tables = test::tables();
  std::vector<Instance> plain = test::instances(3), chosen = plain;
  chosen[0].annotator = "u2net";
  chosen[0].annotator_scores = {{"clipseg", 21.5F}, {"u2net", 23.25F}};
  chosen[2].annotator = "sam";
  chosen[2].annotator_scores = {{"sam", 20.0F}};

  const std::vector<Instance> back = instances_of(make_library_table(chosen, tables));
  EXPECT_EQ(back[0].annotator, "u2net");
  EXPECT_EQ(back[0].annotator_scores, chosen[0].annotator_scores);
  EXPECT_EQ(back[1].annotator, "");
  EXPECT_TRUE(back[1].annotator_scores.empty());
  EXPECT_EQ(back[2].annotator_scores, chosen[2].annotator_scores);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(record_hash(chosen[i], tables), record_hash(plain[i], tables));
  EXPECT_FALSE(make_library_table(plain, tables).has("annotator"));

  Table damaged = make_library_table(chosen, tables);
  damaged.documents["annotators"] = "[1, 2, 3]";
  EXPECT_THROW(instances_of(damaged), Error);
}

TEST_F(InstanceLibrary, OpensAndListsWithoutItsShards) {
  write(instances(12), 4);
  for (const Path& shard : library_shards(folder.path())) std::filesystem::remove(shard);

  const Library library(folder.path());

  EXPECT_EQ(library.size(), 12u);
  EXPECT_THROW(library.read_png(0), Error);
}

TEST_F(InstanceLibrary, HoldsShardsWithoutRows) {
  const auto all = instances(4);
  write_library_shard(folder / "shard-0.h5", {}, tables());
  write_library_shard(folder / "shard-1.h5", all, tables());
  write_library_shard(folder / "shard-2.h5", {}, tables());
  write_library_index(folder.path());

  const Library library(folder.path());

  ASSERT_EQ(library.size(), 4u);
  EXPECT_EQ(library.entries()[0].shard, 1u);
  EXPECT_NO_THROW(library.read(0));
}

TEST_F(InstanceLibrary, ReadsFromManyThreadsAtOnce) {
  const auto all = instances(60);
  write(all, 7);
  const Library library(folder.path());
  std::atomic<int> wrong{0};

  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      Rng rng(static_cast<std::uint64_t>(t));
      for (int n = 0; n < 200; ++n) {
        const std::size_t i = rng.below(library.size());
        const auto& entry = library.entries()[i];
        if (library.read_png(i) != all[entry.shard * 7 + entry.row].png) ++wrong;
        if (n % 10 == 0 && library.read(i).item_id != entry.item_id) ++wrong;
      }
    });
  for (auto& thread : threads) thread.join();

  EXPECT_EQ(wrong, 0);
}

TEST_F(InstanceLibrary, NamesShardAndRowOfADamagedPicture) {
  const auto all = instances(9);
  write(all, 3);
  const Path shard = folder / "shard-1.h5";
  std::string bytes = read_file(shard);
  const std::size_t at = bytes.find(all[4].png);  // row 1 of shard 1
  ASSERT_NE(at, std::string::npos);
  bytes[at + 40] ^= 4;
  write_file_atomic(shard, bytes);

  const Library library(folder.path());
  int refused = 0;
  for (std::size_t i = 0; i < library.size(); ++i) {
    const auto& entry = library.entries()[i];
    try {
      library.read_png(i);
      EXPECT_FALSE(entry.shard == 1 && entry.row == 1);
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.kind(), ErrorKind::Data);
      EXPECT_NE(std::string(error.what()).find("shard-1.h5 row 1"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(refused, 1);
  const auto problems = check_table(shard);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].row, std::optional<std::size_t>(1));
}

TEST_F(InstanceLibrary, RefusesShardsThatDoNotBelongTogether) {
  const auto all = instances(8);
  write_library_shard(folder / "shard-0.h5", {all.begin(), all.begin() + 4}, tables());

  write_library_shard(folder / "shard-1.h5", {all.begin() + 3, all.end()}, tables());
  EXPECT_THROW(write_library_index(folder.path()), Error) << "item 3 stands twice";

  LibraryTables other = tables();
  other.prompts[0] = "something else";
  write_library_shard(folder / "shard-1.h5", {all.begin() + 4, all.end()}, other);
  EXPECT_THROW(write_library_index(folder.path()), Error) << "prompt 0 has two meanings";

  other = tables();
  other.generators[1].steps = 7;
  write_library_shard(folder / "shard-1.h5", {all.begin() + 4, all.end()}, other);
  EXPECT_THROW(write_library_index(folder.path()), Error) << "generator 1 has two meanings";
  EXPECT_FALSE(std::filesystem::exists(folder / "index.h5"));
}

TEST_F(InstanceLibrary, RefusesAShardThatWasReplacedAfterTheIndex) {
  const auto all = instances(6);
  write(all, 3);
  const Library library(folder.path());
  write_library_shard(folder / "shard-0.h5", {all[0], all[1]}, tables());

  int refused = 0;
  for (std::size_t i = 0; i < library.size(); ++i) {
    try {
      library.read_png(i);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_EQ(refused, 3);
}

TEST_F(InstanceLibrary, SaysWhatIsMissingInAFolderWithoutALibrary) {
  try {
    const Library library(folder.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Data);
    EXPECT_NE(std::string(error.what()).find("divergen pool"), std::string::npos);
  }
  EXPECT_THROW(write_library_index(folder.path()), Error);
}

TEST_F(InstanceLibrary, ReadsHeapBytesAcrossChunks) {
  Table table("divergen-test", 1);
  Rng rng(3);
  std::vector<std::string> heap;
  std::vector<std::int32_t> index;
  for (int i = 0; i < 40; ++i) {
    std::string entry(rng.below(200'000), '\0');
    for (char& c : entry) c = static_cast<char>(rng.below(256));
    heap.push_back(std::move(entry));
    index.push_back(i);
  }
  table.add("index", index);
  table.set_heap(heap);
  write_table(table, folder / "big.h5");

  const TableFile file(folder / "big.h5");

  ASSERT_GT(file.heap_size(), 2u << 20) << "several chunks";
  for (std::size_t i = 0; i < heap.size(); ++i) EXPECT_EQ(file.heap_of_row(i), heap[i]);
  EXPECT_EQ(file.columns().get<std::int32_t>("index"), index);
  EXPECT_THROW(file.heap_bytes(file.heap_size() - 1, 2), Error);
}

}  // namespace divergen::store
