#include "store/h5_reader.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/system_error.hpp"

namespace divergen::store::h5 {

void damaged(const Path& path, const std::string& object, const std::string& why) {
  fail(ErrorKind::Data, {"a table file is damaged", object.empty() ? path.string() : cat(path.string(), " ", object),
                         why, "run `divergen repair` on its run, which makes exactly the missing rows again"});
}

void unreadable(const Path& path, const std::string& object) {
  const std::string why = take_error();
  if (is_transient(last_errno())) fail_errno("cannot read a table file", cat(path.string(), " ", object), last_errno());
  damaged(path, object, why);
}

Reader::Reader(const Path& path) : lock_(library_mutex()), path_(path) {
  quiet();
  if (!std::filesystem::exists(path))
    fail(ErrorKind::Io,
         {"cannot open a table file", path.string(), "it does not exist", "run the stage that makes it"});
  Handle access = file_access();
  file_ = take(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), &H5Fclose, "");
}

std::map<std::string, std::string> Reader::attributes() {
  std::map<std::string, std::string> out;
  H5O_info_t info;
  if (H5Oget_info_by_name2(file_.get(), "/", &info, H5O_INFO_NUM_ATTRS, H5P_DEFAULT) < 0) unreadable(path_, "/");
  for (hsize_t i = 0; i < info.num_attrs; ++i) {
    Handle id = take(H5Aopen_by_idx(file_.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT),
                     &H5Aclose, "attribute");
    char name[256];
    if (H5Aget_name(id.get(), sizeof name, name) < 0) unreadable(path_, "attribute");
    Handle type = take(H5Aget_type(id.get()), &H5Tclose, name);
    if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) > 0)
      damaged(path_, name, "not a text");
    const std::size_t size = H5Tget_size(type.get());
    if (size > (1u << 24)) damaged(path_, name, "a text of more than 16 MB");
    Handle space = take(H5Aget_space(id.get()), &H5Sclose, name);
    if (H5Sget_simple_extent_npoints(space.get()) != 1) damaged(path_, name, "not a single text");
    std::string text(size, '\0');
    if (H5Aread(id.get(), type.get(), text.data()) < 0) unreadable(path_, name);
    text.resize(std::strlen(text.c_str()));
    out[name] = text;
  }
  return out;
}

std::vector<std::string> Reader::names(const char* group) {
  std::vector<std::string> out;
  Handle id = take(H5Gopen2(file_.get(), group, H5P_DEFAULT), &H5Gclose, group);
  H5G_info_t info;
  if (H5Gget_info(id.get(), &info) < 0) unreadable(path_, group);
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    char name[256];
    if (H5Lget_name_by_idx(id.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT) < 0)
      unreadable(path_, group);
    out.emplace_back(name);
  }
  return out;
}

