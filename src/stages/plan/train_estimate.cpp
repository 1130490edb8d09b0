#include "stages/plan/train_estimate.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"
#include "lvis/dataset.hpp"
#include "stages/common/run_directory.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr double kFloat = 4, kHalf = 2;  // bytes
constexpr double kHour = 3600;

// LVIS v1's training set, where the files are not there: 100,170 images, of which detectron2 uses those that have an
// annotation; 1,270,141 annotations (lvisdataset.org).
constexpr std::int64_t kLvisImages = 99'388, kLvisClasses = 1203, kDiverGenClasses = 1453;
constexpr double kLvisFileBytes = 1.1e9;
// src/lvis/dataset.hpp: an annotation file takes about half its size, once a node.
constexpr double kDatasetShare = 0.5;

// Sustained multiplications a second, assumed where no run has measured: a third of what an A100 does in half
// precision, and in TensorFloat-32; a core with AVX2.
constexpr double kDeviceHalf = 5e13, kDeviceFloat = 2e13, kCore = 1.5e10;
// Forward, and backward which is twice that; once more forward where activations are computed again.
constexpr double kPasses = 3, kPassesAgain = 4;
constexpr double kContextBytes = 0.8e9;     // CUDA, cuDNN, cuBLAS and NCCL of one process
constexpr double kProgramBytes = 0.35e9;    // the program and LibTorch's libraries
constexpr double kObjectsOfAnImage = 20;    // LVIS has 12.7 annotations an image; pasting adds up to 20
constexpr double kStageBytesPerPixel = 12;  // of a sample in work: source picture, resized picture, layers of pasting
constexpr double kSampleBytesPerPixel = 4;  // of a finished one: RGB, masks in their boxes

/// Parameters of a linear layer or a convolution with bias.
std::int64_t linear(std::int64_t in, std::int64_t out) { return in * out + out; }

struct Part {
  std::int64_t parameters = 0;
  double kept = 0, products = 0;
  std::array<std::int64_t, 3> channels{};  // of strides 8, 16, 32
};

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// src/models/detector/swin.cpp. Kept of a block: what each of its operations leaves for backward, in tokens × channels
/// (norms 2, q k v before and after they go into windows 6, their mix 2, projection 1, branch sums 2, the perceptron
/// 4 + 4 + 1), and the softmax.
Part swin(const config::DetectorSettings& d, std::int64_t side, bool checkpointing) {
  Part out;
  const auto window = d.swin_window * d.swin_window, offsets = (2 * d.swin_window - 1) * (2 * d.swin_window - 1);
  std::int64_t width = d.swin_width;
  out.parameters = linear(4 * 4 * 3, width) + 2 * width;
  double largest_block = 0;
  for (std::size_t s = 0; s < d.depths.size(); ++s, width *= 2) {
    const auto heads = d.swin_heads[s];
    const auto hidden = static_cast<std::int64_t>(static_cast<double>(width) * d.swin_mlp_ratio);
    const std::int64_t tokens_side = (side + (4 << s) - 1) / (4 << s);
    const auto tokens = static_cast<double>(tokens_side * tokens_side);
    const auto padded_side = round_up(tokens_side, d.swin_window);
    const auto padded = static_cast<double>(padded_side * padded_side);
    const auto c = static_cast<double>(width);
    out.parameters += d.depths[s] * (4 * width + offsets * heads + linear(width, 3 * width) + linear(width, width) +
                                     linear(width, hidden) + linear(hidden, width));
    const double block = tokens * c * 14 + padded * c * 4 + 2 * tokens * static_cast<double>(hidden) +
                         padded * static_cast<double>(heads * window);
    largest_block = std::max(largest_block, block);
    out.kept += static_cast<double>(d.depths[s]) * (checkpointing ? tokens * c : block);
    out.products += static_cast<double>(d.depths[s]) * (tokens * (4 * c * c + 2 * c * static_cast<double>(hidden)) +
                                                        2 * padded * static_cast<double>(window) * c);
    if (s > 0) {
      out.channels[s - 1] = width;
      out.parameters += 2 * width;  // norm of the map that goes out
      out.kept += tokens * c;
    }
    if (s + 1 < d.depths.size()) {
      out.parameters += 4 * width * 2 * width + 2 * 4 * width;
      out.kept += 2 * tokens * c;
      out.products += tokens * 2 * c * c;
    }
  }
  if (checkpointing) out.kept += largest_block;
  return out;
}

