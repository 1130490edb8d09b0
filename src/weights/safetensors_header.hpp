#pragma once
// The header of a safetensors file, parsed within bounds.
//
// A general JSON library builds whatever the text asks for: a header of a million names or of one name of 100 MB costs
// gigabytes before anything can be refused. This parser knows the one shape that a header has, refuses the first thing
// that is otherwise, and holds at most kMaxTensors names.

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weights/dtype.hpp"

namespace divergen::weights {

inline constexpr std::uint64_t kMaxHeader = 100'000'000;  // bytes; the limit of the reference implementation
inline constexpr std::size_t kMaxTensors = 100'000;       // the largest published models have some 10,000
inline constexpr std::size_t kMaxName = 4096;             // bytes of a tensor's name
inline constexpr std::size_t kMaxRank = 32;
inline constexpr std::size_t kMaxMetadata = 16u << 20;  // bytes of all texts under __metadata__

struct TensorInfo {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the end of the header
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of their bytes, which they cover without hole or overlap
  std::map<std::string, std::string> metadata;
  std::size_t data = 0;  // offset of the first tensor byte in the file
};

/// Parses and checks everything that can be checked without looking at values. `bytes` is the whole file. Throws
/// Error(Data) that names `file`, the tensor, what is expected and what is found.
SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, const std::string& file);

}  // namespace divergen::weights
