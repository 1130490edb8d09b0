#include "stages/pretrain/if_task.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "base/log.hpp"
#include "models/diffusion/deepfloyd_if.hpp"
#include "nn/tensor_io.hpp"
#include "stages/pretrain/layout.hpp"
#include "stages/pretrain/pictures.hpp"

namespace divergen::stages {
namespace {

constexpr std::uint64_t kSampleSeed = 9;

void write_json(const Path& file, const nlohmann::json& json) { write_file_atomic(file, json.dump(2) + "\n"); }

nlohmann::json model_index_json(int stage) {
  nlohmann::json json{{"_class_name", stage == 1 ? "IFPipeline" : "IFSuperResolutionPipeline"},
                      {"feature_extractor", {nullptr, nullptr}},
                      {"requires_safety_checker", false},
                      {"safety_checker", {nullptr, nullptr}},
                      {"scheduler", {"diffusers", "DDPMScheduler"}},
                      {"text_encoder", {nullptr, nullptr}},
                      {"tokenizer", {nullptr, nullptr}},
                      {"unet", {"diffusers", "UNet2DConditionModel"}},
                      {"watermarker", {nullptr, nullptr}}};
  if (stage == 1) {
    json["text_encoder"] = {"transformers", "T5EncoderModel"};
    json["tokenizer"] = {"transformers", "T5Tokenizer"};
  } else {
    json["image_noising_scheduler"] = {"diffusers", "DDPMScheduler"};
  }
  return json;
}

at::Tensor random_rows(Rng& rng, std::int64_t size, std::int64_t count) {
  at::Tensor rows = at::empty({size}, at::kLong);
  for (std::int64_t i = 0; i < size; ++i)
    rows[i] = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(count)));
  return rows;
}

void initialise_unet(models::UNet2DCondition& unet, at::Generator& generator) {
  nn::init_default(unet, generator);
  at::NoGradGuard no_grad;
  unet.conv_out.weight.zero_();  // starts with no noise predicted and a variance between its bounds
  unet.conv_out.bias.zero_();
}

IfTaskOptions with_vocabulary(IfTaskOptions options, const tokenizers::T5SentencePiece& tokenizer) {
  options.text.vocab_size = tokenizer.vocabulary_size();
  return options;
}

/// Two captions of every category: a template and a descriptive one.
std::vector<std::pair<std::string, std::size_t>> sample_captions(const miniworld::World& world) {
  std::vector<std::pair<std::string, std::size_t>> out;
  Rng rng(kSampleSeed);
  for (const auto& category : world.categories()) {
    miniworld::Description plain, rich = miniworld::random_description(rng);
    rich.is_template = false;
    for (const auto& description : {plain, rich})
      out.emplace_back(miniworld::caption_of(category.name, category.definition, description),
                       category.sprites.front());
  }
  return out;
}

std::vector<std::uint64_t> sample_seeds(std::size_t count) {
  std::vector<std::uint64_t> seeds;
  for (std::size_t i = 0; i < count; ++i) seeds.push_back(kSampleSeed + i);
  return seeds;
}

}  // namespace

IfStage1Task::Both::Both(const IfTaskOptions& o) : unet(o.unet), text(o.text) {
  child("unet", unet);
  child("text", text);
}

IfStage1Task::IfStage1Task(const miniworld::World& world, IfTaskOptions options)
    : world_(world),
      tokenizer_(options.tokenizer),
      options_(with_vocabulary(std::move(options), tokenizer_)),
      scheduler_(if_scheduler_json(1), "scheduler"),
      schedule_(models::NoiseSchedule::from(scheduler_)),
      goal_(schedule_, options_.snr_limit, options_.bound_weight),
      no_text_(if_tokens(tokenizer_, "")),
      both_(options_) {}

void IfStage1Task::initialise(std::uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  initialise_unet(both_.unet, generator);
  models::init_t5(both_.text, generator);
  pictures_ =
      IfPictures::render(world_, tokenizer_, options_.pictures, options_.picture_size, derive_seed(seed, "pictures"));
  const auto factor = options_.picture_size / options_.unet.sample_size;
  std::vector<at::Tensor> small;
  for (const at::Tensor& part : pictures_.pixels.split(500))
    small.push_back(at::avg_pool2d(part.to(at::kFloat), {factor, factor}).round().to(at::kByte));
  pictures_.pixels = at::cat(small);
  log::info(options_.pictures, " pictures rendered; ", both_.unet.count_parameters(), " parameters of the UNet, ",
            both_.text.count_parameters(), " of T5");
}

