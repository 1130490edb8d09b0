#include "models/detector/init.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.hpp"
#include "models/detector/backbone.hpp"
#include "models/detector/centernet2.hpp"
#include "models/detector/roi_heads.hpp"
#include "nn/tensor_io.hpp"
#include "weights/torch_file.hpp"

namespace divergen::models {
namespace {

constexpr const char* kBottomUp = "backbone.bottom_up.";

/// Tensors of a weights file; of its entry "model" where it is a checkpoint of detectron2.
nn::TensorMap read_weights(const Path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".pkl")
    fail(ErrorKind::Data, {"the backbone's weights cannot be read", path.string(),
                           "pickles of NumPy arrays are not among the formats that are read as data",
                           "convert the file to safetensors; the names in it may stay as they are"});
  const bool is_checkpoint = (extension == ".pth" || extension == ".pt") && weights::TorchFile(path).has("model");
  return nn::load_tensors(path, is_checkpoint ? "model" : "");
}

/// detectron2's align_and_update_state_dicts for one name: the longest key of the file that is the name or its end
/// after a dot; empty if there is none.
std::string longest_suffix(const std::string& name, const nn::TensorMap& tensors) {
  for (std::size_t from = 0;;) {
    if (const std::string end = name.substr(from); tensors.contains(end)) return end;
    const std::size_t dot = name.find('.', from);
    if (dot == std::string::npos) return "";
    from = dot + 1;
  }
}

/// Tensors that the reference need not find: never used, or only in newer files (reference/detector.md §2b).
bool may_miss(const std::string& name) {
  return name.find(".fc.") != std::string::npos || name.ends_with(".num_batches_tracked");
}

void load_backbone(CenterNet2& detector, const Path& path) {
  at::NoGradGuard no_grad;
  const nn::TensorMap tensors = read_weights(path);
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  std::map<std::string, std::string> taken;  // key of the file -> name
  std::string misfits;
  const auto misfit = [&](const std::string& text) { misfits += (misfits.empty() ? "" : "; ") + text; };
  for (const nn::NamedTensor& target : detector.named_tensors()) {
    if (!target.name.starts_with(kBottomUp) || !target.is_persistent) continue;
    const std::string key = longest_suffix(target.name, tensors);
    if (key.empty()) {
      if (!may_miss(target.name)) misfit(cat("nothing for '", target.name, "'"));
      continue;
    }
    const at::Tensor& source = tensors.at(key);
    if (source.sizes() != target.tensor.sizes()) {
      if (!may_miss(target.name))
        misfit(cat("'", key, "' has shape ", weights::shape_text(source.sizes()), ", '", target.name, "' ",
                   weights::shape_text(target.tensor.sizes())));
      continue;
    }
    if (const auto [other, is_new] = taken.emplace(key, target.name); !is_new)
      misfit(cat("'", key, "' fits '", other->second, "' and '", target.name, "'"));
    copies.emplace_back(target.tensor, source);
  }
  constexpr std::size_t kLongest = 600;
  if (misfits.size() > kLongest) misfits = misfits.substr(0, kLongest) + " ...";
  if (!misfits.empty())
    fail(ErrorKind::Data, {"the weights do not fit the detector's backbone", path.string(), misfits,
                           "name weights of this backbone in detector.backbone_weights, or set its depths and widths"});
  for (auto& [target, source] : copies) target.copy_(source);
}

}  // namespace

void init_xavier(at::Tensor& weight, at::Tensor& bias, at::Generator& generator) {
  const double bound = std::sqrt(3.0 * static_cast<double>(weight.size(0)) / static_cast<double>(weight.numel()));
  weight.uniform_(-bound, bound, generator);
  bias.zero_();
}

void init_detector(CenterNet2& detector, const config::DetectorSettings& settings, at::Generator& generator) {
  at::NoGradGuard no_grad;
  detector.backbone().init(generator);
  detector.proposal_head().init(generator);
  detector.roi_heads().init(generator);
  if (!settings.backbone_weights.empty()) load_backbone(detector, settings.backbone_weights);
}

void calibrate_norms(CenterNet2& detector, std::span<const at::Tensor> images) {
  detector.backbone().bottom_up().calibrate(detector.prepare(images));
}

}  // namespace divergen::models
