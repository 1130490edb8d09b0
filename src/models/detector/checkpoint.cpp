#include "models/detector/checkpoint.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/error.hpp"
#include "base/log.hpp"
#include "nn/tensor_io.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

constexpr const char* kBottomUp = "backbone.bottom_up.";
constexpr const char* kPredictor = "roi_heads.box_predictor.";

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return name.ends_with(end); });
}

/// Tensors with one row or entry a class.
bool is_of_classes(const std::string& name) {
  return name.find(kPredictor) != std::string::npos &&
         ends_with_any(name, {".cls_score.weight", ".cls_score.bias", ".freq_weight"});
}

/// The first `classes` rows of a tensor of classes; of a classifier also the last one, which is background.
at::Tensor cut(const std::string& name, const at::Tensor& tensor, std::int64_t classes) {
  const at::Tensor first = tensor.narrow(0, 0, classes);
  return name.ends_with(".freq_weight") ? first.contiguous()
                                        : at::cat({first, tensor.narrow(0, tensor.size(0) - 1, 1)});
}

void check_classes(const Path& file, std::int64_t has, std::int64_t wanted, FileClasses classes) {
  const bool fits = classes == FileClasses::Same ? has == wanted : classes == FileClasses::New || has >= wanted;
  if (fits) return;
  const std::string cut = has > wanted ? cat("init_classes = \"cut\" if its first ", wanted,
                                             " classes are these (as LVIS's are the first of DiverGen's 1453), ")
                                       : "";
  fail(ErrorKind::Data,
       {"the classifier of the weights is for other classes", file.string(),
        cat("it knows ", has, " classes, and data.categories has ", wanted),
        cat("name the categories of the weights as data.categories; to train from them, set ", cut,
            "init_classes = \"new\" if only the rest of the detector is wanted: the classifier then starts anew")});
}

/// The longest key that is the name or its end after a dot; empty if there is none.
std::string longest_suffix(const std::string& name, const weights::WeightSource& source) {
  for (std::size_t from = 0;;) {
    if (const std::string end = name.substr(from); source.find(end) != nullptr) return end;
    const std::size_t dot = name.find('.', from);
    if (dot == std::string::npos) return "";
    from = dot + 1;
  }
}

/// Tensors that the reference need not find: never used, or only in newer files (reference/detector.md §2b).
bool may_miss(const std::string& name) {
  return name.find(".fc.") != std::string::npos || name.ends_with(".num_batches_tracked");
}

}  // namespace

FileClasses file_classes(const std::string& word) {
  if (word == "cut") return FileClasses::Cut;
  if (word == "new") return FileClasses::New;
  DIVERGEN_CHECK(word == "same", word);
  return FileClasses::Same;
}

std::shared_ptr<const weights::WeightSource> open_network(const Path& file) {
  std::shared_ptr<const weights::WeightSource> source = weights::open_weights(file);
  const auto all = source->tensors();
  std::string prefix;
  for (const char* entry : {"model_ema.", "model.", "state_dict."})
    if (std::any_of(all.begin(), all.end(), [&](const auto& w) { return w.name.starts_with(entry); })) {
      prefix = entry;
      break;
    }
  const std::string wrapped = prefix + "module.";
  if (!all.empty() && std::all_of(all.begin(), all.end(), [&](const auto& w) {
        return !w.name.starts_with(prefix) || w.name.starts_with(wrapped);
      }))
    prefix = wrapped;
  return prefix.empty() ? source : weights::select_prefix(std::move(source), prefix);
}

std::int64_t classes_of(const weights::WeightSource& source) {
  const weights::Weight* classifier = source.find(cat(kPredictor, "0.cls_score.weight"));
  if (classifier == nullptr || classifier->shape.size() != 2 || classifier->shape[0] < 2)
    fail(ErrorKind::Data, {"the weights are not a detector's", source.name(),
                           cat("there is no classifier '", kPredictor, "0.cls_score.weight'"),
                           "name a detector here; a backbone alone goes into detector.backbone_weights"});
  return classifier->shape[0] - 1;
}

void load_detector(CenterNet2& detector, const Path& file, FileClasses classes) {
  const auto source = open_network(file);
  const std::int64_t wanted = detector.num_classes(), has = classes_of(*source);
  check_classes(file, has, wanted, classes);
  nn::LoadOptions options;
  if (classes == FileClasses::New)
    options.rename = [](const std::string& name) { return is_of_classes(name) ? std::string() : name; };
  // Counters of frozen norms and the normalisation of pixels are in some published files and not in others.
  options.may_surplus = [](const std::string& name) {
    return ends_with_any(name, {"num_batches_tracked", "pixel_mean", "pixel_std"});
  };
  options.may_miss = [&](const std::string& name) {
    return name.ends_with("num_batches_tracked") || (classes == FileClasses::New && is_of_classes(name));
  };
  if (classes != FileClasses::Cut || has == wanted) return nn::load_module(detector, *source, options);
  nn::TensorMap tensors = nn::load_tensors(*source);
  for (auto& [name, tensor] : tensors)
    if (is_of_classes(name)) tensor = cut(name, tensor, wanted);
  nn::load_module(detector, tensors, file.string(), options);
  log::info(file.string(), ": the first ", wanted, " of its ", has, " classes are taken");
}

void load_backbone(CenterNet2& detector, const Path& file) {
  at::NoGradGuard no_grad;
  const auto source = open_network(file);
  std::vector<std::pair<at::Tensor, std::string>> copies;
  std::map<std::string, std::string> taken;  // key of the file -> name
  std::string misfits;
  const auto misfit = [&](const std::string& text) { misfits += (misfits.empty() ? "" : "; ") + text; };
  for (const nn::NamedTensor& target : detector.named_tensors()) {
    if (!target.name.starts_with(kBottomUp) || !target.is_persistent) continue;
    const std::string key = longest_suffix(target.name, *source);
    if (key.empty()) {
      if (!may_miss(target.name)) misfit(cat("nothing for '", target.name, "'"));
      continue;
    }
    const auto& shape = source->find(key)->shape;
    if (at::IntArrayRef(shape) != target.tensor.sizes()) {
      if (!may_miss(target.name))
        misfit(cat("'", key, "' has shape ", weights::shape_text(shape), ", '", target.name, "' ",
                   weights::shape_text(target.tensor.sizes())));
      continue;
    }
    if (const auto [other, is_new] = taken.emplace(key, target.name); !is_new) {
      if (!may_miss(target.name)) misfit(cat("'", key, "' fits '", other->second, "' and '", target.name, "'"));
      continue;
    }
    copies.emplace_back(target.tensor, key);
  }
  constexpr std::size_t kLongest = 600;
  if (misfits.size() > kLongest) misfits = misfits.substr(0, kLongest) + " ...";
  if (!misfits.empty())
    fail(ErrorKind::Data, {"the weights do not fit the detector's backbone", file.string(), misfits,
                           "name weights of this backbone in detector.backbone_weights, or set its depths and widths"});
  const nn::TensorMap tensors = nn::load_tensors(*source);
  for (auto& [target, key] : copies) target.copy_(tensors.at(key));
}

}  // namespace divergen::models