/// src/models/detector/resnet.cpp; the norms are frozen and work in place.
Part resnet(const config::DetectorSettings& d, std::int64_t side) {
  constexpr std::int64_t kExpansion = 4;
  Part out;
  const auto s = static_cast<double>(side);
  out.parameters = 7 * 7 * 3 * d.stem_channels;
  out.kept = static_cast<double>(d.stem_channels) * (s * s / 4 + s * s / 16);
  out.products = s * s / 4 * static_cast<double>(out.parameters);
  std::int64_t in = d.stem_channels;
  for (std::size_t stage = 0; stage < d.depths.size(); ++stage) {
    const std::int64_t width = d.base_width << stage, wide = kExpansion * width;
    const double pixels = s * s / 16 / std::pow(4.0, static_cast<double>(stage));
    for (std::int64_t block = 0; block < d.depths[stage]; ++block) {
      const bool is_first = block == 0;
      const double before = is_first && stage > 0 ? 4 * pixels : pixels;
      const std::int64_t first = in * width, second = 9 * width * width, third = width * wide;
      out.parameters += first + second + third;
      out.products += before * static_cast<double>(first) + pixels * static_cast<double>(second + third);
      out.kept += static_cast<double>(width) * (before + pixels) + static_cast<double>(wide) * pixels;
      if (is_first) {
        out.parameters += in * wide;
        out.products += pixels * static_cast<double>(in * wide);
        out.kept += static_cast<double>(wide) * pixels;
      }
      in = wide;
    }
    if (stage > 0) out.channels[stage - 1] = in;
  }
  if (d.backbone_classes > 0) out.parameters += linear(in, d.backbone_classes);
  return out;
}

/// Pyramid p3 to p7.
void add_pyramid(Part& part, const config::DetectorSettings& d, std::int64_t side) {
  const std::int64_t c = d.fpn_channels;
  for (std::size_t i = 0; i < 3; ++i) {
    const double pixels = std::pow(static_cast<double>(side) / static_cast<double>(8 << i), 2);
    part.parameters += linear(part.channels[i], c) + linear(9 * c, c);
    part.products += pixels * static_cast<double>(part.channels[i] * c + 9 * c * c);
    part.kept += 3 * pixels * static_cast<double>(c);
  }
  part.parameters += 2 * linear(9 * c, c);
}

/// Proposal head, three box stages, mask head (reference/detector.md §2).
Part heads(const config::DetectorSettings& d, std::int64_t classes, std::int64_t side) {
  constexpr std::int64_t kLevels = 5, kStages = 3, kBoxSide = 7, kMaskSide = 14;
  Part out;
  const std::int64_t c = d.fpn_channels;
  double pixels = 0;  // of p3 .. p7
  for (int i = 0; i < kLevels; ++i) pixels += std::pow(static_cast<double>(side) / static_cast<double>(8 << i), 2);
  const auto wide = static_cast<double>(c);
  out.parameters = d.tower_convs * (linear(9 * c, c) + 2 * c) + linear(9 * c, 4) + linear(9 * c, 1) + kLevels;
  out.kept = pixels * wide * 3 * static_cast<double>(d.tower_convs);  // convolution, group norm, ReLU
  out.products = pixels * 9 * wide * (wide * static_cast<double>(d.tower_convs) + 5);

  const std::int64_t pooled = c * kBoxSide * kBoxSide;
  out.parameters += kStages * (linear(pooled, d.box_fc) + linear(d.box_fc, d.box_fc) + linear(d.box_fc, classes + 1) +
                               linear(d.box_fc, 4));
  const auto rois = static_cast<double>(d.roi_batch);
  const auto fc = static_cast<double>(d.box_fc);
  out.kept += kStages * rois * (static_cast<double>(pooled) + 6 * fc + 3 * static_cast<double>(classes));
  out.products += kStages * rois * fc * (static_cast<double>(pooled) + 2 * fc + static_cast<double>(classes));

  const std::int64_t m = d.mask_channels;
  out.parameters += linear(9 * c, m) + (d.mask_convs - 1) * linear(9 * m, m) + linear(4 * m, m) + linear(m, 1);
  const double found = rois * d.roi_foreground, area = kMaskSide * kMaskSide;
  out.kept += found * area * static_cast<double>(m) * (2 * static_cast<double>(d.mask_convs) + 1 + 4 * 2);
  out.products += found * area * static_cast<double>(m) *
                  (9 * static_cast<double>(m) * static_cast<double>(d.mask_convs) + 4 * static_cast<double>(m));
  return out;
}

