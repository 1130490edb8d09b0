#pragma once
// What cuts the object out of a generated picture: from RGB pictures to alpha masks.

#include <memory>
#include <span>

#include "config/settings.hpp"
#include "image/image.hpp"
#include "models/sam/sam.hpp"

namespace divergen::models {

using config::AnnotatorSettings;

/// Not thread-safe.
class Annotator {
 public:
  virtual ~Annotator() = default;
  /// One grey mask a picture, 255 where the object is; pictures of one call have the same size.
  virtual std::vector<image::Image> annotate(std::span<const image::Image> pictures) = 0;
  virtual const std::string& weights_hash() const = 0;
};

/// DiverGen's rule (reference/semantics.md §4.2): SAM is prompted with the four corners as points of the background;
/// the object is what the third mask leaves. The published script mixes up height and width, which is mended here (trap
/// 18).
class SamBackgroundAnnotator : public Annotator {
 public:
  explicit SamBackgroundAnnotator(const AnnotatorSettings& settings);
  std::vector<image::Image> annotate(std::span<const image::Image> pictures) override;
  const std::string& weights_hash() const override { return hash_; }

 private:
  AnnotatorSettings settings_;
  std::string hash_;
  std::unique_ptr<Sam> sam_;
};

/// Throws Error(Config) for an unknown kind.
std::unique_ptr<Annotator> make_annotator(const AnnotatorSettings& settings);

}  // namespace divergen::models
