#pragma once
// What cuts the object out of a generated picture: from RGB pictures to alpha masks. A new kind of annotator is a class
// and a line in annotator.cpp, besides its name in config::annotator_kinds(): the configuration names the kind, the
// weights give the rest.

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "image/image.hpp"
#include "models/sam/sam.hpp"

namespace divergen::models {

using config::AnnotatorSettings;

struct Annotation {
  image::Image mask;           // grey, of the picture's size; above 128 is the object (reference/semantics.md §4.1)
  std::int32_t annotator = 0;  // index into Annotator::names() of the one whose mask it is
  std::vector<float> scores;   // of each of names(), by which it was chosen; empty where there was no choice
};

/// Not thread-safe.
class Annotator {
 public:
  virtual ~Annotator() = default;
  /// One annotation a picture; pictures of one call have the same size. `categories`: name of what each picture shows
  /// ("teddy_bear"), for annotators that are told what to look for; others take an empty span too.
  virtual std::vector<Annotation> annotate(std::span<const image::Image> pictures,
                                           std::span<const std::string> categories) = 0;
  /// Of all weights, as hex.
  virtual const std::string& weights_hash() const = 0;
  /// Names of the annotators that it chooses from; empty where it does not choose.
  virtual std::vector<std::string> names() const { return {}; }
  /// So many pictures of one category are best given together, because the masks depend on the other pictures of the
  /// call; 0: they do not.
  virtual std::int64_t group() const { return 0; }
};

/// DiverGen's rule (reference/semantics.md §4.2): SAM is prompted with the four corners as points of the background;
/// the object is what the third mask leaves. The published script mixes up height and width, which is mended here (trap
/// 18).
class SamBackgroundAnnotator : public Annotator {
 public:
  explicit SamBackgroundAnnotator(const AnnotatorSettings& settings, at::Device device = at::kCPU);
  std::vector<Annotation> annotate(std::span<const image::Image> pictures,
                                   std::span<const std::string> categories) override;
  const std::string& weights_hash() const override { return hash_; }

 private:
  AnnotatorSettings settings_;
  at::Device device_;
  std::string hash_;
  std::unique_ptr<Sam> sam_;
};

using AnnotatorFactory = std::function<std::unique_ptr<Annotator>(const AnnotatorSettings&, at::Device)>;

/// Throws Error(Config) for an unknown kind, Error(Io | Data) when the weights cannot be loaded.
std::unique_ptr<Annotator> make_annotator(const AnnotatorSettings& settings, at::Device device = at::kCPU);
/// The one that a run uses: [annotator], or the choice among annotator.choose_from. `device`: where those run that are
/// not told otherwise. Throws as above.
std::unique_ptr<Annotator> make_annotator(const config::RunConfig& config, at::Device device = at::kCPU);
/// Kinds that make_annotator knows.
std::vector<std::string> annotator_kinds();
/// Adds a kind, or puts another factory in its place. Before threads start.
void register_annotator(const std::string& kind, AnnotatorFactory factory);

/// Hash over all files that the settings name.
std::string hash_weights(const AnnotatorSettings& settings);
/// The same over all annotators that the run uses, their kinds, names and settings, and the CLIP that chooses: all that
/// the masks depend on besides the pictures. For a run with [annotator] alone and no such files this is what
/// hash_weights(path) gives.
std::string annotators_hash(const config::RunConfig& config);

}  // namespace divergen::models
