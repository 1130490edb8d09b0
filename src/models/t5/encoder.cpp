#include "models/t5/encoder.hpp"

#include <cmath>
#include <limits>
#include <numbers>

namespace divergen::models {
namespace {

/// The type that `wo` has in a model of type `type`: transformers' _keep_in_fp32_modules, which acts in float16 alone.
at::ScalarType wo_type(at::ScalarType type) { return type == at::kHalf ? at::kFloat : type; }

at::TensorOptions wo_options() {
  const auto& options = nn::NewTensors::options();
  return options.dtype(wo_type(c10::typeMetaToScalarType(options.dtype())));
}

/// The lowest finite value of a floating type, as torch.finfo(type).min.
double lowest_of(at::ScalarType type) {
  switch (type) {
    case at::kHalf:
      return static_cast<double>(std::numeric_limits<c10::Half>::lowest());
    case at::kBFloat16:
      return static_cast<double>(std::numeric_limits<c10::BFloat16>::lowest());
    case at::kDouble:
      return std::numeric_limits<double>::lowest();
    default:
      return static_cast<double>(std::numeric_limits<float>::lowest());
  }
}

/// Google's approximation of GELU, one rounding an operation as in the reference (at::gelu rounds half types once).
at::Tensor gelu_new(const at::Tensor& x) {
  return 0.5 * x * (1.0 + at::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * at::pow(x, 3.0))));
}

/// In float16 the reference keeps the residual stream inside the range of the type: to the largest value less 1000
/// where something overflowed. Decided on the device, without a synchronisation.
at::Tensor clamp_half(const at::Tensor& x) {
  if (x.scalar_type() != at::kHalf) return x;
  const at::Tensor limit =
      at::where(x.isinf().any(), at::scalar_tensor(64504.0, x.options()), at::scalar_tensor(65504.0, x.options()));
  return at::clamp(x, -limit, limit);
}

}  // namespace

T5Config T5Config::from(const ModelConfig& config) {
  T5Config c;
  c.vocab_size = config.get<std::int64_t>("vocab_size");
  c.d_model = config.get<std::int64_t>("d_model");
  c.d_ff = config.get<std::int64_t>("d_ff");
  c.d_kv = config.get<std::int64_t>("d_kv");
  c.heads = config.get<std::int64_t>("num_heads");
  c.layers = config.get<std::int64_t>("num_layers");
  c.buckets = config.get("relative_attention_num_buckets", c.buckets);
  c.max_distance = config.get("relative_attention_max_distance", c.max_distance);
  c.eps = config.get("layer_norm_epsilon", c.eps);
  // "gated-gelu" means gelu_new in transformers; dense_act_fn may spell it out.
  if (config.get<std::string>("feed_forward_proj") != "gated-gelu")
    config.refuse("feed_forward_proj", "only gated-gelu (T5 v1.1) is supported");
  config.require("dense_act_fn", std::string("gelu_new"));
  config.require("is_gated_act", true);
  for (const auto& [key, value] : {std::pair{"vocab_size", c.vocab_size},
                                   {"d_model", c.d_model},
                                   {"d_ff", c.d_ff},
                                   {"d_kv", c.d_kv},
                                   {"num_heads", c.heads},
                                   {"num_layers", c.layers}})
    if (value < 1) config.refuse(key, cat(value, " is not positive"));
  if (c.buckets < 4 || c.buckets % 2 != 0)
    config.refuse("relative_attention_num_buckets", cat(c.buckets, " is not an even number from 4"));
  if (c.max_distance <= c.buckets / 4)
    config.refuse("relative_attention_max_distance", "it must be larger than a quarter of the buckets");
  return c;
}

