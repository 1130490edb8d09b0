// Shards and indices of strangers: read whole, or refused by name; nothing is read silently that was not written.
//
// The first byte chooses what the others mean:
//   0  changes of a good file (which one: the second byte), with the seal as it was: the way of all accidents, which
//      the seal, or the frame where a file is opened for single rows, finds before HDF5 parses anything
//   1  the same behind the seal: it is made anew over the changed file, as by somebody who forges one. What HDF5 gives
//      us of it is checked by our reader. HDF5 1.10 itself is not made for forged files (it asserts, follows addresses
//      and sizes of the file): the changes keep to the data of chunks, and to texts and numbers that our reader looks
//      at, outside of HDF5's own structures
//   2  a table with columns, texts and attributes of the input's choice, written and sealed by our writer: every value
//      that a library's reader looks at can be any other

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/fs.hpp"
#include "base/log.hpp"
#include "store/library.hpp"
#include "store/library_format.hpp"
#include "store/salvage.hpp"
#include "store/seal.hpp"
#include "store/table_file.hpp"

namespace {

using namespace divergen;
using namespace divergen::store;

[[noreturn]] void found(const char* what) {
  std::fprintf(stderr, "store_fuzz: %s\n", what);
  std::abort();
}

/// Takes bytes from the front of the input; zeros when it is used up.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  std::uint8_t byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  std::uint64_t number(int bytes) {
    std::uint64_t out = 0;
    for (int i = 0; i < bytes; ++i) out |= std::uint64_t{byte()} << (8 * i);
    return out;
  }
  std::string text(std::size_t most) {
    const std::size_t count = std::min<std::size_t>(byte() % (most + 1), size_);
    std::string out(reinterpret_cast<const char*>(data_), count);
    data_ += count;
    size_ -= count;
    return out;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

/// A folder of this process, with good files to change.
struct World {
  Path folder;
  std::array<std::string, 3> good;  // a shard, its index, a table without a heap
  std::array<std::uint64_t, 3> hash;
  std::array<Table, 3> read;
  std::string png = std::string(90, 'p');

  Path shard() const { return folder / "shard-000000.h5"; }
  Path index() const { return folder / kIndexName; }
  Path plain() const { return folder / "plain.h5"; }
  std::array<Path, 3> files() const { return {shard(), index(), plain()}; }

  World() {
    log::init({1, "", log::Level::Error});  // another rank than 0: silent
    std::string name = "/dev/shm/divergen-fuzz-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      name = "/tmp/divergen-fuzz-XXXXXX";
      if (::mkdtemp(name.data()) == nullptr) found("no folder to work in");
    }
    folder = name;
    LibraryTables tables;
    tables.categories = {{3, "aardvark", "r", false}, {7, "banjo", "c", false}};
    tables.generators = {{"sd", "stable_diffusion", "dpmpp", "ab12", 50, 7.5}};
    tables.prompts = {"a photo of an aardvark", "a photo of a banjo"};
    std::vector<Instance> instances;
    for (int i = 0; i < 5; ++i) {
      Instance one;
      one.item_id = 1000 + static_cast<std::uint64_t>(i);
      one.category_id = i % 2 == 0 ? 3 : 7;
      one.prompt = i % 2;
      one.width = one.height = 9;
      one.png = png + std::to_string(i);
      instances.push_back(one);
    }
    write_library_shard(shard(), instances, tables);
    write_library_index(folder);
    Table table("divergen-test", 1);
    table.add("value", std::vector<std::uint64_t>{1, 2, 3});
    write_table(table, plain());
    for (std::size_t i = 0; i < good.size(); ++i) {
      good[i] = read_file(files()[i]);
      hash[i] = read_table_head(files()[i]).table_hash;
      read[i] = read_table(files()[i]);
    }
  }
};

World& world() {
  static World* const one = [] {
    auto* made = new World;
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(world().folder, ignored);
    });
    return made;
  }();
  return *one;
}

