#pragma once
// The configuration files that come with published weights.

#include "models/config_json.hpp"

namespace divergen::models {

// The published configuration files, as far as they decide names and shapes (reference/generation.md §2).

inline ModelConfig sd15_unet() {
  return {
      {{"act_fn", "silu"},
       {"attention_head_dim", 8},
       {"block_out_channels", {320, 640, 1280, 1280}},
       {"cross_attention_dim", 768},
       {"down_block_types", {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"}},
       {"in_channels", 4},
       {"layers_per_block", 2},
       {"norm_eps", 1e-5},
       {"norm_num_groups", 32},
       {"out_channels", 4},
       {"sample_size", 64},
       {"up_block_types", {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"}}},
      "Stable Diffusion v1.5, unet"};
}

inline ModelConfig sd15_vae() {
  return {
      {{"act_fn", "silu"},
       {"block_out_channels", {128, 256, 512, 512}},
       {"down_block_types", {"DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"}},
       {"in_channels", 3},
       {"latent_channels", 4},
       {"layers_per_block", 2},
       {"norm_num_groups", 32},
       {"out_channels", 3},
       {"sample_size", 512},
       {"up_block_types", {"UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"}}},
      "Stable Diffusion v1.5, vae"};
}

}  // namespace divergen::models
