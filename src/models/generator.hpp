#pragma once
// What every text-to-image model offers, so that a new one fits in without touching the others: the configuration names
// its kind, the weights folder gives the rest.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "config/settings.hpp"
#include "image/image.hpp"

namespace divergen::models {

using config::GeneratorSettings;

struct GenerationItem {
  std::string prompt;
  std::uint64_t seed = 0;  // of this item's noise alone
};

/// Not thread-safe. A picture depends on its item and on the number of items of the call (kernels choose by batch
/// size), never on the other items: callers that promise repeatable bits pad their batches to one size.
class TextToImage {
 public:
  virtual ~TextToImage() = default;
  /// Tells all prompts that generate() will be asked for, where they are known: a model whose text encoder is large
  /// encodes them now and (settings.free_text_encoder) gives its memory back. Calling it is not needed.
  virtual void prepare(std::span<const std::string> prompts) { static_cast<void>(prompts); }
  /// One RGB picture an item.
  virtual std::vector<image::Image> generate(std::span<const GenerationItem> items) = 0;
  /// Starts the pictures of a batch; what is returned waits for them and hands them over, once, on any thread. On a
  /// device the work is only queued, so that the caller can start the next batch while these are copied and written.
  /// On the CPU it is done when this returns.
  virtual std::function<std::vector<image::Image>()> start(std::span<const GenerationItem> items) {
    return [pictures = generate(items)]() mutable { return std::move(pictures); };
  }
  /// Hash of all weight and configuration files, as hex.
  virtual const std::string& weights_hash() const = 0;
};

/// How a kind of generator is made, on a device: the one line that a new one adds to generator.cpp, besides its entry
/// in config::generator_kinds().
using GeneratorFactory = std::function<std::unique_ptr<TextToImage>(const GeneratorSettings&, at::Device)>;

/// Throws Error(Config) for an unknown kind, Error(Io | Data) when the weights cannot be loaded.
std::unique_ptr<TextToImage> make_generator(const GeneratorSettings& settings, at::Device device = at::kCPU);
/// Kinds that make_generator knows.
std::vector<std::string> generator_kinds();
/// Adds a kind, or puts another factory in its place. Before threads start.
void register_generator(const std::string& kind, GeneratorFactory factory);

/// "fp32", "fp16", "bf16".
at::ScalarType type_of(const std::string& precision);

/// Whether a network of that type should have its channels innermost there (nn::channels_last): half types on a
/// GPU, whose tensor cores want them so. On the CPU oneDNN orders its arguments by itself, and the bits of the results
/// stay those of the reference.
bool prefers_channels_last(at::Device device, at::ScalarType type);

/// Hash over names and contents of all files of a folder (or of one file). Model cards (*.md) and hidden files are left
/// out: they decide nothing.
std::string hash_weights(const Path& path);
/// The same over all folders that the settings name.
std::string hash_weights(const GeneratorSettings& settings);

}  // namespace divergen::models
