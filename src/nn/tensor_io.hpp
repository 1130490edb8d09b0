#pragma once
// Between weight files (bytes and shapes) and tensors and modules.

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/fs.hpp"
#include "nn/module.hpp"
#include "weights/safetensors.hpp"

namespace divergen::weights {
class WeightSource;
}

namespace divergen::nn {

using TensorMap = std::map<std::string, at::Tensor>;

at::ScalarType to_scalar_type(weights::DType type);
/// Throws Error(Data) for types that safetensors has no name for.
weights::DType to_dtype(at::ScalarType type);

/// All tensors of a weight file of any format (weights/weights.hpp: read as data, never executed; a folder and an index
/// of shards too), in memory of their own. `key` picks an entry of a checkpoint, such as "model" or "model_ema".
TensorMap load_tensors(const Path& path, const std::string& key = "");
TensorMap load_tensors(const weights::WeightSource& source);
void save_tensors(const Path& path, const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                  const std::map<std::string, std::string>& metadata = {});

struct LoadOptions {
  std::function<std::string(const std::string&)> rename;  // file's name -> module's name; "" leaves a key out
  std::function<bool(const std::string&)> may_miss;       // module's names that need not be in the file
  std::function<bool(const std::string&)> may_surplus;    // file's names (renamed) that the module need not have
  bool may_be_not_finite = false;                         // whether NaN and infinity are taken as they are
};

/// Fills `module` from a map of tensors, converting floating ones to the module's types. Names, shapes and kinds of
/// type (floating, integer, bool) are all checked before a value is read; then values are refused that are not finite.
/// Throws Error(Data) that lists missing, surplus, mis-shaped and mis-typed names, each with expected and found;
/// `source` names the file in it.
void load_module(Module& module, const TensorMap& tensors, const std::string& source, const LoadOptions& options = {});
/// The same from a weight file, index or folder of any format, one tensor after the other: beside the module itself it
/// takes some MB (on another device than the CPU: the largest tensor once).
void load_module(Module& module, const Path& file, const LoadOptions& options = {});
void load_module(Module& module, const weights::WeightSource& source, const LoadOptions& options = {});

/// Persistent tensors of the module in state_dict order, floating ones as `type`.
void save_module(const Module& module, const Path& file, at::ScalarType type,
                 const std::map<std::string, std::string>& metadata = {});

}  // namespace divergen::nn
