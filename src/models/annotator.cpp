#include "models/annotator.hpp"

#include <cstring>

#include "models/generator.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kBackgroundMask =
    2;  // reference/semantics.md §4.2: the third mask, whatever its predicted quality

}  // namespace

SamBackgroundAnnotator::SamBackgroundAnnotator(const AnnotatorSettings& settings)
    : settings_(settings), hash_(hash_weights(settings.weights)), sam_(load_sam(settings.weights)) {}

std::vector<image::Image> SamBackgroundAnnotator::annotate(std::span<const image::Image> pictures) {
  at::NoGradGuard no_grad;
  std::vector<SamInput> inputs;
  std::vector<at::Tensor> pixels, points;
  for (const image::Image& picture : pictures) {
    inputs.push_back(prepare_for_sam(picture, sam_->config.img_size));
    pixels.push_back(inputs.back().pixels);
    const double m = static_cast<double>(settings_.margin), right = picture.width - 1 - m,
                 bottom = picture.height - 1 - m;
    points.push_back(
        to_sam_points(at::tensor({m, m, m, bottom, right, m, right, bottom}, at::kDouble).view({4, 2}), inputs.back()));
  }
  const at::Tensor embedding = sam_->image_encoder.forward(at::cat(pixels));
  const at::Tensor all_points = at::stack(points);
  const at::Tensor sparse = sam_->prompt_encoder.points(all_points, at::ones({all_points.size(0), 4}, at::kLong));
  const auto out = sam_->mask_decoder.forward(embedding, sam_->prompt_encoder.pe_layer.grid(sam_->config.grid()),
                                              sparse, sam_->prompt_encoder.no_mask());
  std::vector<image::Image> masks;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor low = out.masks.narrow(0, static_cast<std::int64_t>(i), 1).narrow(1, 1 + kBackgroundMask, 1);
    const at::Tensor object =
        upscale_masks(low, inputs[i], sam_->config.img_size).le(0).to(at::kByte).mul(255).contiguous().cpu();
    image::Image mask(pictures[i].height, pictures[i].width, 1);
    std::memcpy(mask.pixels.data(), object.const_data_ptr(), mask.pixels.size());
    masks.push_back(std::move(mask));
  }
  return masks;
}

std::unique_ptr<Annotator> make_annotator(const AnnotatorSettings& settings) {
  if (settings.kind == "sam_background") return std::make_unique<SamBackgroundAnnotator>(settings);
  fail(ErrorKind::Config,
       {"there is no such kind of annotator", settings.kind, "known: sam_background", "use sam_background"});
}

}  // namespace divergen::models
