#pragma once
// The safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
//
// The reader maps the file and trusts nothing: header at most 100 MB and valid JSON, offsets in bounds, no overlap, no
// hole, size equal to shape × type with checked arithmetic, no duplicate name. All of this is checked before a tensor
// is touched. Rules: the format's specification (huggingface/safetensors README) and reference/reliability.md §2.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fs.hpp"
#include "weights/dtype.hpp"
#include "weights/mapped_file.hpp"
#include "weights/safetensors_header.hpp"

namespace divergen::weights {

/// A mapped file; tensors are views into it and live as long as this object. Thread-safe after construction.
class SafetensorsFile {
 public:
  /// Throws Error(Io) when it cannot be read, Error(Data) naming the file, the tensor and what is wrong.
  explicit SafetensorsFile(const Path& path) : SafetensorsFile(std::make_shared<const MappedFile>(path)) {}
  explicit SafetensorsFile(std::shared_ptr<const MappedFile> file);

  const Path& path() const { return file_->path(); }
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }  // in the order of their bytes
  const TensorInfo* find(std::string_view name) const;
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const MappedFile& file() const { return *file_; }

 private:
  std::shared_ptr<const MappedFile> file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, std::size_t> index_;
};

struct TensorBytes {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes atomically, tensors in the given order. Throws Error(Io | NoSpace).
void write_safetensors(const Path& path, const std::vector<TensorBytes>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace divergen::weights
