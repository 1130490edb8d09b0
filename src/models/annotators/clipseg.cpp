#include "models/annotators/clipseg.hpp"

#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"
#include "nn/tensor_io.hpp"
#include "weights/key_maps.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kHeadWidth = 64;  // of OpenAI's towers: their files do not name the number of heads

/// The part of a config.json called `name`, with the library's defaults for what it leaves out.
ModelConfig part_of(const ModelConfig& config, const char* name, const nlohmann::json& defaults) {
  nlohmann::json part = config.get<nlohmann::json>(name, nlohmann::json::object());
  if (!part.is_object()) config.refuse(name, "it is no JSON object");
  for (const auto& [key, value] : defaults.items())
    if (!part.contains(key) || part[key].is_null()) part[key] = value;
  return {part, cat(config.file(), " ", name)};
}

ClipTowerSizes decoder_sizes(const ClipSegConfig& c) {
  return {c.reduce, c.intermediate, static_cast<std::int64_t>(c.extract.size()),
          c.heads,  c.vision.eps,   Activation::Gelu};
}

void check(const ClipSegConfig& c, const std::string& source) {
  const auto refuse = [&](const std::string& why) {
    fail(ErrorKind::Data, {"these weights of CLIPSeg cannot be used", source, why, "name a published file or folder"});
  };
  if (c.extract.empty()) refuse("no block of the image tower is extracted");
  for (const std::int64_t block : c.extract)
    if (block < 0 || block >= c.vision.layers) refuse(cat("block ", block, " of ", c.vision.layers, " is extracted"));
  if (c.heads < 1 || c.reduce % c.heads != 0) refuse(cat(c.heads, " heads do not divide the width ", c.reduce));
  if (c.complex_convolution &&
      (c.vision.patch_size % 4 != 0 || c.vision.patch_size / 4 * (c.vision.patch_size / 4) != c.vision.patch_size))
    refuse(cat("its three convolutions do not enlarge by the patch of ", c.vision.patch_size));
}

/// Sizes of the first and second side of a matrix, or of the list of keys: what a file says without a configuration.
class Shapes {
 public:
  explicit Shapes(const weights::WeightSource& source) : source_(source) {}
  bool has(const std::string& name) const { return source_.find(name) != nullptr; }
  std::int64_t size(const std::string& name, std::size_t side) const {
    const weights::Weight* found = source_.find(name);
    if (found == nullptr || found->shape.size() <= side)
      fail(ErrorKind::Data, {"these are no weights of CLIPSeg with its CLIP", source_.name(),
                             cat("there is no '", name, "' of that many sizes"),
                             "name rd64-uni.pth as weights and ViT-B-16.pt as clip"});
    return found->shape[side];
  }
  std::int64_t count(const std::string& prefix, const std::string& suffix) const {
    std::int64_t n = 0;
    while (has(cat(prefix, n, suffix))) ++n;
    return n;
  }

 private:
  const weights::WeightSource& source_;
};

/// As `clip.load` of OpenAI's package finds the sizes; names are transformers', behind `prefix`.
void read_clip_sizes(const weights::WeightSource& source, const std::string& prefix, ClipSegConfig& c) {
  const Shapes shapes(source);
  const std::string text = prefix + "text_model.", vision = prefix + "vision_model.";
  c.text.vocab_size = shapes.size(text + "embeddings.token_embedding.weight", 0);
  c.text.hidden_size = shapes.size(text + "embeddings.token_embedding.weight", 1);
  c.text.positions = shapes.size(text + "embeddings.position_embedding.weight", 0);
  c.text.layers = shapes.count(text + "encoder.layers.", ".layer_norm1.weight");
  c.text.intermediate_size = shapes.size(text + "encoder.layers.0.mlp.fc1.weight", 0);
  c.text.heads = std::max<std::int64_t>(1, c.text.hidden_size / kHeadWidth);
  c.vision.hidden_size = shapes.size(vision + "embeddings.patch_embedding.weight", 0);
  c.vision.patch_size = shapes.size(vision + "embeddings.patch_embedding.weight", 2);
  c.vision.layers = shapes.count(vision + "encoder.layers.", ".layer_norm1.weight");
  c.vision.intermediate_size = shapes.size(vision + "encoder.layers.0.mlp.fc1.weight", 0);
  c.vision.heads = std::max<std::int64_t>(1, c.vision.hidden_size / kHeadWidth);
  const std::int64_t tokens = shapes.size(vision + "embeddings.position_embedding.weight", 0);
  c.vision.image_size =
      c.vision.patch_size * static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(tokens - 1))));
  c.projection = shapes.size(prefix + "text_projection.weight", 0);
}

