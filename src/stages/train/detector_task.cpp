#include "stages/train/detector_task.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "base/time_use.hpp"
#include "models/detector/backbone.hpp"
#include "models/detector/checkpoint.hpp"
#include "nn/amp.hpp"

namespace divergen::stages {
namespace {

// Enough pictures for means and deviations of every channel; each costs one forward pass of the backbone.
constexpr std::uint64_t kCalibrationSamples = 8;

at::Tensor rgb_tensor(const image::Image& rgb) {
  DIVERGEN_CHECK(rgb.channels == 3);
  const at::Tensor view = at::from_blob(const_cast<std::uint8_t*>(rgb.pixels.data()), {rgb.height, rgb.width, 3},
                                        at::TensorOptions().dtype(at::kByte));
  return view.permute({2, 0, 1}).contiguous();
}

// The detector draws on the CPU, whatever device it computes on.
at::Generator cpu_generator(std::uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator();
  generator.set_current_seed(seed);
  return generator;
}

}  // namespace

models::DetectorSample to_detector_sample(const Sample& sample) {
  const auto n = static_cast<std::int64_t>(sample.objects.size());
  const std::int64_t height = sample.rgb.height, width = sample.rgb.width;
  models::DetectorSample out;
  out.image = rgb_tensor(sample.rgb);
  out.truth.boxes = at::empty({n, 4}, at::kFloat);
  out.truth.classes = at::empty({n}, at::kLong);
  const bool has_polygons = n > 0 && !sample.objects.front().polygons.empty();
  out.truth.masks = at::zeros({has_polygons ? 0 : n, height, width}, at::kByte);
  for (std::int64_t i = 0; i < n; ++i) {
    const SampleObject& object = sample.objects[static_cast<std::size_t>(i)];
    std::copy(object.box.begin(), object.box.end(), out.truth.boxes.mutable_data_ptr<float>() + 4 * i);
    out.truth.classes.mutable_data_ptr<std::int64_t>()[i] = object.cls;
    DIVERGEN_CHECK(object.polygons.empty() != has_polygons, "masks and polygons in one sample");
    if (has_polygons) {
      out.truth.polygons.push_back(object.polygons);
      continue;
    }
    const BoxMask& mask = object.mask;
    DIVERGEN_CHECK(mask.x >= 0 && mask.y >= 0 && mask.x + mask.bits.width <= width &&
                   mask.y + mask.bits.height <= height);
    auto* canvas = out.truth.masks.mutable_data_ptr<std::uint8_t>() + i * height * width;
    for (int row = 0; row < mask.bits.height; ++row)
      std::memcpy(canvas + (mask.y + row) * width + mask.x, mask.bits.at(row, 0),
                  static_cast<std::size_t>(mask.bits.width));
  }
  return out;
}

DetectorTask::DetectorTask(const config::RunConfig& config, const config::TrainSettings& training,
                           const std::vector<double>& image_counts, const SampleMaker& maker, comm::World& world,
                           at::Device device)
    : config_(config), training_(training), maker_(maker), world_(world), image_counts_(image_counts) {
  detector_ = std::make_unique<models::CenterNet2>(config.detector, image_counts);
  detector_->to(at::TensorOptions().dtype(at::kFloat).device(device));
  detector_->backbone().set_compute({.precision = nn::precision_type(training.precision),
                                     .checkpointing = training.activation_checkpointing,
                                     .channels_last = training.channels_last});
}

void DetectorTask::initialise() {
  at::NoGradGuard no_grad;
  // Made on the CPU and copied: the values must not depend on the device, and modules are initialised there.
  models::CenterNet2 fresh(config_.detector, image_counts_);
  at::Generator generator = cpu_generator(derive_seed(training_.seed, "initial weights"));
  models::init_detector(fresh, config_.detector, generator);
  if (!training_.init.empty()) {
    models::load_detector(fresh, training_.init, models::file_classes(training_.init_classes));
  } else if (config_.detector.backbone_weights.empty()) {
    std::vector<at::Tensor> images;
    for (std::uint64_t position = 0; position < kCalibrationSamples; ++position)
      images.push_back(rgb_tensor(maker_.make(position).rgb));
    models::calibrate_norms(fresh, images);
  }
  const auto from = fresh.named_tensors(), to = detector_->named_tensors();
  for (std::size_t i = 0; i < to.size(); ++i) to[i].tensor.detach().copy_(from[i].tensor);
}

std::uint64_t DetectorTask::position_of(std::uint64_t index) const {
  return groups_ != nullptr ? groups_->position(index) : index;
}

/// Which samples make a step's batch depends on the size of groups: it stays that of the training's beginning.
void DetectorTask::keep_batches_of(std::int64_t shares) {
  waited_before_ = waited_seconds();
  loader_.reset();  // its threads use the groups
  if (!config_.augment.aspect_grouping) return;
  groups_ =
      std::make_unique<AspectGroups>([this](std::uint64_t position) { return maker_.is_wide(position); },
                                     static_cast<std::uint64_t>(std::max<std::int64_t>(training_.batch / shares, 1)),
                                     static_cast<std::uint64_t>(shares));
}

void DetectorTask::seek(std::int64_t iteration) {
  waited_before_ = waited_seconds();
  loader_.reset();
  const auto first = static_cast<std::uint64_t>(iteration * training_.batch + world_.rank());
  parts_.clear();
  const auto make = [this](std::uint64_t index) { return maker_.make(position_of(index_in_parts(index))); };
  loader_ = std::make_unique<SampleLoader>(make, first, static_cast<std::uint64_t>(world_.size()),
                                           training_.loader_threads, training_.loader_depth);
}

std::uint64_t DetectorTask::index_in_parts(std::uint64_t index) const {
  if (training_.accumulate == 1) return index;
  const auto ranks = static_cast<std::uint64_t>(world_.size()), batch = static_cast<std::uint64_t>(training_.batch),
             parts = static_cast<std::uint64_t>(training_.accumulate), size = batch / ranks / parts;
  const std::uint64_t step = index / batch, i = index % batch / ranks, part = i / size, k = i % size;
  return step * batch + (k * parts + part) * ranks + static_cast<std::uint64_t>(world_.rank());
}

std::vector<models::DetectorSample> DetectorTask::next_samples(std::int64_t iteration, std::int64_t part) {
  DIVERGEN_CHECK(loader_ != nullptr);
  std::vector<models::DetectorSample> out;
  for (std::int64_t k = 0; k < training_.batch / shares(); ++k) {
    const Sample sample = loader_->next();
    const std::int64_t index = iteration * training_.batch + k * shares() + part * world_.size() + world_.rank();
    DIVERGEN_CHECK(sample.position == position_of(static_cast<std::uint64_t>(index)));
    out.push_back(to_detector_sample(sample));
  }
  return out;
}

void DetectorTask::mean_over_ranks(at::Tensor& values) const {
  if (world_.size() == 1) return;
  at::NoGradGuard no_grad;
  at::Tensor copy = values.detach().to(at::kCPU, at::kFloat).contiguous().clone();
  const TimeUseTimer timer(TimeUse::Agree);
  world_.sum(std::span<float>(copy.mutable_data_ptr<float>(), static_cast<std::size_t>(copy.numel())));
  values.copy_(copy.div_(world_.size()));
}

void DetectorTask::prepare_parts(std::int64_t iteration) {
  at::NoGradGuard no_grad;
  parts_.clear();
  part_counts_.reset();
  for (std::int64_t part = 0; part < training_.accumulate; ++part) {
    parts_.push_back(next_samples(iteration, part));
    const at::Tensor counts = detector_->proposal_counts(parts_.back());
    part_counts_ = part_counts_.defined() ? part_counts_ + counts : counts;
  }
  part_counts_ = part_counts_ / static_cast<double>(training_.accumulate);
  mean_over_ranks(part_counts_);
}

std::map<std::string, at::Tensor> DetectorTask::part_losses(std::int64_t iteration, std::int64_t part,
                                                            std::int64_t parts) {
  DIVERGEN_CHECK(parts == training_.accumulate && part < parts);
  if (parts > 1 && part == 0) prepare_parts(iteration);
  const std::vector<models::DetectorSample> batch =
      parts == 1 ? next_samples(iteration, part) : std::move(parts_[static_cast<std::size_t>(part)]);
  const auto step = static_cast<std::uint64_t>(iteration),
             share = static_cast<std::uint64_t>(part * world_.size() + world_.rank());
  at::Generator generator = cpu_generator(derive_seed(training_.seed, "step", {step, share}));
  // For layers that draw from the process's generator (stochastic depth).
  at::manual_seed(derive_seed(training_.seed, "layers", {step, share}));
  return detector_->losses(batch, generator, [this, parts](at::Tensor& values) {
    if (parts == 1) mean_over_ranks(values);
    else values.copy_(part_counts_);
  });
}

double DetectorTask::waited_seconds() const { return waited_before_ + (loader_ ? loader_->waited_seconds() : 0.0); }

}  // namespace divergen::stages
