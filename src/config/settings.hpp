#pragma once
// Every setting of a run as typed structs, read strictly from layered TOML. No LibTorch, MPI, HDF5 or OpenCV here, so
// that the light driver checks the whole configuration before anything starts. Defaults are DiverGen's published values
// (reference/semantics.md, reference/detector.md) where it has them.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/reader.hpp"

namespace divergen::config {

struct DataSettings {
  Path train_json, train_images;  // LVIS v1 annotations; folder under which file names are found
  Path val_json, val_images;
  Path categories;  // JSON list: id, name, def, frequency, image_count, and role "eval" | "extra" (absent: eval)
  Path area_stats;  // JSON {"<id>": [mean, std] of sqrt(box area / image area)}
};

/// One source of prompts; a category's prompts are those of all sources that a generator names.
struct PromptSettings {
  std::string name;
  /// "template": one sentence; "folder": <id>.txt, one prompt a line (a folder, or a .tar.gz of one); "list": texts for
  /// every category, and those of a TOML file by category
  std::string kind = "template";
  Path folder;
  std::int64_t limit = 0;          // first so many of a category; 0: all
  std::string text;                // template: with {name} and {def}; empty: DiverGen's
  std::vector<std::string> texts;  // list: with {name} and {def}
  Path file;                       // list: TOML, "<category id or name>" = ["…", …]
};

/// Which samplers a kind of generator knows and what its published pipeline runs with; models::make_generator makes it.
struct GeneratorKind {
  std::string name;
  std::vector<std::string> samplers;  // the first is the default
  std::int64_t steps = 50;
  double guidance = 7.5;
};
const std::vector<GeneratorKind>& generator_kinds();

/// Items of each category and generator, spread evenly over its prompts; 0: prompts × samples_per_prompt.
struct QuotaSettings {
  std::int64_t rare = 0, common = 0, frequent = 0;  // of evaluated categories, by their frequency group
  std::int64_t extra = 0;
  Path file;  // JSON {"<category id>": items}, over the groups
};

struct GeneratorSettings {
  std::string name;  // of the section: [generators.<name>]
  std::string kind = "stable_diffusion";
  Path weights;             // the model's folder in its official layout
  std::int64_t steps = 50;  // default: the kind's (generator_kinds), as of guidance and sampler
  double guidance = 7.5;    // classifier-free
  std::string sampler = "dpmpp";
  std::string timesteps;  // deepfloyd_if: a named list instead of `steps` equal steps
  std::string negative_prompt;
  std::int64_t size = 0;                // side in px; 0: the model's own
  std::int64_t batch = 16;              // items of one forward pass; part of what decides the bits
  std::int64_t samples_per_prompt = 1;  // pictures of each (category, prompt)
  std::vector<std::string> prompts;     // names of [prompts.<name>]
  std::optional<QuotaSettings> quota;   // of this generator, in place of plan.quota
  std::string precision = "fp32";       // of weights and arithmetic; DiverGen ran fp16 (reference/generation.md §1)
  std::string device = "auto";          // "auto": the rank's GPU where there is one
  bool free_text_encoder = false;       // encode every prompt of the plan first, then give its memory back

  // deepfloyd_if: super-resolution; the defaults are diffusers' (reference/generation.md §1)
  Path stage2;  // its folder; empty: pictures of stage I
  std::int64_t stage2_steps = 50;
  double stage2_guidance = 4.0;
  std::string stage2_timesteps;
  std::int64_t noise_level = 250;  // of the picture that stage II starts from
  bool clean_caption = false;      // DeepFloyd's cleaning of captions; the path that DiverGen took leaves it out
};

struct PlanSettings {
  std::int64_t shard_items = 64;         // items of a shard: the unit of claiming, committing and losing
  bool extra_categories = true;          // also those outside the evaluated set
  std::vector<std::string> frequencies;  // of evaluated categories; empty: all
  QuotaSettings quota;
  std::int64_t retry_rejected = 0;  // further samples of an item whose pictures failed or were rejected; 0: none
};

/// Kinds of annotator; models::make_annotator makes them.
const std::vector<std::string>& annotator_kinds();

/// What cuts objects out: [annotator], and the alternatives [annotators.<name>] that it may choose from.
struct AnnotatorSettings {
  std::string name;  // of the section; empty: [annotator] itself
  std::string kind = "sam_background";
  Path weights;
  std::int64_t margin = 0;      // sam_background: px of the prompted corner points from the picture's corners
  Path clip;                    // clipseg: CLIP ViT-B/16, where `weights` has the decoder alone
  Path tokenizer;               // clipseg: folder with CLIP's merges.txt; empty: beside the weights, else filter.clip
  Path matting;                 // clipseg: MatteFormer's weights; empty: the blurred prediction is the mask
  std::string device = "auto";  // "auto": the rank's GPU where there is one

