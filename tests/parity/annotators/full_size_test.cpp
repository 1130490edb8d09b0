// The networks at their published sizes, once through on the CPU, with the time that it took. DIVERGEN_FULL=1: all of
// them; else the small U²-Net alone.

#include <gtest/gtest.h>

#include <chrono>

#include "formula.hpp"
#include "models/annotators/clipseg.hpp"
#include "models/annotators/matteformer.hpp"
#include "models/annotators/selfreformer.hpp"
#include "models/annotators/u2net.hpp"
#include "models/annotators/ufo.hpp"
#include "support/full.hpp"

namespace divergen::models {
namespace {

/// Runs `forward` and prints a JSON line; what comes out must be finite and not all the same.
template <class Forward>
void run_once(const std::string& name, const nn::Module& model, std::int64_t pictures, const Forward& forward) {
  const auto start = std::chrono::steady_clock::now();
  const at::Tensor out = forward();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_TRUE(out.isfinite().all().item<bool>()) << name;
  EXPECT_GT((out.max() - out.min()).item<double>(), 0) << name;
  std::printf("{\"name\": \"%s\", \"parameters\": %lld, \"pictures\": %lld, \"seconds\": %.2f}\n", name.c_str(),
              static_cast<long long>(model.count_parameters()), static_cast<long long>(pictures), seconds);
}

at::Tensor pixels(std::int64_t count, std::int64_t side) {
  return at::arange(count * 3 * side * side, at::kFloat).view({count, 3, side, side}).mul(0.37).sin();
}

}  // namespace

TEST(full_size, U2Net) {
  at::NoGradGuard no_grad;
  for (const std::string name : {"u2netp", "u2net"}) {
    if (name == "u2net" && !test::is_full()) continue;
    U2Net model(U2NetSizes::published(name));
    test::fill(model);
    run_once(name, model, 1, [&] { return model.forward(pixels(1, 256))[0]; });
  }
}

TEST(full_size, Ufo) {
  if (!test::is_full()) GTEST_SKIP() << "DIVERGEN_FULL=1 runs it";
  at::NoGradGuard no_grad;
  Ufo model{UfoSizes{}};
  test::fill(model);
  run_once("ufo", model, Ufo::kGroup, [&] { return model.forward(pixels(Ufo::kGroup, Ufo::kSide)); });
}

TEST(full_size, SelfReformer) {
  if (!test::is_full()) GTEST_SKIP() << "DIVERGEN_FULL=1 runs it";
  at::NoGradGuard no_grad;
  SelfReformer model;
  test::fill(model);
  run_once("selfreformer", model, 1, [&] { return model.forward(pixels(1, SelfReformer::kSide)).back(); });
}

TEST(full_size, ClipSeg) {
  if (!test::is_full()) GTEST_SKIP() << "DIVERGEN_FULL=1 runs it";
  at::NoGradGuard no_grad;
  const nlohmann::json config{{"vision_config", {{"patch_size", 16}}}};
  ClipSeg model(ClipSegConfig::from(ModelConfig(config, "config.json")));
  test::fill(model);
  run_once("clipseg", model, 1, [&] {
    return model.forward(pixels(1, 352), pixels(1, 352).flatten().narrow(0, 0, 512).view({1, 512}));
  });
}

TEST(full_size, MatteFormer) {
  if (!test::is_full()) GTEST_SKIP() << "DIVERGEN_FULL=1 runs it";
  at::NoGradGuard no_grad;
  MatteFormer model;
  test::fill(model);
  const at::Tensor kinds = at::arange(576 * 576, at::kLong).div(1000, "floor").remainder(3).view({1, 576, 576});
  const at::Tensor trimap = at::one_hot(kinds, 3).permute({0, 3, 1, 2}).to(at::kFloat);
  run_once("matteformer", model, 1, [&] { return model.forward(pixels(1, 576), trimap).fine; });
}

}  // namespace divergen::models
