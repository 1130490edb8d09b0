// Random numbers, roundings to bytes and PNG files against PyTorch, diffusers, X-Paste's script and Pillow.

#include <gtest/gtest.h>

#include <ATen/Version.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/text.hpp"
#include "image/image.hpp"
#include "models/diffusion/batch_noise.hpp"
#include "models/diffusion/noise.hpp"
#include "models/diffusion/pixels.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

Path folder() { return test::fixtures("generation"); }

/// Bit for bit, types too.
testing::AssertionResult same(const at::Tensor& ours, const at::Tensor& reference) {
  if (ours.scalar_type() != reference.scalar_type()) return testing::AssertionFailure() << "of another type";
  if (ours.sizes() != reference.sizes()) return testing::AssertionFailure() << "of another shape";
  if (at::equal(ours, reference)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << ours.ne(reference).sum().item<std::int64_t>() << " of " << ours.numel()
                                     << " elements differ";
}

// Uniform numbers are the same everywhere. The last bit of a normal one depends on the vector instructions by which its
// logarithm and cosine are computed: equal bits are asked for where this processor has the reference's.
testing::AssertionResult same_draw(const at::Tensor& ours, const at::Tensor& reference, const std::string& cpu) {
  if (cpu == at::get_cpu_capability() || !at::isFloatingType(reference.scalar_type())) return same(ours, reference);
  const double rounding = reference.scalar_type() == at::kBFloat16 ? 0x1p-8
                          : reference.scalar_type() == at::kHalf   ? 0x1p-11
                                                                   : 0x1p-22;
  return test::tensors_near(ours, reference, 8 * rounding);  // normal numbers are below 8
}

at::Tensor from_picture(const image::Image& picture) {
  at::Tensor out = at::empty({picture.height, picture.width, picture.channels}, at::kByte);
  std::memcpy(out.data_ptr(), picture.pixels.data(), picture.pixels.size());
  return out;
}

image::Image read_png(const Path& file, image::Channels channels) {
  auto decoded = image::decode(read_file(file), channels);
  EXPECT_TRUE(decoded.image.has_value()) << decoded.problem;
  return std::move(decoded.image).value_or(image::Image());
}

}  // namespace

TEST(rng, DrawsAsPyTorch) {
  const weights::SafetensorsFile file(folder() / "rng.safetensors");
  const std::string cpu = file.metadata().at("cpu");
  std::size_t draws = 0;
  for (const auto& [name, reference] : test::fixture_tensors(folder() / "rng.safetensors")) {
    if (!name.starts_with("randn.")) continue;
    at::Generator generator = noise_generator(std::stoull(split(name, '.').at(1)));
    const at::Tensor ours = draw_noise(generator, reference.sizes(), reference.scalar_type());
    EXPECT_EQ(ours.scalar_type(), reference.scalar_type());
    EXPECT_TRUE(same_draw(ours, reference, cpu)) << name;
    ++draws;
  }
  EXPECT_GT(draws, 0U);
}

// Of the generator that DiverGen's script seeds with 42, or with the seed of this set.
TEST(rng, SeedsAsPyTorch) {
  const auto expected = test::fixture_tensors(folder() / "rng.safetensors");
  const weights::SafetensorsFile file(folder() / "rng.safetensors");
  const auto state_of = [](std::uint64_t seed) { return noise_generator(seed).get_state(); };
  EXPECT_TRUE(same(state_of(42), expected.at("state_after_seed")) ||
              same(state_of(std::stoull(file.metadata().at("seed_of_seq"))), expected.at("state_after_seed")));
}

