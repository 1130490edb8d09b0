#include "weights/safetensors.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::weights {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr std::size_t kAlignment = 8;
constexpr int kMaxDepth = 4;  // header > tensor > shape: anything deeper is not a safetensors header

struct TypeName {
  DType type;
  std::string_view name;
  std::size_t size;
};
constexpr std::array<TypeName, 10> kTypes{{{DType::F64, "F64", 8},
                                           {DType::F32, "F32", 4},
                                           {DType::F16, "F16", 2},
                                           {DType::BF16, "BF16", 2},
                                           {DType::I64, "I64", 8},
                                           {DType::I32, "I32", 4},
                                           {DType::I16, "I16", 2},
                                           {DType::I8, "I8", 1},
                                           {DType::U8, "U8", 1},
                                           {DType::Bool, "BOOL", 1}}};

[[noreturn]] void refuse(const Path& path, const std::string& key, const std::string& why) {
  fail(ErrorKind::Data,
       {"not a valid safetensors file", key.empty() ? path.string() : cat(path.string(), " [", key, "]"), why,
        "download or convert the file again"});
}

std::optional<DType> parse_type(std::string_view name) {
  for (const TypeName& t : kTypes)
    if (t.name == name) return t.type;
  return std::nullopt;
}

bool multiply(std::uint64_t& product, std::uint64_t factor) {
  return !__builtin_mul_overflow(product, factor, &product);
}

/// Parses the header while refusing what plain JSON parsing would let through: duplicate names and deep nesting.
nlohmann::json parse_header(std::string_view text, const Path& path) {
  std::vector<std::string> names;
  int depth = 0;
  const auto watch = [&](int level, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    depth = std::max(depth, level);
    if (depth > kMaxDepth) refuse(path, "", "its header is nested too deeply");
    if (event == Event::key && level == 1) names.push_back(parsed.get<std::string>());
    return true;
  };
  nlohmann::json header = nlohmann::json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) refuse(path, "", "its header is not a JSON object");
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) refuse(path, *twice, "the name stands twice in the header");
  return header;
}

std::uint64_t offset(const nlohmann::json& value, const Path& path, const std::string& name) {
  if (!value.is_number_unsigned()) refuse(path, name, "data_offsets are not two non-negative integers");
  return value.get<std::uint64_t>();
}

TensorInfo parse_tensor(const std::string& name, const nlohmann::json& entry, const Path& path) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets"))
    refuse(path, name, "the entry lacks dtype, shape or data_offsets");
  TensorInfo info;
  info.name = name;
  const auto& type = entry["dtype"];
  const auto parsed = type.is_string() ? parse_type(type.get_ref<const std::string&>()) : std::nullopt;
  if (!parsed) refuse(path, name, cat("the type ", type.dump(), " is not one that can be read"));
  info.dtype = *parsed;
  const auto& shape = entry["shape"];
  if (!shape.is_array()) refuse(path, name, "the shape is not a list");
  std::uint64_t expected = size_of(info.dtype);
  for (const auto& side : shape) {
    if (!side.is_number_unsigned() || side.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
      refuse(path, name, cat("the shape holds ", side.dump(), ", not a size"));
    info.shape.push_back(side.get<std::int64_t>());
    if (!multiply(expected, side.get<std::uint64_t>())) refuse(path, name, "the shape overflows 64 bits");
  }
  const auto& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) refuse(path, name, "data_offsets are not two integers");
  info.begin = offset(offsets[0], path, name);
  info.end = offset(offsets[1], path, name);
  if (info.end < info.begin || info.end - info.begin != expected)
    refuse(path, name,
           cat("data_offsets span ", static_cast<std::int64_t>(info.end - info.begin), " bytes, but ",
               to_string(info.dtype), " ", shape_text(info.shape), " takes ", expected));
  return info;
}

}  // namespace

std::size_t size_of(DType type) { return kTypes[static_cast<std::size_t>(type)].size; }
std::string_view to_string(DType type) { return kTypes[static_cast<std::size_t>(type)].name; }

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += cat(i == 0 ? "" : ", ", shape[i]);
  return out + "]";
}

SafetensorsFile::SafetensorsFile(const Path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_errno("cannot open the weights", path.string(), errno);
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0;
  size_ = known ? static_cast<std::size_t>(info.st_size) : 0;
  void* mapped = size_ == 0 ? MAP_FAILED : ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  ::close(fd);
  if (size_ == 0) refuse(path, "", "it is empty");
  if (mapped == MAP_FAILED) fail_errno("cannot map the weights", path.string(), error);
  map_ = static_cast<const std::byte*>(mapped);
  try {
    parse();
    check_layout();
  } catch (...) {
    ::munmap(mapped, size_);
    throw;
  }
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

SafetensorsFile::~SafetensorsFile() { ::munmap(const_cast<std::byte*>(map_), size_); }

void SafetensorsFile::parse() {
  if (size_ < 8) refuse(path_, "", cat("it has ", size_, " bytes, fewer than the 8 of the header's length"));
  std::uint64_t length = 0;
  std::memcpy(&length, map_, sizeof length);
  if (length > kMaxHeader)
    refuse(path_, "", cat("its header claims ", length, " bytes, more than the limit of ", kMaxHeader));
  if (length > size_ - 8) refuse(path_, "", cat("its header claims ", length, " bytes, but the file has ", size_));
  data_ = 8 + static_cast<std::size_t>(length);
  const nlohmann::json header =
      parse_header({reinterpret_cast<const char*>(map_) + 8, static_cast<std::size_t>(length)}, path_);
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      tensors_.push_back(parse_tensor(name, entry, path_));
      continue;
    }
    if (!entry.is_object()) refuse(path_, name, "it is not an object of texts");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) refuse(path_, cat(name, ".", key), "it is not a text");
      metadata_[key] = value.get<std::string>();
    }
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
}

void SafetensorsFile::check_layout() const {
  std::uint64_t at = 0;
  for (const TensorInfo& tensor : tensors_) {
    if (tensor.begin < at) refuse(path_, tensor.name, "its bytes overlap those of another tensor");
    if (tensor.begin > at) refuse(path_, tensor.name, cat(tensor.begin - at, " bytes before it belong to no tensor"));
    at = tensor.end;
  }
  const std::uint64_t have = size_ - data_;
  if (at > have)
    refuse(path_, tensors_.back().name,
           cat("its tensors end at byte ", at, ", but the file holds only ", have, ": it is truncated"));
  if (at < have) refuse(path_, "", cat(have - at, " bytes at its end belong to no tensor"));
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  return {map_ + data_ + tensor.begin, static_cast<std::size_t>(tensor.end - tensor.begin)};
}

void write_safetensors(const Path& path, const std::vector<TensorBytes>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t at = 0;
  for (const TensorBytes& tensor : tensors) {
    std::uint64_t expected = size_of(tensor.dtype);
    for (const std::int64_t side : tensor.shape)
      DIVERGEN_CHECK(side >= 0 && multiply(expected, static_cast<std::uint64_t>(side)));
    DIVERGEN_CHECK(expected == tensor.bytes.size(), tensor.name);
    DIVERGEN_CHECK(!header.contains(tensor.name), tensor.name);
    header[tensor.name] = {
        {"dtype", to_string(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {at, at + expected}}};
    at += expected;
  }
  std::string text = header.dump();
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const std::uint64_t length = text.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  bytes.reserve(sizeof length + text.size() + at);
  bytes += text;
  for (const TensorBytes& tensor : tensors)
    bytes.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  write_file_atomic(path, bytes);
}

}  // namespace divergen::weights
