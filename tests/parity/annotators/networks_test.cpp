// The annotators of X-Paste against their original classes, with weights by formula: maps of the networks, and masks
// after all that X-Paste does around them.

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.hpp"
#include "base/text.hpp"
#include "formula.hpp"
#include "models/annotator.hpp"
#include "models/annotators/clipseg_annotator.hpp"
#include "models/annotators/matting.hpp"
#include "models/annotators/saliency.hpp"
#include "models/annotators/selfreformer.hpp"
#include "models/annotators/u2net.hpp"
#include "models/annotators/ufo.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

constexpr double kForward = 5e-5;  // of values of order 1, through up to 100 layers in float32
constexpr double kShare = 0.02;    // of a mask's pixels may be a step off: fractions are cut off, not rounded

std::vector<image::Image> masks_of(std::vector<Annotation> annotations) {
  std::vector<image::Image> out;
  for (Annotation& one : annotations) out.push_back(std::move(one.mask));
  return out;
}

AnnotatorSettings settings_of(const std::string& kind, const Path& weights) {
  AnnotatorSettings settings;
  settings.kind = kind;
  settings.weights = weights;
  return settings;
}

at::Tensor input_of(const nn::TensorMap& fixture, const ColourStatistics& colours, std::int64_t height,
                    std::int64_t width) {
  const auto pictures = test::to_images(fixture.at("pictures"));
  return resize_bilinear(normalised(pictures, colours, at::kCPU), height, width);
}

at::Tensor thinned(const at::Tensor& x, std::int64_t n) {
  return x.slice(-2, 0, std::nullopt, n).slice(-1, 0, std::nullopt, n);
}

/// The module's values in a file, under names that begin with `prefix`.
void save_as(const nn::Module& module, const Path& file, const std::string& prefix = "") {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const nn::NamedTensor& entry : module.named_tensors())
    tensors.emplace_back(prefix + entry.name, entry.tensor.contiguous().clone());
  nn::save_tensors(file, tensors);
}

}  // namespace

class annotators : public testing::Test {
 protected:
  at::NoGradGuard no_grad_;
  test::TemporaryFolder folder_;
};

TEST_F(annotators, U2NetEqualsTheOriginal) {
  const auto expected = test::annotator_fixture("u2netp");
  U2Net model(U2NetSizes::published("u2netp"));
  test::fill(model);

  const auto maps = model.forward(input_of(expected, kImageNet, 97, 70));  // odd sides: poolings round up
  EXPECT_TENSOR_NEAR(thinned(at::cat(at::TensorList(maps.data(), maps.size()), 1), 5), expected.at("maps"), kForward);

  save_as(model, folder_ / "u2netp.safetensors");
  const auto annotator = make_annotator(settings_of("u2net", folder_ / "u2netp.safetensors"));
  EXPECT_TRUE(test::masks_near(masks_of(annotator->annotate(test::to_images(expected.at("pictures")), {})),
                               expected.at("masks"), 1, kShare));
}

TEST_F(annotators, UfoEqualsTheOriginal) {
  const auto expected = test::annotator_fixture("ufo");
  UfoSizes sizes;
  sizes.vgg = {4, 4, 8, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16};
  sizes.width = 16, sizes.relation = 6, sizes.group_relation = 4, sizes.classes = 7, sizes.layers = 2, sizes.mlp = 24;
  Ufo model(sizes);
  test::fill(model);

  const at::Tensor map = model.forward(input_of(expected, kImageNet, 224, 224).narrow(0, 0, 5));
  EXPECT_TENSOR_NEAR(thinned(map, 9), expected.at("map"), kForward);

  save_as(model, folder_ / "image_best.safetensors", "module.");
  const auto annotator = make_annotator(settings_of("ufo", folder_ / "image_best.safetensors"));
  EXPECT_EQ(annotator->group(), 5);
  const std::vector<std::string> categories{"apple", "apple", "apple", "apple", "apple", "pear", "pear"};
  EXPECT_TRUE(test::masks_near(masks_of(annotator->annotate(test::to_images(expected.at("pictures")), categories)),
                               expected.at("masks"), 1, kShare));
}