std::any IfStage1Task::make_batch(Rng rng, std::int64_t size) const {
  return random_rows(rng, size, options_.pictures);
}

at::Tensor IfStage1Task::loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const auto& rows = std::any_cast<const at::Tensor&>(batch);
  const at::Tensor x = pictures_.images(rows);
  const at::Tensor dropped = at::rand({rows.size(0), 1}, generator).lt(options_.drop_prompt);
  const at::Tensor ids = at::where(dropped, no_text_.first, pictures_.ids.index_select(0, rows));
  const at::Tensor mask = at::where(dropped, no_text_.second, pictures_.mask.index_select(0, rows));
  const at::Tensor t = at::randint(schedule_.steps(), {rows.size(0)}, generator, at::kLong);
  const at::Tensor noise = at::randn(x.sizes(), generator);
  const at::Tensor output = both_.unet.forward(schedule_.add_noise(x, noise, t), t, both_.text.forward(ids, mask));
  const auto goal = goal_.of(output, x, noise, t);
  terms["mse"] = goal.mse;
  terms["bound"] = goal.bound;
  return goal.loss;
}

void IfStage1Task::sample(const Path& folder, std::int64_t iteration) {
  std::vector<at::Tensor> rows;
  for (const auto& [caption, sprite] : sample_captions(world_)) {
    const auto [ids, mask] = if_tokens(tokenizer_, caption);
    rows.push_back(both_.text.forward(ids, mask));
  }
  const at::Tensor states = at::cat(rows), none = both_.text.forward(no_text_.first, no_text_.second);
  models::IfCondition condition;
  condition.guidance = options_.sample_guidance;
  condition.text = both_.unet.text(models::guided_states(none.expand_as(states), states, condition.guidance));
  const models::Ddpm ddpm(scheduler_, options_.sample_steps);
  models::BatchNoise noise(sample_seeds(rows.size()), at::kFloat, at::kCPU);
  const auto side = options_.unet.sample_size;
  const auto draw = [&] { return noise.draw({options_.unet.in_channels, side, side}); };
  const at::Tensor start = draw();
  write_file_atomic(folder / cat("sample-", iteration, ".png"),
                    image::encode_png(mosaic(to_images(denoise_if(both_.unet, ddpm, condition, start, draw)), 16)));
}

void IfStage1Task::write(const Path& folder) {
  for (const char* part : {"unet", "text_encoder", "scheduler"}) make_folder(folder / part);
  write_json(folder / "model_index.json", model_index_json(1));
  write_json(folder / "scheduler/scheduler_config.json", if_scheduler_json(1));
  write_json(folder / "unet/config.json", options_.unet.to_json());
  write_json(folder / "text_encoder/config.json", options_.text.to_json());
  nn::save_module(both_.unet, folder / "unet/diffusion_pytorch_model.safetensors", at::kHalf, {{"format", "pt"}});
  nn::save_module(both_.text, folder / "text_encoder/model.safetensors", at::kHalf, {{"format", "pt"}});
  copy_files(options_.tokenizer, folder / "tokenizer");
}

IfStage2Task::IfStage2Task(const miniworld::World& world, IfTaskOptions options)
    : world_(world),
      options_(std::move(options)),
      tokenizer_(options_.stage1 / "tokenizer"),
      text_(models::load_t5(options_.stage1 / "text_encoder")),
      scheduler_(if_scheduler_json(2), "scheduler"),
      schedule_(models::NoiseSchedule::from(scheduler_)),
      goal_(schedule_, options_.snr_limit, options_.bound_weight),
      unet_(options_.unet) {
  at::NoGradGuard no_grad;
  const auto [ids, mask] = if_tokens(tokenizer_, "");
  no_text_ = text_->forward(ids, mask);
}

void IfStage2Task::initialise(std::uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  initialise_unet(unet_, generator);
  pictures_ = IfPictures::render(world_, tokenizer_, options_.pictures, options_.unet.sample_size,
                                 derive_seed(seed, "pictures"));
  log::info(options_.pictures, " pictures rendered; ", unet_.count_parameters(), " parameters of the UNet");
}

