#include "models/t5/encoder.hpp"
#include "nn/tensor_io.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

constexpr const char* kShared = "shared.weight";
constexpr const char* kAlias = "encoder.embed_tokens.weight";  // the same storage under its second name

/// The weight file or index of the folder. A float16 model takes the float16 variant of a folder that has both: half
/// the bytes to read, and nothing is lost, for the published one was made from the same float32 file.
Path weights_in(const Path& folder, at::ScalarType type) {
  if (type == at::kHalf)
    for (const char* name : {"model.fp16.safetensors", "model.safetensors.index.fp16.json"})
      if (std::filesystem::exists(folder / name)) return folder / name;
  return folder;
}

}  // namespace

std::unique_ptr<T5Encoder> load_t5(const Path& folder, at::ScalarType type, at::Device device) {
  const T5Config config = T5Config::from(ModelConfig(folder / "config.json"));
  const auto source = weights::open_weights(weights_in(folder, type));
  const nn::NewTensors scope(at::TensorOptions().dtype(type).device(device));
  auto model = std::make_unique<T5Encoder>(config);
  const bool has_shared = source->find(kShared) != nullptr;
  nn::load_module(*model, *source, {.rename = [&](const std::string& name) -> std::string {
    if (name == kAlias) return has_shared ? "" : kShared;
    // The decoder of a whole T5 is not needed for text states.
    const bool is_decoder = name.starts_with("decoder.") || name.starts_with("lm_head.");
    return is_decoder ? "" : name;
  }});
  return model;
}

}  // namespace divergen::models
