#include "models/generator.hpp"

#include <algorithm>

#include "base/hash.hpp"
#include "base/text.hpp"
#include "models/diffusion/stable_diffusion.hpp"

namespace divergen::models {

const std::vector<std::string>& generator_kinds() {
  static const std::vector<std::string> kinds{"stable_diffusion"};
  return kinds;
}

std::unique_ptr<TextToImage> make_generator(const GeneratorSettings& settings) {
  if (settings.kind == "stable_diffusion") return std::make_unique<StableDiffusion>(settings);
  const std::string near = nearest_word(settings.kind, generator_kinds());
  fail(ErrorKind::Config, {"there is no such kind of generator", settings.kind, "known: stable_diffusion",
                           near.empty() ? "name one of them" : cat("did you mean '", near, "'?")});
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

}  // namespace divergen::models
