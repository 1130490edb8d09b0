#include "weights/torch_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.hpp"

namespace divergen::weights {
namespace {

constexpr std::uint32_t kEndOfDirectory = 0x06054b50, kDirectoryEntry = 0x02014b50, kLocalEntry = 0x04034b50;
constexpr std::uint32_t kEnd64Locator = 0x07064b50, kEnd64 = 0x06064b50;

[[noreturn]] void refuse(const Path& path, const std::string& why) {
  fail(ErrorKind::Data, {"not a PyTorch checkpoint that can be read", path.string(), why,
                         "download the file again, or convert it to safetensors"});
}

/// Reads little-endian fields with every bound checked.
class Bytes {
 public:
  Bytes(const std::byte* data, std::size_t size, const Path& path) : data_(data), size_(size), path_(path) {}
  template <class T>
  T at(std::size_t offset) const {
    if (offset > size_ || sizeof(T) > size_ - offset)
      refuse(path_, "its zip structure points beyond its end: it is truncated");
    T value;
    std::memcpy(&value, data_ + offset, sizeof value);
    return value;
  }
  std::string text(std::size_t offset, std::size_t length) const {
    if (offset > size_ || length > size_ - offset)
      refuse(path_, "its zip structure points beyond its end: it is truncated");
    return {reinterpret_cast<const char*>(data_ + offset), length};
  }
  std::size_t size() const { return size_; }

 private:
  const std::byte* data_;
  std::size_t size_;
  const Path& path_;
};

struct Directory {
  std::uint64_t offset = 0, entries = 0;
};

Directory find_directory(const Bytes& bytes, const Path& path) {
  constexpr std::size_t kRecord = 22;
  if (bytes.size() < kRecord) refuse(path, "it is too short for a zip file");
  std::size_t at = bytes.size() - kRecord;
  const std::size_t lowest = at > 65535 ? at - 65535 : 0;
  while (bytes.at<std::uint32_t>(at) != kEndOfDirectory) {
    if (at == lowest) refuse(path, "it has no zip directory: it is truncated, or in the format before PyTorch 1.6");
    --at;
  }
  Directory directory{bytes.at<std::uint32_t>(at + 16), bytes.at<std::uint16_t>(at + 10)};
  if (at >= 20 && bytes.at<std::uint32_t>(at - 20) == kEnd64Locator) {
    const auto record = bytes.at<std::uint64_t>(at - 12);
    if (bytes.at<std::uint32_t>(record) != kEnd64) refuse(path, "its zip64 record is damaged");
    directory = {bytes.at<std::uint64_t>(record + 48), bytes.at<std::uint64_t>(record + 32)};
  }
  return directory;
}

void collect(const PickleValue& value, const std::string& name, std::map<std::string, TorchTensor>& out) {
  if (const auto* tensor = std::get_if<TorchTensor>(&value.data)) {
    out[name] = *tensor;
  } else if (const auto* dict = std::get_if<std::shared_ptr<PickleDict>>(&value.data)) {
    for (const auto& [key, child] : **dict)
      if (const auto* text = std::get_if<std::string>(&key.data))
        collect(child, name.empty() ? *text : cat(name, ".", *text), out);
  }
}

const PickleValue* member(const PickleValue& root, const std::string& name) {
  const auto* dict = std::get_if<std::shared_ptr<PickleDict>>(&root.data);
  if (dict == nullptr) return nullptr;
  for (const auto& [key, value] : **dict)
    if (const auto* text = std::get_if<std::string>(&key.data); text != nullptr && *text == name) return &value;
  return nullptr;
}

}  // namespace

TorchFile::TorchFile(const Path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_errno("cannot open the weights", path.string(), errno);
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0;
  size_ = known ? static_cast<std::size_t>(info.st_size) : 0;
  void* mapped = size_ == 0 ? MAP_FAILED : ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  ::close(fd);
  if (size_ == 0) refuse(path, "it is empty");
  if (mapped == MAP_FAILED) fail_errno("cannot map the weights", path.string(), error);
  map_ = static_cast<const std::byte*>(mapped);
  try {
    read_directory();
    const auto pickle = entries_.find(prefix_ + "data.pkl");
    root_ = parse_pickle({map_ + pickle->second.first, pickle->second.second}, path.string());
  } catch (...) {
    ::munmap(mapped, size_);
    throw;
  }
}

TorchFile::~TorchFile() { ::munmap(const_cast<std::byte*>(map_), size_); }

void TorchFile::read_directory() {
  const Bytes bytes(map_, size_, path_);
  const Directory directory = find_directory(bytes, path_);
  std::size_t at = directory.offset;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    if (bytes.at<std::uint32_t>(at) != kDirectoryEntry) refuse(path_, "its zip directory is damaged");
    const auto method = bytes.at<std::uint16_t>(at + 10);
    std::uint64_t packed = bytes.at<std::uint32_t>(at + 20), length = bytes.at<std::uint32_t>(at + 24),
                  local = bytes.at<std::uint32_t>(at + 42);
    const std::size_t name_length = bytes.at<std::uint16_t>(at + 28), extra_length = bytes.at<std::uint16_t>(at + 30),
                      comment = bytes.at<std::uint16_t>(at + 32);
    const std::string name = bytes.text(at + 46, name_length);
    // zip64: 64-bit values stand in an extra field, in this order, for each that is all ones here.
    for (std::size_t e = at + 46 + name_length; e + 4 <= at + 46 + name_length + extra_length;) {
      const auto id = bytes.at<std::uint16_t>(e), size = bytes.at<std::uint16_t>(e + 2);
      std::size_t field = e + 4;
      if (id == 1)
        for (std::uint64_t* value : {&length, &packed, &local})
          if (*value == 0xffffffffu) {
            *value = bytes.at<std::uint64_t>(field);
            field += 8;
          }
      e += 4u + size;
    }
    if (method != 0 || packed != length)
      refuse(path_, cat("the entry '", name, "' is compressed; PyTorch stores entries as they are"));
    if (bytes.at<std::uint32_t>(local) != kLocalEntry)
      refuse(path_, cat("the entry '", name, "' is not where the directory says"));
    const std::size_t data = local + 30 + bytes.at<std::uint16_t>(local + 26) + bytes.at<std::uint16_t>(local + 28);
    if (data > size_ || length > size_ - data)
      refuse(path_, cat("the entry '", name, "' reaches beyond the file: it is truncated"));
    if (!entries_.emplace(name, std::pair(data, static_cast<std::size_t>(length))).second)
      refuse(path_, cat("the entry '", name, "' stands twice"));
    if (name.ends_with("/data.pkl")) prefix_ = name.substr(0, name.size() - 8);
    at += 46 + name_length + extra_length + comment;
  }
  if (!entries_.contains(prefix_ + "data.pkl")) refuse(path_, "it has no data.pkl");
}