void read_decoder_sizes(const weights::WeightSource& source, ClipSegConfig& c) {
  const Shapes shapes(source);
  c.reduce = shapes.size("decoder.film_mul.weight", 0);
  c.intermediate = shapes.size("decoder.layers.0.mlp.fc1.weight", 0);
  c.complex_convolution = shapes.has("decoder.transposed_convolution.0.weight");
  const std::int64_t depth = shapes.count("decoder.layers.", ".layer_norm1.weight");
  c.extract.resize(static_cast<std::size_t>(depth));
  for (std::int64_t i = 0; i < depth; ++i) c.extract[static_cast<std::size_t>(i)] = 3 * (i + 1);  // experiments/*.yaml
}

bool is_optional(const std::string& key) { return is_optional_clip_key(key); }

/// A file of the repository.
std::unique_ptr<ClipSeg> load_original(const Path& file, const Path& clip) {
  const std::shared_ptr<const weights::WeightSource> own =
      weights::map_keys(weights::open_weights(file), "clipseg-to-hf");
  ClipSegConfig config;
  read_decoder_sizes(*own, config);
  const bool is_whole = Shapes(*own).has("clip.text_projection.weight");
  std::shared_ptr<const weights::WeightSource> towers;
  if (is_whole) {
    read_clip_sizes(*own, "clip.", config);
  } else {
    if (clip.empty())
      fail(ErrorKind::Config, {"CLIPSeg's file has its decoder alone", file.string(), "the CLIP beside it is not named",
                               "set clip = \"ViT-B-16.pt\" (OpenAI's file), or name a transformers folder as weights"});
    towers = weights::open_weights(clip);
    if (Shapes(*towers).has("visual.conv1.weight")) towers = weights::map_keys(towers, "clip-openai-to-hf");
    read_clip_sizes(*towers, "", config);
  }
  check(config, file.string());
  auto model = std::make_unique<ClipSeg>(config);
  const auto is_clip = [](const std::string& key) { return key.starts_with("clip."); };
  nn::load_module(*model, *own,
                  {.may_miss = [&](const std::string& key) { return is_whole ? is_optional(key) : is_clip(key); }});
  if (!is_whole) nn::load_module(model->clip, *towers, {.may_miss = is_optional, .may_surplus = is_optional});
  return model;
}

}  // namespace

ClipSegConfig ClipSegConfig::from(const ModelConfig& config) {
  ClipSegConfig c;
  c.text = ClipTextConfig::from(part_of(config, "text_config",
                                        {{"hidden_size", 512},
                                         {"intermediate_size", 2048},
                                         {"num_hidden_layers", 12},
                                         {"num_attention_heads", 8},
                                         {"eos_token_id", 49407}}));
  c.vision = ClipVisionConfig::from(part_of(config, "vision_config", nlohmann::json::object()));
  c.projection = config.get("projection_dim", c.projection);
  c.reduce = config.get("reduce_dim", c.reduce);
  c.heads = config.get("decoder_num_attention_heads", c.heads);
  c.intermediate = config.get("decoder_intermediate_size", c.intermediate);
  c.extract = config.get("extract_layers", c.extract);
  c.conditional_layer = config.get("conditional_layer", c.conditional_layer);
  c.complex_convolution = config.get("use_complex_transposed_convolution", c.complex_convolution);
  check(c, config.file());
  return c;
}

ClipSegDecoderLayer::ClipSegDecoderLayer(const ClipTowerSizes& s)
    : self_attn(s),
      layer_norm1(s.hidden, s.eps),
      fc1(s.hidden, s.intermediate),
      fc2(s.intermediate, s.hidden),
      layer_norm2(s.hidden, s.eps) {
  child("self_attn", self_attn);
  child("layer_norm1", layer_norm1);
  child("mlp.fc1", fc1);
  child("mlp.fc2", fc2);
  child("layer_norm2", layer_norm2);
}

at::Tensor ClipSegDecoderLayer::forward(const at::Tensor& x) const {
  const at::Tensor y = layer_norm1.forward(x + self_attn.forward(x, /*causal=*/false));
  return layer_norm2.forward(y + fc2.forward(at::relu(fc1.forward(y))));
}

