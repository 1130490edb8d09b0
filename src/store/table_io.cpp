// Table <-> HDF5 file.

#include <mutex>

#include "base/hash.hpp"
#include "base/text.hpp"
#include "store/h5.hpp"
#include "store/h5_reader.hpp"
#include "store/seal.hpp"
#include "store/table.hpp"

namespace divergen::store {
namespace {

using h5::damaged;
using h5::kHeapLength;
using h5::kHeapOffset;
using h5::kRowHash;
using h5::Reader;

constexpr hsize_t kChunkBytes = 1 << 20;  // one checksum covers this much
constexpr std::uint64_t kFull = 1 << 20;  // with less than this free, a failed write is put down to the full device

// ---- writing -------------------------------------------------------------------------------------------------------

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
    const hsize_t size = count;
    h5::Handle space = take(H5Screate_simple(1, &size, nullptr), &H5Sclose, name);
    h5::Handle create = take(H5Pcreate(H5P_DATASET_CREATE), &H5Pclose, name);
    H5Pset_obj_track_times(create.get(), 0);
    if (count > 0) {
      const hsize_t chunk = std::min<hsize_t>(size, kChunkBytes / sizeof(T));
      check(H5Pset_chunk(create.get(), 1, &chunk), name);
      check(H5Pset_fletcher32(create.get()), name);
    }
    h5::Handle id = take(
        H5Dcreate2(file_.get(), name.c_str(), h5::type_of<T>(), space.get(), H5P_DEFAULT, create.get(), H5P_DEFAULT),
        &H5Dclose, name);
    if (count > 0) check(H5Dwrite(id.get(), h5::type_of<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values), name);
    if (!id.close()) failed(name);
  }

  void close() {
    check(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), "flush");
    if (!file_.close()) failed("close");
  }

 private:
  h5::Handle take(hid_t id, h5::Handle::Closer closer, const std::string& object) {
    if (id < 0) failed(object);
    return {id, closer};
  }
  void check(herr_t status, const std::string& object) {
    if (status < 0) failed(object);
  }
  [[noreturn]] void failed(const std::string& object) {
    const std::string why = h5::take_error();
    std::error_code ignored;
    const auto space = std::filesystem::space(path_.parent_path().empty() ? "." : path_.parent_path(), ignored);
    const bool full = !ignored && space.available < kFull;
    fail(full ? ErrorKind::NoSpace : ErrorKind::Io,
         {"cannot write a table file", cat(path_.string(), " [", object, "]"),
          full ? "no space is left on the device" : why,
          full ? "free some space, then run the same command again: it continues"
               : "check the disk, then run the same command again: it continues"});
  }

  std::lock_guard<std::mutex> lock_;  // first, so that the handles are closed under it
  Path path_;
  h5::Handle file_;
};

void write_file(const Table& table, const Path& part) {
  Writer writer(part);
  writer.attribute("format", table.format());
  writer.attribute("version", std::to_string(table.version()));
  writer.attribute("rows", std::to_string(table.rows()));
  writer.attribute("table_hash", to_hex(table.table_hash()));
  for (const auto& [name, text] : table.attributes) writer.attribute(name, text);
  writer.group("columns");
  for (const Column& column : table.columns())
    std::visit([&](const auto& v) { writer.dataset("columns/" + column.name, v.data(), v.size()); }, column.values);
  std::vector<std::uint64_t> hashes, offsets, lengths;
  std::string heap;
  for (std::size_t i = 0; i < table.rows(); ++i) {
    hashes.push_back(table.row_hash(i));
    if (!table.has_heap()) continue;
    offsets.push_back(heap.size());
    lengths.push_back(table.heap(i).size());
    heap += table.heap(i);
  }
  writer.dataset(cat("columns/", kRowHash), hashes.data(), hashes.size());
  if (table.has_heap()) {
    writer.dataset(cat("columns/", kHeapOffset), offsets.data(), offsets.size());
    writer.dataset(cat("columns/", kHeapLength), lengths.data(), lengths.size());
    writer.dataset("heap", reinterpret_cast<const std::uint8_t*>(heap.data()), heap.size());
  }
  writer.group("documents");
  for (const auto& [name, text] : table.documents)
    writer.dataset("documents/" + name, reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  writer.close();
}

}  // namespace

