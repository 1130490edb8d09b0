// Every sampler against diffusers, in numbers that no network has touched: schedules, time steps, noise levels, and
// runs over recorded network outputs in float32 and float16.

#include <gtest/gtest.h>

#include "models/diffusion/ddpm.hpp"
#include "models/diffusion/timesteps.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

Path folder() { return test::fixtures("generation"); }

/// The reference writes numbers that JSON does not know.
nlohmann::json facts() {
  std::string text = read_file(folder() / "schedulers.json");
  for (const std::string word : {"-Infinity", "Infinity", "NaN"})
    for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at))
      text.replace(at, word.size(), "null");
  return nlohmann::json::parse(text);
}

ModelConfig config_of(const nlohmann::json& all, const std::string& name) {
  return ModelConfig(all.at(name + ".config"), name);
}

/// A published scheduler file says no spacing; re-saved mirrors of it say "leading".
ModelConfig published(bool leading) {
  nlohmann::json json = test::fixture_json(folder() / "sd_tiny/scheduler/scheduler_config.json");
  if (leading) json["timestep_spacing"] = "leading";
  return ModelConfig(json, "scheduler_config.json");
}

/// Names "<start>.<...>" of all runs, without the last part, for which `end` is stored.
std::vector<std::string> runs(const nn::TensorMap& tensors, const std::string& start, const std::string& end) {
  std::vector<std::string> out;
  for (const auto& [name, tensor] : tensors)
    if (name.starts_with(start + ".") && name.ends_with("." + end))
      out.push_back(name.substr(0, name.size() - end.size() - 1));
  return out;
}

std::int64_t steps_of(const std::string& run) { return std::stoll(run.substr(run.find(".n") + 2)); }

/// Same operations in the same order give the same bits.
testing::AssertionResult same_bits(const at::Tensor& ours, const at::Tensor& reference) {
  if (ours.scalar_type() != reference.scalar_type())
    return testing::AssertionFailure() << "type " << ours.scalar_type() << ", expected " << reference.scalar_type();
  if (at::equal(ours, reference)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "differs at " << ours.ne(reference).sum().item<std::int64_t>() << " of "
                                     << ours.numel() << " elements, by up to "
                                     << (ours.to(at::kDouble) - reference.to(at::kDouble)).abs().max().item<double>();
}

class samplers : public testing::TestWithParam<std::string> {};

}  // namespace

TEST(noise_schedule, EqualsDiffusers) {
  const auto expected = test::fixture_tensors(folder() / "schedulers.safetensors");
  const auto all = facts();
  for (const auto& [config, prefix] :
       std::map<std::string, std::string>{{"pndm", "sd_"}, {"ifI", "if_"}, {"ifII", "if_"}, {"noising", "if_"}}) {
    const NoiseSchedule schedule = NoiseSchedule::from(config_of(all, config));
    EXPECT_TRUE(same_bits(schedule.betas, expected.at(prefix + "betas"))) << config;
    EXPECT_TRUE(same_bits(schedule.alphas_cumprod, expected.at(prefix + "alphas_cumprod"))) << config;
  }
}

TEST(noise_schedule, AddsNoiseInTheSamplesType) {
  const auto expected = test::fixture_tensors(folder() / "schedulers.safetensors");
  const NoiseSchedule schedule = NoiseSchedule::from(config_of(facts(), "noising"));
  for (const std::string run : {"noising.f32", "noising.f16"})
    EXPECT_TRUE(same_bits(
        schedule.add_noise(expected.at(run + ".x"), expected.at(run + ".noise"), expected.at(run + ".levels")),
        expected.at(run + ".out")))
        << run;
}

TEST_P(samplers, EqualDiffusersStepByStep) {
  const std::string name = GetParam();
  const auto expected = test::fixture_tensors(folder() / "schedulers.safetensors");
  const auto all = facts();
  const auto found = runs(expected, name, "model_out");
  ASSERT_FALSE(found.empty());
  for (const std::string& run : found) {
    const auto scheduler = make_scheduler(name, config_of(all, name), steps_of(run));
    EXPECT_EQ(scheduler->init_noise_sigma(), all.at(run).at("init_noise_sigma").get<double>()) << run;
    const at::Tensor &outputs = expected.at(run + ".model_out"), &samples = expected.at(run + ".x");
    ASSERT_EQ(static_cast<std::int64_t>(scheduler->timesteps().size()), outputs.size(0)) << run;
    at::Tensor x = expected.at(run + ".x0") * scheduler->init_noise_sigma();  // stored as unit noise
    for (std::int64_t i = 0; i < outputs.size(0); ++i) {
      if (expected.contains(run + ".scaled_in"))
        EXPECT_TRUE(
            same_bits(scheduler->scale_input(x, static_cast<std::size_t>(i)), expected.at(run + ".scaled_in")[i]))
            << run << " input " << i;
      x = scheduler->step(outputs[i], static_cast<std::size_t>(i), x);
      EXPECT_TRUE(same_bits(x, samples[i])) << run << " step " << i;
    }
  }
}

