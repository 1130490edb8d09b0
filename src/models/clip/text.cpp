#include "models/clip/text.hpp"

#include "nn/tensor_io.hpp"

namespace divergen::models {
namespace {

ClipTowerSizes sizes_of(const ClipTextConfig& c) {
  return {c.hidden_size, c.intermediate_size, c.layers, c.heads, c.eps, c.activation};
}

constexpr std::int64_t kLegacyEos = 2;

}  // namespace

ClipTextConfig ClipTextConfig::from(const ModelConfig& config) {
  ClipTextConfig c;
  c.vocab_size = config.get("vocab_size", c.vocab_size);
  c.hidden_size = config.get<std::int64_t>("hidden_size");
  c.intermediate_size = config.get<std::int64_t>("intermediate_size");
  c.layers = config.get<std::int64_t>("num_hidden_layers");
  c.heads = config.get<std::int64_t>("num_attention_heads");
  c.positions = config.get("max_position_embeddings", c.positions);
  c.eps = config.get("layer_norm_eps", c.eps);
  c.activation = parse_activation(config.get<std::string>("hidden_act", "quick_gelu"), config.file());
  c.eos_token_id = config.get("eos_token_id", c.eos_token_id);
  if (c.heads < 1 || c.hidden_size % c.heads != 0)
    config.refuse("num_attention_heads", "it does not divide hidden_size");
  return c;
}

nlohmann::json ClipTextConfig::to_json() const {
  return {{"architectures", {"CLIPTextModel"}},
          {"bos_token_id", 0},
          {"eos_token_id", eos_token_id},
          {"hidden_act", activation == Activation::QuickGelu ? "quick_gelu" : "gelu"},
          {"hidden_size", hidden_size},
          {"intermediate_size", intermediate_size},
          {"layer_norm_eps", eps},
          {"max_position_embeddings", positions},
          {"model_type", "clip_text_model"},
          {"num_attention_heads", heads},
          {"num_hidden_layers", layers},
          {"pad_token_id", 1},
          {"projection_dim", hidden_size},
          {"vocab_size", vocab_size}};
}

ClipTextEmbeddings::ClipTextEmbeddings(const ClipTextConfig& c)
    : token_embedding(c.vocab_size, c.hidden_size), position_embedding(c.positions, c.hidden_size) {
  buffer("position_ids", position_ids, {1, c.positions}, at::kLong);
  child("token_embedding", token_embedding);
  child("position_embedding", position_embedding);
  if (!position_ids.is_meta()) position_ids.copy_(at::arange(c.positions).unsqueeze(0));
}

ClipTextTransformer::ClipTextTransformer(const ClipTextConfig& c)
    : config(c), embeddings(c), encoder(sizes_of(c)), final_layer_norm(c.hidden_size, c.eps) {
  child("embeddings", embeddings);
  child("encoder", encoder);
  child("final_layer_norm", final_layer_norm);
}

ClipTextTransformer::Output ClipTextTransformer::forward(const at::Tensor& ids) const {
  const at::Tensor positions = embeddings.position_ids.narrow(1, 0, ids.size(1));
  const at::Tensor x = embeddings.token_embedding.forward(ids) + embeddings.position_embedding.forward(positions);
  Output out;
  out.last_hidden_state = final_layer_norm.forward(encoder.forward(x, /*causal=*/true));
  const at::Tensor end =
      config.eos_token_id == kLegacyEos ? ids.argmax(-1) : ids.eq(config.eos_token_id).to(at::kInt).argmax(-1);
  out.pooled = out.last_hidden_state.index({at::arange(ids.size(0), ids.options()), end});
  return out;
}

bool is_optional_clip_key(const std::string& key) { return key.ends_with("embeddings.position_ids"); }

void init_clip_text(ClipTextTransformer& model, at::Generator& generator) {
  at::NoGradGuard no_grad;
  init_clip_encoder(model.encoder, sizes_of(model.config), generator);
  model.embeddings.token_embedding.weight.normal_(0, 0.02, generator);
  model.embeddings.position_embedding.weight.normal_(0, 0.02, generator);
  model.final_layer_norm.weight.fill_(1);
  model.final_layer_norm.bias.zero_();
}

std::unique_ptr<ClipTextModel> load_clip_text(const Path& folder) {
  auto model = std::make_unique<ClipTextModel>(ClipTextConfig::from(ModelConfig(folder / "config.json")));
  nn::load_module(*model, folder / "model.safetensors",
                  {.may_miss = is_optional_clip_key, .may_surplus = is_optional_clip_key});
  return model;
}

}  // namespace divergen::models
