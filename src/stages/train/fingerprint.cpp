#include "stages/train/fingerprint.hpp"

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

json of_training(const config::TrainSettings& t) {
  json out{{"seed", t.seed},
           {"iterations", t.iterations},
           {"batch", t.batch},
           {"init_classes", t.init_classes},
           {"lr", t.lr},
           {"warmup", t.warmup},
           {"warmup_factor", t.warmup_factor},
           {"weight_decay", t.weight_decay},
           {"clip_value", t.clip_value},
           {"ema", t.ema},
           {"use_pool", t.use_pool}};
  if (t.self_copy != "off") out["self_copy"] = {{"mode", t.self_copy}, {"chance", t.self_copy_chance}};
  // What stands at its default says nothing, so that trainings from before there was a choice go on.
  if (t.precision != "fp32") out["precision"] = t.precision;
  if (t.mask_format != "bitmask") out["mask_format"] = t.mask_format;
  if (t.backbone_lr != 1) out["backbone_lr"] = t.backbone_lr;
  if (t.use_pool)
    out["pool"] = {{"generators", t.pool_generators}, {"extra", t.pool_extra}, {"per_category", t.pool_per_category}};
  if (t.use_pool && !t.pool_frequencies.empty()) out["pool"]["frequencies"] = t.pool_frequencies;
  return out;
}

json of_detector(const config::DetectorSettings& d) {
  json out{{"backbone", d.backbone},
           {"depths", d.depths},
           {"stem_channels", d.stem_channels},
           {"base_width", d.base_width},
           {"backbone_classes", d.backbone_classes},
           {"fpn_channels", d.fpn_channels},
           {"tower_convs", d.tower_convs},
           {"group_norm_groups", d.group_norm_groups},
           {"box_fc", d.box_fc},
           {"mask_channels", d.mask_channels},
           {"mask_convs", d.mask_convs},
           {"pre_nms_train", d.pre_nms_train},
           {"post_nms_train", d.post_nms_train},
           {"roi_batch", d.roi_batch},
           {"roi_foreground", d.roi_foreground},
           {"fed_categories", d.fed_categories},
           {"fed_power", d.fed_power}};
  if (d.backbone == "swin")
    out["swin"] = {{"width", d.swin_width},
                   {"heads", d.swin_heads},
                   {"window", d.swin_window},
                   {"mlp_ratio", d.swin_mlp_ratio},
                   {"drop_path", d.drop_path}};
  return out;
}

json of_augment(const config::AugmentSettings& a, bool with_pool, bool with_self_copy) {
  json out{{"train_size", a.train_size},
           {"scale_low", a.scale_low},
           {"scale_high", a.scale_high},
           {"flip", a.flip},
           {"repeat_threshold", a.repeat_threshold},
           {"aspect_grouping", a.aspect_grouping}};
  if (with_pool)
    out["paste"] = {{"max_instances", a.max_instances},
                    {"blend", a.blend},
                    {"draw", a.instance_draw},
                    {"scale", {a.random_scale_low, a.random_scale_high, a.random_scale_min_size, a.random_scale}}};
  if (with_self_copy)
    out["self_copy"] = {{"sources", a.self_copy_sources},
                        {"select", a.self_copy_select},
                        {"most", a.self_copy_max_objects},
                        {"by_repeat_factor", a.self_copy_by_repeat_factor},
                        {"scale", {a.self_copy_scale_low, a.self_copy_scale_high}}};
  return out;
}

}  // namespace

bool is_complete(const RunContext& context, const std::string& stage, const std::string& fingerprint,
                 const Path& result) {
  bool complete = false;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    std::optional<StageRecord> record;
    try {
      record = read_record(context.dir, stage);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      log::warn(stage, ": its record is damaged and is made again: ", error.text().why);
    }
    complete = record && record->fingerprint == fingerprint && std::filesystem::exists(result);
    if (complete) log::info(stage, ": complete already");
    else remove_quietly(context.dir.record(stage));
  });
  return context.world.any(complete);
}

std::string shared_file_hash(comm::World& world, const Path& file) {
  if (file.empty()) return "";
  std::string hash;
  world.together([&] {
    if (world.is_root()) hash = to_hex(hash_file(file));
  });
  return world.broadcast_text(hash);
}

std::string training_fingerprint(const RunContext& context, const config::TrainSettings& training,
                                 const std::string& library_hash) {
  const config::RunConfig& config = context.config;
  json all{{"training", of_training(training)},
           {"detector", of_detector(config.detector)},
           {"augment", of_augment(config.augment, training.use_pool, training.self_copy != "off")},
           {"library", library_hash}};
  const std::pair<const char*, Path> files[] = {{"train_json", config.data.train_json},
                                                {"categories", config.data.categories},
                                                {"area_stats", training.use_pool ? config.data.area_stats : Path()},
                                                {"backbone_weights", config.detector.backbone_weights},
                                                {"init", training.init}};
  for (const auto& [name, file] : files) all["files"][name] = shared_file_hash(context.world, file);
  return to_hex(hash128(all.dump()));
}

}  // namespace divergen::stages