namespace {

Path folder_of(const Path& path) { return path.has_parent_path() ? path.parent_path() : Path("."); }

[[noreturn]] void no_space(const Path& path, const std::string& why) {
  fail(ErrorKind::NoSpace, {"cannot write a table file", path.string(), why,
                            "free some space, then run the same command again: it continues"});
}

std::uint64_t bytes_of(const Table& table) {
  std::uint64_t bytes = 0;
  for (const Column& column : table.columns())
    std::visit([&](const auto& v) { bytes += v.size() * sizeof v[0]; }, column.values);
  for (std::size_t i = 0; table.has_heap() && i < table.rows(); ++i) bytes += table.heap(i).size();
  for (const auto& [name, text] : table.documents) bytes += text.size();
  return bytes;
}

}  // namespace

void write_table(const Table& table, const Path& path) {
  // Better told before the work than found out in the middle of it; a full device is still noticed below.
  const std::uint64_t needed = bytes_of(table), available = free_bytes(folder_of(path));
  if (available < needed)
    no_space(path, cat("it takes ", human_bytes(needed), ", and ", human_bytes(available), " are free"));
  const Path part = part_name(path);
  try {
    write_file(table, part);
    append_seal(part);
    // HDF5's close code is not believed (measured: it reports success on a full disk): read everything back.
    if (const auto problem = verify_table(part)) {
      if (free_bytes(folder_of(path)) < kFull) no_space(path, "no space is left on the device");
      fail(ErrorKind::Io, {"a table file did not survive its writing", path.string(), *problem,
                           "check the disk and its free space, then run the same command again: it continues"});
    }
    commit_file(part, path);
  } catch (...) {
    remove_quietly(part);
    throw;
  }
}

Table read_table(const Path& path) {
  if (std::filesystem::exists(path)) check_seal(path);  // Reader says what to do when it does not exist
  Reader reader(path);
  auto attributes = reader.attributes();
  const TableHead head = h5::take_head(attributes, path);
  Table table(head.format, head.version);
  table.attributes = std::move(attributes);
  std::vector<std::uint64_t> hashes;
  for (const std::string& name : reader.names("columns")) {
    if (name == kHeapOffset || name == kHeapLength) continue;
    ColumnValues values = reader.column("columns/" + name);
    const std::size_t length = std::visit([](const auto& v) { return v.size(); }, values);
    if (length != head.rows) damaged(path, "columns/" + name, cat("has ", length, " rows, not ", head.rows));
    if (name == kRowHash) {
      hashes = std::get<std::vector<std::uint64_t>>(values);
      continue;
    }
    table.columns_.push_back({name, std::move(values)});  // names come sorted, as add_column keeps them
  }
  table.rows_ = head.rows;
  if (reader.has("heap")) {
    const auto bytes = reader.dataset<std::uint8_t>("heap");
    table.has_heap_ = true;
    table.heap_.assign(bytes.begin(), bytes.end());
    table.offsets_ = reader.dataset<std::uint64_t>(cat("columns/", kHeapOffset));
    table.lengths_ = reader.dataset<std::uint64_t>(cat("columns/", kHeapLength));
    if (table.offsets_.size() != head.rows || table.lengths_.size() != head.rows)
      damaged(path, "heap", "its index has another length");
    for (std::size_t i = 0; i < head.rows; ++i)
      if (table.offsets_[i] > table.heap_.size() || table.lengths_[i] > table.heap_.size() - table.offsets_[i])
        damaged(path, cat("row ", i), "its bytes lie outside the heap");
  }
  for (const std::string& name : reader.names("documents")) {
    const auto bytes = reader.dataset<std::uint8_t>("documents/" + name);
    table.documents[name].assign(bytes.begin(), bytes.end());
  }
  if (hashes.size() != head.rows) damaged(path, cat("columns/", kRowHash), "it is missing");
  for (std::size_t i = 0; i < head.rows; ++i)
    if (table.row_hash(i) != hashes[i])
      damaged(path, cat("row ", i), "its contents do not have the hash that was recorded for them");
  if (table.table_hash() != head.table_hash)
    damaged(path, "", "its contents do not have the hash that was recorded for the table");
  return table;
}

std::optional<std::string> verify_table(const Path& path) {
  try {
    read_table(path);
    return std::nullopt;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data && error.kind() != ErrorKind::Io) throw;
    return cat(error.text().object, ": ", error.text().why);
  }
}

TableHead read_table_head(const Path& path) {
  if (std::filesystem::exists(path)) check_seal_size(path);
  Reader reader(path);
  auto attributes = reader.attributes();
  TableHead head = h5::take_head(attributes, path);
  head.attributes = std::move(attributes);
  return head;
}

}  // namespace divergen::store