void put(const Path& file, const std::string& bytes) {
  std::FILE* out = std::fopen(file.c_str(), "wb");
  if (out == nullptr || std::fwrite(bytes.data(), 1, bytes.size(), out) != bytes.size() || std::fclose(out) != 0)
    found("cannot write the input's file");
}

/// Whether it was read; false when it was refused as data. Every other end is a finding.
bool attempt(const std::function<void()>& work) {
  try {
    work();
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data && error.kind() != ErrorKind::Io) {
      std::fprintf(stderr, "%s\n", error.what());
      found("another kind of error");
    }
    return false;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    found("an exception that is no Error");
  }
}

/// What is kept of a damaged file is what the good one had, in every place.
void keep_rows(const Path& file, const Table& good) {
  const Path beside = world().folder / "kept-000000.h5";
  if (!keep_whole_rows(file, beside)) return;
  const KeptRows kept = read_kept_rows(beside);
  const Table same = select_rows(good, kept.places);
  if (kept.rows.row_hashes() != same.row_hashes() || kept.total != good.rows()) found("rows are kept that were none");
  std::filesystem::remove(beside);
}

/// The file as a table, by every way there is to it. Its hash, when it could be read whole.
std::optional<std::uint64_t> open_table(const Path& file) {
  attempt([&] { read_table_head(file); });
  attempt([&] {
    const TableFile table(file);
    table.heap_bytes(0, std::min<std::uint64_t>(table.heap_size(), 100));
    for (std::size_t row = 0; row < std::min<std::size_t>(table.columns().rows(), 20); ++row) table.heap_of_row(row);
  });
  std::optional<std::uint64_t> hash;
  attempt([&] { hash = read_table(file).table_hash(); });
  if (check_table(file).empty() != hash.has_value()) found("reading and checking do not agree");
  return hash;
}

/// The folder as a library.
void open_library(const Path& folder) {
  attempt([&] { read_library_shard(world().shard()); });
  attempt([&] {
    const Library library(folder);
    for (std::size_t i = 0; i < std::min<std::size_t>(library.size(), 20); ++i)
      attempt([&] {
        library.entry(i);
        library.read_png(i);
        library.read(i);
      });
  });
}

/// Changes at places of the input's choice. `data_only`: within what stands in chunks as it was written, that is
/// pictures, texts and columns, which are found by their own bytes.
std::string changed(const std::string& good, Input& input, bool data_only) {
  std::string bytes = good;
  std::vector<std::pair<std::size_t, std::size_t>> spans;  // begin, length
  if (data_only) {
    for (const char* text : {"pppppppp", "aardvark", "stable_diffusion", "a photo of", "shard-000000", "divergen-"})
      for (std::size_t at = good.find(text); at != std::string::npos && spans.size() < 64; at = good.find(text, at + 1))
        spans.emplace_back(at, std::strlen(text));
    for (const std::uint64_t value : {1000ULL, 1003ULL, 90ULL, 91ULL, 2ULL}) {
      const std::string raw(reinterpret_cast<const char*>(&value), sizeof value);
      const std::string neighbour(8, '\0');
      for (std::size_t at = good.find(raw); at != std::string::npos && spans.size() < 96; at = good.find(raw, at + 1))
        if (value >= 1000) spans.emplace_back(at, 40);  // the column of item ids
    }
    if (spans.empty()) return bytes;
  }
  while (!input.empty()) {
    std::size_t at = input.number(3);
    const std::uint8_t flip = input.byte();
    if (data_only) {
      const auto [begin, length] = spans[at % spans.size()];
      at = begin + (at >> 8) % length;
    }
    if (at % bytes.size() < bytes.size()) bytes[at % bytes.size()] ^= static_cast<char>(flip);
  }
  return bytes;
}

