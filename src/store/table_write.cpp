// Table -> HDF5 file: written once, closed, read back, flushed, renamed.

#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

#include "base/fault.hpp"
#include "base/hash.hpp"
#include "base/system_error.hpp"
#include "base/text.hpp"
#include "store/fletcher32.hpp"
#include "store/h5.hpp"
#include "store/h5_reader.hpp"
#include "store/seal.hpp"
#include "store/table.hpp"
#include "store/table_file.hpp"
#include "store/table_parts.hpp"
#include "store/table_stream.hpp"

namespace divergen::store {
namespace {

using h5::kHeapLength;
using h5::kHeapOffset;
using h5::kRowHash;

constexpr std::uint64_t kChunkBytes = 1 << 20;  // one checksum covers this much ...
constexpr std::uint64_t kMostChunks = 256;  // ... or more in a large heap: finding a chunk takes HDF5 a walk over all
constexpr std::uint64_t kFull = 1 << 20;    // with less than this free, a failed write is put down to the full device

constexpr std::uint64_t kEarly = 8 << 20;  // bytes after which the disk is set to work

class Writer {
 public:
  explicit Writer(const Path& path) : lock_(h5::library_mutex()), path_(path) {
    h5::quiet();
    h5::Handle access = h5::file_access();
    H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_LATEST);
    h5::Handle create(H5Pcreate(H5P_FILE_CREATE), &H5Pclose);
    H5Pset_obj_track_times(create.get(), 0);
    file_ = take(H5Fcreate(path.c_str(), H5F_ACC_EXCL, create.get(), access.get()), &H5Fclose, "create");
  }

  void attribute(const std::string& name, const std::string& text) {
    h5::Handle type = take(H5Tcopy(H5T_C_S1), &H5Tclose, name);
    check(H5Tset_size(type.get(), text.size() + 1), name);
    check(H5Tset_cset(type.get(), H5T_CSET_UTF8), name);
    h5::Handle space = take(H5Screate(H5S_SCALAR), &H5Sclose, name);
    h5::Handle id =
        take(H5Acreate2(file_.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), &H5Aclose, name);
    check(H5Awrite(id.get(), type.get(), text.c_str()), name);
  }

  void group(const char* name) {
    h5::Handle create = take(H5Pcreate(H5P_GROUP_CREATE), &H5Pclose, name);
    H5Pset_obj_track_times(create.get(), 0);  // the same table is the same bytes whenever it is written
    h5::Handle id = take(H5Gcreate2(file_.get(), name, H5P_DEFAULT, create.get(), H5P_DEFAULT), &H5Gclose, name);
  }

  template <class T>
  void dataset(const std::string& name, const T* values, std::size_t count) {
    h5::Handle id = create_dataset<T>(name, count, std::min<hsize_t>(count, kChunkBytes / sizeof(T)));
    if (count > 0) check(H5Dwrite(id.get(), h5::type_of<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values), name);
    if (!id.close()) failed(name);
  }

  /// A dataset of bytes, its chunks put together and checksummed here: HDF5's own way is several times slower. `next`
  /// gives its bytes piece by piece, in pieces of any size, "" at the end.
  void heap(std::uint64_t size, const std::function<std::string_view()>& next) {
    const std::string name = "heap";
    // Equal pieces, so that next to nothing of the last one is padding; multiples of 64 bytes, an entry of an index.
    const std::uint64_t pieces = std::clamp<std::uint64_t>((size + kChunkBytes - 1) / kChunkBytes, 1, kMostChunks);
    const hsize_t chunk = pieces == 1 ? std::max<hsize_t>(size, 1) : ((size + pieces - 1) / pieces + 63) / 64 * 64;
    h5::Handle id = create_dataset<std::uint8_t>(name, size, chunk);
    std::string piece;
    piece.reserve(chunk + kFletcher32Bytes);
    hsize_t at = 0, started = 0;
    const h5::ReadOnly disk(path_);
    const auto put = [&] {
      piece.resize(chunk);  // the last one is padded with zeros
      const std::uint32_t sum = fletcher32(piece);
      for (std::size_t i = 0; i < kFletcher32Bytes; ++i) piece.push_back(static_cast<char>(sum >> (8 * i)));
      check(H5Dwrite_chunk(id.get(), H5P_DEFAULT, 0, &at, piece.size(), piece.data()), name);
      piece.clear();
      at += chunk;
      // The disk begins while the rest is still made and checked; that all of it is there is fsync's to say, later.
      if (at - started < kEarly) return;
      started = at;
      ::sync_file_range(disk.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
    };
    for (std::string_view bytes = next(); !bytes.empty(); bytes = next())
      while (!bytes.empty()) {
        const std::size_t count = std::min<std::size_t>(bytes.size(), chunk - piece.size());
        piece.append(bytes.substr(0, count));
        bytes.remove_prefix(count);
        if (piece.size() == chunk) put();
      }
    if (!piece.empty()) put();
    DIVERGEN_CHECK(at >= size, at, " of ", size);
    if (!id.close()) failed(name);
  }

  void close() {
    check(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), "flush");
    if (!file_.close()) failed("close");
  }

