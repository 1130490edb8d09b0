// divergen-probe: what a model makes of fixed inputs, step by step, for comparison with other software
// (tools/check_models.py runs the same inputs through the reference packages).

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <map>

#include <CLI/CLI.hpp>

#include "base/log.hpp"
#include "models/annotator.hpp"
#include "models/clip/clip.hpp"
#include "models/diffusion/deepfloyd_if.hpp"
#include "models/diffusion/stable_diffusion.hpp"
#include "nn/tensor_io.hpp"
#include "program.hpp"
#include "tokenizers/if_caption.hpp"

namespace {

using namespace divergen;

struct Probe {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  std::map<std::string, std::string> metadata;
  void add(const std::string& name, const at::Tensor& tensor) { tensors.emplace_back(name, tensor.contiguous()); }
};

struct Options {
  Path model, out;
  std::string prompt = "a photo of a single red apple, plain background", negative_prompt = "blurry";
  std::vector<std::string> samplers = models::scheduler_names();
  std::int64_t steps = 8, pictures = 2, noise_level = 250;
  double guidance = 5;
};

at::Tensor to_tensor(const image::Image& picture) {
  at::Tensor out = at::empty({picture.height, picture.width, picture.channels}, at::kByte);
  std::memcpy(out.mutable_data_ptr(), picture.pixels.data(), picture.pixels.size());
  return out;
}

/// A disc on a sloping ground, wider than high, so that resizing, padding and cropping all have something to do.
image::Image drawing() {
  image::Image picture(75, 104, 3);
  for (int y = 0; y < picture.height; ++y)
    for (int x = 0; x < picture.width; ++x) {
      const bool is_inside = std::hypot(x - 60.0, y - 33.0) < 22;
      std::uint8_t* pixel = picture.at(y, x);
      pixel[0] = static_cast<std::uint8_t>(is_inside ? 210 - y : 90 + x);
      pixel[1] = static_cast<std::uint8_t>(is_inside ? 40 + x : 150 - y);
      pixel[2] = static_cast<std::uint8_t>(is_inside ? 30 : 100 + (x * 5 + y * 3) % 40);
    }
  return picture;
}

Probe probe_stable_diffusion(const Options& options) {
  Probe probe;
  const tokenizers::ClipBpe tokenizer(options.model / "tokenizer");
  const auto text_model = models::load_clip_text(options.model / "text_encoder");
  const auto unet = models::load_unet(options.model / "unet");
  const auto vae = models::load_vae(options.model / "vae");

  std::vector<at::Tensor> rows;
  for (const std::string& text : {options.negative_prompt, options.prompt})
    rows.push_back(at::tensor(tokenizer.encode_padded(text), at::kLong));
  const at::Tensor ids = at::stack(rows), text = text_model->forward(ids).last_hidden_state;
  probe.add("ids", ids);
  probe.add("text", text);

  const std::int64_t side = unet->config.sample_size;
  std::vector<at::Tensor> noise;
  for (std::int64_t i = 0; i < options.pictures; ++i)
    noise.push_back(models::item_noise(static_cast<std::uint64_t>(i), {1, unet->config.in_channels, side, side}));
  const at::Tensor latents = at::cat(noise), times = at::full({options.pictures}, 500, at::kFloat);
  probe.add("noise", latents);
  probe.add("unet.time", times);
  probe.add("unet.out", unet->forward(latents, times, text.narrow(0, 1, 1).expand({options.pictures, -1, -1})));
  probe.add("vae.image", vae->decode(latents));

  for (const std::string& sampler : options.samplers) {
    config::GeneratorSettings settings;
    settings.weights = options.model;
    settings.steps = options.steps;
    settings.guidance = options.guidance;
    settings.sampler = sampler;
    settings.negative_prompt = options.negative_prompt;
    models::StableDiffusion pipeline(settings);
    std::vector<models::GenerationItem> items;
    for (std::int64_t i = 0; i < options.pictures; ++i)
      items.push_back({options.prompt, static_cast<std::uint64_t>(i)});
    std::vector<at::Tensor> pictures;
    for (const image::Image& picture : pipeline.generate(items)) pictures.push_back(to_tensor(picture));
    probe.add("image." + sampler, at::stack(pictures));
  }
  probe.metadata = {{"prompt", options.prompt},
                    {"negative_prompt", options.negative_prompt},
                    {"steps", cat(options.steps)},
                    {"guidance", cat(options.guidance)}};
  return probe;
}

/// Stage II of a stage I folder: the folder beside it named <stage I>-ii, if there is one.
Path stage2_of(const Path& stage1) {
  Path folder = stage1.lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  folder += "-ii";
  return std::filesystem::exists(folder / "unet/config.json") ? folder : Path();
}

struct IfTexts {
  at::Tensor prompt, negative;  // [pictures, L, D]
};

/// One stage, its network alone and its run; `upscaled` and `levels` for stage II.
at::Tensor probe_if_stage(Probe& probe, const Options& options, const Path& folder, const std::string& name,
                          const IfTexts& texts, models::BatchNoise& noise, const at::Tensor& small) {
  const auto unet = models::load_unet(folder / "unet");
  const models::Ddpm ddpm(models::ModelConfig(folder / "scheduler/scheduler_config.json"), options.steps);
  const auto side = unet->config.sample_size;
  const std::vector<std::int64_t> sizes{3, side, side};
  models::IfCondition condition;
  condition.guidance = options.guidance;
  condition.text = unet->text(models::guided_states(texts.negative, texts.prompt, options.guidance));
  const at::Tensor start = noise.draw(sizes);
  at::Tensor input = start;
  if (small.defined()) {
    const auto noising =
        models::NoiseSchedule::from(models::ModelConfig(folder / "image_noising_scheduler/scheduler_config.json"));
    condition.levels = at::full({options.pictures}, options.noise_level, at::kLong);
    condition.upscaled = noising.add_noise(models::enlarge(small, side), noise.draw(sizes), condition.levels);
    input = at::cat({start, condition.upscaled}, 1);
  }
  const at::Tensor times = at::full({options.pictures}, 500, at::kFloat);
  probe.add(name + ".in", input);
  probe.add(name + ".time", times);
  probe.add(name + ".out", unet->forward(input, times, texts.prompt, condition.levels));
  const at::Tensor out = models::denoise_if(*unet, ddpm, condition, start, [&] { return noise.draw(sizes); });
  probe.add(name + ".image", out);
  return out;
}

Probe probe_deepfloyd_if(const Options& options) {
  Probe probe;
  const tokenizers::T5SentencePiece tokenizer(options.model / "tokenizer");
  const auto text_model = models::load_t5(options.model / "text_encoder");
  std::vector<at::Tensor> ids, masks;
  for (const std::string& text : {options.negative_prompt, options.prompt}) {
    const auto encoded = tokenizer.encode_padded(tokenizers::if_caption(text, /*clean=*/false));
    ids.push_back(at::tensor(encoded.ids, at::kLong));
    masks.push_back(at::tensor(encoded.mask, at::kLong));
  }
  probe.add("ids", at::stack(ids));
  probe.add("mask", at::stack(masks));
  const at::Tensor text = text_model->forward(at::stack(ids), at::stack(masks));
  probe.add("text", text);
  const auto repeated = [&](std::int64_t row) { return text.narrow(0, row, 1).expand({options.pictures, -1, -1}); };
  const IfTexts texts{repeated(1), repeated(0)};
  std::vector<std::uint64_t> seeds;
  for (std::int64_t i = 0; i < options.pictures; ++i) seeds.push_back(static_cast<std::uint64_t>(i));
  models::BatchNoise noise(seeds, at::kFloat, at::kCPU);
  const at::Tensor small = probe_if_stage(probe, options, options.model, "stage1", texts, noise, {});
  const Path stage2 = stage2_of(options.model);
  if (!stage2.empty()) probe_if_stage(probe, options, stage2, "stage2", texts, noise, small);
  probe.metadata = {{"steps", cat(options.steps)},
                    {"guidance", cat(options.guidance)},
                    {"noise_level", cat(options.noise_level)},
                    {"stage2", stage2.string()}};
  return probe;
}

Probe probe_clip(const Options& options) {
  Probe probe;
  const image::Image picture = drawing();
  const auto vision = models::load_clip_vision(options.model);
  const at::Tensor pixels = models::prepare_for_clip(picture, vision->vision_model.config.image_size);
  probe.add("picture", to_tensor(picture));
  probe.add("pixels", pixels);
  probe.add("image_features", vision->image_features(pixels));
  if (models::ModelConfig(options.model / "config.json").has("text_config")) {
    const auto whole = models::load_clip(options.model);
    at::Tensor ids = at::full({2, tokenizers::ClipBpe::kLength}, tokenizers::ClipBpe::kEnd, at::kLong);
    ids.select(1, 0).fill_(tokenizers::ClipBpe::kStart);
    ids[0].slice(0, 1, 7).copy_(at::tensor({320, 1125, 539, 320, 736, 3055}, at::kLong));  // a photo of a red apple
    ids[1].slice(0, 1, 4).copy_(at::tensor({320, 1125, 2368}, at::kLong));
    probe.add("ids", ids);
    probe.add("text_features", whole->text_features(ids));
  }
  return probe;
}

Probe probe_sam(const Options& options) {
  Probe probe;
  const image::Image picture = drawing();
  const auto sam = models::load_sam(options.model);
  const models::SamInput input = models::prepare_for_sam(picture, sam->config.img_size);
  const double right = picture.width - 1, bottom = picture.height - 1;
  const at::Tensor corners = at::tensor({0.0, 0.0, 0.0, bottom, right, 0.0, right, bottom}, at::kDouble).view({4, 2});
  const at::Tensor points = models::to_sam_points(corners.unsqueeze(0), input);
  const at::Tensor embedding = sam->image_encoder.forward(input.pixels);
  const auto out = sam->mask_decoder.forward(embedding, sam->prompt_encoder.pe_layer.grid(sam->config.grid()),
                                             sam->prompt_encoder.points(points, at::ones({1, 4}, at::kLong)),
                                             sam->prompt_encoder.no_mask());
  probe.add("picture", to_tensor(picture));
  probe.add("points", corners);
  probe.add("pixels", input.pixels);
  probe.add("embedding", embedding);
  probe.add("low_res", out.masks.narrow(1, 1, 3));
  probe.add("iou", out.iou.narrow(1, 1, 3));
  config::AnnotatorSettings settings;
  settings.weights = options.model;
  models::SamBackgroundAnnotator annotator(settings);
  probe.add("object", to_tensor(annotator.annotate(std::vector{picture}, {}).front().mask));
  return probe;
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<Probe(const Options&)>> kinds{
      {"sd", probe_stable_diffusion}, {"if", probe_deepfloyd_if}, {"clip", probe_clip}, {"sam", probe_sam}};
  CLI::App app{
      "Runs a model on fixed inputs and writes inputs and results as safetensors, for comparison with other "
      "software.\n\nExample: divergen-probe sd data/mini/models/sd --out probe.safetensors"};
  std::string kind;
  Options options;
  app.add_option("kind", kind, "sd, if, clip or sam")->required()->check(CLI::IsMember(kinds));
  app.add_option("model", options.model, "the model's folder (sam: or its weights file)")->required();
  app.add_option("--out", options.out, "file to write")->required();
  app.add_option("--prompt", options.prompt, "sd, if: what to draw")->capture_default_str();
  app.add_option("--negative-prompt", options.negative_prompt, "sd, if: what to keep away from")->capture_default_str();
  app.add_option("--samplers", options.samplers, "sd: samplers to run")->capture_default_str();
  app.add_option("--steps", options.steps, "sd, if: steps of a sampler")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--pictures", options.pictures, "sd, if: pictures, from the seeds 0, 1, ...")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--guidance", options.guidance, "sd, if: scale of the guidance")->capture_default_str();
  return run_program(app, argc, argv, [&] {
    at::NoGradGuard no_grad;
    const Probe probe = kinds.at(kind)(options);
    nn::save_tensors(options.out, probe.tensors, probe.metadata);
    return 0;
  });
}
