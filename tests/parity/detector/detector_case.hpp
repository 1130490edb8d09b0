#pragma once
// A small CenterNet2 of the fixtures (README of the detector's fixtures), and what the reference computed with it.

#include <ATen/CPUGeneratorImpl.h>

#include "models/detector/backbone.hpp"
#include "models/detector/centernet2.hpp"
#include "models/detector/resnet.hpp"
#include "models/detector/roi_heads.hpp"
#include "models/detector/swin.hpp"
#include "support/fixtures_torch.hpp"

#include "base/error.hpp"

namespace divergen::models {

/// The files "<name>_*.safetensors" and ".json" of one small model.
struct DetectorCase {
  explicit DetectorCase(const std::string& name_)
      : name(name_),
        config(test::fixture_json(file("_config.json"))),
        noise(test::fixture_json(file("_noise.json"))),
        weights(test::fixture_tensors(file("_weights.safetensors"))) {
    for (const auto& category : test::fixture_json(file("_cat_freq.json")))
      image_counts.push_back(category.at("image_count").get<double>());
    const auto& roi = config.at("roi");
    const auto& centernet = config.at("centernet");
    settings.fpn_channels = config.at("fpn_channels");
    settings.tower_convs = config.at("centernet_num_box_convs");
    settings.box_fc = config.at("fc_dim");
    settings.mask_channels = config.at("mask_conv_dim");
    settings.mask_convs = config.at("mask_num_conv");
    settings.pre_nms_train = centernet.at("pre_nms_topk_train");
    settings.post_nms_train = centernet.at("post_nms_topk_train");
    settings.pre_nms_test = centernet.at("pre_nms_topk_test");
    settings.post_nms_test = centernet.at("post_nms_topk_test");
    settings.roi_batch = roi.at("batch_size_per_image");
    settings.roi_foreground = roi.at("positive_fraction");
    settings.fed_categories = roi.at("fed_loss_num_cat");
    settings.fed_power = roi.at("fed_loss_freq_weight");
    settings.score_threshold = roi.at("score_thresh_test");
    settings.nms_threshold = roi.at("nms_thresh_test");
    settings.detections_per_image = roi.at("detections_per_image");

    detector = std::make_unique<CenterNet2>(settings, image_counts, bottom_up());
    nn::load_module(*detector, weights, name + "_weights.safetensors");
  }

  std::unique_ptr<BottomUp> bottom_up() const {
    constexpr const char* kBottomUp = "backbone.bottom_up.";
    if (config.at("arch") == "swin") {
      const auto& swin = config.at("swin");
      SwinSizes sizes;
      sizes.width = swin.at("embed_dim");
      sizes.depths = swin.at("depth").get<std::vector<std::int64_t>>();
      sizes.heads = swin.at("num_heads").get<std::vector<std::int64_t>>();
      sizes.window = swin.at("window_size");
      sizes.drop_path = swin.at("drop_path_rate");
      const at::Tensor& fc1 = weights.at(cat(kBottomUp, "layers.0.blocks.0.mlp.fc1.weight"));
      sizes.mlp_ratio = static_cast<double>(fc1.size(0)) / static_cast<double>(fc1.size(1));
      return std::make_unique<Swin>(sizes);
    }
    ResNetSizes sizes;
    sizes.widths = config.at("resnet_planes").get<std::vector<std::int64_t>>();
    sizes.depths = config.at("resnet_layers").get<std::vector<std::int64_t>>();
    sizes.stem = weights.at(cat(kBottomUp, "base.conv1.weight")).size(0);
    sizes.classes = weights.at(cat(kBottomUp, "base.fc.weight")).size(0);
    return std::make_unique<ResNet>(sizes);
  }

  Path file(const std::string& end) const { return test::fixtures("detector") / (name + end); }
  nn::TensorMap tensors(const std::string& part) const {
    return test::fixture_tensors(file("_" + part + ".safetensors"));
  }

  /// The README's tolerance: 20 times what the reference differs from itself by, at least 2e-5 of the largest value.
  double tolerance(const std::string& key, double largest) const {
    const double own = noise.contains(key) ? noise.at(key).at(0).get<double>() : 0.0;
    return std::max(20 * own, 2e-5 * largest);
  }
  testing::AssertionResult agrees(const std::string& part, const std::string& key, const at::Tensor& ours,
                                  const at::Tensor& reference) const {
    if (!at::isFloatingType(reference.scalar_type())) return test::tensors_near(ours, reference, 0.0) << " in " << key;
    const double largest = reference.numel() > 0 ? reference.abs().max().item<double>() : 0.0;
    return test::tensors_near(ours, reference, tolerance(name + "_" + part + "/" + key, largest)) << " in " << key;
  }

  std::string name;
  nlohmann::json config, noise;
  nn::TensorMap weights;
  std::vector<double> image_counts;
  config::DetectorSettings settings;
  std::unique_ptr<CenterNet2> detector;
};

inline at::Generator seeded(std::uint64_t seed) { return at::detail::createCPUGenerator(seed); }

/// Rows of image i of a list that is sorted by image.
inline at::Tensor of_image(const at::Tensor& rows, const at::Tensor& image, std::int64_t i) {
  return rows.index_select(0, image.eq(i).nonzero().squeeze(1));
}

inline std::vector<at::Tensor> images_of(const nn::TensorMap& tensors) {
  std::vector<at::Tensor> out;
  for (int i = 0; tensors.contains(cat("image.", i)); ++i) out.push_back(tensors.at(cat("image.", i)));
  return out;
}

}  // namespace divergen::models