 private:
  template <class T>
  h5::Handle create_dataset(const std::string& name, hsize_t size, hsize_t chunk) {
    h5::Handle space = take(H5Screate_simple(1, &size, nullptr), &H5Sclose, name);
    h5::Handle create = take(H5Pcreate(H5P_DATASET_CREATE), &H5Pclose, name);
    H5Pset_obj_track_times(create.get(), 0);
    if (size > 0) {
      check(H5Pset_chunk(create.get(), 1, &chunk), name);
      check(H5Pset_fletcher32(create.get()), name);
    }
    return take(
        H5Dcreate2(file_.get(), name.c_str(), h5::type_of<T>(), space.get(), H5P_DEFAULT, create.get(), H5P_DEFAULT),
        &H5Dclose, name);
  }
  h5::Handle take(hid_t id, h5::Handle::Closer closer, const std::string& object) {
    if (id < 0) failed(object);
    return {id, closer};
  }
  void check(herr_t status, const std::string& object) {
    if (status < 0) failed(object);
  }
  [[noreturn]] void failed(const std::string& object) {
    const std::string why = h5::take_error();
    const std::string place = cat(path_.string(), " [", object, "]");
    if (h5::last_errno() != 0) fail_errno("cannot write a table file", place, h5::last_errno());
    std::error_code ignored;
    const auto space = std::filesystem::space(path_.parent_path().empty() ? "." : path_.parent_path(), ignored);
    if (!ignored && space.available < kFull) fail_errno("cannot write a table file", place, ENOSPC);
    fail(ErrorKind::Io,
         {"cannot write a table file", place, why, "check the disk, then run the same command again: it continues"});
  }

  std::lock_guard<std::mutex> lock_;  // first, so that the handles are closed under it
  Path path_;
  h5::Handle file_;
};

/// The heap to write: lengths of its entries, and its bytes in order (Writer::heap).
struct HeapSource {
  std::vector<std::uint64_t> lengths;
  std::function<std::string_view()> next;
};

void write_file(const Table& table, const std::vector<std::uint64_t>& hashes, const HeapSource* heap,
                const Path& part) {
  Writer writer(part);
  fault::reach("shard.created");
  writer.attribute("format", table.format());
  writer.attribute("version", std::to_string(table.version()));
  writer.attribute("rows", std::to_string(table.rows()));
  writer.attribute("table_hash", to_hex(table.table_hash(hashes)));
  for (const auto& [name, text] : table.attributes) writer.attribute(name, text);
  writer.group("columns");
  for (const Column& column : table.columns())
    std::visit([&](const auto& v) { writer.dataset("columns/" + column.name, v.data(), v.size()); }, column.values);
  writer.dataset(cat("columns/", kRowHash), hashes.data(), hashes.size());
  fault::reach("shard.columns_written");
  if (heap != nullptr) {
    std::vector<std::uint64_t> offsets;
    std::uint64_t at = 0;
    for (const std::uint64_t length : heap->lengths) {
      offsets.push_back(at);
      at += length;
    }
    writer.dataset(cat("columns/", kHeapOffset), offsets.data(), offsets.size());
    writer.dataset(cat("columns/", kHeapLength), heap->lengths.data(), heap->lengths.size());
    writer.heap(at, heap->next);
    fault::reach("shard.heap_written");
  }
  writer.group("documents");
  for (const auto& [name, text] : table.documents)
    writer.dataset("documents/" + name, reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  fault::reach("shard.before_close");
  writer.close();
}

Path folder_of(const Path& path) { return path.has_parent_path() ? path.parent_path() : Path("."); }

[[noreturn]] void no_space(const Path& path, const std::string& why) {
  fail(ErrorKind::NoSpace, {"cannot write a table file", path.string(), why,
                            "free some space, then run the same command again: it continues"});
}

std::uint64_t bytes_of(const Table& table) {
  std::uint64_t bytes = 0;
  for (const Column& column : table.columns())
    std::visit([&](const auto& v) { bytes += v.size() * sizeof v[0]; }, column.values);
  bytes += table.heap_bytes().size();
  for (const auto& [name, text] : table.documents) bytes += text.size();
  return bytes;
}

/// Better told before the work than found out in the middle of it; a full device is still noticed there.
void check_room(std::uint64_t needed, const Path& path) {
  const std::uint64_t available = free_bytes(folder_of(path));
  if (available < needed)
    no_space(path, cat("it takes ", human_bytes(needed), ", and ", human_bytes(available), " are free"));
  struct statvfs info {};
  // File systems without a fixed number of files say 0 of 0.
  if (::statvfs(folder_of(path).c_str(), &info) == 0 && info.f_files > 0 && info.f_favail == 0)
    no_space(path, "the file system has no room for another file (no free inodes)");
}

/// HDF5's close code is not believed (measured: it reports success on a full disk): everything is read back. `read`
/// says whether the rows are those that were written.
void check_written(const Path& path, const std::function<bool()>& read) {
  std::string problem;
  try {
    if (read()) return;
    problem = "its rows are not those that were written";
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data) throw;
    problem = cat(error.text().object, ": ", error.text().why);
  }
  if (free_bytes(folder_of(path)) < kFull) no_space(path, "no space is left on the device");
  fail(ErrorKind::Io, {"a table file did not survive its writing", path.string(), problem,
                       "check the disk and its free space, then run the same command again: it continues"});
}

/// Looks at the heap while the file is read for its seal: one reading serves both. Whether each row's bytes, as they
/// stand in the file, have its hash.
class HeapCheck {
 public:
  /// `of_columns`: hash of each row without its heap bytes; `hashes`: with them.
  HeapCheck(const Path& part, const std::vector<std::uint64_t>& lengths, std::vector<std::uint64_t> of_columns,
            const std::vector<std::uint64_t>& hashes)
      : lengths_(lengths), of_columns_(std::move(of_columns)), hashes_(hashes) {
    chunks_ = h5::Reader(part).chunks("heap");
    is_in_order_ = std::is_sorted(chunks_.address.begin(), chunks_.address.end());
    skip_empty_rows();
  }
  const std::vector<std::uint64_t>& of_columns() const { return of_columns_; }

