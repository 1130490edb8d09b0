#include "store/table_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.hpp"
#include "store/h5_reader.hpp"
#include "store/seal.hpp"

namespace divergen::store {
namespace {

void read_exactly(int fd, char* to, std::uint64_t count, std::uint64_t at, const Path& path) {
  while (count > 0) {
    const ssize_t n = ::pread(fd, to, count, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("cannot read", path.string(), errno);
    if (n == 0) h5::damaged(path, "heap", "the file ends within it");
    to += n;
    at += static_cast<std::uint64_t>(n);
    count -= static_cast<std::uint64_t>(n);
  }
}

}  // namespace

TableFile::TableFile(const Path& path) : path_(path) {
  if (std::filesystem::exists(path)) check_frame(path);
  {
    h5::Reader reader(path);
    auto attributes = reader.attributes();
    head_ = h5::take_head(attributes, path);
    head_.attributes = std::move(attributes);
    if (reader.has("heap")) {
      h5::Reader::Chunks chunks = reader.chunks("heap");
      heap_size_ = chunks.size;
      chunk_ = chunks.chunk;
      address_ = std::move(chunks.address);
    }
  }
  do fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) fail_errno("cannot open", path.string(), errno);
}

TableFile::~TableFile() {
  if (fd_ >= 0) ::close(fd_);
}

std::string TableFile::heap_bytes(std::uint64_t offset, std::uint64_t length) const {
  if (offset > heap_size_ || length > heap_size_ - offset)
    h5::damaged(path_, "heap", cat("bytes ", offset, " + ", length, " lie outside it"));
  std::string bytes(length, '\0');
  for (std::uint64_t have = 0; have < length;) {
    const std::uint64_t chunk = (offset + have) / chunk_, within = (offset + have) % chunk_;
    const std::uint64_t count = std::min(length - have, chunk_ - within);
    read_exactly(fd_, bytes.data() + have, count, address_[chunk] + within, path_);
    have += count;
  }
  return bytes;
}

const Table& TableFile::columns() const {
  std::call_once(once_, [this] {
    h5::Reader reader(path_);
    Table table(head_.format, head_.version);
    for (const std::string& name : reader.names("columns")) {
      ColumnValues values = reader.column("columns/" + name);
      const std::size_t length = std::visit([](const auto& v) { return v.size(); }, values);
      if (length != head_.rows) h5::damaged(path_, "columns/" + name, cat("has ", length, " rows, not ", head_.rows));
      std::visit([&](auto& v) { table.add(name, std::move(v)); }, values);
    }
    for (const std::string& name : reader.names("documents")) {
      const auto bytes = reader.dataset<std::uint8_t>("documents/" + name);
      table.documents[name].assign(bytes.begin(), bytes.end());
    }
    table.attributes = head_.attributes;
    columns_ = std::move(table);
  });
  return columns_;
}

std::string TableFile::heap_of_row(std::size_t row) const {
  const Table& table = columns();
  DIVERGEN_CHECK(row < table.rows(), row, " of ", table.rows());
  return heap_bytes(table.get<std::uint64_t>(h5::kHeapOffset)[row], table.get<std::uint64_t>(h5::kHeapLength)[row]);
}

}  // namespace divergen::store