TEST(rng, OneGeneratorRunsThroughAllDraws) {
  const auto expected = test::fixture_tensors(folder() / "rng.safetensors");
  const weights::SafetensorsFile file(folder() / "rng.safetensors");
  const std::string seed = file.metadata().at("seed_of_seq");
  const auto draws = split(file.metadata().at("seq"), '|');
  at::Generator generator = noise_generator(std::stoull(seed));
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const at::Tensor& reference = expected.at(cat("seq.", seed, ".", i));
    at::Tensor ours;
    if (draws[i].find("randn") != std::string::npos) {
      ours = draw_noise(generator, reference.sizes(), reference.scalar_type());
    } else if (draws[i].find("randint") != std::string::npos) {
      const auto range = draws[i].substr(draws[i].find("randint") + 8);  // "0..1000 (4)"
      ours = at::randint(std::stoll(range), std::stoll(range.substr(range.find("..") + 2)), reference.sizes(),
                         generator, at::TensorOptions().dtype(at::kLong));
    } else if (draws[i].find("randperm") != std::string::npos) {
      ours = at::randperm(reference.numel(), generator, at::TensorOptions().dtype(at::kLong));
    } else {
      ASSERT_NE(draws[i].find("rand "), std::string::npos) << draws[i];
      ours = at::rand(reference.sizes(), generator, at::TensorOptions().dtype(reference.scalar_type()));
    }
    EXPECT_TRUE(same_draw(ours, reference, file.metadata().at("cpu"))) << "draw " << i << ": " << draws[i];
  }
}

// The corners of stage I's first two draws (64 px, one picture), from the generator that DiverGen's script seeds with
// 42 or with the seed of this set.
TEST(rng, DrawsInTheOrderOfDeepFloyd) {
  const auto expected = test::fixture_tensors(folder() / "rng.safetensors");
  const weights::SafetensorsFile file(folder() / "rng.safetensors");
  const auto reproduces = [&](std::uint64_t seed) {
    BatchNoise noise(std::array{seed}, at::kHalf, at::kCPU);
    return std::ranges::all_of(std::array{"if_order.stage1_init_f16", "if_order.stage1_step0_f16"},
                               [&](const char* name) {
                                 const at::Tensor& corner = expected.at(name);
                                 const at::Tensor draw = noise.draw({3, 64, 64});
                                 return bool(same_draw(draw.slice(2, 0, corner.size(2)).slice(3, 0, corner.size(3)),
                                                       corner, file.metadata().at("cpu")));
                               });
  };
  EXPECT_TRUE(reproduces(42) || reproduces(std::stoull(file.metadata().at("seed_of_seq"))));
}

TEST(uint8_rules, RoundAsTheReferences) {
  const auto expected = test::fixture_tensors(folder() / "uint8_rules.safetensors");
  for (const char* type : {"f32", "f16", "bf16"}) {
    const at::Tensor& x = expected.at(cat("x_", type));
    EXPECT_TRUE(same(to_bytes(x), expected.at(cat("sd_postprocess_", type)))) << type;
    EXPECT_TRUE(same(to_bytes(x), expected.at(cat("if_pt_to_pil_", type)))) << type;
    EXPECT_TRUE(same(to_bytes(x, PixelRule::XPaste), expected.at(cat("xpaste_save_", type)))) << type;
    const auto pictures = to_pictures(x, PixelRule::Diffusers);
    ASSERT_EQ(static_cast<std::int64_t>(pictures.size()), x.size(0));
    for (std::size_t i = 0; i < pictures.size(); ++i)
      EXPECT_TRUE(same(from_picture(pictures[i]), to_bytes(x)[static_cast<std::int64_t>(i)]));
  }
}

TEST(png, DecodesAsPillow) {
  const auto expected = test::fixture_tensors(folder() / "png_pixels.safetensors");
  const auto mask = from_picture(read_png(folder() / "png_mask_L.png", image::Channels::AsStored));
  EXPECT_TRUE(same(mask.squeeze(-1), expected.at("mask")));
  const auto rgb = read_png(folder() / "png_rgb.png", image::Channels::Rgb);
  EXPECT_TRUE(same(from_picture(rgb), expected.at("rgb")));
  const auto again = image::decode(image::encode_png(rgb), image::Channels::Rgb);
  ASSERT_TRUE(again.image.has_value());
  EXPECT_EQ(*again.image, rgb);
}

}  // namespace divergen::models