  /// Where the heap lies: each piece with its checksum.
  std::vector<Span> spans() const {
    std::vector<Span> out;
    for (const std::uint64_t begin : chunks_.address) out.push_back({begin, chunks_.chunk + kFletcher32Bytes});
    return out;
  }

  /// The next piece of the file.
  void see(std::uint64_t at, std::string_view piece) {
    while (is_in_order_ && chunk_ < chunks_.address.size()) {
      const std::uint64_t begin = chunks_.address[chunk_] + within_;
      const std::uint64_t size = std::min(chunks_.chunk, chunks_.size - chunk_ * chunks_.chunk);
      if (begin >= at + piece.size()) return;
      if (begin < at) {  // chunks that overlap: no file of ours
        is_good_ = false;
        return;
      }
      const std::string_view bytes = piece.substr(begin - at, size - within_);
      take(bytes);
      within_ += bytes.size();
      if (within_ < size) return;
      within_ = 0;
      ++chunk_;
    }
  }
  /// Whether all rows were seen, and good. HDF5 writes its chunks in order; if it ever does not, nothing was looked at.
  bool saw_all() const { return is_in_order_; }
  bool is_good() const { return is_good_ && row_ == lengths_.size(); }

 private:
  void take(std::string_view bytes) {
    while (!bytes.empty() && row_ < lengths_.size()) {
      const std::string_view part = bytes.substr(0, lengths_[row_] - torn_.size());
      bytes.remove_prefix(part.size());
      if (torn_.empty() && part.size() == lengths_[row_]) {
        check(part);
        continue;
      }
      torn_ += part;  // a row that lies in several pieces is put together
      if (torn_.size() < lengths_[row_]) return;
      check(torn_);
      torn_.clear();
    }
  }
  void check(std::string_view row) {
    is_good_ = is_good_ && hash64(row, of_columns_[row_]) == hashes_[row_];
    ++row_;
    skip_empty_rows();
  }
  void skip_empty_rows() {
    for (; row_ < lengths_.size() && lengths_[row_] == 0; ++row_)
      is_good_ = is_good_ && hash64({}, of_columns_[row_]) == hashes_[row_];
  }

