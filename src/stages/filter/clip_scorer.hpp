#pragma once
// CLIP as the filter uses it: unit features of pictures, and logits of a category's text.

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "image/image.hpp"
#include "models/clip/clip.hpp"
#include "tokenizers/clip_bpe.hpp"

namespace divergen::stages {

/// Whether the folder holds all that ClipScorer needs. Throws Error(Config | Io) naming the file that is missing.
void check_clip_folder(const Path& folder);

/// Not thread-safe.
class ClipScorer {
 public:
  /// A transformers folder with config.json, model.safetensors and merges.txt (the tokenizer's). `batch`: pictures of
  /// one pass. Throws Error(Io | Data).
  ClipScorer(const Path& folder, std::int64_t batch);

  std::size_t batch() const { return batch_; }
  /// Unit features of RGB pictures of any sizes, D numbers each. The last pass is padded to `batch` with its last
  /// picture, so that a picture's bits do not depend on the others.
  std::vector<std::vector<float>> image_features(std::span<const image::Image> pictures) const;
  /// exp(logit_scale) · cosine of a picture's unit features with the text "a photo of a single {name}"
  /// (reference/semantics.md §5.4).
  float logit(std::span<const float> image_features, const std::string& category_name);

 private:
  const std::vector<float>& text_features(const std::string& category_name);

  std::size_t batch_;
  std::unique_ptr<models::Clip> clip_;
  tokenizers::ClipBpe tokenizer_;
  double scale_ = 0;
  std::map<std::string, std::vector<float>> texts_;  // of each category name met so far
};

}  // namespace divergen::stages