std::int64_t count_classes(const config::RunConfig& config, const config::TrainSettings& training,
                           std::vector<std::string>& basis) {
  const Path& file = config.data.categories;
  if (!file.empty() && std::filesystem::exists(file)) {
    const json list = json::parse(read_file(file), nullptr, false);
    if (list.is_array() && !list.empty()) return static_cast<std::int64_t>(list.size());
    fail(ErrorKind::Data, {"the categories cannot be counted", file.string(), "it is no JSON list with entries",
                           "name the categories file of [data]"});
  }
  const bool has_extra = training.use_pool && training.pool_extra;
  const std::int64_t classes = has_extra ? kDiverGenClasses : kLvisClasses;
  basis.push_back(cat("classes: ", with_thousands(classes), " assumed (", has_extra ? "DiverGen's" : "LVIS's",
                      "), for ", file.empty() ? "data.categories is not set" : file.string() + " is not there"));
  return classes;
}

/// Images with an annotation, and the bytes that the data set takes in memory.
std::pair<std::int64_t, double> training_images(const config::RunConfig& config, std::vector<std::string>& basis) {
  const Path& file = config.data.train_json;
  if (file.empty() || !std::filesystem::exists(file)) {
    basis.push_back(cat("images: ", with_thousands(kLvisImages), " assumed (LVIS v1), for ",
                        file.empty() ? "data.train_json is not set" : file.string() + " is not there"));
    return {kLvisImages, kLvisFileBytes * kDatasetShare};
  }
  lvis::ReadOptions options;
  options.has_shapes = false;
  const lvis::Dataset dataset = lvis::read_dataset(file, options);
  std::set<std::int64_t> used;
  const auto& columns = dataset.annotations.columns();
  for (std::size_t i = 0; i < columns.image_id.size(); ++i)
    if ((columns.flags[i] & lvis::Annotations::kCrowd) == 0) used.insert(columns.image_id[i]);
  return {static_cast<std::int64_t>(used.size()),
          static_cast<double>(std::filesystem::file_size(file)) * kDatasetShare};
}

bool has_gpu() { return std::filesystem::exists("/dev/nvidia0"); }

/// What this run directory has seen, of this training if possible: samples a second of `ranks` ranks. The log of an
/// unfinished training does not tell how many they were: 0.
struct Speed {
  double samples_per_second = 0;
  std::size_t ranks = 0;
};

std::optional<Speed> recorded_speed(const RunDirectory& dir, const std::string& name) {
  try {
    const auto record = read_record(dir, "train." + name);
    if (!record || record->ranks.empty()) return std::nullopt;
    const auto speed = record->figures.find("images_per_second");
    if (speed == record->figures.end() || !(speed->second > 0)) return std::nullopt;
    return Speed{speed->second, record->ranks.size()};
  } catch (const Error&) {  // a damaged record is made again; it tells nothing
    return std::nullopt;
  }
}

std::optional<Speed> logged_speed(const Path& log) {
  if (!std::filesystem::exists(log)) return std::nullopt;
  std::vector<double> speeds;
  for (const std::string& line : split(read_file(log), '\n')) {
    const json one = json::parse(line, nullptr, false);
    if (one.is_object() && one.contains("images_per_second") && one["images_per_second"].is_number())
      speeds.push_back(one["images_per_second"].get<double>());
  }
  if (speeds.empty()) return std::nullopt;
  const auto middle = speeds.begin() + static_cast<std::ptrdiff_t>(speeds.size() / 2);
  std::nth_element(speeds.begin(), middle, speeds.end());
  return Speed{*middle, 0};
}

std::optional<Speed> measured_speed(const config::RunConfig& config, const config::TrainSettings& training,
                                    std::vector<std::string>& basis) {
  const RunDirectory dir(config.run.dir);
  std::vector<std::string> names{training.name};
  for (const auto& other : config.trainings)
    if (other.name != training.name) names.push_back(other.name);
  for (const std::string& name : names)
    if (const auto speed = recorded_speed(dir, name)) {
      basis.push_back(cat("speed: measured by training '", name, "' in this run directory on ", speed->ranks,
                          speed->ranks == 1 ? " rank" : " ranks"));
      return speed;
    }
  const auto speed = logged_speed(dir.training(training.name) / "log.jsonl");
  if (speed) basis.push_back("speed: median of this training's log, on as many ranks as it ran on then");
  return speed;
}

