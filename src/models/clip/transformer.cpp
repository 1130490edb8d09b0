#include "models/clip/transformer.hpp"

#include <cmath>

#include "base/error.hpp"

namespace divergen::models {

Activation parse_activation(const std::string& name, const std::string& source) {
  if (name == "quick_gelu") return Activation::QuickGelu;
  if (name == "gelu") return Activation::Gelu;
  fail(ErrorKind::Data, {"a model's configuration cannot be used", cat(source, " [hidden_act]"),
                         cat("'", name, "' is not quick_gelu or gelu"), "name a folder of a CLIP model"});
}

at::Tensor activate(const at::Tensor& x, Activation activation) {
  return activation == Activation::QuickGelu ? x * at::sigmoid(1.702 * x) : at::gelu(x);
}

ClipAttention::ClipAttention(const ClipTowerSizes& s)
    : heads(s.heads),
      k_proj(s.hidden, s.hidden),
      v_proj(s.hidden, s.hidden),
      q_proj(s.hidden, s.hidden),
      out_proj(s.hidden, s.hidden) {
  child("k_proj", k_proj);
  child("v_proj", v_proj);
  child("q_proj", q_proj);
  child("out_proj", out_proj);
}

at::Tensor ClipAttention::forward(const at::Tensor& x, bool causal) const {
  const auto batch = x.size(0), length = x.size(1), width = x.size(2);
  const auto split = [&](const at::Tensor& t) { return t.view({batch, length, heads, width / heads}).transpose(1, 2); };
  const at::Tensor y = at::scaled_dot_product_attention(split(q_proj.forward(x)), split(k_proj.forward(x)),
                                                        split(v_proj.forward(x)), {}, 0.0, causal);
  return out_proj.forward(y.transpose(1, 2).reshape({batch, length, width}));
}

ClipMlp::ClipMlp(const ClipTowerSizes& s)
    : activation(s.activation), fc1(s.hidden, s.intermediate), fc2(s.intermediate, s.hidden) {
  child("fc1", fc1);
  child("fc2", fc2);
}
at::Tensor ClipMlp::forward(const at::Tensor& x) const { return fc2.forward(activate(fc1.forward(x), activation)); }

ClipEncoderLayer::ClipEncoderLayer(const ClipTowerSizes& s)
    : self_attn(s), layer_norm1(s.hidden, s.eps), mlp(s), layer_norm2(s.hidden, s.eps) {
  child("self_attn", self_attn);
  child("layer_norm1", layer_norm1);
  child("mlp", mlp);
  child("layer_norm2", layer_norm2);
}
at::Tensor ClipEncoderLayer::forward(const at::Tensor& x, bool causal) const {
  const at::Tensor y = x + self_attn.forward(layer_norm1.forward(x), causal);
  return y + mlp.forward(layer_norm2.forward(y));
}

ClipEncoder::ClipEncoder(const ClipTowerSizes& s) {
  child("layers", layers);
  for (std::int64_t i = 0; i < s.layers; ++i) layers.add(s);
}
at::Tensor ClipEncoder::forward(at::Tensor x, bool causal) const {
  for (const ClipEncoderLayer* layer : layers) x = layer->forward(x, causal);
  return x;
}

void init_clip_encoder(ClipEncoder& encoder, const ClipTowerSizes& s, at::Generator& generator) {
  at::NoGradGuard no_grad;
  const double width = static_cast<double>(s.hidden);
  const double in_std = std::pow(width, -0.5) * std::pow(2.0 * static_cast<double>(s.layers), -0.5);
  const double out_std = std::pow(width, -0.5);
  const double fc1_std = std::pow(2.0 * width, -0.5);
  nn::init_default(encoder, generator);
  for (ClipEncoderLayer* layer : encoder.layers) {
    for (nn::Linear* linear :
         {&layer->self_attn.q_proj, &layer->self_attn.k_proj, &layer->self_attn.v_proj, &layer->mlp.fc2})
      linear->weight.normal_(0, in_std, generator);
    layer->self_attn.out_proj.weight.normal_(0, out_std, generator);
    layer->mlp.fc1.weight.normal_(0, fc1_std, generator);
    for (nn::Linear* linear : {&layer->self_attn.q_proj, &layer->self_attn.k_proj, &layer->self_attn.v_proj,
                               &layer->self_attn.out_proj, &layer->mlp.fc1, &layer->mlp.fc2})
      linear->bias.zero_();
  }
}

}  // namespace divergen::models