TEST_F(annotators, SelfReformerEqualsTheOriginal) {
  const auto expected = test::annotator_fixture("selfreformer");
  PvtSizes sizes = kPvtV2B2;
  const std::array<std::int64_t, 4> widths{8, 16, 40, 64}, depths{1, 2, 1, 1};
  for (std::size_t i = 0; i < 4; ++i) sizes[i].width = widths[i], sizes[i].depth = depths[i];
  SelfReformer model(sizes);
  test::fill(model);

  constexpr ColourStatistics kColours{{0.485, 0.458, 0.407}, {0.229, 0.224, 0.225}};
  const auto maps = model.forward(input_of(expected, kColours, 224, 224));
  ASSERT_EQ(maps.size(), 9u);
  for (std::size_t i = 0; i < maps.size(); ++i) {
    const at::Tensor some = maps[i].size(1) < 20 ? maps[i] : maps[i].slice(1, 0, std::nullopt, 37);
    EXPECT_TENSOR_NEAR(thinned(some, 5), expected.at(cat("map", i)), 10 * kForward) << "map " << i;
  }
  save_as(model, folder_ / "best.safetensors");
  const auto annotator = make_annotator(settings_of("selfreformer", folder_ / "best.safetensors"));
  EXPECT_TRUE(test::masks_near(masks_of(annotator->annotate(test::to_images(expected.at("pictures")), {})),
                               expected.at("masks"), 1, 2 * kShare));
}

TEST_F(annotators, ClipSegEqualsTransformers) {
  const auto expected = test::annotator_fixture("clipseg");
  const std::vector<std::string> categories{"teddy_bear", "traffic_light"};
  for (const std::string name : {"plain", "refined"}) {
    const std::string config = read_file(test::annotator_fixtures() / cat("clipseg_", name, ".json"));
    ClipSeg model(ClipSegConfig::from(ModelConfig(nlohmann::json::parse(config), name)));
    test::fill(model);
    const at::Tensor condition = model.clip.text_features(expected.at("ids").to(at::kLong));
    EXPECT_TENSOR_NEAR(condition, expected.at(name + ".condition"), kForward) << name;
    const at::Tensor logits = model.forward(input_of(expected, kImageNet, 352, 352), condition);
    EXPECT_TENSOR_NEAR(thinned(logits, 11), expected.at(name + ".logits"), 10 * kForward) << name;
    const at::Tensor soft = blurred(resize_bilinear(at::sigmoid(logits).unsqueeze(1), 50, 70)).squeeze(1);
    EXPECT_TENSOR_NEAR(thinned(soft, 3), expected.at(name + ".soft"), kForward) << name;

    const Path weights = folder_ / name;
    std::filesystem::create_directories(weights);
    std::ofstream(weights / "config.json") << config;
    nn::save_module(model, weights / "model.safetensors", at::kFloat);
    AnnotatorSettings settings = settings_of("clipseg", weights);
    settings.tokenizer = Path(DIVERGEN_SOURCE_DIR) / "data/tokenizers/clip/bpe_simple_vocab_16e6.txt.gz";
    const auto annotator = make_annotator(settings);
    EXPECT_TRUE(test::masks_near(masks_of(annotator->annotate(test::to_images(expected.at("pictures")), categories)),
                                 expected.at(name + ".masks"), 1, 2 * kShare))
        << name;
  }
}

/// The repository's own layout: a decoder alone with OpenAI's CLIP beside it, and both in one file.
TEST_F(annotators, ClipSegReadsItsOwnFiles) {
  const auto expected = test::annotator_fixture("clipseg_original");
  std::vector<std::pair<std::string, at::Tensor>> decoder, clip, whole;
  std::ifstream in(test::annotator_fixtures() / "keys/clipseg_original_small.tsv");
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    const auto columns = split(line, '\t');
    std::vector<std::int64_t> sizes;
    if (columns.at(1) != "scalar")
      for (const std::string& size : split(columns.at(1), 'x')) sizes.push_back(std::stoll(size));
    const std::string& name = columns.at(0);
    // The tool gives CLIP the values of names behind "clip_model.", twice over.
    const bool is_clip = name.starts_with("clip_model.");
    const at::Tensor value = test::formula(name, sizes);
    whole.emplace_back(name, value);
    is_clip ? clip.emplace_back(name.substr(std::string("clip_model.").size()), value)
            : decoder.emplace_back(name, value);
  }
  decoder.emplace_back("reduce.weight", at::zeros({16, 64}));
  nn::save_tensors(folder_ / "rd64-uni.safetensors", decoder);
  nn::save_tensors(folder_ / "ViT-B-16.safetensors", clip);
  nn::save_tensors(folder_ / "whole.safetensors", whole);

  const auto pictures = test::to_images(expected.at("pictures"));
  constexpr ColourStatistics kHalf{{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}};
  const at::Tensor pixels = resize_bilinear(normalised(pictures, kHalf, at::kCPU), 352, 352);
  const tokenizers::ClipBpe tokenizer(Path(DIVERGEN_SOURCE_DIR) / "data/tokenizers/clip/bpe_simple_vocab_16e6.txt.gz");
  const at::Tensor ids = at::tensor(tokenizer.tokenize(photo_text("teddy_bear")), at::kLong).unsqueeze(0);
  for (const bool is_whole : {false, true}) {
    const auto model = is_whole ? load_clipseg(folder_ / "whole.safetensors", "")
                                : load_clipseg(folder_ / "rd64-uni.safetensors", folder_ / "ViT-B-16.safetensors");
    const at::Tensor condition = model->clip.text_features(ids).expand({2, -1});
    EXPECT_TENSOR_NEAR(thinned(model->forward(pixels, condition), 11), expected.at("logits"), 10 * kForward)
        << is_whole;
  }
  EXPECT_THROW(load_clipseg(folder_ / "rd64-uni.safetensors", ""), Error);
}

