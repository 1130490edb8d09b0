#pragma once
// Writing a safetensors file piece by piece, so that a model never stands in memory as a whole.

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "weights/dtype.hpp"

namespace divergen::weights {

struct TensorPlan {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
};

/// The header is decided first; then the tensors' bytes are appended in that order, in pieces of any size. The file
/// appears under its name with commit() and not before; without it nothing stays. Not thread-safe.
class SafetensorsWriter {
 public:
  /// Throws Error(Io | NoSpace). Names must differ and sizes must fit (programmer's error otherwise).
  SafetensorsWriter(const Path& path, const std::vector<TensorPlan>& plan,
                    const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  void append(std::span<const std::byte> bytes);
  /// All announced bytes must have been appended.
  void commit();

 private:
  Path path_, part_;
  int fd_ = -1;
  std::uint64_t left_ = 0;  // bytes that are still missing
};

}  // namespace divergen::weights
