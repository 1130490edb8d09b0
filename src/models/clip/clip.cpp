#include "models/clip/clip.hpp"

#include <cmath>
#include <cstring>

#include "image/pil_resize.hpp"
#include "nn/tensor_io.hpp"

namespace divergen::models {
namespace {

// OpenAI's preprocessing (reference/semantics.md §5.2).
constexpr double kMean[] = {0.48145466, 0.4578275, 0.40821073};
constexpr double kStd[] = {0.26862954, 0.26130258, 0.27577711};

ClipTowerSizes sizes_of(const ClipVisionConfig& c) {
  return {c.hidden_size, c.intermediate_size, c.layers, c.heads, c.eps, c.activation};
}

}  // namespace

ClipVisionConfig ClipVisionConfig::from(const ModelConfig& config) {
  ClipVisionConfig c;
  c.hidden_size = config.get("hidden_size", std::int64_t{768});
  c.intermediate_size = config.get("intermediate_size", std::int64_t{3072});
  c.layers = config.get("num_hidden_layers", std::int64_t{12});
  c.heads = config.get("num_attention_heads", std::int64_t{12});
  c.patch_size = config.get("patch_size", std::int64_t{32});
  c.image_size = config.get("image_size", std::int64_t{224});
  c.eps = config.get("layer_norm_eps", c.eps);
  c.activation = parse_activation(config.get<std::string>("hidden_act", "quick_gelu"), config.file());
  if (c.heads < 1 || c.hidden_size % c.heads != 0)
    config.refuse("num_attention_heads", "it does not divide hidden_size");
  if (c.patch_size < 1 || c.image_size % c.patch_size != 0)
    config.refuse("patch_size", "it does not divide image_size");
  return c;
}

nlohmann::json ClipVisionConfig::to_json() const {
  return {{"hidden_act", activation == Activation::QuickGelu ? "quick_gelu" : "gelu"},
          {"hidden_size", hidden_size},
          {"image_size", image_size},
          {"intermediate_size", intermediate_size},
          {"layer_norm_eps", eps},
          {"model_type", "clip_vision_model"},
          {"num_attention_heads", heads},
          {"num_hidden_layers", layers},
          {"patch_size", patch_size}};
}

ClipVisionEmbeddings::ClipVisionEmbeddings(const ClipVisionConfig& c)
    : patch_embedding(3, c.hidden_size, {.kernel = c.patch_size, .stride = c.patch_size, .bias = false}),
      position_embedding(c.tokens(), c.hidden_size) {
  parameter("class_embedding", class_embedding, {c.hidden_size});
  buffer("position_ids", position_ids, {1, c.tokens()}, at::kLong);
  child("patch_embedding", patch_embedding);
  child("position_embedding", position_embedding);
  if (!position_ids.is_meta()) position_ids.copy_(at::arange(c.tokens()).unsqueeze(0));
}

ClipVisionTransformer::ClipVisionTransformer(const ClipVisionConfig& c)
    : config(c),
      embeddings(c),
      pre_layrnorm(c.hidden_size, c.eps),
      encoder(sizes_of(c)),
      post_layernorm(c.hidden_size, c.eps) {
  child("embeddings", embeddings);
  child("pre_layrnorm", pre_layrnorm);
  child("encoder", encoder);
  child("post_layernorm", post_layernorm);
}

at::Tensor ClipVisionTransformer::forward(const at::Tensor& images) const {
  const at::Tensor patches = embeddings.patch_embedding.forward(images).flatten(2).transpose(1, 2);
  const at::Tensor first = embeddings.class_embedding.expand({images.size(0), 1, -1});
  const at::Tensor x = at::cat({first, patches}, 1) + embeddings.position_embedding.forward(embeddings.position_ids);
  return post_layernorm.forward(encoder.forward(pre_layrnorm.forward(x), /*causal=*/false).select(1, 0));
}

Clip::Clip(const ClipTextConfig& text, const ClipVisionConfig& vision, std::int64_t projection)
    : text_model(text),
      vision_model(vision),
      visual_projection(vision.hidden_size, projection, false),
      text_projection(text.hidden_size, projection, false) {
  parameter("logit_scale", logit_scale, {});
  child("text_model", text_model);
  child("vision_model", vision_model);
  child("visual_projection", visual_projection);
  child("text_projection", text_projection);
}

at::Tensor Clip::image_features(const at::Tensor& images) const {
  return visual_projection.forward(vision_model.forward(images));
}
at::Tensor Clip::text_features(const at::Tensor& ids) const {
  return text_projection.forward(text_model.forward(ids).pooled);
}

ClipVisionModel::ClipVisionModel(const ClipVisionConfig& vision, std::int64_t projection)
    : vision_model(vision), visual_projection(vision.hidden_size, projection, false) {
  child("vision_model", vision_model);
  child("visual_projection", visual_projection);
}
at::Tensor ClipVisionModel::image_features(const at::Tensor& images) const {
  return visual_projection.forward(vision_model.forward(images));
}

std::unique_ptr<ClipVisionModel> load_clip_vision(const Path& folder) {
  const ModelConfig config(folder / "config.json");
  const bool is_whole = config.has("vision_config");
  const ModelConfig vision =
      is_whole ? ModelConfig(config.get<nlohmann::json>("vision_config"), config.file()) : config;
  auto model =
      std::make_unique<ClipVisionModel>(ClipVisionConfig::from(vision), config.get<std::int64_t>("projection_dim"));
  const auto is_text = [](const std::string& key) {
    return key.starts_with("text_model.") || key.starts_with("text_projection.") || key == "logit_scale" ||
           is_optional_clip_key(key);
  };
  nn::load_module(*model, folder / "model.safetensors", {.may_miss = is_optional_clip_key, .may_surplus = is_text});
  return model;
}

void init_clip(Clip& clip, at::Generator& generator) {
  at::NoGradGuard no_grad;
  init_clip_text(clip.text_model, generator);
  auto& vision = clip.vision_model;
  init_clip_encoder(vision.encoder, sizes_of(vision.config), generator);
  const double width = static_cast<double>(vision.config.hidden_size);
  vision.embeddings.class_embedding.normal_(0, std::pow(width, -0.5), generator);
  vision.embeddings.patch_embedding.weight.normal_(0, 0.02, generator);
  vision.embeddings.position_embedding.weight.normal_(0, 0.02, generator);
  for (nn::LayerNorm* norm : {&vision.pre_layrnorm, &vision.post_layernorm}) {
    norm->weight.fill_(1);
    norm->bias.zero_();
  }
  clip.visual_projection.weight.normal_(0, std::pow(width, -0.5), generator);
  clip.text_projection.weight.normal_(0, std::pow(static_cast<double>(clip.text_model.config.hidden_size), -0.5),
                                      generator);
  clip.logit_scale.fill_(std::log(1 / 0.07));  // Radford et al. 2021, §2.5
}

std::unique_ptr<Clip> load_clip(const Path& folder) {
  const ModelConfig config(folder / "config.json");
  const auto part = [&](const char* name) {
    return ModelConfig(config.get<nlohmann::json>(name), cat(config.file(), " ", name));
  };
  auto model =
      std::make_unique<Clip>(ClipTextConfig::from(part("text_config")), ClipVisionConfig::from(part("vision_config")),
                             config.get<std::int64_t>("projection_dim"));
  nn::load_module(*model, folder / "model.safetensors",
                  {.may_miss = is_optional_clip_key, .may_surplus = is_optional_clip_key});
  return model;
}

nlohmann::json clip_config_json(const ClipTextConfig& text, const ClipVisionConfig& vision, std::int64_t projection) {
  auto text_json = text.to_json(), vision_json = vision.to_json();
  text_json["projection_dim"] = vision_json["projection_dim"] = projection;
  text_json.erase("architectures");
  return {{"architectures", {"CLIPModel"}},
          {"model_type", "clip"},
          {"projection_dim", projection},
          {"text_config", text_json},
          {"vision_config", vision_json}};
}

at::Tensor prepare_for_clip(const image::Image& rgb, std::int64_t size) {
  DIVERGEN_CHECK(rgb.channels == 3 && !rgb.empty());
  const auto side = static_cast<int>(size);
  const bool is_tall = rgb.height >= rgb.width;
  const int height = is_tall ? static_cast<int>(static_cast<std::int64_t>(side) * rgb.height / rgb.width) : side;
  const int width = is_tall ? side : static_cast<int>(static_cast<std::int64_t>(side) * rgb.width / rgb.height);
  const image::Image resized = image::pil_resize(rgb, height, width, image::Filter::Bicubic);
  const auto offset = [&](int length) { return static_cast<int>(std::nearbyint((length - side) / 2.0)); };
  const image::Image crop = image::crop(resized, offset(width), offset(height), side, side);
  at::Tensor bytes = at::empty({side, side, 3}, at::kByte);
  std::memcpy(bytes.data_ptr(), crop.pixels.data(), crop.pixels.size());
  const at::Tensor mean = at::tensor(at::ArrayRef<double>(kMean, 3), at::kFloat).view({3, 1, 1});
  const at::Tensor std = at::tensor(at::ArrayRef<double>(kStd, 3), at::kFloat).view({3, 1, 1});
  return ((bytes.permute({2, 0, 1}).to(at::kFloat) / 255 - mean) / std).unsqueeze(0);
}

}  // namespace divergen::models
