#pragma once
// What every text-to-image model offers, so that a new one fits in without touching the others: the configuration names
// its kind, the weights folder gives the rest.

#include <cstdint>
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
  /// One RGB picture an item.
  virtual std::vector<image::Image> generate(std::span<const GenerationItem> items) = 0;
  /// Hash of all weight and configuration files, as hex.
  virtual const std::string& weights_hash() const = 0;
};

/// Throws Error(Config) for an unknown kind, Error(Io | Data) when the weights cannot be loaded.
std::unique_ptr<TextToImage> make_generator(const GeneratorSettings& settings);
const std::vector<std::string>& generator_kinds();

/// Hash over names and contents of all files of a folder (or of one file). Model cards (*.md) and hidden files are left
/// out: they decide nothing.
std::string hash_weights(const Path& path);

}  // namespace divergen::models
