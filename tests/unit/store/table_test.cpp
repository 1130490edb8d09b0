#include "store/table.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.hpp"
#include "base/rng.hpp"

namespace divergen::store {
namespace {

class TableFile : public testing::Test {
 protected:
  TableFile() : folder(std::filesystem::temp_directory_path() / cat("divergen-table-", ::getpid())) {
    make_folder(folder);
    path = folder / "shard.h5";
  }
  ~TableFile() override { std::filesystem::remove_all(folder); }

  static Table sample() {
    Table table("divergen-test", 3);
    table.add<std::int32_t>("category", {5, 7, 9});
    table.add<double>("area", {0.5, 0.25, 1e-9});
    table.set_heap({"first", "", std::string("\0\1\2", 3)});
    table.attributes["made_by"] = "test";
    table.documents["prompts"] = R"(["a photo"])";
    return table;
  }

  void flip_bit(std::uint64_t bit) const {
    std::string bytes = read_file(path);
    bytes.at(bit / 8) ^= static_cast<char>(1u << (bit % 8));
    write_file_atomic(path, bytes);
  }

  Path folder, path;
};

}  // namespace

TEST_F(TableFile, ReadsBackWhatWasWritten) {
  write_table(sample(), path);

  const Table table = read_table(path);

  EXPECT_EQ(table.format(), "divergen-test");
  EXPECT_EQ(table.version(), 3);
  EXPECT_EQ(table.get<std::int32_t>("category"), (std::vector<std::int32_t>{5, 7, 9}));
  EXPECT_EQ(table.heap(2), std::string_view("\0\1\2", 3));
  EXPECT_EQ(table.documents.at("prompts"), R"(["a photo"])");
  EXPECT_EQ(table.table_hash(), sample().table_hash());
}

TEST_F(TableFile, HoldsAnEmptyTable) {
  Table empty("divergen-test", 1);
  empty.add<std::int32_t>("category", {});
  empty.set_heap({});

  write_table(empty, path);

  EXPECT_EQ(read_table(path).rows(), 0u);
}

TEST_F(TableFile, NeverReturnsWrongValuesAfterABitFlip) {
  write_table(sample(), path);
  const std::string good = read_file(path);
  const std::uint64_t hash = sample().table_hash();
  Rng rng(1);

  for (int i = 0; i < 150; ++i) {
    write_file_atomic(path, good);
    flip_bit(rng.below(good.size() * 8));
    try {
      EXPECT_EQ(read_table(path).table_hash(), hash) << "a silent change";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos);
    }
  }
}

TEST_F(TableFile, RefusesATruncatedFile) {
  write_table(sample(), path);
  const std::string good = read_file(path);

  for (const double part : {0.1, 0.5, 0.9, 0.99}) {
    write_file_atomic(path, good.substr(0, static_cast<std::size_t>(part * static_cast<double>(good.size()))));
    EXPECT_TRUE(verify_table(path).has_value()) << part;
  }
}

TEST_F(TableFile, NamesTheColumnThatIsMissing) {
  const Table table = sample();

  EXPECT_THROW(table.get<float>("category"), Error);
  EXPECT_THROW(table.get<float>("similarity"), Error);
}

/// Found by fuzz.store: a shard that was written without pictures ended its reader with a failed check.
TEST_F(TableFile, ATableWithoutAHeapIsRefusedAsData) {
  Table table("divergen-test", 1);
  table.add("value", std::vector<std::uint64_t>{1, 2});
  try {
    table.heap(0);
    ADD_FAILURE() << "it has none";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Data);
    EXPECT_NE(std::string(error.what()).find("divergen-test"), std::string::npos);
  }
}

}  // namespace divergen::store