  // [annotator] alone: X-Paste keeps, of several annotators' masks, the one whose cut-out CLIP finds most like the
  // category (reference/semantics.md §4.1, §6).
  std::vector<std::string> choose_from;  // names of [annotators.<name>]; empty: [annotator] is the only one
  Path choose_by;                        // the CLIP folder that scores the cut-outs; empty: filter.clip
};

struct FilterSettings {
  Path clip;                              // CLIP folder in transformers' layout
  double similarity = 0.6;                // README of DiverGen: least mean cosine to real crops of the category
  double tolerance = 1.0;                 // of the CLIP-score bar, in logits (semantics.md §6)
  double min_clip_score = 0.0;            // bar of a category = min(this, best - tolerance)
  double min_area = 0.0, max_area = 1.0;  // share of the frame that the mask covers
  std::int64_t crop_padding = 40;         // px around a real crop (semantics.md §5)
  // "box" | "square"; "blur" | "white" | "black" | "none": the crop script's other modes and fills (semantics.md §5.1)
  std::string crop_shape = "box", crop_fill = "blur";
  std::int64_t crops_per_category = 0;  // at most so many real crops; 0: all
  std::int64_t batch = 64;
};

struct PoolSettings {
  std::int64_t alpha_threshold = 128;  // semantics.md §6
  std::int64_t shard_rows = 4096;
};

struct AugmentSettings {
  std::int64_t train_size = 896;  // side of the square that resize-crop aims at
  double scale_low = 0.1, scale_high = 2.0;
  double flip = 0.5;
  double repeat_threshold = 0.001;  // of repeat-factor sampling
  std::int64_t max_instances = 20;  // pasted count is uniform in [0, max_instances)
  std::vector<std::string> blend{"basic"};
  double random_scale_low = 0.05, random_scale_high = 0.3;  // of categories without area statistics
  std::int64_t random_scale_min_size = 3;
  bool random_scale = false;               // that rule for all categories
  std::string instance_draw = "category";  // "category" | "instance" | "image" (semantics.md §7.4)
  std::int64_t self_copy_sources = 1;      // images that a self-copy takes objects from
  bool self_copy_select = true;            // a random part of each one's objects; else all
  std::int64_t self_copy_max_objects = 100;
  bool self_copy_by_repeat_factor = false;                   // sources as often as repeat-factor sampling; else uniform
  double self_copy_scale_low = 0, self_copy_scale_high = 0;  // of the sources' resize-crop; 0: as the image's
  bool aspect_grouping = true;  // batches of a rank are all wide or all tall (semantics.md §7.10)
  // MiB of decoded pictures that are kept, per rank; no result depends on them
  std::int64_t image_cache_mb = 256, instance_cache_mb = 128;
};

struct DetectorSettings {
  std::string backbone = "resnet";  // "resnet" | "swin"
  Path backbone_weights;            // safetensors, .pth or .pkl; empty: random
  std::vector<std::int64_t> depths{3, 4, 6, 3};
  std::int64_t stem_channels = 64;        // resnet
  std::int64_t base_width = 64;           // resnet: bottleneck width of the first stage, doubled each stage
  std::int64_t backbone_classes = 11221;  // resnet: rows of its unused classifier, as in the 21k weights; 0: none
  std::int64_t swin_width = 192;          // swin: channels of the first stage, doubled each stage (these: Swin-L)
  std::vector<std::int64_t> swin_heads{6, 12, 24, 48};
  std::int64_t swin_window = 12;
  double swin_mlp_ratio = 4.0;
  double drop_path = 0.3;  // swin: of the last block, from 0 at the first
  std::int64_t fpn_channels = 256;
  std::int64_t tower_convs = 4;  // of the CenterNet head
  std::int64_t group_norm_groups = 32;
  std::int64_t box_fc = 1024;  // width of the two fully connected layers
  std::int64_t mask_channels = 256, mask_convs = 4;
  std::int64_t pre_nms_train = 4000, post_nms_train = 2000, pre_nms_test = 1000, post_nms_test = 256;
  std::int64_t roi_batch = 512;  // sampled proposals an image
  double roi_foreground = 0.25;
  std::int64_t fed_categories = 50;
  double fed_power = 0.5;  // of image counts
  double score_threshold = 0.02, nms_threshold = 0.5;
  std::int64_t detections_per_image = 300;
};

/// One training of the study; unset values come from [train].
struct TrainSettings {
  std::string name;
  std::uint64_t seed = 42;
  bool use_pool = true;                       // paste generated instances
  std::vector<std::string> pool_generators;   // only instances of these; empty: all
  std::vector<std::string> pool_frequencies;  // only instances of categories of these groups; empty: all
  bool pool_extra = true;                     // also instances of extra categories
  std::int64_t pool_per_category = 0;         // at most so many a category; 0: all
  std::string self_copy = "off";  // objects of other training images: "also" | "instead" (semantics.md §7.8)
  double self_copy_chance = 1;    // of each sample
  // "bitmask" | "polygon": what targets of the mask head are made of (semantics.md, note 32); polygons cannot be pasted
  std::string mask_format = "bitmask";
  std::int64_t iterations = 180000;
  std::int64_t batch = 16;      // over all ranks
  std::int64_t accumulate = 1;  // parts that a rank computes its share of the batch in, one after another
  double lr = 1e-4;
  std::int64_t warmup = 10000;
  double warmup_factor = 1e-4;
  double weight_decay = 1e-4;
  double clip_value = 1.0;
  double backbone_lr = 1.0;  // factor of lr for what starts from backbone_weights
  double ema = 0.999;
  std::string precision = "fp32";         // of backbone and pyramid: "fp32" | "fp16" (scaled gradients) | "bf16"
  bool activation_checkpointing = false;  // swin: blocks are computed again in backward
  bool channels_last = false;             // memory layout of the convolutions
  std::int64_t checkpoint_every = 5000;
  std::int64_t keep_checkpoints = 3;              // with the next two: reference/reliability.md §5
  std::int64_t keep_every = 20000;                // and all of these steps; 0: none
  std::int64_t compare_replicas = 500;            // steps between comparisons of the ranks' weights
  double init_timeout = 300, step_timeout = 120;  // seconds, reliability.md §2; 0: wait for ever
  std::int64_t log_every = 20;
  std::int64_t loader_threads = 2;    // per rank
  std::int64_t loader_depth = 8;      // samples in work or waiting, per rank
  Path init;                          // detector weights to start from
  std::string init_classes = "same";  // "cut": they know extra classes behind these; "new": others, starts anew
};

struct EvaluateSettings {
  std::int64_t short_side = 800, long_side = 1333;
  std::int64_t batch = 1;
  bool use_ema = true;
  Path weights;  // a detector to evaluate in place of the trained one; empty: the trained one
};

struct RunSettings {
  Path dir;                           // run directory
  std::int64_t ranks = 0;             // of a local run; 0: one a core
  std::int64_t threads_per_rank = 1;  // of LibTorch
  std::string log_level = "info";
  std::string hook;                   // shell command at the end of every stage (slurm/README.md: what it is told)
  std::string mail;                   // address that Slurm writes to
  bool fused = false;                 // generate to pool shard by shard, without pictures and masks on the disk
  std::int64_t quarantine_after = 3;  // shards that fail one after another on a rank before it claims no more
  std::int64_t canary_minutes = 60;   // between two looks whether a rank still makes the same bits; 0: none
};

struct RunConfig {
  std::uint64_t seed = 42;
  std::string title;  // of the report
  RunSettings run;
  DataSettings data;
  PlanSettings plan;
  std::vector<PromptSettings> prompts;
  std::vector<GeneratorSettings> generators;
  AnnotatorSettings annotator;
  std::vector<AnnotatorSettings> annotators;  // [annotators.<name>], which annotator.choose_from names
  FilterSettings filter;
  PoolSettings pool;
  AugmentSettings augment;
  DetectorSettings detector;
  std::vector<TrainSettings> trainings;  // [[trainings]], each over the values of [train]
  EvaluateSettings evaluate;

  /// The annotators that the run uses: those of annotator.choose_from in that order, or [annotator] alone.
  std::vector<AnnotatorSettings> used_annotators() const;

  Table table;                // as read, with origins
  std::vector<KeyInfo> keys;  // every key there is, for documentation
  /// Hash of all values that decide results (not of [run]).
  std::string hash() const;
};

/// Reads, and checks everything that can be checked without opening other files. Throws Error(Config).
RunConfig read_run_config(const Path& file, const std::vector<std::string>& overrides = {});
/// The same from a table that is already loaded.
RunConfig run_config_of(const Table& table);

}  // namespace divergen::config