ClipSegDecoder::ClipSegDecoder(const ClipSegConfig& c)
    : conditional_layer_(c.conditional_layer), film_mul_(c.projection, c.reduce), film_add_(c.projection, c.reduce) {
  child("film_mul", film_mul_);
  child("film_add", film_add_);
  const auto transposed = [&](std::int64_t in, std::int64_t out, std::int64_t kernel, const std::string& name) {
    transposed_.push_back(
        std::make_unique<nn::ConvTranspose2d>(in, out, nn::ConvOptions{.kernel = kernel, .stride = kernel}));
    child(name, *transposed_.back());
  };
  if (c.complex_convolution) {
    refine_ = std::make_unique<nn::Conv2d>(c.reduce, c.reduce, nn::ConvOptions{.kernel = 3, .padding = 1});
    child("transposed_convolution.0", *refine_);
    transposed(c.reduce, c.reduce / 2, c.vision.patch_size / 4, "transposed_convolution.2");
    transposed(c.reduce / 2, 1, c.vision.patch_size / 4, "transposed_convolution.4");
  } else {
    transposed(c.reduce, 1, c.vision.patch_size, "transposed_convolution");
  }
  child("reduces", reduces_);
  child("layers", layers_);
  for (std::size_t i = 0; i < c.extract.size(); ++i) {
    reduces_.add(c.vision.hidden_size, c.reduce);
    layers_.add(decoder_sizes(c));
  }
}

at::Tensor ClipSegDecoder::enlarge(const at::Tensor& x) const {
  at::Tensor y = refine_ ? at::relu(refine_->forward(x)) : x;
  for (std::size_t i = 0; i < transposed_.size(); ++i) y = transposed_[i]->forward(i == 0 ? y : at::relu(y));
  return y.squeeze(1);
}

at::Tensor ClipSegDecoder::forward(const std::vector<at::Tensor>& activations, const at::Tensor& condition) const {
  DIVERGEN_CHECK(activations.size() == layers_.size(), activations.size());
  at::Tensor y;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const at::Tensor reduced = reduces_[i].forward(activations[activations.size() - 1 - i]);
    y = y.defined() ? reduced + y : reduced;
    if (static_cast<std::int64_t>(i) == conditional_layer_)
      y = film_mul_.forward(condition).unsqueeze(1) * y + film_add_.forward(condition).unsqueeze(1);
    y = layers_[i].forward(y);
  }
  const at::Tensor tokens = y.narrow(1, 1, y.size(1) - 1).transpose(1, 2);  // without the class token
  const auto side = static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(tokens.size(2)))));
  return enlarge(tokens.reshape({tokens.size(0), tokens.size(1), side, side}));
}

ClipSeg::ClipSeg(const ClipSegConfig& c) : config(c), clip(c.text, c.vision, c.projection), decoder(c) {
  child("clip", clip);
  child("decoder", decoder);
}

std::vector<at::Tensor> ClipSeg::activations(const at::Tensor& pictures) const {
  const ClipVisionTransformer& tower = clip.vision_model;
  const ClipVisionEmbeddings& embeddings = tower.embeddings;
  const at::Tensor map = embeddings.patch_embedding.forward(pictures);
  const auto height = map.size(2), width = map.size(3);
  const at::Tensor& table = embeddings.position_embedding.weight;  // [1 + side², D]
  const auto side = config.vision.image_size / config.vision.patch_size;
  at::Tensor positions = table.unsqueeze(0);
  if (height != side || width != side) {
    const at::Tensor grid = table.narrow(0, 1, side * side).t().reshape({1, table.size(1), side, side});
    const at::Tensor resized = at::upsample_bicubic2d(grid, {height, width}, /*align_corners=*/false);
    positions = at::cat({table.narrow(0, 0, 1).unsqueeze(0), resized.flatten(2).transpose(1, 2)}, 1);
  }
  const at::Tensor first = embeddings.class_embedding.expand({pictures.size(0), 1, -1});
  at::Tensor x = tower.pre_layrnorm.forward(at::cat({first, map.flatten(2).transpose(1, 2)}, 1) + positions);
  const std::int64_t last = *std::max_element(config.extract.begin(), config.extract.end());
  std::vector<at::Tensor> outputs;
  for (std::int64_t i = 0; i <= last; ++i) {
    x = tower.encoder.layers[static_cast<std::size_t>(i)].forward(x, /*causal=*/false);
    outputs.push_back(x);
  }
  std::vector<at::Tensor> extracted;
  for (const std::int64_t block : config.extract) extracted.push_back(outputs[static_cast<std::size_t>(block)]);
  return extracted;
}

at::Tensor ClipSeg::forward(const at::Tensor& pictures, const at::Tensor& condition) const {
  return decoder.forward(activations(pictures), condition);
}

std::unique_ptr<ClipSeg> load_clipseg(const Path& weights, const Path& clip) {
  if (!std::filesystem::is_directory(weights)) return load_original(weights, clip);
  auto model = std::make_unique<ClipSeg>(ClipSegConfig::from(ModelConfig(weights / "config.json")));
  nn::load_module(*model, weights, {.may_miss = is_optional, .may_surplus = is_optional});
  return model;
}

}  // namespace divergen::models
