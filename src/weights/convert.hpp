#pragma once
// From weights of any format to safetensors, and the facts of a weight file: bodies of `divergen convert` and
// `inspect`.

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "weights/weights.hpp"

namespace divergen::weights {

struct ConvertOptions {
  std::optional<DType> dtype;                   // of floating tensors; none: as they are
  std::uint64_t shard_bytes = 0;                // largest shard; 0: one file
  bool refuse_not_finite = true;                // also values that leave fp16's range on the way
  std::map<std::string, std::string> metadata;  // texts for the header, beside "format" and "source_hash"
};

struct ConvertReport {
  std::vector<Path> files;
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;
};

/// Writes `out` ("name.safetensors"), or shards "name-00001-of-0000N.safetensors" and "name.safetensors.index.json"
/// when they would be larger than shard_bytes. Each file is atomic and the index comes last, so that a model is never
/// half there. Memory: some MB. Throws Error(Io | NoSpace | Data).
ConvertReport convert_weights(const WeightSource& source, const Path& out, const ConvertOptions& options = {});

/// {"file", "format", "files", "tensors": n, "parameters", "bytes", "dtypes": {type: {tensors, elements, bytes}},
/// "groups": {first part of the names: tensors}, "metadata", "hash"} and with `keys` also {"keys": [{name, dtype,
/// shape}]}. Parameters are elements of floating tensors. The hash (content_hash) reads the whole file.
nlohmann::json weight_facts(const WeightSource& source, bool keys);

}  // namespace divergen::weights
