#include "models/annotators/best_cut_out.hpp"

#include <cmath>
#include <cstring>

#include "base/error.hpp"
#include "models/annotators/clipseg_annotator.hpp"
#include "models/annotators/saliency.hpp"

namespace divergen::models {
namespace {

constexpr int kObject = 128;      // a mask's values above it are the object
constexpr float kFailed = -1.0f;  // reseg.py
constexpr ColourStatistics kPlain{{0, 0, 0}, {1, 1, 1}};
constexpr ColourStatistics kClip{{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}};

const Path& checked(const Path& folder) {
  if (folder.empty())
    fail(ErrorKind::Config, {"no CLIP is named that chooses among the annotators", "annotator.choose_by",
                             "it and filter.clip are missing", "name a CLIP folder in transformers' layout"});
  return folder;
}

at::Tensor unit(const at::Tensor& features) { return features / features.norm(2, {1}, /*keepdim=*/true); }

at::Tensor objects_of(std::span<const Annotation> annotations, at::Device device) {
  std::vector<at::Tensor> all;
  for (const Annotation& one : annotations) {
    at::Tensor bytes = at::empty({1, one.mask.height, one.mask.width}, at::kByte);
    std::memcpy(bytes.data_ptr(), one.mask.pixels.data(), one.mask.pixels.size());
    all.push_back(bytes);
  }
  return at::stack(all).gt(kObject).to(device, at::kFloat);
}

}  // namespace

at::Tensor prepare_tensor_for_clip(const at::Tensor& pictures, std::int64_t size) {
  const auto height = pictures.size(2), width = pictures.size(3);
  const bool is_tall = height >= width;
  const std::int64_t new_height = is_tall ? size * height / width : size;
  const std::int64_t new_width = is_tall ? size : size * width / height;
  const at::Tensor resized = at::upsample_bicubic2d(pictures, {new_height, new_width}, /*align_corners=*/false);
  const auto offset = [&](std::int64_t length) {
    return static_cast<std::int64_t>(std::nearbyint(static_cast<double>(length - size) / 2.0));
  };
  const at::Tensor centre = resized.narrow(2, offset(new_height), size).narrow(3, offset(new_width), size);
  const auto column = [&](const std::array<double, 3>& values) {
    return at::tensor(at::ArrayRef<double>(values), at::kFloat).view({3, 1, 1}).to(pictures.device());
  };
  return (centre - column(kClip.mean)) / column(kClip.deviation);
}

CutOutScorer::CutOutScorer(const Path& folder, at::Device device)
    : device_(device), clip_(load_clip(checked(folder))), tokenizer_(folder) {
  if (!device_.is_cpu()) clip_->to(at::TensorOptions().device(device_));
}

at::Tensor CutOutScorer::text_features(std::span<const std::string> categories) {
  std::vector<at::Tensor> rows;
  for (const std::string& category : categories) {
    at::Tensor& features = texts_[category];
    if (!features.defined()) {
      const auto ids = tokenizer_.tokenize(photo_text(category), /*truncate=*/true);
      features = unit(clip_->text_features(at::tensor(ids, at::kLong).unsqueeze(0).to(device_))).squeeze(0);
    }
    rows.push_back(features);
  }
  return at::stack(rows);
}

std::vector<float> CutOutScorer::logits(std::span<const image::Image> pictures, std::span<const Annotation> annotations,
                                        std::span<const std::string> categories) {
  DIVERGEN_CHECK(annotations.size() == pictures.size() && categories.size() == pictures.size());
  if (pictures.empty()) return {};
  at::NoGradGuard no_grad;
  const at::Tensor object = objects_of(annotations, device_);
  const at::Tensor on_white = normalised(pictures, kPlain, device_) * object + (1 - object);
  const at::Tensor images =
      unit(clip_->image_features(prepare_tensor_for_clip(on_white, clip_->vision_model.config.image_size)));
  const at::Tensor cosine = (images * text_features(categories)).sum(1);
  const at::Tensor out = (clip_->logit_scale.exp() * cosine).to(at::kCPU, at::kFloat).contiguous();
  const float* data = out.const_data_ptr<float>();
  return {data, data + out.numel()};
}

BestCutOut::BestCutOut(std::vector<Candidate> candidates, const Path& clip, at::Device device, std::string hash)
    : candidates_(std::move(candidates)), scorer_(clip, device), hash_(std::move(hash)) {
  DIVERGEN_CHECK(!candidates_.empty());
}

std::vector<std::string> BestCutOut::names() const {
  std::vector<std::string> out;
  for (const Candidate& candidate : candidates_) out.push_back(candidate.name);
  return out;
}

std::int64_t BestCutOut::group() const {
  std::int64_t most = 0;
  for (const Candidate& candidate : candidates_) most = std::max(most, candidate.annotator->group());
  return most;
}

std::vector<Annotation> BestCutOut::annotate(std::span<const image::Image> pictures,
                                             std::span<const std::string> categories) {
  std::vector<Annotation> best(pictures.size());
  for (std::size_t n = 0; n < candidates_.size(); ++n) {
    std::vector<Annotation> made = candidates_[n].annotator->annotate(pictures, categories);
    const std::vector<float> logits = scorer_.logits(pictures, made, categories);
    for (std::size_t i = 0; i < best.size(); ++i) {
      const float score = std::isfinite(logits[i]) ? logits[i] : kFailed;
      if (n == 0 || score > best[i].scores[static_cast<std::size_t>(best[i].annotator)]) {
        best[i].mask = std::move(made[i].mask);
        best[i].annotator = static_cast<std::int32_t>(n);
      }
      best[i].scores.push_back(score);
    }
  }
  return best;
}

}  // namespace divergen::models
