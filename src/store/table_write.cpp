// Table -> HDF5 file: written once, closed, read back, flushed, renamed.

#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <mutex>
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
    piece.reserve(chunk + 4);
    hsize_t at = 0, started = 0;
    const h5::ReadOnly disk(path_);
    const auto put = [&] {
      piece.resize(chunk);  // the last one is padded with zeros
      const std::uint32_t sum = fletcher32(piece);
      for (int i = 0; i < 4; ++i) piece.push_back(static_cast<char>(sum >> (8 * i)));
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
void check_written(const Path& part, const Path& path, const std::function<bool()>& read) {
  std::string problem;
  try {
    check_seal_size(part);
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

/// Writes, verifies and publishes, again when it fails for a while. `write` makes the part, `read` looks at it.
void publish(const Path& path, std::uint64_t bytes, const std::function<void(const Path& part)>& write,
             const std::function<bool(const Path& part)>& read) {
  with_retries("writing " + path.string(), [&] {
    fault::reach("shard.start");
    check_room(bytes, path);
    const Path part = part_name(path);
    try {
      write(part);
      fault::reach("shard.closed");
      append_seal(part);
      fault::reach("shard.sealed");
      check_written(part, path, [&] { return read(part); });
      fault::reach("shard.verified");
      commit_file(part, path);
    } catch (...) {
      remove_quietly(part);
      throw;
    }
  });
}

/// Whether the part holds a table with a heap whose columns are those of `columns` and whose rows have these hashes.
/// Reads a row at a time.
bool is_written(const Path& part, const Table& columns, const std::vector<std::uint64_t>& hashes) {
  const TableFile file(part);
  const Table& back = file.columns();
  if (back.get<std::uint64_t>(kRowHash) != hashes || back.table_hash(hashes) != file.head().table_hash) return false;
  Table own(back.format(), back.version());
  for (const Column& column : back.columns())
    if (column.name != kRowHash && column.name != kHeapOffset && column.name != kHeapLength)
      std::visit([&](const auto& v) { own.add(column.name, v); }, column.values);
  if (own.columns().size() != columns.columns().size()) return false;
  const std::vector<std::uint64_t> of_columns = own.row_hashes();
  const auto& offsets = back.get<std::uint64_t>(kHeapOffset);
  const auto& lengths = back.get<std::uint64_t>(kHeapLength);
  for (std::size_t row = 0; row < hashes.size(); ++row)
    if (hash64(file.heap_bytes(offsets[row], lengths[row]), of_columns[row]) != hashes[row]) return false;
  return true;
}

}  // namespace

void write_table(const Table& table, const Path& path) {
  const std::vector<std::uint64_t> hashes = table.row_hashes();
  publish(
      path, bytes_of(table),
      [&](const Path& part) {
        HeapSource heap;
        for (std::size_t i = 0; table.has_heap() && i < table.rows(); ++i) heap.lengths.push_back(table.heap(i).size());
        heap.next = [left = table.heap_bytes()]() mutable { return std::exchange(left, {}); };
        write_file(table, hashes, table.has_heap() ? &heap : nullptr, part);
      },
      [&](const Path& part) {
        if (!table.has_heap()) {
          std::vector<std::uint64_t> back;
          read_unsealed_table(part, &back);
          return back == hashes;
        }
        return is_written(part, table, hashes);
      });
}

void write_streamed_table(const Table& columns, const std::vector<std::uint64_t>& lengths,
                          const std::function<std::string(std::size_t row)>& entry, const Path& path) {
  DIVERGEN_CHECK(!columns.has_heap() && columns.rows() == lengths.size(), columns.rows(), " ", lengths.size());
  std::vector<std::uint64_t> hashes = columns.row_hashes();
  std::uint64_t bytes = bytes_of(columns);
  for (std::size_t row = 0; row < hashes.size(); ++row) {
    const std::string text = entry(row);
    DIVERGEN_CHECK(text.size() == lengths[row], row, ": ", text.size(), " bytes, not ", lengths[row]);
    hashes[row] = hash64(text, hashes[row]);
    bytes += text.size();
  }
  publish(
      path, bytes,
      [&](const Path& part) {
        std::string text;
        HeapSource heap{lengths, [&, row = std::size_t{0}]() mutable -> std::string_view {
                          for (text.clear(); text.empty() && row < lengths.size(); ++row) text = entry(row);
                          return text;
                        }};
        write_file(columns, hashes, &heap, part);
      },
      [&](const Path& part) { return is_written(part, columns, hashes); });
}

}  // namespace divergen::store
