#pragma once
// Weights that follow from a tensor's name, by the rules of tools/make_annotator_goldens.py (functions noise and
// formula), so that the fixtures need not hold any; and the fixtures themselves.

#include <cmath>
#include <cstring>
#include <string>

#include "image/image.hpp"
#include "nn/module.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::test {

inline Path annotator_fixtures() { return Path(DIVERGEN_SOURCE_DIR) / "tests/fixtures/annotators"; }
inline nn::TensorMap annotator_fixture(const std::string& name) {
  return fixture_tensors(annotator_fixtures() / (name + ".safetensors"));
}

/// `count` numbers in [-1, 1): splitmix64 over FNV-1a of the name, 24 bits each.
inline std::vector<double> noise(const std::string& name, std::int64_t count) {
  std::uint64_t seed = 0xCBF29CE484222325ull;
  for (const char byte : name) seed = (seed ^ static_cast<unsigned char>(byte)) * 0x100000001B3ull;
  std::vector<double> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    out[i] = static_cast<double>(z >> 40) / 8388608.0 - 1;
  }
  return out;
}

inline at::Tensor formula(const std::string& name, at::IntArrayRef sizes) {
  at::Tensor out = at::empty(sizes, at::kFloat);
  const std::int64_t count = out.numel(), fan_in = sizes.empty() ? 1 : count / sizes[0];
  const auto ends = [&](const char* text) { return name.ends_with(text); };
  const std::vector<double> u = noise(name, count);
  float* data = out.mutable_data_ptr<float>();
  const auto each = [&](auto value) {
    for (std::size_t i = 0; i < u.size(); ++i) data[i] = static_cast<float>(value(u[i]));
  };
  const double n = static_cast<double>(count), in = static_cast<double>(fan_in);
  if (sizes.empty()) each([](double x) { return x * 0 + 2.0; });
  else if (ends("running_var")) each([](double x) { return 1 + 0.3 * x; });
  else if (ends("weight_u") || ends("weight_v")) each([&](double x) { return (1 + 0.5 * x) / std::sqrt(n); });
  else if (ends("weight_bar")) each([&](double x) { return (0.3 + x) / std::sqrt(in); });
  else if (sizes.size() == 1 && ends("weight")) each([](double x) { return 1 + 0.2 * x; });
  else if (sizes.size() == 1) each([](double x) { return 0.1 * x; });
  else if (name.find(".kqv.") != std::string::npos) each([&](double x) { return x * std::sqrt(3.0 / in) * 0.05; });
  else each([&](double x) { return x * std::sqrt(3.0 / in) * 1.2; });
  return out;
}

/// Gives all floating tensors the formula's values; integers (positions) stay, counters become 0.
inline void fill(nn::Module& module) {
  at::NoGradGuard no_grad;
  for (auto& [name, tensor] : module.named_slots()) {
    if (at::isFloatingType(tensor->scalar_type())) tensor->copy_(formula(name, tensor->sizes()));
    else if (name.ends_with("num_batches_tracked")) tensor->zero_();
  }
}

/// [N, H, W, 3] bytes -> RGB pictures.
inline std::vector<image::Image> to_images(const at::Tensor& bytes) {
  std::vector<image::Image> out;
  for (std::int64_t i = 0; i < bytes.size(0); ++i) {
    const at::Tensor one = bytes.select(0, i).contiguous();
    out.emplace_back(static_cast<int>(one.size(0)), static_cast<int>(one.size(1)), static_cast<int>(one.size(2)));
    std::memcpy(out.back().pixels.data(), one.const_data_ptr(), out.back().pixels.size());
  }
  return out;
}

/// Masks, against bytes [N, H, W]: at most `share` of the pixels differ, and none by more than `steps` (a fraction is
/// cut off, so that the last bit of a float can be a step).
inline testing::AssertionResult masks_near(const std::vector<image::Image>& ours, const at::Tensor& expected, int steps,
                                           double share) {
  if (static_cast<std::int64_t>(ours.size()) != expected.size(0)) return testing::AssertionFailure() << ours.size();
  std::int64_t differing = 0;
  int largest = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const at::Tensor one = expected.select(0, static_cast<std::int64_t>(i)).contiguous();
    if (ours[i].height != one.size(0) || ours[i].width != one.size(1)) return testing::AssertionFailure() << "size";
    const auto* data = one.const_data_ptr<std::uint8_t>();
    for (std::size_t p = 0; p < ours[i].pixels.size(); ++p) {
      const int difference = std::abs(int{ours[i].pixels[p]} - int{data[p]});
      differing += difference > 0;
      largest = std::max(largest, difference);
    }
  }
  const double found = static_cast<double>(differing) / static_cast<double>(expected.numel());
  if (largest <= steps && found <= share) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "a share of " << found << " differs, by up to " << largest;
}

}  // namespace divergen::test