void change_good_file(Input& input, bool is_resealed) {
  World& w = world();
  const std::size_t which = input.byte() % w.good.size();
  const std::string& good = w.good[which];
  const bool is_cut = !is_resealed && input.byte() % 4 == 0;
  std::string bytes = changed(good, input, is_resealed);
  if (is_cut) bytes.resize(input.number(3) % bytes.size());
  const Path file = w.files()[which];
  if (is_resealed) {
    put(file, bytes.substr(0, bytes.size() - kSealBytes));
    append_seal(file);
  } else {
    put(file, bytes);
  }
  const auto hash = open_table(file);
  // Behind the seal, too, nothing but what was written: of all that is read the hashes speak.
  if (hash && bytes != good && *hash != w.hash[which]) found("other contents with a good hash");
  if (hash && !is_resealed && bytes != good) found("a changed file that is taken as whole");
  open_library(w.folder);
  if (!hash) keep_rows(file, w.read[which]);
  put(file, good);
}

/// A column of the input's choice.
ColumnValues values_of(Input& input, std::size_t rows) {
  const int kind = input.byte() % 6;
  const auto numbers = [&]<class T>(T) {
    std::vector<T> out(rows);
    for (T& value : out) {
      const std::uint64_t raw = input.number(sizeof(T));
      std::memcpy(&value, &raw, sizeof value);
    }
    return ColumnValues(std::move(out));
  };
  switch (kind) {
    case 0:
      return numbers(std::int32_t{});
    case 1:
      return numbers(std::int64_t{});
    case 2:
      return numbers(std::uint64_t{});
    case 3:
      return numbers(float{});
    case 4:
      return numbers(std::uint32_t{});
    default:
      return numbers(std::uint8_t{});
  }
}

/// The good shard or index, with some of its columns, texts and attributes replaced: hashes and seal are right.
void write_other_values(Input& input) {
  World& w = world();
  const bool is_index = input.byte() % 2 == 1;
  const Path file = is_index ? w.index() : w.shard();
  const Table good = read_table(file);
  Table table(input.byte() % 8 == 0 ? input.text(20) : good.format(), input.byte() % 8 == 0 ? 2 : good.version());
  const std::size_t rows = input.byte() % 4 == 0 ? input.byte() % 9 : good.rows();
  const std::uint64_t replaced = input.number(3);
  std::size_t n = 0;
  for (const Column& column : good.columns()) {
    const bool is_new = (replaced >> (n++ % 24) & 1) != 0;
    if (is_new && input.byte() % 8 == 0) continue;  // without it
    const ColumnValues values = is_new || rows != good.rows() ? values_of(input, rows) : column.values;
    std::visit([&](const auto& v) { table.add(column.name, v); }, values);
  }
  std::vector<std::string> heap;
  for (std::size_t row = 0; row < rows; ++row)
    heap.push_back(row < good.rows() && input.byte() % 4 != 0 ? std::string(good.heap(row)) : input.text(64));
  if (input.byte() % 16 != 0) table.set_heap(heap);
  table.attributes = good.attributes;
  table.documents = good.documents;
  while (!input.empty()) {
    auto& texts = input.byte() % 2 == 0 ? table.documents : table.attributes;
    auto entry = texts.begin();
    if (entry == texts.end()) break;
    std::advance(entry, input.byte() % texts.size());
    switch (input.byte() % 3) {
      case 0:
        texts.erase(entry);
        break;
      case 1:
        entry->second = input.text(200);
        break;
      default: {
        std::string& text = entry->second;
        const std::size_t at = text.empty() ? 0 : input.number(2) % text.size();
        text.insert(at, input.text(12));
        if (at + 1 < text.size()) text.erase(at + 1, input.byte() % 4);
      }
    }
    for (auto& [name, text] : table.attributes) text = text.substr(0, text.find('\0'));  // HDF5's texts end there
  }
  if (attempt([&] { write_table(table, file); })) {
    if (!open_table(file)) found("what our writer wrote is not read");
    open_library(w.folder);
  }
  put(file, is_index ? w.good[1] : w.good[0]);
}

}  // namespace

// HDF5 1.10 forgets some hundred bytes whenever it gives up on a file.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  switch (input.byte() % 3) {
    case 0:
      change_good_file(input, false);
      break;
    case 1:
      change_good_file(input, true);
      break;
    default:
      write_other_values(input);
  }
  return 0;
}
