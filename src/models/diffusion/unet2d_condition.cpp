#include "models/diffusion/unet2d_condition.hpp"

#include <ATen/ATen.h>

#include "nn/tensor_io.hpp"

namespace divergen::models {
namespace {

void note(UnetTrace* trace, std::string name, const at::Tensor& value) {
  if (trace != nullptr) trace->emplace_back(std::move(name), value);
}

}  // namespace

UNet2DCondition::UNet2DCondition(const UnetConfig& c)
    : config(c),
      conv_in(c.in_channels, c.block_out_channels.front(), {.kernel = 3, .padding = 1}),
      time_embedding(c.block_out_channels.front(), c.time_features(), c.act),
      mid_block(c),
      conv_norm_out(c.norm_groups, c.block_out_channels.front(), c.norm_eps),
      conv_out(c.block_out_channels.front(), c.out_channels, {.kernel = 3, .padding = 1}) {
  child("conv_in", conv_in);
  child("time_embedding", time_embedding);
  if (c.encoder_hid_dim) child("encoder_hid_proj", encoder_hid_proj.emplace(*c.encoder_hid_dim, c.cross_attention_dim));
  if (c.class_timestep)
    child("class_embedding", class_embedding.emplace(c.block_out_channels.front(), c.time_features(), c.act));
  if (c.text_addition)
    child("add_embedding", add_embedding.emplace(c.text_features(), c.time_features(), c.addition_heads));
  child("down_blocks", down_blocks);
  child("up_blocks", up_blocks);
  child("mid_block", mid_block);
  child("conv_norm_out", conv_norm_out);
  child("conv_out", conv_out);
  for (std::size_t i = 0; i < c.levels(); ++i) down_blocks.add(c, i);
  for (std::size_t i = 0; i < c.levels(); ++i) up_blocks.add(c, i);
}

UnetText UNet2DCondition::text(const at::Tensor& states) const {
  return {encoder_hid_proj ? encoder_hid_proj->forward(states) : states,
          add_embedding ? add_embedding->forward(states) : at::Tensor()};
}

at::Tensor UNet2DCondition::embed(const at::Tensor& steps, const UnetText& text, const at::Tensor& labels,
                                  at::ScalarType type, UnetTrace* trace) const {
  const auto features = config.block_out_channels.front();
  at::Tensor sum = time_embedding.forward(timestep_embedding(steps, features).to(type));
  note(trace, "time_embedding", sum);
  if (class_embedding) {
    DIVERGEN_CHECK(labels.defined(), "a network with class embeddings needs labels");
    const at::Tensor embedded = class_embedding->forward(timestep_embedding(labels, features).to(type));
    note(trace, "class_embedding", embedded);
    sum = sum + embedded;
  }
  if (text.added.defined()) {
    note(trace, "add_embedding", text.added);
    sum = sum + text.added;
  }
  if (!config.time_embedding_act) return sum;
  sum = activate(*config.time_embedding_act, sum);
  note(trace, "time_embed_act", sum);
  return sum;
}

at::Tensor UNet2DCondition::forward(const at::Tensor& sample, const at::Tensor& steps, const UnetText& text,
                                    const at::Tensor& labels, UnetTrace* trace) const {
  const at::Tensor time = embed(steps, text, labels, sample.scalar_type(), trace);
  if (encoder_hid_proj) note(trace, "encoder_hid_proj", text.context);
  at::Tensor x = conv_in.forward(sample);
  note(trace, "conv_in", x);
  std::vector<at::Tensor> skips{x};
  for (std::size_t i = 0; i < down_blocks.size(); ++i) {
    x = down_blocks[i].forward(x, time, text.context, skips);
    note(trace, cat("down_", i), x);
  }
  x = mid_block.forward(x, time, text.context);
  note(trace, "mid_block", x);
  for (std::size_t i = 0; i < up_blocks.size(); ++i) {
    x = up_blocks[i].forward(x, time, text.context, skips);
    note(trace, cat("up_", i), x);
  }
  return conv_out.forward(activate(config.act, conv_norm_out.forward(x)));
}

std::unique_ptr<UNet2DCondition> load_unet(const Path& folder, at::ScalarType type, at::Device device) {
  const nn::NewTensors scope(at::TensorOptions().dtype(type).device(device));
  auto model = std::make_unique<UNet2DCondition>(UnetConfig::from(ModelConfig(folder / "config.json")));
  Path file = folder / "diffusion_pytorch_model.safetensors";
  const Path variant = folder / "diffusion_pytorch_model.fp16.safetensors";
  if (!std::filesystem::exists(file) && std::filesystem::exists(variant)) file = variant;
  nn::load_module(*model, file);
  return model;
}

}  // namespace divergen::models
