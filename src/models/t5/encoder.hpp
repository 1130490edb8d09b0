#pragma once
// T5 v1.1's encoder in transformers' naming (T5EncoderModel): the text encoder of DeepFloyd-IF.
// Arithmetic and dtype rules: reference/generation.md §2, §3, §5. Shapes: B prompts, L tokens, D features (d_model),
// H heads, K features a head (d_kv; H·K need not be D).

#include "base/fs.hpp"
#include "models/config_json.hpp"
#include "nn/layers.hpp"

namespace divergen::models {

/// The defaults are T5-v1.1-XXL's (google/t5-v1_1-xxl, config.json).
struct T5Config {
  std::int64_t vocab_size = 32128;
  std::int64_t d_model = 4096;
  std::int64_t d_ff = 10240;
  std::int64_t d_kv = 64;
  std::int64_t heads = 64;
  std::int64_t layers = 24;
  std::int64_t buckets = 32;        // of relative positions, half of them for each direction
  std::int64_t max_distance = 128;  // from here on all positions share the last bucket
  double eps = 1e-6;

  /// Throws Error(Data) for what is not T5 v1.1 (ReLU feed-forward, other activations).
  static T5Config from(const ModelConfig& config);
  nlohmann::json to_json() const;
};

/// Scale only: no mean is taken off, no bias is added; the mean square is taken in float32. weight [features].
struct T5LayerNorm : nn::Module {
  T5LayerNorm(std::int64_t features, double eps);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight;
  double eps;
};

/// Relative position (key - query, int64 of any shape) -> bucket, bidirectional.
at::Tensor t5_position_buckets(const at::Tensor& relative, std::int64_t buckets, std::int64_t max_distance);

/// Scores are not divided by √K. Block 0 alone owns the table of position biases; all blocks use them.
struct T5Attention : nn::Module {
  T5Attention(const T5Config& config, bool has_bias_table);
  /// x [B, L, D], bias [B or 1, H, L, L] added to the scores -> [B, L, D].
  at::Tensor forward(const at::Tensor& x, const at::Tensor& bias) const;
  std::int64_t heads, d_kv;
  nn::Linear q, k, v, o;
  std::unique_ptr<nn::Embedding> relative_attention_bias;  // [buckets, H], of block 0
};

/// gelu(x W0ᵀ) · (x W1ᵀ), then wo. wo stays float32 in a float16 model, where its products overflow.
struct T5FeedForward : nn::Module {
  explicit T5FeedForward(const T5Config& config);
  at::Tensor forward(const at::Tensor& x) const;
  nn::Linear wi_0, wi_1, wo;
};

/// Keys layer.0.{SelfAttention,layer_norm}, layer.1.{DenseReluDense,layer_norm}, as the official files have them.
struct T5Block : nn::Module {
  T5Block(const T5Config& config, bool has_bias_table);
  at::Tensor forward(at::Tensor x, const at::Tensor& bias) const;
  T5Attention attention;
  T5LayerNorm attention_norm;
  T5FeedForward feed_forward;
  T5LayerNorm feed_forward_norm;

 private:
  struct Part : nn::Module {
    using nn::Module::child;
  };
  Part layers_, attention_part_, feed_forward_part_;
};

/// Keys shared.weight, encoder.block.N.*, encoder.final_layer_norm.weight. Works under autograd; there is no dropout.
struct T5Encoder : nn::Module {
  explicit T5Encoder(const T5Config& config);

  /// ids [B, L] int64; mask [B, L], nonzero where a token counts (empty: all do) -> [B, L, D]. Padding positions get
  /// states too (DeepFloyd-IF feeds them on). `states`, if given, receives the input of every block and then what is
  /// returned (transformers' hidden_states). The result's type is that of the final norm's weight.
  at::Tensor forward(const at::Tensor& ids, const at::Tensor& mask = {},
                     std::vector<at::Tensor>* states = nullptr) const;
  /// [1, H, length, length], without a mask.
  at::Tensor position_bias(std::int64_t length) const;
  /// Converts the module to `type` by the reference's rules (see T5FeedForward); use it instead of Module::to.
  void convert(at::ScalarType type);

  T5Config config;
  nn::Embedding shared;
  nn::List<T5Block> blocks;
  T5LayerNorm final_layer_norm;

 private:
  struct Stack : nn::Module {
    using nn::Module::child;
  };
  Stack stack_;
};

/// transformers' initial values of T5 (initializer_factor 1), drawn from `generator`.
void init_t5(T5Encoder& model, at::Generator& generator);

/// A transformers folder: config.json and weights of any format and number of shards (weights/weights.hpp); a float16
/// model prefers the folder's fp16 variant. Keys of a decoder are left aside; encoder.embed_tokens.weight is taken
/// where shared.weight is not there. The module is made on `device` as `type` and filled tensor by tensor: no second
/// copy of the model is in memory at any time. Throws Error(Io | Data) before anything is copied.
std::unique_ptr<T5Encoder> load_t5(const Path& folder, at::ScalarType type = at::kFloat, at::Device device = at::kCPU);

}  // namespace divergen::models
