#include "weights/safetensors.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "weights/safetensors_writer.hpp"

namespace divergen::weights {
namespace {

constexpr std::size_t kAlignment = 8;

/// Length and JSON of the header; the bytes that will follow it are counted into `total`.
std::string header_of(const std::vector<TensorPlan>& plan, const std::map<std::string, std::string>& metadata,
                      std::uint64_t& total) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  // An ordered_json searches its names from the front: a set keeps the check for doubles from being quadratic.
  std::map<std::string_view, bool> names;
  auto& entries = header.get_ref<nlohmann::ordered_json::object_t&>();
  for (const TensorPlan& tensor : plan) {
    const auto bytes = checked_bytes(tensor.dtype, tensor.shape);
    DIVERGEN_CHECK(bytes && names.emplace(tensor.name, true).second && tensor.name != "__metadata__", tensor.name);
    entries.emplace_back(tensor.name, nlohmann::ordered_json{{"dtype", to_string(tensor.dtype)},
                                                             {"shape", tensor.shape},
                                                             {"data_offsets", {total, total + *bytes}}});
    total += *bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::shared_ptr<const MappedFile> file)
    : file_(std::move(file)), header_(parse_safetensors(file_->bytes(), file_->path().string())) {
  for (std::size_t i = 0; i < header_.tensors.size(); ++i) index_.emplace(header_.tensors[i].name, i);
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.tensors[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  return file_->bytes().subspan(header_.data + tensor.begin, static_cast<std::size_t>(tensor.end - tensor.begin));
}

SafetensorsWriter::SafetensorsWriter(const Path& path, const std::vector<TensorPlan>& plan,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), part_(part_name(path)) {
  const std::string header = header_of(plan, metadata, left_);
  fd_ = ::open(part_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno("cannot create", part_.string(), errno);
  left_ += header.size();
  try {
    append(std::as_bytes(std::span(header)));
  } catch (...) {
    ::close(fd_);
    remove_quietly(part_);
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  remove_quietly(part_);
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  DIVERGEN_CHECK(bytes.size() <= left_, part_.string());
  left_ -= bytes.size();
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("cannot write", part_.string(), errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void SafetensorsWriter::commit() {
  DIVERGEN_CHECK(left_ == 0 && fd_ >= 0, left_, " bytes of ", path_.string(), " were never written");
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) {
    const int error = errno;
    remove_quietly(part_);
    fail_errno("cannot close", part_.string(), error);
  }
  commit_file(part_, path_);
}

void write_safetensors(const Path& path, const std::vector<TensorBytes>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorPlan> plan;
  for (const TensorBytes& tensor : tensors) {
    DIVERGEN_CHECK(checked_bytes(tensor.dtype, tensor.shape) == tensor.bytes.size(), tensor.name);
    plan.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  SafetensorsWriter writer(path, plan, metadata);
  for (const TensorBytes& tensor : tensors) writer.append(tensor.bytes);
  writer.commit();
}

}  // namespace divergen::weights