std::any IfStage2Task::make_batch(Rng rng, std::int64_t size) const {
  Batch batch{random_rows(rng, size, options_.pictures), 0, 0};
  const auto room = static_cast<std::uint64_t>(options_.unet.sample_size - options_.crop + 1);
  batch.top = static_cast<std::int64_t>(rng.below(room));
  batch.left = static_cast<std::int64_t>(rng.below(room));
  return batch;
}

at::Tensor IfStage2Task::loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const auto& [rows, top, left] = std::any_cast<const Batch&>(batch);
  const at::Tensor whole = pictures_.images(rows);
  const auto side = options_.unet.sample_size, factor = side / options_.small_size;
  const auto cropped = [&, top = top, left = left](const at::Tensor& x) {
    return x.narrow(2, top, options_.crop).narrow(3, left, options_.crop);
  };
  const at::Tensor x = cropped(whole);
  const at::Tensor blurred = cropped(models::enlarge(at::avg_pool2d(whole, {factor, factor}), side));
  const at::Tensor dropped = at::rand({rows.size(0), 1, 1}, generator).lt(options_.drop_prompt);
  at::Tensor states;
  {
    at::NoGradGuard no_grad;
    states = text_->forward(pictures_.ids.index_select(0, rows), pictures_.mask.index_select(0, rows));
    states = at::where(dropped, no_text_, states);
  }
  const auto n = rows.size(0);
  const at::Tensor t = at::randint(schedule_.steps(), {n}, generator, at::kLong);
  const at::Tensor level = at::randint(options_.noise_levels, {n}, generator, at::kLong);
  const at::Tensor noise = at::randn(x.sizes(), generator), other = at::randn(x.sizes(), generator);
  const at::Tensor input = at::cat({schedule_.add_noise(x, noise, t), schedule_.add_noise(blurred, other, level)}, 1);
  const auto goal = goal_.of(unet_.forward(input, t, states, level), x, noise, t);
  terms["mse"] = goal.mse;
  terms["bound"] = goal.bound;
  return goal.loss;
}

void IfStage2Task::sample(const Path& folder, std::int64_t iteration) {
  Rng rng(kSampleSeed);
  const auto side = options_.unet.sample_size, factor = side / options_.small_size;
  std::vector<at::Tensor> rows;
  std::vector<image::Image> originals;
  for (const auto& [caption, sprite] : sample_captions(world_)) {
    const auto [ids, mask] = if_tokens(tokenizer_, caption);
    rows.push_back(text_->forward(ids, mask));
    originals.push_back(miniworld::make_picture(world_, sprite, {}, static_cast<int>(side), rng).rgb);
  }
  std::vector<const image::Image*> pointers;
  for (const auto& picture : originals) pointers.push_back(&picture);
  const at::Tensor states = at::cat(rows);
  const at::Tensor blurred = models::enlarge(at::avg_pool2d(to_unit_range(pointers), {factor, factor}), side);
  models::IfCondition condition;
  condition.guidance = options_.sample_guidance;
  condition.text = unet_.text(models::guided_states(no_text_.expand_as(states), states, condition.guidance));
  condition.levels = at::full({states.size(0)}, options_.sample_noise_level, at::kLong);
  const models::Ddpm ddpm(scheduler_, options_.sample_steps);
  models::BatchNoise noise(sample_seeds(rows.size()), at::kFloat, at::kCPU);
  const auto draw = [&] { return noise.draw({3, side, side}); };
  const at::Tensor start = draw();
  condition.upscaled = schedule_.add_noise(blurred, draw(), condition.levels);
  auto pictures = to_images(denoise_if(unet_, ddpm, condition, start, draw));
  for (auto& picture : to_images(blurred)) pictures.push_back(std::move(picture));
  write_file_atomic(folder / cat("sample-", iteration, ".png"), image::encode_png(mosaic(pictures, 16)));
}

void IfStage2Task::write(const Path& folder) {
  for (const char* part : {"unet", "scheduler", "image_noising_scheduler"}) make_folder(folder / part);
  write_json(folder / "model_index.json", model_index_json(2));
  write_json(folder / "scheduler/scheduler_config.json", if_scheduler_json(2));
  write_json(folder / "image_noising_scheduler/scheduler_config.json", if_noising_json());
  write_json(folder / "unet/config.json", options_.unet.to_json());
  nn::save_module(unet_, folder / "unet/diffusion_pytorch_model.safetensors", at::kHalf, {{"format", "pt"}});
}

}  // namespace divergen::stages