TEST_P(samplers, VisitTheSameTimesAndLevels) {
  const std::string name = GetParam();
  const auto expected = test::fixture_tensors(folder() / "schedulers.safetensors");
  const auto all = facts();
  const auto check = [&](const std::string& run, const ModelConfig& config) {
    const auto scheduler = make_scheduler(name, config, steps_of(run));
    EXPECT_TRUE(same_bits(at::tensor(scheduler->timesteps(), at::kDouble), expected.at(run + ".timesteps"))) << run;
    ASSERT_EQ(scheduler->sigmas() != nullptr, expected.contains(run + ".sigmas")) << run;
    if (scheduler->sigmas() != nullptr) {
      EXPECT_TRUE(same_bits(at::stack(*scheduler->sigmas()), expected.at(run + ".sigmas"))) << run;
    }
  };
  for (const std::string& run : runs(expected, name, "timesteps")) {
    check(run, config_of(all, name));
    check(run, published(false));  // from the published file, by each sampler's own rule
  }
  for (const std::string& run : runs(expected, "leading." + name, "timesteps")) check(run, published(true));
}

INSTANTIATE_TEST_SUITE_P(all, samplers, testing::ValuesIn(scheduler_names()),
                         [](const auto& info) { return info.param; });

TEST(ddpm, EqualsDiffusersStepByStep) {
  const auto expected = test::fixture_tensors(folder() / "schedulers.safetensors");
  const auto all = facts();
  for (const std::string name : {"ifI", "ifII"})
    for (const std::string& run : runs(expected, name, "model_out")) {
      const Ddpm ddpm(config_of(all, name), steps_of(run));
      EXPECT_TRUE(same_bits(at::tensor(ddpm.timesteps(), at::kLong), expected.at(run + ".timesteps"))) << run;
      const at::Tensor &outputs = expected.at(run + ".model_out"), &noise = expected.at(run + ".noise");
      at::Tensor x = expected.at(run + ".x0");
      std::int64_t drawn = 0;
      for (std::int64_t i = 0; i < outputs.size(0); ++i) {
        const bool draws = ddpm.draws_noise(static_cast<std::size_t>(i));
        const auto step = ddpm.step(outputs[i], static_cast<std::size_t>(i), x, draws ? noise[drawn++] : at::Tensor());
        EXPECT_TRUE(same_bits(step.previous, expected.at(run + ".x")[i])) << run << " step " << i;
        EXPECT_TRUE(same_bits(step.x0, expected.at(run + ".pred_x0")[i])) << run << " step " << i;
        x = step.previous;
      }
      EXPECT_EQ(drawn, noise.size(0)) << run;
    }
}

TEST(ddpm, HasDeepFloydsListsOfTimeSteps) {
  const auto expected = test::fixture_tensors(folder() / "schedulers.safetensors");
  std::size_t checked = 0;
  for (const auto& [name, reference] : expected) {
    const std::string start = "if_custom.", end = "_timesteps";
    if (!name.starts_with(start)) continue;
    const std::string list = name.substr(start.size(), name.size() - start.size() - end.size());
    const Ddpm ddpm(config_of(facts(), "ifI"), named_timesteps(list));
    EXPECT_TRUE(same_bits(at::tensor(ddpm.timesteps(), at::kLong), reference)) << list;
    ++checked;
  }
  EXPECT_EQ(checked, timestep_list_names().size());
}

TEST(ddpm, RefusesListsThatDoNotFall) {
  const ModelConfig config = config_of(facts(), "ifI");
  for (const std::vector<std::int64_t>& list :
       std::vector<std::vector<std::int64_t>>{{1000, 5, 0}, {5, 5, 0}, {5, 7}, {5, -1}})
    EXPECT_THROW(Ddpm(config, list), Error);
  EXPECT_THROW(Ddpm(config, 1001), Error);
  EXPECT_THROW(named_timesteps("smart99"), Error);
}

}  // namespace divergen::models