bool TorchFile::has(const std::string& key) const { return member(root_, key) != nullptr; }

std::map<std::string, TorchTensor> TorchFile::tensors(const std::string& key) const {
  const PickleValue* from = key.empty() ? &root_ : member(root_, key);
  if (from == nullptr) refuse(path_, cat("it has no entry '", key, "'"));
  std::map<std::string, TorchTensor> out;
  collect(*from, "", out);
  return out;
}

std::span<const std::byte> TorchFile::storage(const TorchTensor& tensor) const {
  const auto found = entries_.find(cat(prefix_, "data/", tensor.storage));
  if (found == entries_.end()) refuse(path_, cat("it has no storage '", tensor.storage, "'"));
  std::uint64_t last = tensor.offset;
  bool is_empty = false;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    is_empty = is_empty || tensor.shape[i] == 0;
    std::uint64_t reach = 0;
    if (tensor.shape[i] > 0 && (__builtin_mul_overflow(static_cast<std::uint64_t>(tensor.shape[i] - 1),
                                                       static_cast<std::uint64_t>(tensor.stride[i]), &reach) ||
                                __builtin_add_overflow(last, reach, &last)))
      refuse(path_, "a tensor's sizes overflow 64 bits");
  }
  const std::uint64_t have = found->second.second / size_of(tensor.dtype);
  if (!is_empty && last >= have)
    refuse(path_, cat("a tensor reaches element ", last, " of storage '", tensor.storage, "', which has ", have));
  return {map_ + found->second.first, found->second.second};
}

}  // namespace divergen::weights
