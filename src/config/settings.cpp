#include "config/settings.hpp"

#include <algorithm>
#include <set>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/text.hpp"

namespace divergen::config {
namespace {

constexpr double kMany = 1e12;

void read_run(Reader& r, RunSettings& s) {
  r.key("dir", s.dir, "folder that the run writes into");
  r.key("ranks", s.ranks, "MPI ranks of a local run; 0: one a core", {0, 1e6});
  r.key("threads_per_rank", s.threads_per_rank, "threads of LibTorch in each rank", {1, 1024});
  r.key("log_level", s.log_level, "lines below it are dropped", {"debug", "info", "warn", "error"});
  r.key("hook", s.hook, "shell command that is run at the end of every stage");
  r.key("mail", s.mail, "address that Slurm writes to when a job ends, fails or comes near its time limit");
  r.key("fused", s.fused, "generate, annotate, filter and pool in one stage, without pictures and masks on the disk");
  r.key("quarantine_after", s.quarantine_after, "shards that fail in a row on a rank before it claims no more",
        {1, 1e6});
  r.key("canary_minutes", s.canary_minutes, "between two checks that a rank still makes the same bits; 0: none",
        {0, 1e6});
}

void read_data(Reader& r, DataSettings& s) {
  r.key("train_json", s.train_json, "LVIS v1 annotations to train on");
  r.key("train_images", s.train_images, "folder of the training images");
  r.key("val_json", s.val_json, "LVIS v1 annotations to evaluate on");
  r.key("val_images", s.val_images, "folder of the validation images");
  r.key("categories", s.categories, "JSON list of categories: id, name, def, frequency, image_count, role");
  r.key("area_stats", s.area_stats, "JSON: category id -> [mean, deviation] of sqrt(box area / image area)");
}

void check_frequencies(Reader& r, const char* key, const std::vector<std::string>& groups) {
  for (const std::string& f : groups)
    if (f != "r" && f != "c" && f != "f")
      r.refuse(key, cat("'", f, "' is no frequency group"), "use some of \"r\", \"c\", \"f\"");
}

void read_quota(Reader& r, QuotaSettings& s) {
  r.key("rare", s.rare, "items of each rare category and generator (or of this one); 0: prompts x samples_per_prompt",
        {0, kMany});
  r.key("common", s.common, "likewise of common categories", {0, kMany});
  r.key("frequent", s.frequent, "likewise of frequent categories", {0, kMany});
  r.key("extra", s.extra, "likewise of extra categories", {0, kMany});
  r.key("file", s.file, "JSON: category id -> items of it, over the groups");
}

void read_plan(Reader& r, PlanSettings& s) {
  r.key("shard_items", s.shard_items, "items of a shard: the unit of claiming, committing and losing", {1, 4096});
  r.key("extra_categories", s.extra_categories, "also generate categories outside the evaluated set");
  r.key("frequencies", s.frequencies, "r, c, f: evaluated categories to generate; empty: all");
  check_frequencies(r, "frequencies", s.frequencies);
  r.key("retry_rejected", s.retry_rejected, "further samples of an item that failed or was rejected; 0: none",
        {0, 1000});
  r.section("quota", [&](Reader& quota) { read_quota(quota, s.quota); });
}

void read_prompts(Reader& r, PromptSettings& s) {
  r.key("kind", s.kind, "where the texts come from", {"template", "folder", "list"});
  r.key("folder", s.folder, "kind folder: <category id>.txt files, a prompt a line; a folder or a .tar.gz");
  r.key("limit", s.limit, "first so many prompts of a category; 0: all", {0, kMany});
  r.key("text", s.text, "kind template: the sentence, with {name} and {def}; empty: DiverGen's");
  r.key("texts", s.texts, "kind list: prompts of every category, with {name} and {def}");
  r.key("file", s.file, "kind list: TOML file, \"<category id or name>\" = [\"a prompt\", ...]");
  if (s.kind == "folder" && s.folder.empty())
    r.refuse("folder", "it is missing", "name a folder of <id>.txt files, or a .tar.gz of one");
  if (s.kind == "list" && s.texts.empty() && s.file.empty())
    r.refuse("texts", "neither texts nor file is there", "write texts = [\"a photo of a {name}\"], or name a file");
}

/// Names of DeepFloyd's lists of time steps (models/diffusion/timesteps.hpp); "": equal steps.
const std::vector<std::string> kTimestepLists{"",         "fast27",  "smart27", "smart50", "smart100",
                                              "smart185", "super27", "super40", "super100"};

void read_generator(Reader& r, GeneratorSettings& s) {
  std::vector<std::string> names;
  for (const auto& kind : generator_kinds()) names.push_back(kind.name);
  r.key("kind", s.kind, "the family of the model", names);
  const auto kind = std::find_if(generator_kinds().begin(), generator_kinds().end(),
                                 [&](const GeneratorKind& k) { return k.name == s.kind; });
  s.steps = kind->steps;
  s.guidance = kind->guidance;
  s.sampler = kind->samplers.front();
  r.key("weights", s.weights, "the model's folder in its official layout");
  r.key("steps", s.steps, "sampler steps", {1, 1000});
  r.key("guidance", s.guidance, "classifier-free guidance scale", {0, 100});
  r.key("sampler", s.sampler, "noise sampler, one of the kind's", kind->samplers);
  r.key("negative_prompt", s.negative_prompt, "what pictures should not show");
  r.key("size", s.size, "side of a picture, px; 0: the model's own", {0, 4096});
  r.key("batch", s.batch, "items of one forward pass", {1, 4096});
  r.key("samples_per_prompt", s.samples_per_prompt, "pictures of each category and prompt", {1, 1e6});
  r.key("prompts", s.prompts, "names of prompt sources: [prompts.<name>]");
  if (r.has("quota")) r.section("quota", [&](Reader& quota) { read_quota(quota, s.quota.emplace()); });
  r.key("precision", s.precision, "type of weights and arithmetic", {"fp32", "fp16", "bf16"});
  r.key("device", s.device, "what it runs on; auto: the rank's GPU where there is one", {"auto", "cpu", "cuda"});
  r.key("free_text_encoder", s.free_text_encoder,
        "encode all prompts of the plan first, then free the text encoder's memory");
  r.key("timesteps", s.timesteps, "deepfloyd_if: a named list of time steps in place of equal ones", kTimestepLists);
  r.key("stage2", s.stage2, "deepfloyd_if: folder of the super-resolution stage; empty: pictures of stage I");
  r.key("stage2_steps", s.stage2_steps, "deepfloyd_if: sampler steps of stage II", {1, 1000});
  r.key("stage2_guidance", s.stage2_guidance, "deepfloyd_if: guidance scale of stage II", {0, 100});
  r.key("stage2_timesteps", s.stage2_timesteps, "deepfloyd_if: named list of time steps of stage II", kTimestepLists);
  r.key("noise_level", s.noise_level, "deepfloyd_if: noise on the picture that stage II enlarges", {0, 999});
  r.key("clean_caption", s.clean_caption, "deepfloyd_if: clean prompts as DeepFloyd's own pipeline does");
  if (s.weights.empty()) r.refuse("weights", "it is missing", "name the folder of the model");
  if (s.prompts.empty()) r.refuse("prompts", "it is empty", "name at least one [prompts.<name>]");
}

void read_annotator(Reader& r, AnnotatorSettings& s) {
  r.key("kind", s.kind, "how the object is cut out", annotator_kinds());
  r.key("weights", s.weights,
        "its checkpoint (.pth, .safetensors) or folder; SAM's with a config.json of sizes beside it");
  r.key("margin", s.margin, "sam_background: px of the prompted points from the corners", {0, 4096});
  r.key("clip", s.clip, "clipseg: CLIP ViT-B/16 (OpenAI's file or a folder), where weights has the decoder alone");
  r.key("tokenizer", s.tokenizer, "clipseg: folder with merges.txt; empty: beside the weights, else filter.clip");
  r.key("matting", s.matting, "clipseg: MatteFormer's weights, which refine the mask as X-Paste does; empty: none");
  r.key("device", s.device, "what it runs on; auto: the rank's GPU where there is one", {"auto", "cpu", "cuda"});
}

void read_choice(Reader& r, AnnotatorSettings& s) {
  r.key("choose_from", s.choose_from,
        "names of [annotators.<name>]: of their masks the one is kept whose cut-out CLIP scores highest; empty: this "
        "one");
  r.key("choose_by", s.choose_by, "CLIP folder that scores the cut-outs; empty: filter.clip");
}

void read_filter(Reader& r, FilterSettings& s) {
  r.key("clip", s.clip, "CLIP folder in transformers' layout");
  r.key("similarity", s.similarity, "least mean cosine to real crops of the category", {-1, 1});
  r.key("tolerance", s.tolerance, "of the CLIP-score bar below a category's best, logits", {0, 1000});
  r.key("min_clip_score", s.min_clip_score, "CLIP-score bar, logits", {-1000, 1000});
  r.key("min_area", s.min_area, "least share of the frame covered by the mask", {0, 1});
  r.key("max_area", s.max_area, "largest share of the frame covered by the mask", {0, 1});
  r.key("crop_padding", s.crop_padding, "px of surroundings around a real crop", {0, 4096});
  r.key("crop_shape", s.crop_shape,
        "of a real crop: its mask's box and crop_padding, or a square around that box alone", {"box", "square"});
  r.key("crop_fill", s.crop_fill, "what a real crop's surroundings become", {"blur", "white", "black", "none"});
  r.key("crops_per_category", s.crops_per_category, "at most so many real crops; 0: all", {0, kMany});
  r.key("batch", s.batch, "pictures of one CLIP pass", {1, 4096});
  if (s.min_area > s.max_area) r.refuse("min_area", "it is above max_area", "lower it");
}

void read_pool(Reader& r, PoolSettings& s) {
  r.key("alpha_threshold", s.alpha_threshold, "alpha above it belongs to the object", {0, 254});
  r.key("shard_rows", s.shard_rows, "instances of a library shard", {1, 4096});
}

void read_augment(Reader& r, AugmentSettings& s) {
  r.key("train_size", s.train_size, "side of the square that resize-crop aims at, px", {32, 8192});
  r.key("scale_low", s.scale_low, "smallest scale of resize-crop", {0.01, 100});
  r.key("scale_high", s.scale_high, "largest scale of resize-crop", {0.01, 100});
  r.key("flip", s.flip, "chance of a horizontal flip", {0, 1});
  r.key("repeat_threshold", s.repeat_threshold, "of repeat-factor sampling; 0: off", {0, 1});
  r.key("max_instances", s.max_instances, "pasted instances an image: uniform in [0, this)", {1, 1000});
  r.key("blend", s.blend, "ways of blending, one drawn a paste: basic, alpha, gaussian, poisson");
  r.key("random_scale_low", s.random_scale_low, "smallest scale without area statistics", {0, 10});
  r.key("random_scale_high", s.random_scale_high, "largest scale without area statistics", {0, 10});
  r.key("random_scale_min_size", s.random_scale_min_size, "least side without area statistics, px", {1, 1000});
  r.key("random_scale", s.random_scale, "random scales for all categories, whatever statistics there are");
  r.key("instance_draw", s.instance_draw,
        "instances to paste: a category, then one of its own; any of all alike; of the image's categories",
        {"category", "instance", "image"});
  r.key("self_copy_sources", s.self_copy_sources, "images that a self-copy takes objects from", {1, 16});
  r.key("self_copy_select", s.self_copy_select, "a random part of each one's objects; else all of them");
  r.key("self_copy_max_objects", s.self_copy_max_objects, "taken from each: uniform in [0, this) at most", {1, 1000});
  r.key("self_copy_by_repeat_factor", s.self_copy_by_repeat_factor, "draw them by repeat factor; else all alike");
  r.key("self_copy_scale_low", s.self_copy_scale_low, "smallest scale of their resize-crop; 0: scale_low", {0, 100});
  r.key("self_copy_scale_high", s.self_copy_scale_high, "largest scale of it; 0: scale_high", {0, 100});
  r.key("aspect_grouping", s.aspect_grouping, "a rank's batch holds wide samples alone, or none");
  r.key("image_cache_mb", s.image_cache_mb, "MiB of decoded training images kept, if all fit, per rank", {0, 1e6});
  r.key("instance_cache_mb", s.instance_cache_mb, "MiB of decoded instances kept, per rank", {0, 1e6});
  static const std::set<std::string> kBlends{"basic", "alpha", "gaussian", "poisson"};
  for (const std::string& b : s.blend)
    if (!kBlends.contains(b))
      r.refuse("blend", cat("'", b, "' is no way of blending"), "use basic, alpha, gaussian or poisson");
  if (s.blend.empty()) r.refuse("blend", "it is empty", "name at least one way");
  if (s.scale_low > s.scale_high) r.refuse("scale_low", "it is above scale_high", "lower it");
  if (s.random_scale_low > s.random_scale_high)
    r.refuse("random_scale_low", "it is above random_scale_high", "lower it");
  if ((s.self_copy_scale_low > 0) != (s.self_copy_scale_high > 0) || s.self_copy_scale_low > s.self_copy_scale_high)
    r.refuse("self_copy_scale_low", "with self_copy_scale_high it is no range",
             "set both, the lower one first, or none");
}

void check_swin(Reader& r, const DetectorSettings& s) {
  if (s.swin_heads.size() != 4) r.refuse("swin_heads", "it must have four numbers", "for example [6, 12, 24, 48]");
  for (std::size_t i = 0; i < s.swin_heads.size(); ++i) {
    const std::int64_t width = s.swin_width << i;
    if (s.swin_heads[i] < 1 || width % s.swin_heads[i] != 0)
      r.refuse("swin_heads", cat(s.swin_heads[i], " heads do not divide the ", width, " channels of stage ", i),
               "choose numbers that divide swin_width, doubled each stage");
  }
}

void read_detector(Reader& r, DetectorSettings& s) {
  r.key("backbone", s.backbone, "kind of the backbone", {"resnet", "swin"});
  r.key("backbone_weights", s.backbone_weights, "pretrained backbone; empty: random");
  r.key("depths", s.depths, "blocks of each of the four stages");
  r.key("stem_channels", s.stem_channels, "channels of the stem", {8, 4096});
  r.key("base_width", s.base_width, "bottleneck width of the first stage", {4, 4096});
  r.key("backbone_classes", s.backbone_classes, "rows of its unused classifier; 0: it has none", {0, 1e6});
  r.key("swin_width", s.swin_width, "channels of Swin's first stage, doubled each stage", {1, 4096});
  r.key("swin_heads", s.swin_heads, "attention heads of Swin's stages");
  r.key("swin_window", s.swin_window, "side of Swin's windows, in tokens", {1, 256});
  r.key("swin_mlp_ratio", s.swin_mlp_ratio, "width of Swin's MLPs over the stage's channels", {0.01, 64});
  r.key("drop_path", s.drop_path, "chance that Swin's last block is left out, rising from 0", {0, 0.99});
  r.key("fpn_channels", s.fpn_channels, "channels of the feature pyramid", {8, 4096});
  r.key("tower_convs", s.tower_convs, "convolutions of the CenterNet head", {1, 16});
  r.key("group_norm_groups", s.group_norm_groups, "groups of its norms", {1, 256});
  r.key("box_fc", s.box_fc, "width of the box heads", {8, 16384});
  r.key("mask_channels", s.mask_channels, "channels of the mask head", {8, 4096});
  r.key("mask_convs", s.mask_convs, "convolutions of the mask head", {1, 16});
  r.key("pre_nms_train", s.pre_nms_train, "proposals a level before suppression, training", {1, 1e6});
  r.key("post_nms_train", s.post_nms_train, "proposals an image after suppression, training", {1, 1e6});
  r.key("pre_nms_test", s.pre_nms_test, "proposals a level before suppression, inference", {1, 1e6});
  r.key("post_nms_test", s.post_nms_test, "proposals an image after suppression, inference", {1, 1e6});
  r.key("roi_batch", s.roi_batch, "sampled proposals an image", {1, 1e5});
  r.key("roi_foreground", s.roi_foreground, "largest share of foreground among them", {0, 1});
  r.key("fed_categories", s.fed_categories, "categories of one federated loss", {1, 1e6});
  r.key("fed_power", s.fed_power, "power of image counts that weights their draw", {0, 4});
  r.key("score_threshold", s.score_threshold, "least score of a detection", {0, 1});
  r.key("nms_threshold", s.nms_threshold, "overlap of suppression within a category", {0, 1});
  r.key("detections_per_image", s.detections_per_image, "most detections an image", {1, 1e5});
  if (s.depths.size() != 4) r.refuse("depths", "it must have four numbers", "for example [3, 4, 6, 3]");
  if (s.backbone == "swin") check_swin(r, s);
}

void read_train(Reader& r, TrainSettings& s) {
  std::int64_t seed = static_cast<std::int64_t>(s.seed);
  r.key("seed", seed, "of weights, samples and draws", {0, 9e18});
  s.seed = static_cast<std::uint64_t>(seed);
  r.key("use_pool", s.use_pool, "paste generated instances");
  r.key("pool_generators", s.pool_generators, "only instances of these generators; empty: all");
  r.key("pool_frequencies", s.pool_frequencies, "only instances of categories of these groups (r, c, f); empty: all");
  check_frequencies(r, "pool_frequencies", s.pool_frequencies);
  r.key("pool_extra", s.pool_extra, "also paste instances of extra categories");
  r.key("pool_per_category", s.pool_per_category, "at most so many instances a category; 0: all", {0, kMany});
  r.key("self_copy", s.self_copy, "objects of other training images: not, on top of the pool's, or in their place",
        {"off", "also", "instead"});
  r.key("self_copy_chance", s.self_copy_chance, "of a sample to get them", {0, 1});
  r.key("mask_format", s.mask_format,
        "targets of the mask head: sampled from masks, or polygons drawn in each box (the published baselines; no "
        "pasting)",
        {"bitmask", "polygon"});
  r.key("iterations", s.iterations, "optimizer steps", {1, kMany});
  r.key("batch", s.batch, "images of a step over all ranks", {1, 1e6});
  r.key("accumulate", s.accumulate, "parts in which a rank computes its share of the batch: memory for time", {1, 1e6});
  r.key("lr", s.lr, "base learning rate", {0, 10});
  r.key("warmup", s.warmup, "steps of linear warm-up", {0, kMany});
  r.key("warmup_factor", s.warmup_factor, "share of the learning rate at the first step", {0, 1});
  r.key("weight_decay", s.weight_decay, "decoupled, on every parameter", {0, 1});
  r.key("clip_value", s.clip_value, "gradient elements are clamped to +- this", {0, 1e9});
  r.key("backbone_lr", s.backbone_lr, "factor of lr for the backbone below the pyramid", {0, 1000});
  r.key("precision", s.precision, "of backbone and pyramid; fp16 with scaled gradients; heads and losses are fp32",
        {"fp32", "fp16", "bf16"});
  r.key("activation_checkpointing", s.activation_checkpointing,
        "compute Swin's blocks again in backward: memory for a quarter more time");
  r.key("channels_last", s.channels_last, "keep convolutions' maps channels-last in memory");
  r.key("ema", s.ema, "decay of the averaged weights; 0: none", {0, 1});
  r.key("checkpoint_every", s.checkpoint_every, "steps between checkpoints", {1, kMany});
  r.key("keep_checkpoints", s.keep_checkpoints, "newest checkpoints that stay", {1, 1000});
  r.key("keep_every", s.keep_every, "checkpoints of every so many steps stay too; 0: none", {0, kMany});
  r.key("compare_replicas", s.compare_replicas,
        "steps between comparisons of the weights of all ranks; 0: at checkpoints", {0, kMany});
  r.key("init_timeout", s.init_timeout,
        "seconds that ranks wait for one another up to the first step, and while files are written; 0: for ever",
        {0, 1e6});
  r.key("step_timeout", s.step_timeout,
        "seconds that ranks wait for one another in a step; then one is lost, and the job ends; 0: for ever", {0, 1e6});
  r.key("log_every", s.log_every, "steps between log lines", {1, kMany});
  r.key("loader_threads", s.loader_threads, "threads that make samples, each rank", {1, 256});
  r.key("loader_depth", s.loader_depth, "samples in work or waiting, each rank", {1, 4096});
  r.key("init", s.init, "detector weights to start from; empty: backbone_weights only");
  r.key("init_classes", s.init_classes,
        "classes of init: same; cut: these, then extra ones that are dropped; new: others, the classifier starts anew",
        {"same", "cut", "new"});
}

void read_evaluate(Reader& r, EvaluateSettings& s) {
  r.key("short_side", s.short_side, "images are resized to this short side, px", {16, 8192});
  r.key("long_side", s.long_side, "but to no longer long side, px", {16, 8192});
  r.key("batch", s.batch, "images of one forward pass", {1, 1024});
  r.key("use_ema", s.use_ema, "evaluate the averaged weights");
  r.key("weights", s.weights, "detector to evaluate in place of the trained one (.safetensors, .pth, .pkl)");
}

void check_names(Reader& root, RunConfig& c) {
  std::vector<std::string> known;
  for (const auto& p : c.prompts) known.push_back(p.name);
  for (const auto& g : c.generators)
    for (const auto& name : g.prompts)
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        const std::string near = nearest_word(name, known);
        root.refuse("generators",
                    cat("[generators.", g.name, "] names the prompt source '", name, "', which is not there"),
                    near.empty() ? "add [prompts." + name + "]" : cat("did you mean '", near, "'?"));
      }
  std::vector<std::string> annotators;
  for (const auto& a : c.annotators) annotators.push_back(a.name);
  std::set<std::string> chosen;
  for (const auto& name : c.annotator.choose_from) {
    if (std::find(annotators.begin(), annotators.end(), name) == annotators.end()) {
      const std::string near = nearest_word(name, annotators);
      root.refuse("annotator", cat("choose_from names the annotator '", name, "', which is not there"),
                  near.empty() ? "add [annotators." + name + "]" : cat("did you mean '", near, "'?"));
    }
    if (!chosen.insert(name).second)
      root.refuse("annotator", cat("choose_from names '", name, "' twice"), "name each annotator once");
  }
  std::vector<std::string> generators;
  for (const auto& g : c.generators) generators.push_back(g.name);
  std::set<std::string> names;
  for (const auto& t : c.trainings) {
    if (t.name.empty()) root.refuse("trainings", "one of them has no name", "give each [[trainings]] a name");
    if (!names.insert(t.name).second)
      root.refuse("trainings", cat("two are named '", t.name, "'"), "give each a name of its own");
    if (t.mask_format == "polygon" && (t.use_pool || t.self_copy != "off"))
      root.refuse("trainings", cat("'", t.name, "' pastes objects, and mask_format = \"polygon\" cannot hold them"),
                  "use mask_format = \"bitmask\", or use_pool = false and self_copy = \"off\"");
    for (const auto& name : t.pool_generators)
      if (std::find(generators.begin(), generators.end(), name) == generators.end())
        root.refuse("trainings", cat("'", t.name, "' names the generator '", name, "', which is not there"),
                    "name one of [generators.<name>]");
  }
}

}  // namespace

