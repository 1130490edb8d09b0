#include "models/annotators/clipseg_annotator.hpp"

#include <cstring>

#include "base/error.hpp"
#include "models/annotators/matting.hpp"
#include "models/annotators/saliency.hpp"

namespace divergen::models {
namespace {

Path tokenizer_of(const AnnotatorSettings& settings) {
  const Path beside = std::filesystem::is_directory(settings.weights) ? settings.weights : Path();
  const Path found = !settings.tokenizer.empty() ? settings.tokenizer : beside;
  if (found.empty())
    fail(ErrorKind::Config, {"CLIPSeg has no vocabulary", settings.weights.string(), "merges.txt is not beside it",
                             "set tokenizer to a folder that has CLIP's merges.txt"});
  return found;
}

}  // namespace

std::string photo_text(const std::string& category) {
  std::string spaced = category;
  std::replace(spaced.begin(), spaced.end(), '_', ' ');
  return "a photo of " + spaced;
}

at::Tensor blurred(const at::Tensor& maps) {
  // OpenCV takes this kernel for 5 taps when no deviation is given (getGaussianKernel's table of small kernels).
  const at::Tensor taps = at::tensor({0.0625, 0.25, 0.375, 0.25, 0.0625}, at::kFloat).to(maps.device());
  const at::Tensor padded = at::reflection_pad2d(maps, {2, 2, 2, 2});
  return at::conv2d(at::conv2d(padded, taps.view({1, 1, 1, 5})), taps.view({1, 1, 5, 1}));
}

ClipSegAnnotator::ClipSegAnnotator(const AnnotatorSettings& settings, at::Device device)
    : hash_(hash_weights(settings)),
      device_(device),
      model_(load_clipseg(settings.weights, settings.clip)),
      matting_(settings.matting.empty() ? nullptr : load_matteformer(settings.matting)),
      tokenizer_(tokenizer_of(settings)) {
  if (device_.is_cpu()) return;
  model_->to(at::TensorOptions().device(device_));
  if (matting_) matting_->to(at::TensorOptions().device(device_));
}

at::Tensor ClipSegAnnotator::text_features(std::span<const std::string> categories) {
  std::vector<at::Tensor> rows;
  for (const std::string& category : categories) {
    at::Tensor& features = texts_[category];
    if (!features.defined()) {
      const auto ids = tokenizer_.tokenize(photo_text(category), /*truncate=*/true);
      features = model_->clip.text_features(at::tensor(ids, at::kLong).unsqueeze(0).to(device_)).squeeze(0);
    }
    rows.push_back(features);
  }
  return at::stack(rows);
}

std::vector<Annotation> ClipSegAnnotator::annotate(std::span<const image::Image> pictures,
                                                   std::span<const std::string> categories) {
  DIVERGEN_CHECK(categories.size() == pictures.size(), categories.size(), pictures.size());
  if (pictures.empty()) return {};
  at::NoGradGuard no_grad;
  const at::Tensor pixels = normalised(pictures, kImageNet, device_);
  const at::Tensor logits = model_->forward(resize_bilinear(pixels, kSide, kSide), text_features(categories));
  const at::Tensor found =
      blurred(resize_bilinear(at::sigmoid(logits).unsqueeze(1), pictures[0].height, pictures[0].width)).squeeze(1);
  std::vector<image::Image> masks;
  if (matting_) {
    for (std::int64_t i = 0; i < found.size(0); ++i)
      masks.push_back(stretched_matte(matte(*matting_, pixels.select(0, i), found.select(0, i))));
  } else {
    masks = stretched(found);
  }
  std::vector<Annotation> out;
  for (image::Image& mask : masks) out.push_back({std::move(mask), 0, {}});
  return out;
}

}  // namespace divergen::models
