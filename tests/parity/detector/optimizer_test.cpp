// AdamW with the gradient clamp, the moving average and the learning-rate schedule against PyTorch and detectron2
// (reference/detector.md §9).

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "nn/adamw.hpp"
#include "nn/ema.hpp"
#include "nn/lr_schedule.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::nn {
namespace {

/// The tensors of the recorded toy: two trained, one without a gradient, a float and an integer buffer.
struct Toy : Module {
  at::Tensor a, b, unused, fb, idx;
  explicit Toy(const TensorMap& recorded) {
    const auto sizes = [&](const char* name) { return recorded.at(cat("opt.init.", name)).sizes(); };
    parameter("a", a, sizes("a"));
    parameter("b", b, sizes("b"));
    parameter("unused", unused, sizes("unused"));
    buffer("fb", fb, sizes("fb"));
    buffer("idx", idx, sizes("idx"), at::kLong);
    for (const NamedTensor& entry : named_tensors()) entry.tensor.copy_(recorded.at("opt.init." + entry.name));
    requires_grad(true);
  }
};

class optimizer : public testing::TestWithParam<bool> {};

}  // namespace

TEST_P(optimizer, FollowsTheRecordedRun) {
  const auto recorded = test::fixture_tensors(test::fixtures("detector") / "ops.safetensors");
  const auto facts = test::fixture_json(test::fixtures("detector") / "ops.json").at("opt");
  const auto rates = facts.at("lrs").get<std::vector<double>>();
  const WarmupCosine schedule{.base_lr = facts.at("base_lr").get<double>(),
                              .iterations = facts.at("max_iter").get<std::int64_t>(),
                              .warmup = facts.at("warmup").get<std::int64_t>(),
                              .warmup_factor = facts.at("factor").get<double>()};
  Toy toy(recorded);
  const at::Tensor indices = toy.idx.clone();
  AdamW adamw(toy.named_parameters(), {.weight_decay = facts.at("weight_decay").get<double>(),
                                       .clip_value = facts.at("clip_value").get<double>(),
                                       .fused = GetParam()});
  std::vector<std::pair<std::string, Ema>> averages;
  for (const double decay : facts.at("ema_decays").get<std::vector<double>>())
    averages.emplace_back(cat("ema", decay, "."), Ema(toy, decay));

  for (std::size_t k = 0; k < rates.size(); ++k) {
    const std::string step = cat("opt.", k, ".");
    for (auto& [name, average] : averages) average.update(toy);
    toy.a.mutable_grad() = recorded.at(step + "grad_a").clone();
    toy.b.mutable_grad() = recorded.at(step + "grad_b").clone();
    EXPECT_NEAR(schedule.at(static_cast<std::int64_t>(k)), rates[k], 1e-15);
    adamw.step(schedule.at(static_cast<std::int64_t>(k)));

    for (const NamedTensor& entry : toy.named_parameters())
      EXPECT_TENSOR_NEAR(entry.tensor, recorded.at(step + entry.name), GetParam() ? 3e-7 : 0) << step << entry.name;
    for (const auto& [name, average] : averages)
      for (const NamedTensor& entry : average.tensors()) {
        // Integers are copied; the reference's drift by one where the decay does not suit them.
        const at::Tensor& expected = entry.name == "idx" ? indices : recorded.at(step + name + entry.name);
        EXPECT_TENSOR_NEAR(entry.tensor, expected, GetParam() ? 3e-7 : 6e-8) << step << name << entry.name;
      }
  }
}

INSTANTIATE_TEST_SUITE_P(kernels, optimizer, testing::Bool(),
                         [](const auto& info) { return info.param ? "fused" : "plain"; });

TEST(lr, FollowsTheRecordedCurves) {
  struct Curve {
    double base_lr;
    std::int64_t iterations, warmup;
  };
  // What the names of the curves say; the warm-up factor is the first value over the base.
  const std::map<std::string, Curve> known{{"swinL_divergen(180k,1e-4)", {1e-4, 180000, 10000}},
                                           {"r50_base(90k,2e-4)", {2e-4, 90000, 10000}},
                                           {"toy(12,warm4)", {2e-3, 12, 4}},
                                           {"warm>=max", {1e-2, 8, 8}}};
  const auto facts = test::fixture_json(test::fixtures("detector") / "ops.json").at("lr");
  for (const auto& [name, points] : facts.items()) {
    const auto curve = points.get<std::vector<std::pair<std::int64_t, double>>>();
    const Curve& of = known.at(name);
    const WarmupCosine schedule{.base_lr = of.base_lr,
                                .iterations = of.iterations,
                                .warmup = of.warmup,
                                .warmup_factor = curve.at(0).second / of.base_lr};
    for (const auto& [iteration, rate] : curve)
      EXPECT_NEAR(schedule.at(iteration), rate, 1e-12 * of.base_lr + 1e-9 * rate) << name << " at " << iteration;
  }
}

}  // namespace divergen::nn