template <class T>
std::vector<T> Reader::dataset(const std::string& name) {
  Handle id = take(H5Dopen2(file_.get(), name.c_str(), H5P_DEFAULT), &H5Dclose, name);
  Handle type = take(H5Dget_type(id.get()), &H5Tclose, name);
  if (H5Tequal(type.get(), type_of<T>()) <= 0) damaged(path_, name, "another type than its format says");
  std::vector<T> values(static_cast<std::size_t>(size(id.get(), name)));
  if (!values.empty() && H5Dread(id.get(), type_of<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0)
    unreadable(path_, name);
  return values;
}
template std::vector<std::uint8_t> Reader::dataset(const std::string&);
template std::vector<std::uint64_t> Reader::dataset(const std::string&);

ColumnValues Reader::column(const std::string& name) {
  Handle id = take(H5Dopen2(file_.get(), name.c_str(), H5P_DEFAULT), &H5Dclose, name);
  Handle type = take(H5Dget_type(id.get()), &H5Tclose, name);
  const auto is = [&](hid_t other) { return H5Tequal(type.get(), other) > 0; };
  if (is(H5T_NATIVE_INT32)) return dataset<std::int32_t>(name);
  if (is(H5T_NATIVE_INT64)) return dataset<std::int64_t>(name);
  if (is(H5T_NATIVE_UINT8)) return dataset<std::uint8_t>(name);
  if (is(H5T_NATIVE_UINT32)) return dataset<std::uint32_t>(name);
  if (is(H5T_NATIVE_UINT64)) return dataset<std::uint64_t>(name);
  if (is(H5T_NATIVE_FLOAT)) return dataset<float>(name);
  if (is(H5T_NATIVE_DOUBLE)) return dataset<double>(name);
  damaged(path_, name, "a type that tables do not have");
}

Reader::Chunks Reader::chunks(const std::string& name) {
  Handle id = take(H5Dopen2(file_.get(), name.c_str(), H5P_DEFAULT), &H5Dclose, name);
  Handle type = take(H5Dget_type(id.get()), &H5Tclose, name);
  const std::size_t width = H5Tget_size(type.get());
  Chunks out;
  out.size = size(id.get(), name) * width;
  if (out.size == 0) return out;
  Handle create = take(H5Dget_create_plist(id.get()), &H5Pclose, name);
  hsize_t chunk = 0;
  if (H5Pget_layout(create.get()) != H5D_CHUNKED || H5Pget_chunk(create.get(), 1, &chunk) != 1 || chunk == 0)
    damaged(path_, name, "it is not stored in chunks");
  out.chunk = chunk * width;
  // The checksum filter appends 4 bytes to a chunk and leaves its bytes as they are; any other would change them.
  if (H5Pget_nfilters(create.get()) > 1) damaged(path_, name, "it is stored compressed");
  unsigned flags = 0, config = 0;
  std::size_t values = 0;
  if (H5Pget_nfilters(create.get()) == 1 &&
      H5Pget_filter2(create.get(), 0, &flags, &values, nullptr, 0, nullptr, &config) != H5Z_FILTER_FLETCHER32)
    damaged(path_, name, "it is stored compressed");
  std::error_code ignored;
  const std::uint64_t end = std::filesystem::file_size(path_, ignored);
  for (hsize_t at = 0; at * width < out.size; at += chunk) {
    unsigned mask = 0;
    haddr_t address = HADDR_UNDEF;
    hsize_t stored = 0;
    if (H5Dget_chunk_info_by_coord(id.get(), &at, &mask, &address, &stored) < 0) unreadable(path_, name);
    if (address == HADDR_UNDEF || stored < out.chunk || address > end || out.chunk > end - address)
      damaged(path_, name, cat("the bytes from ", at * width, " on are not in the file"));
    out.address.push_back(address);
  }
  return out;
}

ColumnValues Reader::column_unchecked(const std::string& name) {
  ColumnValues values;
  {
    Handle id = take(H5Dopen2(file_.get(), name.c_str(), H5P_DEFAULT), &H5Dclose, name);
    Handle type = take(H5Dget_type(id.get()), &H5Tclose, name);
    const auto is = [&](hid_t other) { return H5Tequal(type.get(), other) > 0; };
    if (is(H5T_NATIVE_INT32)) values = std::vector<std::int32_t>();
    else if (is(H5T_NATIVE_INT64)) values = std::vector<std::int64_t>();
    else if (is(H5T_NATIVE_UINT8)) values = std::vector<std::uint8_t>();
    else if (is(H5T_NATIVE_UINT32)) values = std::vector<std::uint32_t>();
    else if (is(H5T_NATIVE_UINT64)) values = std::vector<std::uint64_t>();
    else if (is(H5T_NATIVE_FLOAT)) values = std::vector<float>();
    else if (is(H5T_NATIVE_DOUBLE)) values = std::vector<double>();
    else damaged(path_, name, "a type that tables do not have");
  }
  const Chunks places = chunks(name);
  const ReadOnly file(path_);
  std::visit(
      [&](auto& v) {
        v.resize(places.size / sizeof v[0]);
        read_chunked(file.get(), places, 0, v.size() * sizeof v[0], reinterpret_cast<char*>(v.data()), path_);
      },
      values);
  return values;
}

void read_chunked(int fd, const Reader::Chunks& chunks, std::uint64_t at, std::uint64_t count, char* to,
                  const Path& path) {
  while (count > 0) {
    const std::uint64_t within = at % chunks.chunk;
    const std::uint64_t part = std::min(count, chunks.chunk - within);
    for (std::uint64_t have = 0; have < part;) {
      const std::uint64_t from = chunks.address[at / chunks.chunk] + within + have;
      const ssize_t n = ::pread(fd, to + have, part - have, static_cast<off_t>(from));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno("cannot read", path.string(), errno);
      if (n == 0) damaged(path, "heap", "the file ends within it");
      have += static_cast<std::uint64_t>(n);
    }
    to += part;
    at += part;
    count -= part;
  }
}

ReadOnly::ReadOnly(const Path& path) {
  do fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) fail_errno("cannot open", path.string(), errno);
}
ReadOnly::~ReadOnly() { ::close(fd_); }

hsize_t Reader::size(hid_t id, const std::string& name) {
  Handle space = take(H5Dget_space(id), &H5Sclose, name);
  hsize_t count = 0;
  if (H5Sget_simple_extent_ndims(space.get()) != 1 || H5Sget_simple_extent_dims(space.get(), &count, nullptr) < 0)
    damaged(path_, name, "not one-dimensional");
  std::error_code ignored;
  // Checksummed chunks are stored uncompressed: more values than bytes in the file is a lie in the header.
  if (count > std::filesystem::file_size(path_, ignored))
    damaged(path_, name, "claims more values than the file has bytes");
  return count;
}

Handle Reader::take(hid_t id, Handle::Closer closer, const std::string& object) {
  if (id < 0) unreadable(path_, object);
  return {id, closer};
}

namespace {

std::string pop(std::map<std::string, std::string>& attributes, const char* name, const Path& path) {
  const auto found = attributes.find(name);
  if (found == attributes.end()) damaged(path, cat("attribute '", name, "'"), "it is missing");
  std::string value = found->second;
  attributes.erase(found);
  return value;
}

std::uint64_t number(const std::string& text, int base, const char* name, const Path& path) {
  try {
    return std::stoull(text, nullptr, base);
  } catch (const std::exception&) {
    damaged(path, cat("attribute '", name, "'"), cat("'", text, "' is not a number"));
  }
}

}  // namespace

TableHead take_head(std::map<std::string, std::string>& attributes, const Path& path) {
  TableHead head;
  head.format = pop(attributes, "format", path);
  head.version = static_cast<int>(number(pop(attributes, "version", path), 10, "version", path));
  head.rows = number(pop(attributes, "rows", path), 10, "rows", path);
  head.table_hash = number(pop(attributes, "table_hash", path), 16, "table_hash", path);
  return head;
}

}  // namespace divergen::store::h5
