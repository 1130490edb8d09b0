#include "models/annotator.hpp"

#include <cstring>
#include <map>

#include "base/hash.hpp"
#include "base/text.hpp"
#include "models/annotators/best_cut_out.hpp"
#include "models/annotators/clipseg_annotator.hpp"
#include "models/annotators/saliency.hpp"
#include "models/generator.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kBackgroundMask =
    2;  // reference/semantics.md §4.2: the third mask, whatever its predicted quality

/// The whole frame, as X-Paste's method "full" (reference/semantics.md §4.1): what the others are measured by.
class WholeFrame : public Annotator {
 public:
  std::vector<Annotation> annotate(std::span<const image::Image> pictures, std::span<const std::string>) override {
    std::vector<Annotation> out;
    for (const image::Image& picture : pictures) {
      image::Image mask(picture.height, picture.width, 1);
      std::fill(mask.pixels.begin(), mask.pixels.end(), std::uint8_t{255});
      out.push_back({std::move(mask), 0, {}});
    }
    return out;
  }
  const std::string& weights_hash() const override { return hash_; }

 private:
  std::string hash_ = to_hex(hash128(""));
};

using Factories = std::map<std::string, AnnotatorFactory>;

template <class Model>
std::unique_ptr<Annotator> make(const AnnotatorSettings& settings, at::Device device) {
  return std::make_unique<Model>(settings, device);
}

Factories& factories() {
  static Factories all{
      {"sam_background", make<SamBackgroundAnnotator>},
      {"clipseg", make<ClipSegAnnotator>},
      {"u2net", [](const AnnotatorSettings& s, at::Device d) { return make_u2net_annotator(s, d); }},
      {"ufo", [](const AnnotatorSettings& s, at::Device d) { return make_ufo_annotator(s, d); }},
      {"selfreformer", [](const AnnotatorSettings& s, at::Device d) { return make_selfreformer_annotator(s, d); }},
      {"full", [](const AnnotatorSettings&, at::Device) { return std::make_unique<WholeFrame>(); }}};
  return all;
}

/// Where [annotator] or [annotators.<name>] wants to run.
at::Device device_for(const AnnotatorSettings& settings, at::Device device) {
  if (settings.device == "cpu") return at::kCPU;
  if (settings.device == "cuda" && device.is_cpu())
    fail(ErrorKind::Config,
         {"there is no GPU for an annotator",
          settings.name.empty() ? "[annotator] device = cuda" : cat("[annotators.", settings.name, "] device = cuda"),
          "LibTorch sees none on this node", "set device = \"auto\", or run where there is one"});
  return device;
}

/// Paths that an annotator falls back to.
AnnotatorSettings completed(AnnotatorSettings settings, const config::RunConfig& config) {
  if (settings.kind == "clipseg" && settings.tokenizer.empty() &&
      !std::filesystem::exists(settings.weights / "merges.txt"))
    settings.tokenizer = config.filter.clip;
  return settings;
}

Path chooser_of(const config::RunConfig& config) {
  return config.annotator.choose_by.empty() ? config.filter.clip : config.annotator.choose_by;
}

}  // namespace

SamBackgroundAnnotator::SamBackgroundAnnotator(const AnnotatorSettings& settings, at::Device device)
    : settings_(settings), device_(device), hash_(hash_weights(settings)), sam_(load_sam(settings.weights)) {
  if (!device_.is_cpu()) sam_->to(at::TensorOptions().device(device_));
}

std::vector<Annotation> SamBackgroundAnnotator::annotate(std::span<const image::Image> pictures,
                                                         std::span<const std::string>) {
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
  const at::Tensor embedding = sam_->image_encoder.forward(at::cat(pixels).to(device_));
  const at::Tensor all_points = at::stack(points).to(device_);
  const at::Tensor sparse =
      sam_->prompt_encoder.points(all_points, at::ones({all_points.size(0), 4}, at::kLong).to(device_));
  const auto out = sam_->mask_decoder.forward(embedding, sam_->prompt_encoder.pe_layer.grid(sam_->config.grid()),
                                              sparse, sam_->prompt_encoder.no_mask());
  std::vector<Annotation> annotations;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor low = out.masks.narrow(0, static_cast<std::int64_t>(i), 1).narrow(1, 1 + kBackgroundMask, 1);
    const at::Tensor object =
        upscale_masks(low, inputs[i], sam_->config.img_size).le(0).to(at::kByte).mul(255).contiguous().cpu();
    image::Image mask(pictures[i].height, pictures[i].width, 1);
    std::memcpy(mask.pixels.data(), object.const_data_ptr(), mask.pixels.size());
    annotations.push_back({std::move(mask), 0, {}});
  }
  return annotations;
}

std::vector<std::string> annotator_kinds() {
  std::vector<std::string> kinds;
  for (const auto& [kind, factory] : factories()) kinds.push_back(kind);
  return kinds;
}

void register_annotator(const std::string& kind, AnnotatorFactory factory) { factories()[kind] = std::move(factory); }

std::unique_ptr<Annotator> make_annotator(const AnnotatorSettings& settings, at::Device device) {
  const auto found = factories().find(settings.kind);
  if (found != factories().end()) return found->second(settings, device_for(settings, device));
  const std::string near = nearest_word(settings.kind, annotator_kinds());
  std::string known;
  for (const std::string& kind : annotator_kinds()) known += cat(known.empty() ? "known: " : ", ", kind);
  fail(ErrorKind::Config, {"there is no such kind of annotator", settings.kind, known,
                           near.empty() ? "name one of them" : cat("did you mean '", near, "'?")});
}

std::unique_ptr<Annotator> make_annotator(const config::RunConfig& config, at::Device device) {
  if (config.annotator.choose_from.empty()) return make_annotator(completed(config.annotator, config), device);
  std::vector<BestCutOut::Candidate> candidates;
  for (const AnnotatorSettings& settings : config.used_annotators())
    candidates.push_back({settings.name, make_annotator(completed(settings, config), device)});
  return std::make_unique<BestCutOut>(std::move(candidates), chooser_of(config), device_for(config.annotator, device),
                                      annotators_hash(config));
}

std::string hash_weights(const AnnotatorSettings& settings) {
  if (settings.kind == "full") return to_hex(hash128(""));
  const std::string first = hash_weights(settings.weights);
  std::string all = first;
  for (const Path& path : {settings.clip, settings.matting}) all += path.empty() ? "\n" : cat('\n', hash_weights(path));
  if (!settings.tokenizer.empty()) {
    const Path merges = settings.tokenizer / "merges.txt";
    all += cat('\n', hash_weights(std::filesystem::exists(merges) ? merges : settings.tokenizer));
  }
  return all == first + "\n\n" ? first : to_hex(hash128(all));
}

std::string annotators_hash(const config::RunConfig& config) {
  if (config.annotator.choose_from.empty()) return hash_weights(completed(config.annotator, config));
  std::string all = cat("best cut-out\n", hash_weights(chooser_of(config)), '\n');
  for (const AnnotatorSettings& settings : config.used_annotators())
    all += cat(settings.name, '\n', settings.kind, '\n', settings.margin, '\n',
               hash_weights(completed(settings, config)), '\n');
  return to_hex(hash128(all));
}

}  // namespace divergen::models
