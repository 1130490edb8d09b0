#include "models/generator.hpp"

#include <algorithm>
#include <map>

#include "base/hash.hpp"
#include "base/text.hpp"
#include "models/diffusion/deepfloyd_if.hpp"
#include "models/diffusion/stable_diffusion.hpp"

namespace divergen::models {

namespace {

using Factories = std::map<std::string, GeneratorFactory>;

template <class Model>
std::unique_ptr<TextToImage> make(const GeneratorSettings& settings, at::Device device) {
  return std::make_unique<Model>(settings, device);
}

Factories& factories() {
  static Factories all{{"stable_diffusion", make<StableDiffusion>}, {"deepfloyd_if", make<DeepFloydIf>}};
  return all;
}

}  // namespace

std::vector<std::string> generator_kinds() {
  std::vector<std::string> kinds;
  for (const auto& [kind, factory] : factories()) kinds.push_back(kind);
  return kinds;
}

void register_generator(const std::string& kind, GeneratorFactory factory) { factories()[kind] = std::move(factory); }

std::unique_ptr<TextToImage> make_generator(const GeneratorSettings& settings, at::Device device) {
  const auto found = factories().find(settings.kind);
  if (found != factories().end()) return found->second(settings, device);
  const std::string near = nearest_word(settings.kind, generator_kinds());
  std::string known;
  for (const std::string& kind : generator_kinds()) known += cat(known.empty() ? "known: " : ", ", kind);
  fail(ErrorKind::Config, {"there is no such kind of generator", settings.kind, known,
                           near.empty() ? "name one of them" : cat("did you mean '", near, "'?")});
}

bool prefers_channels_last(at::Device device, at::ScalarType type) { return !device.is_cpu() && type != at::kFloat; }

at::ScalarType type_of(const std::string& precision) {
  if (precision == "fp32") return at::kFloat;
  if (precision == "fp16") return at::kHalf;
  if (precision == "bf16") return at::kBFloat16;
  fail(ErrorKind::Config, {"there is no such precision", precision, "known: fp32, fp16, bf16", "name one of them"});
}

namespace {

/// Whether a file of a weights folder only tells of it: a model card, or what git and download tools leave (.git,
/// .gitattributes, .cache). Results do not depend on these, and must not be made again when one is added.
bool is_about(const Path& relative) {
  if (relative.extension() == ".md") return true;
  return std::any_of(relative.begin(), relative.end(), [](const Path& part) { return part.string().starts_with('.'); });
}

}  // namespace

std::string hash_weights(const Path& path) {
  if (!std::filesystem::exists(path))
    fail(ErrorKind::Io, {"weights are missing", path.string(), "there is no such file or folder",
                         "check the path in the configuration"});
  std::vector<Path> files;
  if (std::filesystem::is_directory(path)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
      if (entry.is_regular_file() && !is_about(entry.path().lexically_relative(path))) files.push_back(entry.path());
  } else {
    files.push_back(path);
  }
  std::sort(files.begin(), files.end());
  std::string all;
  for (const Path& file : files)
    all += cat(file.lexically_relative(path).string(), '\n', to_hex(hash_file(file)), '\n');
  return to_hex(hash128(all));
}

std::string hash_weights(const GeneratorSettings& settings) {
  const std::string first = hash_weights(settings.weights);
  return settings.stage2.empty() ? first : to_hex(hash128(cat(first, '\n', hash_weights(settings.stage2), '\n')));
}

}  // namespace divergen::models