const std::vector<GeneratorKind>& generator_kinds() {
  // Steps and guidance: what the paper's two pipelines run with (reference/generation.md §1).
  static const std::vector<GeneratorKind> kinds{
      {"stable_diffusion", {"dpmpp", "ddim", "pndm", "euler", "unipc"}, 50, 7.5}, {"deepfloyd_if", {"ddpm"}, 100, 7.0}};
  return kinds;
}

const std::vector<std::string>& annotator_kinds() {
  static const std::vector<std::string> kinds{"sam_background", "clipseg", "u2net", "ufo", "selfreformer", "full"};
  return kinds;
}

std::vector<AnnotatorSettings> RunConfig::used_annotators() const {
  if (annotator.choose_from.empty()) return {annotator};
  std::vector<AnnotatorSettings> used;
  for (const std::string& name : annotator.choose_from)
    for (const AnnotatorSettings& one : annotators)
      if (one.name == name) used.push_back(one);
  return used;
}

RunConfig run_config_of(const Table& table) {
  RunConfig c;
  c.table = table;
  Reader root(table, "");
  std::int64_t seed = static_cast<std::int64_t>(c.seed);
  root.key("seed", seed, "from which every item's seed comes", {0, 9e18});
  c.seed = static_cast<std::uint64_t>(seed);
  root.key("title", c.title, "of the report");
  root.section("run", [&](Reader& r) { read_run(r, c.run); });
  root.section("data", [&](Reader& r) { read_data(r, c.data); });
  root.section("plan", [&](Reader& r) { read_plan(r, c.plan); });
  root.named_sections("prompts", [&](const std::string& name, Reader& r) {
    c.prompts.push_back({name});
    read_prompts(r, c.prompts.back());
  });
  root.named_sections("generators", [&](const std::string& name, Reader& r) {
    c.generators.push_back({name});
    read_generator(r, c.generators.back());
  });
  root.section("annotator", [&](Reader& r) {
    read_annotator(r, c.annotator);
    read_choice(r, c.annotator);
  });
  root.named_sections("annotators", [&](const std::string& name, Reader& r) {
    c.annotators.push_back({name});
    read_annotator(r, c.annotators.back());
    if (!r.has("kind")) r.refuse("kind", "it is missing", "name the kind of each of [annotators.<name>]");
    if (c.annotators.back().weights.empty() && c.annotators.back().kind != "full")
      r.refuse("weights", "it is missing", "name the annotator's checkpoint or folder");
  });
  root.section("filter", [&](Reader& r) { read_filter(r, c.filter); });
  root.section("pool", [&](Reader& r) { read_pool(r, c.pool); });
  root.section("augment", [&](Reader& r) { read_augment(r, c.augment); });
  root.section("detector", [&](Reader& r) { read_detector(r, c.detector); });
  TrainSettings shared;
  root.section("train", [&](Reader& r) { read_train(r, shared); });
  root.section_list("trainings", [&](Reader& r) {
    TrainSettings one = shared;
    r.key("name", one.name, "of the training and its evaluation");
    read_train(r, one);
    c.trainings.push_back(one);
  });
  root.section("evaluate", [&](Reader& r) { read_evaluate(r, c.evaluate); });
  root.finish();
  if (c.run.dir.empty())
    fail(ErrorKind::Config, {"the configuration names no run directory", "run.dir", "it is missing",
                             "add dir = \"runs/<name>\" under [run], or pass --set run.dir=..."});
  check_names(root, c);
  c.keys = root.keys();
  return c;
}

RunConfig read_run_config(const Path& file, const std::vector<std::string>& overrides) {
  return run_config_of(load_layers(file, overrides));
}

std::string RunConfig::hash() const {
  Table results = table;
  results.erase("run");
  results.erase("title");
  return to_hex(hash128(to_toml(results, false)));
}

}  // namespace divergen::config
