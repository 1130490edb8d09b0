#include "models/annotators/saliency.hpp"

#include <cstring>

#include "base/error.hpp"
#include "models/annotators/selfreformer.hpp"
#include "models/annotators/u2net.hpp"
#include "models/annotators/ufo.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kU2NetSide = 256;
// SelfReformer's green and blue are not quite ImageNet's: a slip of its repository that its weights were trained with.
constexpr ColourStatistics kSelfReformer{{0.485, 0.458, 0.407}, {0.229, 0.224, 0.225}};

std::vector<Annotation> annotations_of(const at::Tensor& maps) {
  std::vector<Annotation> out;
  for (image::Image& mask : stretched(maps)) out.push_back({std::move(mask), 0, {}});
  return out;
}

/// What the three have in common: pictures in, one map a picture out, brought back to the picture's size.
class SaliencyAnnotator : public Annotator {
 public:
  const std::string& weights_hash() const override { return hash_; }
  std::vector<Annotation> annotate(std::span<const image::Image> pictures,
                                   std::span<const std::string> categories) override {
    if (pictures.empty()) return {};
    at::NoGradGuard no_grad;
    const at::Tensor input = resize_bilinear(normalised(pictures, colours_, device_), side_, side_);
    return annotations_of(predict(input, categories, pictures[0].height, pictures[0].width).squeeze(1));
  }

 protected:
  SaliencyAnnotator(const AnnotatorSettings& settings, at::Device device, const ColourStatistics& colours,
                    std::int64_t side)
      : hash_(hash_weights(settings)), device_(device), colours_(colours), side_(side) {}
  /// [B, 3, side, side] -> [B, 1, height, width].
  virtual at::Tensor predict(const at::Tensor& input, std::span<const std::string> categories, std::int64_t height,
                             std::int64_t width) = 0;
  template <class Model>
  std::unique_ptr<Model> placed(std::unique_ptr<Model> model) const {
    if (!device_.is_cpu()) model->to(at::TensorOptions().device(device_));
    return model;
  }

 private:
  std::string hash_;
  at::Device device_;
  ColourStatistics colours_;
  std::int64_t side_;
};

class U2NetAnnotator : public SaliencyAnnotator {
 public:
  U2NetAnnotator(const AnnotatorSettings& settings, at::Device device)
      : SaliencyAnnotator(settings, device, kImageNet, kU2NetSide), model_(placed(load_u2net(settings.weights))) {}

 private:
  at::Tensor predict(const at::Tensor& input, std::span<const std::string>, std::int64_t height,
                     std::int64_t width) override {
    // The fused map: X-Paste unpacks the seven outputs as d1 to d7, so that its "d1" is the network's d0.
    return resize_bilinear(model_->forward(input)[0], height, width);
  }
  std::unique_ptr<U2Net> model_;
};

class SelfReformerAnnotator : public SaliencyAnnotator {
 public:
  SelfReformerAnnotator(const AnnotatorSettings& settings, at::Device device)
      : SaliencyAnnotator(settings, device, kSelfReformer, SelfReformer::kSide),
        model_(placed(load_selfreformer(settings.weights))) {}

 private:
  at::Tensor predict(const at::Tensor& input, std::span<const std::string>, std::int64_t height,
                     std::int64_t width) override {
    const at::Tensor finest = at::pixel_shuffle(model_->forward(input).back(), 4);
    return at::sigmoid(resize_bilinear(finest, height, width));
  }
  std::unique_ptr<SelfReformer> model_;
};

/// UFO sees five pictures at once, and looks for what they have in common: those of one category are put together. A
/// smaller group is filled up with its own pictures from the first on (X-Paste leaves such a rest without masks; UFO's
/// own test.py fills it with the class's first pictures).
class UfoAnnotator : public SaliencyAnnotator {
 public:
  UfoAnnotator(const AnnotatorSettings& settings, at::Device device)
      : SaliencyAnnotator(settings, device, kImageNet, Ufo::kSide), model_(placed(load_ufo(settings.weights))) {}
  std::int64_t group() const override { return Ufo::kGroup; }

 private:
  at::Tensor predict(const at::Tensor& input, std::span<const std::string> categories, std::int64_t height,
                     std::int64_t width) override {
    DIVERGEN_CHECK(categories.empty() || static_cast<std::int64_t>(categories.size()) == input.size(0));
    std::vector<at::Tensor> maps;
    for (std::int64_t first = 0, last = 0; first < input.size(0); first = last) {
      const auto is_same = [&](std::int64_t i) {
        return categories.empty() ||
               categories[static_cast<std::size_t>(i)] == categories[static_cast<std::size_t>(first)];
      };
      while (last < input.size(0) && last - first < Ufo::kGroup && is_same(last)) ++last;
      std::vector<at::Tensor> group;
      for (std::int64_t i = 0; i < Ufo::kGroup; ++i) group.push_back(input.select(0, first + i % (last - first)));
      maps.push_back(model_->forward(at::stack(group)).narrow(0, 0, last - first));
    }
    return resize_bilinear(at::cat(maps).unsqueeze(1), height, width);
  }
  std::unique_ptr<Ufo> model_;
};

}  // namespace

at::Tensor normalised(std::span<const image::Image> pictures, const ColourStatistics& colours, at::Device device) {
  std::vector<at::Tensor> all;
  for (const image::Image& picture : pictures) {
    DIVERGEN_CHECK(picture.channels == 3 && !picture.empty());
    at::Tensor bytes = at::empty({picture.height, picture.width, 3}, at::kByte);
    std::memcpy(bytes.data_ptr(), picture.pixels.data(), picture.pixels.size());
    all.push_back(bytes);
  }
  const at::Tensor pixels = at::stack(all).to(device).permute({0, 3, 1, 2}).to(at::kFloat).div(255).contiguous();
  const auto column = [&](const std::array<double, 3>& values) {
    return at::tensor(at::ArrayRef<double>(values), at::kFloat).view({3, 1, 1}).to(device);
  };
  return (pixels - column(colours.mean)) / column(colours.deviation);
}

std::vector<image::Image> stretched(const at::Tensor& maps) {
  const auto count = maps.size(0), height = maps.size(1), width = maps.size(2);
  const at::Tensor flat = maps.flatten(1);
  const at::Tensor least = flat.amin(1, /*keepdim=*/true), range = flat.amax(1, /*keepdim=*/true) - least;
  const at::Tensor scaled = at::nan_to_num((flat - least) / range, 0, 0, 0).mul(255);
  const at::Tensor bytes = scaled.to(at::kByte).cpu().contiguous();
  std::vector<image::Image> out;
  for (std::int64_t i = 0; i < count; ++i) {
    image::Image mask(static_cast<int>(height), static_cast<int>(width), 1);
    std::memcpy(mask.pixels.data(), bytes.select(0, i).const_data_ptr(), mask.pixels.size());
    out.push_back(std::move(mask));
  }
  return out;
}

std::unique_ptr<Annotator> make_u2net_annotator(const AnnotatorSettings& settings, at::Device device) {
  return std::make_unique<U2NetAnnotator>(settings, device);
}
std::unique_ptr<Annotator> make_ufo_annotator(const AnnotatorSettings& settings, at::Device device) {
  return std::make_unique<UfoAnnotator>(settings, device);
}
std::unique_ptr<Annotator> make_selfreformer_annotator(const AnnotatorSettings& settings, at::Device device) {
  return std::make_unique<SelfReformerAnnotator>(settings, device);
}

}  // namespace divergen::models
