#pragma once
// X-Paste's choice among annotators (segment_methods/reseg.py, clean_pool.py; reference/semantics.md §4.1, §6): every
// one makes its mask, CLIP compares what each cuts out, on white, with the category's name, and the best is kept.

#include <map>
#include <memory>

#include "models/annotator.hpp"
#include "models/clip/clip.hpp"
#include "tokenizers/clip_bpe.hpp"

namespace divergen::models {

/// CLIP's logit of a picture's object alone and the text "a photo of {name}". Not thread-safe.
class CutOutScorer {
 public:
  /// A transformers folder with config.json, model.safetensors and merges.txt. Throws Error(Config | Io | Data).
  CutOutScorer(const Path& folder, at::Device device);
  /// One a picture: exp(logit_scale) · cosine, of the pixels whose mask is above 128 on a white ground. All pictures
  /// have one size.
  std::vector<float> logits(std::span<const image::Image> pictures, std::span<const Annotation> annotations,
                            std::span<const std::string> categories);

 private:
  at::Tensor text_features(std::span<const std::string> categories);  // unit rows

  at::Device device_;
  std::unique_ptr<Clip> clip_;
  tokenizers::ClipBpe tokenizer_;
  std::map<std::string, at::Tensor> texts_;
};

/// Pictures of one size in 0..1 [B, 3, H, W] as CLIP wants them [B, 3, size, size], the way torchvision of X-Paste's
/// time treats tensors: bicubic without antialiasing, the centre, CLIP's mean and deviation.
at::Tensor prepare_tensor_for_clip(const at::Tensor& pictures, std::int64_t size);

class BestCutOut : public Annotator {
 public:
  struct Candidate {
    std::string name;
    std::unique_ptr<Annotator> annotator;
  };
  /// Throws Error(Config | Io | Data) when the CLIP folder cannot be used. `hash`: of all weights together.
  BestCutOut(std::vector<Candidate> candidates, const Path& clip, at::Device device, std::string hash);
  /// Where scores are equal the first candidate wins; a score that is not a number counts as -1, as X-Paste notes a
  /// picture that failed.
  std::vector<Annotation> annotate(std::span<const image::Image> pictures,
                                   std::span<const std::string> categories) override;
  const std::string& weights_hash() const override { return hash_; }
  std::vector<std::string> names() const override;
  std::int64_t group() const override;

 private:
  std::vector<Candidate> candidates_;
  CutOutScorer scorer_;
  std::string hash_;
};

}  // namespace divergen::models