nlohmann::json T5Config::to_json() const {
  return {{"architectures", {"T5EncoderModel"}},
          {"d_ff", d_ff},
          {"d_kv", d_kv},
          {"d_model", d_model},
          {"decoder_start_token_id", 0},
          {"dense_act_fn", "gelu_new"},
          {"dropout_rate", 0.0},
          {"eos_token_id", 1},
          {"feed_forward_proj", "gated-gelu"},
          {"initializer_factor", 1.0},
          {"is_encoder_decoder", true},
          {"is_gated_act", true},
          {"layer_norm_epsilon", eps},
          {"model_type", "t5"},
          {"num_decoder_layers", layers},
          {"num_heads", heads},
          {"num_layers", layers},
          {"pad_token_id", 0},
          {"relative_attention_max_distance", max_distance},
          {"relative_attention_num_buckets", buckets},
          {"tie_word_embeddings", false},
          {"use_cache", false},
          {"vocab_size", vocab_size}};
}

T5LayerNorm::T5LayerNorm(std::int64_t features, double eps_) : eps(eps_) { parameter("weight", weight, {features}); }

at::Tensor T5LayerNorm::forward(const at::Tensor& x) const {
  const at::Tensor variance = x.to(at::kFloat).pow(2).mean(-1, /*keepdim=*/true);
  at::Tensor y = x * at::rsqrt(variance + eps);  // float32 where x is narrower
  if (weight.scalar_type() == at::kHalf || weight.scalar_type() == at::kBFloat16) y = y.to(weight.scalar_type());
  return weight * y;
}

at::Tensor t5_position_buckets(const at::Tensor& relative, std::int64_t buckets, std::int64_t max_distance) {
  // The logarithm is taken in float32 and truncated, in the reference's order: the borders of the buckets depend on it.
  const std::int64_t half = buckets / 2, exact = half / 2;
  const at::Tensor distance = relative.abs();
  const at::Tensor far =
      exact + (at::log(distance.to(at::kFloat) / exact) /
               std::log(static_cast<double>(max_distance) / static_cast<double>(exact)) * (half - exact))
                  .to(at::kLong);
  const at::Tensor within = at::where(distance < exact, distance, far.clamp_max(half - 1));
  return relative.gt(0).to(at::kLong) * half + within;
}

T5Attention::T5Attention(const T5Config& c, bool has_bias_table)
    : heads(c.heads),
      d_kv(c.d_kv),
      q(c.d_model, c.heads * c.d_kv, false),
      k(c.d_model, c.heads * c.d_kv, false),
      v(c.d_model, c.heads * c.d_kv, false),
      o(c.heads * c.d_kv, c.d_model, false) {
  child("q", q);
  child("k", k);
  child("v", v);
  child("o", o);
  if (has_bias_table) {
    relative_attention_bias = std::make_unique<nn::Embedding>(c.buckets, c.heads);
    child("relative_attention_bias", *relative_attention_bias);
  }
}

at::Tensor T5Attention::forward(const at::Tensor& x, const at::Tensor& bias) const {
  const auto batch = x.size(0), length = x.size(1);
  const auto split = [&](const at::Tensor& t) { return t.view({batch, length, heads, d_kv}).transpose(1, 2); };
  const at::Tensor y = at::scaled_dot_product_attention(split(q.forward(x)), split(k.forward(x)), split(v.forward(x)),
                                                        bias, /*dropout_p=*/0.0, /*is_causal=*/false, /*scale=*/1.0);
  return o.forward(y.transpose(1, 2).reshape({batch, length, heads * d_kv}));
}

T5FeedForward::T5FeedForward(const T5Config& c)
    : wi_0(c.d_model, c.d_ff, false), wi_1(c.d_model, c.d_ff, false), wo([&] {
        const nn::NewTensors scope(wo_options());
        return nn::Linear(c.d_ff, c.d_model, false);
      }()) {
  child("wi_0", wi_0);
  child("wi_1", wi_1);
  child("wo", wo);
}

at::Tensor T5FeedForward::forward(const at::Tensor& x) const {
  const at::Tensor hidden = gelu_new(wi_0.forward(x)) * wi_1.forward(x);
  return wo.forward(hidden.to(wo.weight.scalar_type()));
}