/// Samples a second where nothing has been measured.
double assumed_speed(TrainingEstimate& out, const config::RunConfig& config, const config::TrainSettings& training,
                     const DetectorSizes& sizes) {
  const bool again = training.activation_checkpointing && config.detector.backbone == "swin";
  const double work = sizes.products * (again ? kPassesAgain : kPasses);
  const double on_device = training.precision != "fp32" ? kDeviceHalf : kDeviceFloat;
  const bool gpu = has_gpu();
  const double speed = gpu ? on_device : kCore * static_cast<double>(config.run.threads_per_rank);
  out.basis.push_back(cat("speed: assumed, ", fixed(work / 1e12, 2), "e12 products a sample at ",
                          fixed(speed / 1e12, speed < 1e12 ? 3 : 0), "e12 a second a rank",
                          gpu ? "" : " (no GPU here)"));
  const auto ranks = static_cast<double>(out.ranks);
  if (!gpu)
    out.basis.push_back(cat("on GPUs like an A100, one a rank, it would be ",
                            fixed(static_cast<double>(out.samples) * work / on_device / kHour / ranks, 1), " hours"));
  return ranks * speed / work;
}

void estimate_speed(TrainingEstimate& out, const config::RunConfig& config, const config::TrainSettings& training,
                    const DetectorSizes& sizes) {
  if (const auto measured = measured_speed(config, training, out.basis))
    out.samples_per_second =
        measured->samples_per_second *
        (measured->ranks == 0 ? 1 : static_cast<double>(out.ranks) / static_cast<double>(measured->ranks));
  else out.samples_per_second = assumed_speed(out, config, training, sizes);
  out.hours = static_cast<double>(out.samples) / std::max(out.samples_per_second, 1e-12) / kHour;
}

void estimate_memory(TrainingEstimate& out, const config::RunConfig& config, const config::TrainSettings& training,
                     const DetectorSizes& sizes, double dataset_bytes) {
  const auto n = static_cast<double>(out.parameters);
  const double at_once = std::ceil(static_cast<double>(training.batch) /
                                   static_cast<double>(out.ranks * std::max<std::int64_t>(training.accumulate, 1)));
  const auto pixels = static_cast<double>(config.augment.train_size * config.augment.train_size);
  const bool is_half = training.precision != "fp32";
  out.device = {{"weights", kFloat * n}, {"gradients", kFloat * n}, {"optimizer (AdamW)", 2 * kFloat * n}};
  if (training.ema > 0) out.device.push_back({"averaged weights", kFloat * n});
  if (out.ranks > 1) out.device.push_back({"buckets of the reduction", kFloat * n});
  if (is_half)
    out.device.push_back({"weights in half precision", kHalf * static_cast<double>(sizes.backbone_parameters)});
  out.device.push_back(
      {cat("activations of ", fixed(at_once, 0), at_once == 1 ? " image" : " images",
           training.activation_checkpointing && config.detector.backbone == "swin" ? ", blocks computed again" : ""),
       at_once * (sizes.kept_backbone * (is_half ? kHalf : kFloat) + sizes.kept_heads * kFloat)});
  out.device.push_back({"images and masks", at_once * pixels * (3 * kFloat + kObjectsOfAnImage)});
  const bool gpu = has_gpu();
  if (gpu) out.device.push_back({"CUDA's own", kContextBytes});

  constexpr double kMebi = 1 << 20;
  double caches = static_cast<double>(config.augment.image_cache_mb) * kMebi;
  if (training.use_pool) caches += static_cast<double>(config.augment.instance_cache_mb) * kMebi;
  out.host = {{"program", kProgramBytes},
              {cat("loader (", training.loader_threads, " threads, ", training.loader_depth, " samples)"),
               pixels * (static_cast<double>(training.loader_threads) * kStageBytesPerPixel +
                         static_cast<double>(training.loader_depth) * kSampleBytesPerPixel)},
              {"caches of pictures, at most", caches}};
  const double states = n * kFloat * (training.ema > 0 ? 4 : 3);  // weights, both moments, averages
  out.host.push_back({"copy of the state while a checkpoint is written (rank 0)", states});
  const double shared = out.host.back().bytes;
  out.node_bytes = dataset_bytes + shared +
                   static_cast<double>(out.ranks) * (out.host_bytes() - shared + (gpu ? 0 : out.device_bytes()));

  out.checkpoint_bytes = states;
  const std::int64_t every = std::max<std::int64_t>(training.checkpoint_every, 1);
  const std::int64_t made = (training.iterations + every - 1) / every;
  const std::int64_t marked = training.keep_every > 0 ? training.iterations / training.keep_every : 0;
  out.checkpoints = std::min(made, training.keep_checkpoints + marked);
  // The one that is being written stands beside those that are kept; two models at the end where there are averages.
  out.disk_bytes = states * static_cast<double>(out.checkpoints + 1) + n * kFloat * (training.ema > 0 ? 2 : 1);
}

}  // namespace

