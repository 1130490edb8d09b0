#include <ATen/ATen.h>

#include "models/t5/encoder.hpp"
#include "nn/tensor_io.hpp"

namespace divergen::models {
namespace {

constexpr const char* kShared = "shared.weight";
constexpr const char* kAlias = "encoder.embed_tokens.weight";  // the same storage under its second name

/// One file, or the shards that an index names; mapped, so that nothing is read before it is copied.
class MappedWeights {
 public:
  explicit MappedWeights(const Path& path) : path_(path) {
    if (path.extension() == ".json") {
      open_shards();
    } else {
      add(path);
    }
  }
  const nn::TensorMap& tensors() const { return tensors_; }
  const Path& path() const { return path_; }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    fail(ErrorKind::Data, {"the index of a model's weights is damaged", path_.string(), why, "download it again"});
  }

  void open_shards() {
    const nlohmann::json index = nlohmann::json::parse(read_file(path_), nullptr, /*allow_exceptions=*/false);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
      refuse("it is not a JSON object with a weight_map");
    std::map<std::string, std::vector<std::string>> names_of_shard;
    for (const auto& [name, shard] : index["weight_map"].items()) {
      if (!shard.is_string()) refuse(cat("the shard of '", name, "' is not a name"));
      const auto file = shard.get<std::string>();
      // A shard lies beside its index; anything else could point anywhere on the disk.
      if (file.empty() || Path(file).filename() != Path(file)) refuse(cat("'", file, "' is not a plain file name"));
      names_of_shard[file].push_back(name);
    }
    for (const auto& [file, names] : names_of_shard) {
      const weights::SafetensorsFile& shard = add(path_.parent_path() / file);
      for (const std::string& name : names)
        if (shard.find(name) == nullptr) refuse(cat("'", name, "' should be in ", file, " and is not"));
    }
  }

  const weights::SafetensorsFile& add(const Path& file) {
    files_.push_back(std::make_unique<weights::SafetensorsFile>(file));
    for (const weights::TensorInfo& info : files_.back()->tensors()) {
      // The mapping is read-only; these views are only sources of copies.
      auto* data = const_cast<std::byte*>(files_.back()->bytes(info).data());
      const at::TensorOptions options = at::TensorOptions().dtype(nn::to_scalar_type(info.dtype));
      const at::Tensor view =
          info.begin == info.end ? at::empty(info.shape, options) : at::from_blob(data, info.shape, options);
      if (!tensors_.emplace(info.name, view).second) refuse(cat("'", info.name, "' is in two shards"));
    }
    return *files_.back();
  }

  Path path_;
  std::vector<std::unique_ptr<weights::SafetensorsFile>> files_;
  nn::TensorMap tensors_;
};

/// The file to open. A half-precision module prefers the half-precision variant of a folder that has both.
Path weights_in(const Path& folder, at::ScalarType type) {
  const std::vector<std::string> full{"model.safetensors", "model.safetensors.index.json"};
  const std::vector<std::string> half{"model.fp16.safetensors", "model.safetensors.index.fp16.json",
                                      "model.fp16.safetensors.index.json"};
  for (const auto& names : type == at::kHalf ? std::array{half, full} : std::array{full, half})
    for (const std::string& name : names)
      if (std::filesystem::exists(folder / name)) return folder / name;
  fail(ErrorKind::Io, {"a model's weights are missing", folder.string(),
                       "there is neither model.safetensors nor model.safetensors.index.json, nor their fp16 variants",
                       "name a folder of the official layout"});
}

}  // namespace

std::unique_ptr<T5Encoder> load_t5(const Path& folder, at::ScalarType type, at::Device device) {
  const T5Config config = T5Config::from(ModelConfig(folder / "config.json"));
  const MappedWeights weights(weights_in(folder, type));
  const nn::NewTensors scope(at::TensorOptions().dtype(type).device(device));
  auto model = std::make_unique<T5Encoder>(config);
  const bool has_shared = weights.tensors().contains(kShared);
  nn::load_module(*model, weights.tensors(), weights.path().string(),
                  {.rename = [&](const std::string& name) -> std::string {
                    if (name == kAlias) return has_shared ? "" : kShared;
                    // The decoder of a whole T5 is not needed for text states.
                    const bool is_decoder = name.starts_with("decoder.") || name.starts_with("lm_head.");
                    return is_decoder ? "" : name;
                  }});
  return model;
}

}  // namespace divergen::models
