#pragma once
// The configuration of diffusers' UNet2DConditionModel, as far as Stable Diffusion 1.5 and both stages of DeepFloyd-IF
// use it (reference/generation.md §2). Anything else is refused, not computed otherwise.

#include <optional>

#include "models/config_json.hpp"
#include "models/diffusion/blocks.hpp"

namespace divergen::models {

/// Levels of the UNet, by diffusers' names: {,CrossAttn}{Down,Up}Block2D, Resnet{Down,Up}sampleBlock2D,
/// SimpleCrossAttn{Down,Up}Block2D.
enum class UnetBlock { Plain, CrossAttention, Resnet, SimpleCrossAttention };

struct UnetConfig {
  std::int64_t sample_size = 64, in_channels = 4, out_channels = 4;
  std::vector<std::int64_t> block_out_channels;
  std::vector<UnetBlock> down_blocks, up_blocks;
  UnetBlock mid_block = UnetBlock::CrossAttention;  // or SimpleCrossAttention
  std::vector<std::int64_t> layers_per_block;       // of each level on the way down; one more on the way up
  std::int64_t norm_groups = 32;
  double norm_eps = 1e-5;
  std::int64_t cross_attention_dim = 768;
  /// CrossAttention: the number of heads (a misnomer that diffusers keeps); SimpleCrossAttention: channels of a head.
  std::int64_t attention_head_dim = 8;
  Act act = Act::Silu;
  bool scale_shift = false;                 // resnet_time_scale_shift
  bool cross_attention_group_norm = false;  // of the text, in SimpleCrossAttention
  bool skip_time_act = false;
  double resnet_out_scale = 1, mid_block_scale = 1;
  std::optional<std::int64_t> time_embedding_dim;  // default: 4 times the first width
  std::optional<Act> time_embedding_act;           // of the sum of all embeddings
  std::optional<std::int64_t> encoder_hid_dim;     // width of the text states, projected to cross_attention_dim
  bool text_addition = false;                      // pooled text is added to the time embedding
  std::int64_t addition_heads = 64;
  bool class_timestep = false;  // a second sinusoid (stage II: the noise level)

  /// Throws Error(Data) naming file and key.
  static UnetConfig from(const ModelConfig& config);
  nlohmann::json to_json() const;

  std::size_t levels() const { return block_out_channels.size(); }
  std::int64_t time_features() const { return time_embedding_dim.value_or(4 * block_out_channels.front()); }
  /// Width of the text states that forward() takes.
  std::int64_t text_features() const { return encoder_hid_dim.value_or(cross_attention_dim); }
  /// Options of the residual blocks of a level (or of the mid block, whose scale is another).
  ResnetOptions resnet(UnetBlock block, bool is_mid = false) const;
};

}  // namespace divergen::models
