#pragma once
// Repeat-factor sampling (reference/semantics.md §7.10): images with rare categories come more often. The endless
// stream of image indices is the one that detectron2's RepeatFactorTrainingSampler yields for the same seed, bit for
// bit.

#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <vector>

namespace divergen::stages {

/// Factor of each image from the categories of its annotations (repeats in a list count once): f(c) = share of images
/// with c, r(c) = max(1, sqrt(threshold / f(c))), r(image) = the largest of its categories, 1 without any.
std::vector<float> repeat_factors(std::span<const std::vector<std::int64_t>> categories_of_images, double threshold);

/// torch.Generator().manual_seed(seed) on the CPU: mt19937 over the low 32 bits.
class TorchRandom {
 public:
  explicit TorchRandom(std::uint64_t seed) : engine_(static_cast<std::uint32_t>(seed)) {}
  float uniform() { return static_cast<float>(engine_() & 0xffffff) * 0x1p-24F; }  // torch.rand, float32
  std::vector<std::uint32_t> permutation(std::size_t n);                           // torch.randperm

 private:
  std::mt19937 engine_;
};

/// One epoch before its shuffle: image i floor(r) or floor(r) + 1 times, in order; draws one number an image.
std::vector<std::uint32_t> repeated_indices(std::span<const float> factors, TorchRandom& random);

/// The stream over all epochs as a function of position. Thread-safe. Positions near those asked for lately cost a
/// look-up, others a walk over the epochs before them (two numbers an image and epoch).
class RepeatFactorStream {
 public:
  struct Epoch {
    std::uint64_t number = 0, first = 0;  // first: position of the epoch's first element
    std::vector<std::uint32_t> order;     // image indices
  };

  /// `factors` must not be empty, each at least 1 (so that no epoch is empty).
  RepeatFactorStream(std::vector<float> factors, std::uint64_t seed);
  std::shared_ptr<const Epoch> epoch_of(std::uint64_t position) const;
  std::uint32_t operator[](std::uint64_t position) const;

 private:
  std::shared_ptr<const Epoch> next_epoch() const;

  std::vector<float> factors_;
  std::uint64_t seed_;
  mutable std::mutex mutex_;
  mutable TorchRandom random_;                                // stands behind the last epoch of recent_
  mutable std::vector<std::shared_ptr<const Epoch>> recent_;  // consecutive
};

}  // namespace divergen::stages
