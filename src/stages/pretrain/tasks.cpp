#include "stages/pretrain/tasks.hpp"

#include "stages/pretrain/clip_task.hpp"
#include "stages/pretrain/diffusion_task.hpp"
#include "stages/pretrain/if_task.hpp"
#include "stages/pretrain/sam_task.hpp"
#include "stages/pretrain/vae_task.hpp"

namespace divergen::stages {
namespace {

using config::Reader;

void read_options(Reader& r, PretrainOptions& o) {
  std::int64_t seed = static_cast<std::int64_t>(o.seed);
  r.key("iterations", o.iterations, "optimizer steps", {1, 1e9});
  r.key("batch", o.batch, "samples of a step", {1, 65536});
  r.key("lr", o.lr, "highest learning rate", {0, 1});
  r.key("warmup", o.warmup, "steps of linear warm-up", {0, 1e9});
  r.key("weight_decay", o.weight_decay, "decoupled weight decay", {0, 1});
  r.key("beta2", o.beta2, "AdamW's second decay", {0, 1});
  r.key("clip_norm", o.clip_norm, "largest gradient norm", {0, 1e9});
  r.key("ema", o.ema, "decay of the averaged weights", {0, 1});
  r.key("precision", o.precision, "of the forward and backward pass", {"fp32", "bf16"});
  r.key("seed", seed, "of weights, pictures and noise", {0, 9e18});
  r.key("log_every", o.log_every, "steps between log lines", {1, 1e9});
  r.key("save_every", o.save_every, "steps between checkpoints", {1, 1e9});
  r.key("sample_every", o.sample_every, "steps between sample pictures", {1, 1e9});
  o.seed = static_cast<std::uint64_t>(seed);
}

models::VaeConfig read_vae(Reader& r) {
  models::VaeConfig c;
  r.key("latent_channels", c.latent_channels, "channels of a latent", {1, 64});
  r.key("block_out_channels", c.block_out_channels, "widths from the highest resolution down");
  r.key("layers_per_block", c.layers_per_block, "residual blocks of a level", {1, 8});
  r.key("norm_num_groups", c.norm_groups, "groups of the group norms", {1, 64});
  r.key("sample_size", c.sample_size, "side of a picture, px", {8, 4096});
  return c;
}

std::unique_ptr<PretrainTask> read_vae_task(Reader& root, const miniworld::World& world) {
  VaeTaskOptions o;
  root.section("model", [&](Reader& r) { o.model = read_vae(r); });
  root.section("loss", [&](Reader& r) {
    r.key("gradient", o.gradient_weight, "weight of the edge loss", {0, 100});
    r.key("mse", o.mse_weight, "weight of the squared error", {0, 100});
    r.key("kl", o.kl_weight, "weight of the KL term", {0, 100});
    r.key("other_share", o.other_share, "share of pictures outside the named categories", {0, 1});
  });
  return std::make_unique<VaeTask>(world, o);
}

std::unique_ptr<PretrainTask> read_diffusion_task(Reader& root, const miniworld::World& world) {
  DiffusionTaskOptions o;
  root.section("unet", [&](Reader& r) {
    std::vector<std::int64_t> attention;
    r.key("sample_size", o.unet.sample_size, "side of a latent", {1, 1024});
    r.key("channels", o.unet.in_channels, "channels of a latent", {1, 64});
    r.key("block_out_channels", o.unet.block_out_channels, "widths from the highest resolution down");
    r.key("attention", attention, "1 for levels with attention, 0 for those without");
    std::int64_t layers = 1;
    r.key("layers_per_block", layers, "residual blocks of a level", {1, 8});
    r.key("norm_num_groups", o.unet.norm_groups, "groups of the group norms", {1, 64});
    r.key("heads", o.unet.attention_head_dim, "attention heads", {1, 64});
    o.unet.out_channels = o.unet.in_channels;
    if (attention.size() != o.unet.block_out_channels.size())
      r.refuse("attention", "its length differs from that of block_out_channels", "give one number a level");
    o.unet.layers_per_block.assign(attention.size(), layers);
    for (const auto flag : attention)
      o.unet.down_blocks.push_back(flag != 0 ? models::UnetBlock::CrossAttention : models::UnetBlock::Plain);
    o.unet.up_blocks.assign(o.unet.down_blocks.rbegin(), o.unet.down_blocks.rend());
  });
  root.section("text", [&](Reader& r) {
    r.key("hidden_size", o.text.hidden_size, "width", {1, 4096});
    r.key("intermediate_size", o.text.intermediate_size, "width inside the MLP", {1, 16384});
    r.key("layers", o.text.layers, "transformer layers", {1, 64});
    r.key("heads", o.text.heads, "attention heads", {1, 64});
  });
  o.unet.cross_attention_dim = o.text.hidden_size;
  root.section("data", [&](Reader& r) {
    r.key("vae", o.vae, "folder of the trained autoencoder");
    r.key("tokenizer", o.tokenizer, "folder of CLIP's tokenizer");
    r.key("pictures", o.pictures, "different pictures to learn from", {1, 1e8});
    r.key("drop_prompt", o.drop_prompt, "share of samples that learn the empty prompt", {0, 1});
    r.key("snr_limit", o.snr_limit, "limit of the loss weight", {0, 1e6});
    r.key("sample_guidance", o.sample_guidance, "guidance of the sample pictures", {0, 100});
    r.key("sample_steps", o.sample_steps, "sampler steps of the sample pictures", {1, 1000});
  });
  return std::make_unique<DiffusionTask>(world, o);
}

std::unique_ptr<PretrainTask> read_clip_task(Reader& root, const miniworld::World& world) {
  ClipTaskOptions o;
  root.section("text", [&](Reader& r) {
    r.key("hidden_size", o.text.hidden_size, "width", {1, 4096});
    r.key("intermediate_size", o.text.intermediate_size, "width inside the MLP", {1, 16384});
    r.key("layers", o.text.layers, "transformer layers", {1, 64});
    r.key("heads", o.text.heads, "attention heads", {1, 64});
  });
  root.section("vision", [&](Reader& r) {
    r.key("hidden_size", o.vision.hidden_size, "width", {1, 4096});
    r.key("intermediate_size", o.vision.intermediate_size, "width inside the MLP", {1, 16384});
    r.key("layers", o.vision.layers, "transformer layers", {1, 64});
    r.key("heads", o.vision.heads, "attention heads", {1, 64});
    r.key("patch_size", o.vision.patch_size, "side of a patch, px", {1, 64});
    r.key("image_size", o.vision.image_size, "side of a picture, px", {8, 1024});
    r.key("projection", o.projection, "width of the shared space", {1, 4096});
    r.key("tokenizer", o.tokenizer, "folder of CLIP's tokenizer");
  });
  return std::make_unique<ClipTask>(world, o);
}

std::unique_ptr<PretrainTask> read_sam_task(Reader& root, const miniworld::World& world) {
  SamTaskOptions o;
  root.section("model", [&](Reader& r) {
    r.key("img_size", o.model.img_size, "side of the input, px", {16, 4096});
    r.key("patch", o.model.patch, "side of a patch, px", {1, 64});
    r.key("embed", o.model.embed, "width of the encoder", {1, 4096});
    r.key("depth", o.model.depth, "blocks of the encoder", {1, 64});
    r.key("heads", o.model.heads, "attention heads of the encoder", {1, 64});
    r.key("window", o.model.window, "side of an attention window, tokens", {1, 64});
    r.key("glob", o.model.glob, "blocks with global attention");
    r.key("dim", o.model.dim, "width of prompts and decoder", {8, 1024});
    r.key("decoder_mlp", o.model.decoder_mlp, "width inside the decoder's MLP", {1, 16384});
    r.key("iou_head_hidden", o.model.iou_head_hidden, "width inside the overlap head", {1, 4096});
    r.key("background_share", o.background_share, "share of prompts on the background", {0, 1});
  });
  return std::make_unique<SamTask>(world, o);
}

/// What both stages of DeepFloyd-IF have; flags that the published networks share are set, not read.
void read_if_unet(Reader& r, models::UnetConfig& c) {
  std::vector<std::int64_t> attention;
  r.key("sample_size", c.sample_size, "side of a picture, px", {8, 1024});
  r.key("block_out_channels", c.block_out_channels, "widths from the highest resolution down, multiples of 32");
  r.key("attention", attention, "1 for levels with attention, 0 for those without");
  r.key("layers_per_block", c.layers_per_block, "residual blocks of each level");
  r.key("cross_attention_dim", c.cross_attention_dim, "width of the text in attention, a multiple of 32", {32, 4096});
  r.key("attention_head_dim", c.attention_head_dim, "channels of an attention head", {1, 256});
  r.key("addition_heads", c.addition_heads, "attention heads of the text's pooling", {1, 64});
  if (attention.size() != c.block_out_channels.size() || c.layers_per_block.size() != attention.size())
    r.refuse("attention", "its length, or that of layers_per_block, differs from that of block_out_channels",
             "give one number a level");
  for (const auto flag : attention)
    c.down_blocks.push_back(flag != 0 ? models::UnetBlock::SimpleCrossAttention : models::UnetBlock::Resnet);
  c.up_blocks.assign(c.down_blocks.rbegin(), c.down_blocks.rend());
  c.mid_block = models::UnetBlock::SimpleCrossAttention;
  c.in_channels = 3;
  c.out_channels = 6;
  c.act = models::Act::Gelu;
  c.scale_shift = c.cross_attention_group_norm = c.text_addition = true;
}

void read_if_data(Reader& r, IfTaskOptions& o) {
  r.key("pictures", o.pictures, "different pictures to learn from", {1, 1e8});
  r.key("drop_prompt", o.drop_prompt, "share of samples that learn the empty prompt", {0, 1});
  r.key("snr_limit", o.snr_limit, "limit of the weight of the squared error", {0, 1e6});
  r.key("bound_weight", o.bound_weight, "weight of the variational bound", {0, 1e6});
  r.key("sample_guidance", o.sample_guidance, "guidance of the sample pictures", {0, 100});
  r.key("sample_steps", o.sample_steps, "sampler steps of the sample pictures", {1, 1000});
}

std::unique_ptr<PretrainTask> read_if_stage1_task(Reader& root, const miniworld::World& world) {
  IfTaskOptions o;
  root.section("unet", [&](Reader& r) { read_if_unet(r, o.unet); });
  root.section("text", [&](Reader& r) {
    r.key("tokenizer", o.tokenizer, "folder with spiece.model");
    r.key("d_model", o.text.d_model, "width", {1, 4096});
    r.key("d_ff", o.text.d_ff, "width inside the feed-forward", {1, 16384});
    r.key("d_kv", o.text.d_kv, "channels of an attention head", {1, 256});
    r.key("heads", o.text.heads, "attention heads", {1, 64});
    r.key("layers", o.text.layers, "transformer layers", {1, 64});
  });
  o.unet.encoder_hid_dim = o.text.d_model;
  root.section("data", [&](Reader& r) {
    read_if_data(r, o);
    r.key("picture_size", o.picture_size, "side that pictures are drawn at before they are made small", {8, 1024});
    if (o.picture_size % o.unet.sample_size != 0)
      r.refuse("picture_size", "it is not a multiple of the UNet's sample_size", "choose a multiple");
  });
  return std::make_unique<IfStage1Task>(world, o);
}

std::unique_ptr<PretrainTask> read_if_stage2_task(Reader& root, const miniworld::World& world) {
  IfTaskOptions o;
  root.section("unet", [&](Reader& r) {
    read_if_unet(r, o.unet);
    r.key("time_embedding_dim", o.unet.time_embedding_dim.emplace(128), "width of the time embedding", {1, 4096});
  });
  o.unet.in_channels = 6;
  o.unet.class_timestep = o.unet.skip_time_act = true;
  o.unet.time_embedding_act = models::Act::Gelu;
  o.unet.resnet_out_scale = o.unet.mid_block_scale = 1.4142271248762552;  // IF-II-L's, which is not quite √2
  root.section("data", [&](Reader& r) {
    read_if_data(r, o);
    r.key("stage1", o.stage1, "folder of the trained stage I");
    r.key("small_size", o.small_size, "side of stage I's pictures", {1, 1024});
    r.key("crop", o.crop, "side of what a sample shows of a picture, px", {8, 1024});
    r.key("noise_levels", o.noise_levels, "noise levels below this are learnt", {1, 1000});
    r.key("sample_noise_level", o.sample_noise_level, "noise level of the sample pictures", {0, 999});
    if (o.unet.sample_size % o.small_size != 0 || o.crop > o.unet.sample_size)
      r.refuse("small_size", "the UNet's sample_size must be a multiple of it and no less than crop", "change them");
  });
  o.unet.encoder_hid_dim = models::T5Config::from(models::ModelConfig(o.stage1 / "text_encoder/config.json")).d_model;
  return std::make_unique<IfStage2Task>(world, o);
}

}  // namespace

PretrainResult run_pretrain(const Path& file, const std::vector<std::string>& overrides, const Path& world_folder,
                            const Path& out, const std::function<bool()>& stop) {
  const config::Table table = config::load_layers(file, overrides);
  const miniworld::World world(world_folder);
  PretrainOptions options;
  options.out = out;
  std::string task_name;
  Reader root(table, "");
  root.key("task", task_name, "what to train", {"vae", "diffusion", "clip", "sam", "if_stage1", "if_stage2"});
  root.section("train", [&](Reader& r) { read_options(r, options); });
  std::unique_ptr<PretrainTask> task;
  if (task_name == "vae") task = read_vae_task(root, world);
  if (task_name == "diffusion") task = read_diffusion_task(root, world);
  if (task_name == "clip") task = read_clip_task(root, world);
  if (task_name == "if_stage1") task = read_if_stage1_task(root, world);
  if (task_name == "if_stage2") task = read_if_stage2_task(root, world);
  if (task_name == "sam") task = read_sam_task(root, world);
  if (!task) root.refuse("task", "it is missing", "name what to train");
  root.finish();
  make_folder(out);
  write_file_atomic(out / "config.toml", config::to_toml(table, true));
  return pretrain(*task, options, stop);
}

}  // namespace divergen::stages