T5Block::T5Block(const T5Config& c, bool has_bias_table)
    : attention(c, has_bias_table),
      attention_norm(c.d_model, c.eps),
      feed_forward(c),
      feed_forward_norm(c.d_model, c.eps) {
  child("layer", layers_);
  layers_.child("0", attention_part_);
  attention_part_.child("SelfAttention", attention);
  attention_part_.child("layer_norm", attention_norm);
  layers_.child("1", feed_forward_part_);
  feed_forward_part_.child("DenseReluDense", feed_forward);
  feed_forward_part_.child("layer_norm", feed_forward_norm);
}

at::Tensor T5Block::forward(at::Tensor x, const at::Tensor& bias) const {
  x = clamp_half(x + attention.forward(attention_norm.forward(x), bias));
  return clamp_half(x + feed_forward.forward(feed_forward_norm.forward(x)));
}

T5Encoder::T5Encoder(const T5Config& c)
    : config(c), shared(c.vocab_size, c.d_model), final_layer_norm(c.d_model, c.eps) {
  child("shared", shared);
  child("encoder", stack_);
  stack_.child("block", blocks);
  for (std::int64_t i = 0; i < c.layers; ++i) blocks.add(c, /*has_bias_table=*/i == 0);
  stack_.child("final_layer_norm", final_layer_norm);
}

at::Tensor T5Encoder::position_bias(std::int64_t length) const {
  const nn::Embedding& table = *blocks[0].attention.relative_attention_bias;
  const at::Tensor at_ = at::arange(length, table.weight.options().dtype(at::kLong));
  const at::Tensor buckets =
      t5_position_buckets(at_.unsqueeze(0) - at_.unsqueeze(1), config.buckets, config.max_distance);
  return table.forward(buckets).permute({2, 0, 1}).unsqueeze(0);
}

at::Tensor T5Encoder::forward(const at::Tensor& ids, const at::Tensor& mask, std::vector<at::Tensor>* states) const {
  at::Tensor x = shared.forward(ids);
  at::Tensor bias = position_bias(ids.size(1));
  if (mask.defined())
    bias = at::where(mask.ne(0).unsqueeze(1).unsqueeze(1), bias,
                     at::scalar_tensor(lowest_of(x.scalar_type()), x.options()));
  bias = bias.contiguous();
  for (const T5Block* block : blocks) {
    if (states != nullptr) states->push_back(x);
    x = block->forward(x, bias);
  }
  x = final_layer_norm.forward(x);
  if (states != nullptr) states->push_back(x);
  return x;
}

void T5Encoder::convert(at::ScalarType type) {
  for (auto& [name, slot] : named_slots()) {
    const bool grad = slot->requires_grad();
    *slot = slot->detach().to(name.ends_with(".wo.weight") ? wo_type(type) : type);
    if (grad) slot->requires_grad_(true);
  }
}

void init_t5(T5Encoder& model, at::Generator& generator) {
  at::NoGradGuard no_grad;
  const double d = static_cast<double>(model.config.d_model), kv = static_cast<double>(model.config.d_kv);
  const double inner = static_cast<double>(model.config.heads) * kv, ff = static_cast<double>(model.config.d_ff);
  model.shared.weight.normal_(0, 1, generator);
  for (T5Block* block : model.blocks) {
    T5Attention& a = block->attention;
    a.q.weight.normal_(0, std::pow(d * kv, -0.5), generator);
    for (nn::Linear* linear : {&a.k, &a.v}) linear->weight.normal_(0, std::pow(d, -0.5), generator);
    a.o.weight.normal_(0, std::pow(inner, -0.5), generator);
    if (a.relative_attention_bias) a.relative_attention_bias->weight.normal_(0, std::pow(d, -0.5), generator);
    for (nn::Linear* linear : {&block->feed_forward.wi_0, &block->feed_forward.wi_1})
      linear->weight.normal_(0, std::pow(d, -0.5), generator);
    block->feed_forward.wo.weight.normal_(0, std::pow(ff, -0.5), generator);
    for (T5LayerNorm* norm : {&block->attention_norm, &block->feed_forward_norm}) norm->weight.fill_(1);
  }
  model.final_layer_norm.weight.fill_(1);
}

}  // namespace divergen::models
