#pragma once
// CLIPSeg as an annotator, the way X-Paste runs it (segment_methods/clipseg/export.py; reference/semantics.md §4.1):
// what the category's name finds in the picture, smoothed, refined by MatteFormer where its weights are named.

#include <map>
#include <memory>
#include <string>

#include "models/annotator.hpp"
#include "models/annotators/clipseg.hpp"
#include "models/annotators/matteformer.hpp"
#include "tokenizers/clip_bpe.hpp"

namespace divergen::models {

/// "a photo of teddy bear": the text that X-Paste gives to CLIPSeg, and by which it scores cut-outs.
std::string photo_text(const std::string& category);

/// OpenCV's GaussianBlur of 5×5 with its fixed kernel for that size: [B, 1, H, W] -> the same.
at::Tensor blurred(const at::Tensor& maps);

class ClipSegAnnotator : public Annotator {
 public:
  static constexpr std::int64_t kSide = 352;  // px of its input
  explicit ClipSegAnnotator(const AnnotatorSettings& settings, at::Device device = at::kCPU);
  /// Needs the categories.
  std::vector<Annotation> annotate(std::span<const image::Image> pictures,
                                   std::span<const std::string> categories) override;
  const std::string& weights_hash() const override { return hash_; }

 private:
  at::Tensor text_features(std::span<const std::string> categories);

  std::string hash_;
  at::Device device_;
  std::unique_ptr<ClipSeg> model_;
  std::unique_ptr<MatteFormer> matting_;  // absent where it is not named
  tokenizers::ClipBpe tokenizer_;
  std::map<std::string, at::Tensor> texts_;  // of each category met so far
};

}  // namespace divergen::models
