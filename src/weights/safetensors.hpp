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

namespace divergen::weights {

enum class DType { F64, F32, F16, BF16, I64, I32, I16, I8, U8, Bool };

std::size_t size_of(DType type);
/// The format's names: "F32", "BF16", "BOOL" ...
std::string_view to_string(DType type);

struct TensorInfo {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the end of the header
};

std::string shape_text(std::span<const std::int64_t> shape);  // "[3, 4]"

/// A mapped file; tensors are views into it and live as long as this object. Thread-safe after construction.
class SafetensorsFile {
 public:
  /// Throws Error(Io) when it cannot be read, Error(Data) naming the file, the tensor and what is wrong.
  explicit SafetensorsFile(const Path& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const Path& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the order of their bytes
  const TensorInfo* find(std::string_view name) const;
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  void parse();
  void check_layout() const;

  Path path_;
  const std::byte* map_ = nullptr;
  std::size_t size_ = 0;
  std::size_t data_ = 0;  // offset of the first tensor byte
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
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
