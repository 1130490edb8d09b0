#include "store/seal.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/rng.hpp"
#include "store/table_file.hpp"
#include "support/fixtures.hpp"

namespace divergen::store {
namespace {

class SealedFile : public testing::Test {
 protected:
  SealedFile() {
    Table table("divergen-test", 1);
    std::vector<std::uint64_t> ids;
    std::vector<std::string> heap;
    Rng rng(7);
    for (std::uint64_t row = 0; row < 40; ++row) {
      ids.push_back(derive_seed(row, "id"));
      std::string entry(60000 + row, '\0');  // more than one piece of the heap
      for (char& c : entry) c = static_cast<char>(rng.below(256));
      heap.push_back(entry);
    }
    table.add("item_id", ids);
    table.set_heap(heap);
    table.documents["prompts"] = R"(["a dog"])";
    write_table(table, file);
    whole = read_file(file);
  }
  bool is_refused() const {
    try {
      check_frame(file);
      return false;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Data) << error.what();
      return true;
    }
  }
  void put(const std::string& bytes) const { write_file_atomic(file, bytes); }
  static std::string raw(std::uint64_t value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  }

  const test::TemporaryFolder folder;
  const Path file = folder / "table.h5";
  std::string whole;
};

}  // namespace

TEST_F(SealedFile, TheFrameGuardsEveryByteThatIsNotHeap) {
  std::vector<std::uint64_t> places;
  std::uint64_t piece = 0;
  {
    const TableFile table(file);
    places = table.heap_places();
    piece = table.heap_piece();
  }
  ASSERT_GT(places.size(), 2u);
  const auto is_heap = [&](std::size_t at) {
    for (const std::uint64_t begin : places)
      if (at >= begin && at < begin + piece + 4) return true;  // with its checksum
    return false;
  };
  Rng rng(8);
  int heap = 0, frame = 0;
  std::vector<std::size_t> at{0, whole.size() - 1, whole.size() - kSealBytes, whole.size() - kSealBytes - 1};
  for (const std::uint64_t begin : places)
    at.insert(at.end(), {begin - 1, begin, begin + piece + 3, begin + piece + 4});
  for (int n = 0; n < 40; ++n) at.push_back(rng.below(places[0]));
  for (const std::size_t byte : at) {
    std::string bytes = whole;
    bytes[byte] ^= 1;
    put(bytes);
    // Of the seal, only what the frame needs is looked at: not the hash of the whole file.
    if (byte >= whole.size() - 16) continue;
    EXPECT_EQ(is_refused(), !is_heap(byte)) << byte;
    is_heap(byte) ? ++heap : ++frame;
    if (!is_heap(byte)) {
      EXPECT_THROW(TableFile{file}, Error) << byte;
    }
    EXPECT_THROW(read_table(file), Error) << byte;
  }
  EXPECT_GE(heap, 6);
  EXPECT_GE(frame, 40);
}

TEST_F(SealedFile, AFrameThatNamesOtherSpansIsRefused) {
  // magic, spans, hash, then the seal: magic, size, hash
  const std::size_t frame = whole.size() - kSealBytes - 32;
  std::uint64_t spans = 0;
  std::memcpy(&spans, whole.data() + frame + 8, sizeof spans);
  ASSERT_GE(spans, 1u);
  const std::uint64_t most = ~std::uint64_t{0};
  for (const std::uint64_t count : {std::uint64_t{0}, spans - 1, spans + 1, std::uint64_t{1} << 60, most}) {
    if (count == spans) continue;
    put(std::string(whole).replace(frame + 8, 8, raw(count)));
    EXPECT_TRUE(is_refused()) << count;
  }
  const std::size_t map = frame - 16 * spans;
  for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{1} << 62, most}) {
    put(std::string(whole).replace(map, 8, raw(value)));
    EXPECT_TRUE(is_refused()) << "begin " << value;
    put(std::string(whole).replace(map + 8, 8, raw(value)));
    EXPECT_TRUE(is_refused()) << "length " << value;
  }
}

TEST_F(SealedFile, FilesOfEarlierVersionsHaveNoFrame) {
  std::uint64_t spans = 0;
  std::memcpy(&spans, whole.data() + whole.size() - kSealBytes - 32 + 8, sizeof spans);
  std::string bytes = whole.substr(0, whole.size() - kSealBytes - 32 - 16 * spans);
  const Hash128 hash = hash128(bytes);
  bytes += "DIVGSEAL" + raw(bytes.size()) + raw(hash.low) + raw(hash.high);
  put(bytes);
  EXPECT_FALSE(is_refused());
  EXPECT_EQ(TableFile(file).heap_of_row(3).size(), 60003u);
  EXPECT_EQ(read_table(file).rows(), 40u);
  bytes[100] ^= 1;
  put(bytes);
  EXPECT_THROW(read_table(file), Error);
}

}  // namespace divergen::store