double TrainingEstimate::device_bytes() const {
  return std::accumulate(device.begin(), device.end(), 0.0, [](double sum, const Amount& a) { return sum + a.bytes; });
}
double TrainingEstimate::host_bytes() const {
  return std::accumulate(host.begin(), host.end(), 0.0, [](double sum, const Amount& a) { return sum + a.bytes; });
}

DetectorSizes detector_sizes(const config::DetectorSettings& d, std::int64_t classes, std::int64_t side,
                             bool checkpointing) {
  side = round_up(side, 32);  // reference/detector.md §3: pictures are padded to this
  Part backbone = d.backbone == "swin" ? swin(d, side, checkpointing) : resnet(d, side);
  add_pyramid(backbone, d, side);
  const Part rest = heads(d, classes, side);
  return {backbone.parameters + rest.parameters, backbone.parameters, backbone.kept, rest.kept,
          backbone.products + rest.products};
}

TrainingEstimate estimate_training(const config::RunConfig& config, const config::TrainSettings& training, int ranks) {
  TrainingEstimate out;
  out.name = training.name;
  out.ranks = ranks;
  out.steps = training.iterations;
  out.samples = training.iterations * training.batch;
  out.classes = count_classes(config, training, out.basis);
  const auto [images, dataset_bytes] = training_images(config, out.basis);
  out.images = images;
  out.epochs = static_cast<double>(out.samples) / static_cast<double>(std::max<std::int64_t>(images, 1));
  const DetectorSizes sizes =
      detector_sizes(config.detector, out.classes, config.augment.train_size, training.activation_checkpointing);
  out.parameters = sizes.parameters;
  estimate_memory(out, config, training, sizes, dataset_bytes);
  out.basis.push_back("activations: what the layers keep for backward, counted layer by layer, of images of " +
                      cat(config.augment.train_size, " x ", config.augment.train_size, " px (the largest)"));
  estimate_speed(out, config, training, sizes);
  if (training.batch % ranks != 0)
    out.basis.push_back(
        cat("the batch of ", training.batch, " cannot be shared evenly by ", ranks, " ranks: it will be refused"));
  return out;
}

std::string to_text(const TrainingEstimate& e) {
  const auto bytes = [](double value) { return human_bytes(static_cast<std::uint64_t>(value)); };
  std::string out =
      cat("training ", e.name, ": ", with_thousands(e.steps), " steps, ", with_thousands(e.samples), " samples, ",
          fixed(e.epochs, 1), " times ", with_thousands(e.images), " images; ", with_thousands(e.parameters),
          " parameters, ", with_thousands(e.classes), " classes; ", e.ranks, e.ranks == 1 ? " rank\n" : " ranks\n");
  const auto list = [&](const char* title, double total, const std::vector<Amount>& amounts) {
    char line[160];
    std::snprintf(line, sizeof line, "  %-60s %10s\n", title, bytes(total).c_str());
    out += line;
    for (const Amount& a : amounts) {
      std::snprintf(line, sizeof line, "    %-58s %10s\n", a.what.c_str(), bytes(a.bytes).c_str());
      out += line;
    }
  };
  list("memory of each rank's device", e.device_bytes(), e.device);
  list("main memory of each rank", e.host_bytes(), e.host);
  list("main memory of a node with all ranks", e.node_bytes, {});
  list(cat("disk, ", e.checkpoints, " checkpoints kept").c_str(), e.disk_bytes, {{"a checkpoint", e.checkpoint_bytes}});
  out += cat("  ", fixed(e.samples_per_second, e.samples_per_second < 10 ? 2 : 0),
             " samples a second: ", fixed(e.hours, e.hours < 10 ? 2 : 0), " hours\n");
  for (const std::string& line : e.basis) out += "  - " + line + "\n";
  return out;
}

std::string to_json(const TrainingEstimate& e) {
  const auto amounts = [](const std::vector<Amount>& list) {
    json out = json::object();
    for (const Amount& a : list) out[a.what] = a.bytes;
    return out;
  };
  return json{{"training", e.name},
              {"ranks", e.ranks},
              {"parameters", e.parameters},
              {"classes", e.classes},
              {"steps", e.steps},
              {"samples", e.samples},
              {"images", e.images},
              {"epochs", e.epochs},
              {"device_bytes", e.device_bytes()},
              {"device", amounts(e.device)},
              {"host_bytes", e.host_bytes()},
              {"host", amounts(e.host)},
              {"node_bytes", e.node_bytes},
              {"checkpoint_bytes", e.checkpoint_bytes},
              {"checkpoints", e.checkpoints},
              {"disk_bytes", e.disk_bytes},
              {"samples_per_second", e.samples_per_second},
              {"hours", e.hours},
              {"basis", e.basis}}
      .dump(1);
}

}  // namespace divergen::stages
