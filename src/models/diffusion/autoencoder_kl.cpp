#include "models/diffusion/autoencoder_kl.hpp"

#include "nn/tensor_io.hpp"

namespace divergen::models {
namespace {

constexpr double kEps = 1e-6;  // diffusers fixes it for the VAE

}  // namespace

VaeConfig VaeConfig::from(const ModelConfig& config) {
  VaeConfig c;
  c.in_channels = config.get("in_channels", c.in_channels);
  c.out_channels = config.get("out_channels", c.out_channels);
  c.latent_channels = config.get("latent_channels", c.latent_channels);
  c.block_out_channels = config.get<std::vector<std::int64_t>>("block_out_channels");
  c.layers_per_block = config.get("layers_per_block", c.layers_per_block);
  c.norm_groups = config.get("norm_num_groups", c.norm_groups);
  c.sample_size = config.get("sample_size", c.sample_size);
  c.scaling_factor = config.get("scaling_factor", c.scaling_factor);
  config.require<std::string>("act_fn", "silu");
  for (const auto& type : config.get<std::vector<std::string>>("down_block_types", {}))
    if (type != "DownEncoderBlock2D") config.refuse("down_block_types", cat("'", type, "' is not DownEncoderBlock2D"));
  if (c.block_out_channels.empty()) config.refuse("block_out_channels", "it is empty");
  for (const auto channels : c.block_out_channels)
    if (channels % c.norm_groups != 0)
      config.refuse("block_out_channels", "norm_num_groups does not divide each of them");
  return c;
}

nlohmann::json VaeConfig::to_json() const {
  const std::size_t levels = block_out_channels.size();
  return {{"_class_name", "AutoencoderKL"},
          {"act_fn", "silu"},
          {"block_out_channels", block_out_channels},
          {"down_block_types", std::vector<std::string>(levels, "DownEncoderBlock2D")},
          {"up_block_types", std::vector<std::string>(levels, "UpDecoderBlock2D")},
          {"in_channels", in_channels},
          {"out_channels", out_channels},
          {"latent_channels", latent_channels},
          {"layers_per_block", layers_per_block},
          {"norm_num_groups", norm_groups},
          {"sample_size", sample_size},
          {"scaling_factor", scaling_factor}};
}

VaeMidBlock::VaeMidBlock(std::int64_t channels, std::int64_t groups) {
  child("attentions", attentions);
  attentions.add(channels, groups, kEps);
  child("resnets", resnets);
  for (int i = 0; i < 2; ++i) resnets.add(channels, channels, ResnetOptions{.groups = groups, .eps = kEps});
}
at::Tensor VaeMidBlock::forward(const at::Tensor& x) const {
  return resnets[1].forward(attentions[0].forward(resnets[0].forward(x)));
}

VaeDownBlock::VaeDownBlock(std::int64_t in, std::int64_t out, std::int64_t layers, std::int64_t groups,
                           bool downsample) {
  child("resnets", resnets);
  for (std::int64_t i = 0; i < layers; ++i)
    resnets.add(i == 0 ? in : out, out, ResnetOptions{.groups = groups, .eps = kEps});
  if (downsample) child("downsamplers", downsamplers).add(out, 0);
}
at::Tensor VaeDownBlock::forward(at::Tensor x) const {
  for (const ResnetBlock* resnet : resnets) x = resnet->forward(x);
  for (const Downsample* downsample : downsamplers) x = downsample->forward(x);
  return x;
}

VaeUpBlock::VaeUpBlock(std::int64_t in, std::int64_t out, std::int64_t layers, std::int64_t groups, bool upsample) {
  child("resnets", resnets);
  for (std::int64_t i = 0; i < layers; ++i)
    resnets.add(i == 0 ? in : out, out, ResnetOptions{.groups = groups, .eps = kEps});
  if (upsample) child("upsamplers", upsamplers).add(out);
}
at::Tensor VaeUpBlock::forward(at::Tensor x) const {
  for (const ResnetBlock* resnet : resnets) x = resnet->forward(x);
  for (const Upsample* upsample : upsamplers) x = upsample->forward(x);
  return x;
}

VaeEncoder::VaeEncoder(const VaeConfig& c)
    : conv_in(c.in_channels, c.block_out_channels.front(), {.kernel = 3, .padding = 1}),
      mid_block(c.block_out_channels.back(), c.norm_groups),
      conv_norm_out(c.norm_groups, c.block_out_channels.back(), kEps),
      conv_out(c.block_out_channels.back(), 2 * c.latent_channels, {.kernel = 3, .padding = 1}) {
  child("conv_in", conv_in);
  child("down_blocks", down_blocks);
  const std::size_t levels = c.block_out_channels.size();
  for (std::size_t i = 0; i < levels; ++i)
    down_blocks.add(c.block_out_channels[i == 0 ? 0 : i - 1], c.block_out_channels[i], c.layers_per_block,
                    c.norm_groups, i + 1 < levels);
  child("mid_block", mid_block);
  child("conv_norm_out", conv_norm_out);
  child("conv_out", conv_out);
}
at::Tensor VaeEncoder::forward(at::Tensor x) const {
  x = conv_in.forward(x);
  for (const VaeDownBlock* block : down_blocks) x = block->forward(x);
  return conv_out.forward(at::silu(conv_norm_out.forward(mid_block.forward(x))));
}

VaeDecoder::VaeDecoder(const VaeConfig& c)
    : conv_in(c.latent_channels, c.block_out_channels.back(), {.kernel = 3, .padding = 1}),
      mid_block(c.block_out_channels.back(), c.norm_groups),
      conv_norm_out(c.norm_groups, c.block_out_channels.front(), kEps),
      conv_out(c.block_out_channels.front(), c.out_channels, {.kernel = 3, .padding = 1}) {
  child("conv_in", conv_in);
  child("up_blocks", up_blocks);
  const std::size_t levels = c.block_out_channels.size();
  const auto width = [&](std::size_t i) { return c.block_out_channels[levels - 1 - i]; };
  for (std::size_t i = 0; i < levels; ++i)
    up_blocks.add(width(i == 0 ? 0 : i - 1), width(i), c.layers_per_block + 1, c.norm_groups, i + 1 < levels);
  child("mid_block", mid_block);
  child("conv_norm_out", conv_norm_out);
  child("conv_out", conv_out);
}
at::Tensor VaeDecoder::forward(at::Tensor z) const {
  z = mid_block.forward(conv_in.forward(z));
  for (const VaeUpBlock* block : up_blocks) z = block->forward(z);
  return conv_out.forward(at::silu(conv_norm_out.forward(z)));
}

AutoencoderKL::AutoencoderKL(const VaeConfig& c)
    : config(c),
      encoder(c),
      decoder(c),
      quant_conv(2 * c.latent_channels, 2 * c.latent_channels, {.kernel = 1}),
      post_quant_conv(c.latent_channels, c.latent_channels, {.kernel = 1}) {
  child("encoder", encoder);
  child("decoder", decoder);
  child("quant_conv", quant_conv);
  child("post_quant_conv", post_quant_conv);
}

AutoencoderKL::Posterior AutoencoderKL::encode(const at::Tensor& images) const {
  const auto moments = quant_conv.forward(encoder.forward(images)).chunk(2, 1);
  return {moments[0], moments[1].clamp(-30.0, 20.0)};
}

at::Tensor AutoencoderKL::decode(const at::Tensor& latents) const {
  return decoder.forward(post_quant_conv.forward(latents));
}

std::string rename_vae_key(const std::string& key) {
  static constexpr std::pair<std::string_view, std::string_view> kOld[] = {
      {".query.", ".to_q."}, {".key.", ".to_k."}, {".value.", ".to_v."}, {".proj_attn.", ".to_out.0."}};
  if (key.find(".attentions.") == std::string::npos) return key;
  for (const auto& [old_name, new_name] : kOld) {
    const auto at = key.find(old_name);
    if (at != std::string::npos) return key.substr(0, at) + std::string(new_name) + key.substr(at + old_name.size());
  }
  return key;
}

std::unique_ptr<AutoencoderKL> load_vae(const Path& folder) {
  auto model = std::make_unique<AutoencoderKL>(VaeConfig::from(ModelConfig(folder / "config.json")));
  nn::load_module(*model, folder / "diffusion_pytorch_model.safetensors", {.rename = rename_vae_key});
  return model;
}

}  // namespace divergen::models
