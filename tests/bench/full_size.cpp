// One full-size model with random weights, run whenever a line comes in on standard input: full_size.py lets it and the
// Python reference take turns.
//
//   bench_full_size MODEL [--threads N] [--precision fp32|bf16] [--channels-last]
//
// MODEL: sd15_unet (a step with guidance: batch 2, 64 px latents), sd15_vae (decodes one 512 px picture), clip_vit_l14
// (features of 8 pictures), sam_vit_b (one 1024 px picture through the encoder). Prints "ready PARAMETERS", then for
// each line read {"clock": s, "processors": s, "checksum": mean of the absolute output}.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "base/allocator.hpp"
#include "base/machine.hpp"
#include "models/clip/clip.hpp"
#include "models/diffusion/autoencoder_kl.hpp"
#include "models/diffusion/unet2d_condition.hpp"
#include "models/sam/sam.hpp"
#include "nn/amp.hpp"
#include "nn/channels_last.hpp"
#include "nn/layers.hpp"
#include "support/published_configs.hpp"

namespace divergen::models {
namespace {

struct Model {
  std::shared_ptr<nn::Module> module;
  std::vector<at::Tensor> inputs;
  std::function<at::Tensor(const std::vector<at::Tensor>&)> run;
};

/// The module, and a function that calls `forward(module, inputs)`.
template <typename M, typename Forward>
Model model_of(std::shared_ptr<M> module, std::vector<at::Tensor> inputs, Forward forward) {
  M* raw = module.get();
  return {std::move(module), std::move(inputs), [raw, forward](const auto& x) { return forward(*raw, x); }};
}

Model make(const std::string& name) {
  if (name == "sd15_unet")
    return model_of(std::make_shared<UNet2DCondition>(UnetConfig::from(sd15_unet())),
                    {at::randn({2, 4, 64, 64}), at::full({2}, 500.0), at::randn({2, 77, 768})},
                    [](const auto& m, const auto& x) { return m.forward(x[0], x[1], x[2]); });
  if (name == "sd15_vae")
    return model_of(std::make_shared<AutoencoderKL>(VaeConfig::from(sd15_vae())), {at::randn({1, 4, 64, 64})},
                    [](const auto& m, const auto& x) { return m.decode(x[0]); });
  if (name == "clip_vit_l14")
    return model_of(std::make_shared<ClipVisionModel>(ClipVisionConfig(), 768), {at::randn({8, 3, 224, 224})},
                    [](const auto& m, const auto& x) { return m.image_features(x[0]); });
  if (name == "sam_vit_b")
    return model_of(std::make_shared<Sam>(SamConfig::published("vit_b")), {at::randn({1, 3, 1024, 1024})},
                    [](const auto& m, const auto& x) { return m.image_encoder.forward(x[0]); });
  fail(ErrorKind::Usage, {"there is no such model", name, "", "see the head of full_size.cpp"});
}

void serve(const std::string& name, const std::string& precision, bool innermost) {
  const at::NoGradGuard no_grad;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(7);
  Model model = make(name);
  nn::init_default(*model.module, generator);
  model.module->eval();
  const at::ScalarType type = nn::precision_type(precision);
  model.module->to(at::TensorOptions().dtype(type));
  for (at::Tensor& input : model.inputs) input = input.to(type);
  if (innermost) {
    nn::channels_last(*model.module);
    for (at::Tensor& input : model.inputs)
      if (input.dim() == 4) input = input.contiguous(at::MemoryFormat::ChannelsLast);
  }
  std::printf("ready %lld\n", static_cast<long long>(model.module->count_parameters()));
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    const double before = processor_seconds();
    const at::Tensor out = model.run(model.inputs);
    const double processors = processor_seconds() - before;
    const double clock = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf(R"({"clock": %.6f, "processors": %.6f, "checksum": %.9g})"
                "\n",
                clock, processors, out.abs().mean().to(at::kDouble).item<double>());
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace divergen::models

int main(int argc, char** argv) {
  CLI::App app{"Runs one full-size model with random weights, once a line of standard input"};
  std::string model, precision = "fp32";
  int threads = 2;
  bool innermost = false;
  app.add_option("model", model)->required();
  app.add_option("--threads", threads);
  app.add_option("--precision", precision)->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_flag("--channels-last", innermost);
  CLI11_PARSE(app, argc, argv);
  divergen::keep_freed_memory();
  at::set_num_threads(threads);
  divergen::models::serve(model, precision, innermost);
}
