// Random numbers, roundings to bytes and PNG files against PyTorch, diffusers, X-Paste's script and Pillow.

#include <gtest/gtest.h>

#include "base/text.hpp"
#include "image/image.hpp"
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

// Which vector instructions PyTorch was built for decides the last bit of logarithms and cosines, so float values may
// differ by one rounding between machines; where they do, everything else would still show up as a large difference.
TEST(rng, DrawsAsPyTorch) {
  std::size_t draws = 0;
  for (const auto& [name, reference] : test::fixture_tensors(folder() / "rng.safetensors")) {
    if (!name.starts_with("randn.")) continue;
    at::Generator generator = noise_generator(std::stoull(split(name, '.').at(1)));
    EXPECT_TRUE(same(draw_noise(generator, reference.sizes(), reference.scalar_type()), reference)) << name;
    ++draws;
  }
  EXPECT_GT(draws, 0U);
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
    EXPECT_TRUE(same(ours, reference)) << "draw " << i << ": " << draws[i];
  }
}

TEST(rng, DrawsInTheOrderOfDeepFloyd) {
  const auto expected = test::fixture_tensors(folder() / "rng.safetensors");
  const weights::SafetensorsFile file(folder() / "rng.safetensors");
  at::Generator generator = noise_generator(std::stoull(file.metadata().at("seed_of_seq")));
  for (const char* name : {"if_order.stage1_init_f16", "if_order.stage1_step0_f16"})
    EXPECT_TRUE(same(draw_noise(generator, expected.at(name).sizes(), at::kHalf), expected.at(name))) << name;
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
