#include "stages/filter/clip_scorer.hpp"

#include <algorithm>
#include <cmath>

#include "stages/filter/similarity.hpp"

namespace divergen::stages {
namespace {

std::vector<std::vector<float>> unit_rows(const at::Tensor& features, std::size_t rows) {
  const at::Tensor plain = features.to(at::kCPU, at::kFloat).contiguous();
  const auto width = static_cast<std::size_t>(plain.size(1));
  const float* data = plain.const_data_ptr<float>();
  std::vector<std::vector<float>> out;
  for (std::size_t i = 0; i < rows; ++i) {
    out.emplace_back(data + i * width, data + (i + 1) * width);
    make_unit(out.back());
  }
  return out;
}

}  // namespace

void check_clip_folder(const Path& folder) {
  if (folder.empty())
    fail(ErrorKind::Config,
         {"no CLIP folder is named", "filter.clip", "it is missing", "name a CLIP folder in transformers' layout"});
  for (const char* name : {"config.json", "model.safetensors", "merges.txt"})
    if (!std::filesystem::exists(folder / name))
      fail(ErrorKind::Io, {"the CLIP folder is not whole", (folder / name).string(), "there is no such file",
                           "correct filter.clip, or complete the folder"});
}

ClipScorer::ClipScorer(const Path& folder, std::int64_t batch)
    : batch_(static_cast<std::size_t>(batch)), clip_(models::load_clip(folder)), tokenizer_(folder) {
  DIVERGEN_CHECK(batch > 0);
  scale_ = std::exp(clip_->logit_scale.item<double>());
}

std::vector<std::vector<float>> ClipScorer::image_features(std::span<const image::Image> pictures) const {
  at::NoGradGuard no_grad;
  const std::int64_t size = clip_->vision_model.config.image_size;
  std::vector<std::vector<float>> out;
  for (std::size_t first = 0; first < pictures.size(); first += batch_) {
    const std::size_t count = std::min(batch_, pictures.size() - first);
    std::vector<at::Tensor> inputs;
    for (std::size_t i = 0; i < count; ++i) inputs.push_back(models::prepare_for_clip(pictures[first + i], size));
    while (inputs.size() < batch_) inputs.push_back(inputs.back());
    for (auto& features : unit_rows(clip_->image_features(at::cat(inputs)), count)) out.push_back(std::move(features));
  }
  return out;
}

const std::vector<float>& ClipScorer::text_features(const std::string& category_name) {
  const auto found = texts_.find(category_name);
  if (found != texts_.end()) return found->second;
  at::NoGradGuard no_grad;
  std::string spaced = category_name;
  std::replace(spaced.begin(), spaced.end(), '_', ' ');
  const at::Tensor ids = at::tensor(tokenizer_.encode_padded("a photo of a single " + spaced), at::kLong).unsqueeze(0);
  return texts_[category_name] = unit_rows(clip_->text_features(ids), 1).front();
}

float ClipScorer::logit(std::span<const float> image_features, const std::string& category_name) {
  return static_cast<float>(scale_ * dot(image_features, text_features(category_name)));
}

}  // namespace divergen::stages