TEST_F(annotators, MatteFormerEqualsTheOriginal) {
  const auto expected = test::annotator_fixture("matteformer");
  MatteFormer model;
  test::fill(model);
  const auto noise = [](const std::string& name, at::IntArrayRef sizes) {
    const std::vector<double> values = test::noise(name, c10::multiply_integers(sizes));
    return at::tensor(values, at::kDouble).view(sizes);
  };
  const at::Tensor kinds = (noise("trimap", {1, 64, 96}) * 1.5 + 1.5).to(at::kLong);
  const auto out = model.forward(noise("matte picture", {1, 3, 64, 96}).to(at::kFloat),
                                 at::one_hot(kinds, 3).permute({0, 3, 1, 2}).to(at::kFloat));
  EXPECT_TENSOR_NEAR(thinned(out.fine, 3), expected.at("alpha_os1"), kForward);
  EXPECT_TENSOR_NEAR(thinned(out.middle, 3), expected.at("alpha_os4"), kForward);
  EXPECT_TENSOR_NEAR(thinned(out.coarse, 3), expected.at("alpha_os8"), kForward);

  at::Tensor soft = noise("uncertain", {1, 1, 6, 8}).gt(0.7).to(at::kFloat) * 0.5;
  soft = at::upsample_nearest2d(soft, {96, 128});
  EXPECT_TENSOR_NEAR(thinned(uncertain(soft, 15), 3), expected.at("uncertain30"), 0);
  EXPECT_TENSOR_NEAR(thinned(uncertain(soft, 7), 3), expected.at("uncertain15"), 0);

  const at::Tensor pixels = normalised(test::to_images(expected.at("pictures")), kImageNet, at::kCPU);
  std::vector<image::Image> masks, alphas;
  for (std::int64_t i = 0; i < 2; ++i) {
    const at::Tensor alpha = matte(model, pixels.select(0, i), expected.at("found").select(0, i));
    alphas.emplace_back(static_cast<int>(alpha.size(0)), static_cast<int>(alpha.size(1)), 1);
    std::memcpy(alphas.back().pixels.data(), alpha.contiguous().const_data_ptr(), alphas.back().pixels.size());
    masks.push_back(stretched_matte(alpha));
  }
  EXPECT_TRUE(test::masks_near(alphas, expected.at("alphas"), 1, kShare));
  EXPECT_TRUE(test::masks_near(masks, expected.at("masks"), 2, kShare));
}

TEST_F(annotators, FilesOfOthersAreRefused) {
  nn::save_tensors(folder_ / "other.safetensors", {{"conv.weight", at::zeros({2, 3, 3, 3})}});
  for (const char* kind : {"u2net", "ufo", "selfreformer", "clipseg"}) {
    try {
      make_annotator(settings_of(kind, folder_ / "other.safetensors"));
      ADD_FAILURE() << kind;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Data) << kind;
      EXPECT_NE(std::string(error.what()).find("other.safetensors"), std::string::npos) << error.what();
    }
  }
}

TEST_F(annotators, AMapOfOneValueBecomesBlack) {
  const auto masks = stretched(at::stack({at::full({2, 3}, 0.5), at::arange(6).view({2, 3}).to(at::kFloat)}));
  EXPECT_EQ(masks[0].pixels, std::vector<std::uint8_t>(6, 0));
  EXPECT_EQ(masks[1].pixels, (std::vector<std::uint8_t>{0, 51, 102, 153, 204, 255}));
}

}  // namespace divergen::models
