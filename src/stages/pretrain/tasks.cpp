#include "stages/pretrain/tasks.hpp"

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

}  // namespace

PretrainResult run_pretrain(const Path& file, const std::vector<std::string>& overrides, const Path& world_folder,
                            const Path& out, const std::function<bool()>& stop) {
  const config::Table table = config::load_layers(file, overrides);
  const miniworld::World world(world_folder);
  PretrainOptions options;
  options.out = out;
  std::string task_name;
  Reader root(table, "");
  root.key("task", task_name, "what to train", {"vae"});
  root.section("train", [&](Reader& r) { read_options(r, options); });
  std::unique_ptr<PretrainTask> task;
  if (task_name == "vae") task = read_vae_task(root, world);
  if (!task) root.refuse("task", "it is missing", "name what to train");
  root.finish();
  make_folder(out);
  write_file_atomic(out / "config.toml", config::to_toml(table, true));
  return pretrain(*task, options, stop);
}

}  // namespace divergen::stages