  const std::vector<std::uint64_t>& lengths_;
  std::vector<std::uint64_t> of_columns_;
  const std::vector<std::uint64_t>& hashes_;
  h5::Reader::Chunks chunks_;
  std::size_t chunk_ = 0, row_ = 0;
  std::uint64_t within_ = 0;  // of the chunk
  std::string torn_;
  bool is_in_order_ = false, is_good_ = true;
};

/// Hash of each row of a table with a heap, without its heap bytes; over them the row's hash goes on.
std::vector<std::uint64_t> column_hashes(const Table& table) {
  Table own(table.format(), table.version());
  for (const Column& column : table.columns())
    if (column.name != kRowHash && column.name != kHeapOffset && column.name != kHeapLength)
      std::visit([&](const auto& v) { own.add(column.name, v); }, column.values);
  if (own.columns().empty()) return std::vector<std::uint64_t>(table.rows(), hash64({}));
  return own.row_hashes();
}

/// Whether the part holds a table with a heap whose columns are those that were meant and whose rows have these hashes.
/// Of the heap, `seen` has looked at all rows; when it could not, they are read again, a row at a time.
bool is_written(const Path& part, const HeapCheck& seen, const std::vector<std::uint64_t>& lengths,
                const std::vector<std::uint64_t>& hashes) {
  const TableFile file(part);
  const Table& back = file.columns();
  if (back.get<std::uint64_t>(kRowHash) != hashes || back.table_hash(hashes) != file.head().table_hash) return false;
  if (column_hashes(back) != seen.of_columns()) return false;
  const auto& offsets = back.get<std::uint64_t>(kHeapOffset);
  if (back.get<std::uint64_t>(kHeapLength) != lengths) return false;
  std::uint64_t at = 0;
  for (std::size_t row = 0; row < lengths.size(); at += lengths[row++])
    if (offsets[row] != at) return false;
  if (seen.saw_all()) return seen.is_good();
  for (std::size_t row = 0; row < hashes.size(); ++row)
    if (hash64(file.heap_bytes(offsets[row], lengths[row]), seen.of_columns()[row]) != hashes[row]) return false;
  return true;
}

/// Columns, and the heap where there is one; the hash of each row without the heap and with it.
struct Contents {
  const Table& columns;
  bool has_heap = false;
  std::vector<std::uint64_t> lengths, of_columns, hashes;
  std::function<std::function<std::string_view()>()> pieces;  // of the heap, from its beginning
};

/// Writes, reads back, seals and publishes; again when it fails for a while.
void publish(const Contents& contents, std::uint64_t bytes, const Path& path) {
  with_retries("writing " + path.string(), [&] {
    fault::reach("shard.start");
    check_room(bytes, path);
    const Path part = part_name(path);
    try {
      HeapSource heap{contents.lengths, contents.has_heap ? contents.pieces() : nullptr};
      write_file(contents.columns, contents.hashes, contents.has_heap ? &heap : nullptr, part);
      fault::reach("shard.closed");
      check_written(path, [&] {
        std::optional<HeapCheck> check;
        if (contents.has_heap) check.emplace(part, contents.lengths, contents.of_columns, contents.hashes);
        if (check)
          append_seal(part, check->spans(), [&](std::uint64_t at, std::string_view piece) { check->see(at, piece); });
        else append_seal(part);
        fault::reach("shard.sealed");
        if (check) return is_written(part, *check, contents.lengths, contents.hashes);
        check_frame(part);
        std::vector<std::uint64_t> back;
        read_unsealed_table(part, &back);
        return back == contents.hashes;
      });
      fault::reach("shard.verified");
      commit_file(part, path);
    } catch (...) {
      remove_quietly(part);
      throw;
    }
  });
}

}  // namespace

void write_table(const Table& table, const Path& path) {
  Contents contents{table, table.has_heap(), {}, {}, table.row_hashes(), {}};
  if (table.has_heap()) {
    for (std::size_t i = 0; i < table.rows(); ++i) contents.lengths.push_back(table.heap(i).size());
    contents.of_columns = column_hashes(table);
    contents.pieces = [&] { return [left = table.heap_bytes()]() mutable { return std::exchange(left, {}); }; };
  }
  publish(contents, bytes_of(table), path);
}

void write_streamed_table(const Table& columns, const std::vector<std::uint64_t>& lengths,
                          const std::function<std::string_view(std::size_t row)>& entry, const Path& path) {
  DIVERGEN_CHECK(!columns.has_heap() && columns.rows() == lengths.size(), columns.rows(), " ", lengths.size());
  Contents contents{columns, true, lengths, columns.row_hashes(), {}, {}};
  std::uint64_t bytes = bytes_of(columns);
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    const std::string_view text = entry(row);
    DIVERGEN_CHECK(text.size() == lengths[row], row, ": ", text.size(), " bytes, not ", lengths[row]);
    contents.hashes.push_back(hash64(text, contents.of_columns[row]));
    bytes += text.size();
  }
  contents.pieces = [&] {
    return [&, row = std::size_t{0}]() mutable -> std::string_view {
      std::string_view text;
      while (text.empty() && row < lengths.size()) text = entry(row++);
      return text;
    };
  };
  publish(contents, bytes, path);
}

}  // namespace divergen::store
