// The whole DeepFloyd-IF generator, from prompts to pictures, on the tiny networks of the fixtures put together.

#include <gtest/gtest.h>

#include "models/diffusion/deepfloyd_if.hpp"
#include "models/diffusion/noise.hpp"
#include "models/diffusion/pixels.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

/// A stage I folder in the official layout, of links to the fixtures' parts.
class IfPipeline : public testing::Test {
 protected:
  void SetUp() override {
    const Path from = test::fixtures("generation");
    const Path own = Path(DIVERGEN_SOURCE_DIR) / "tests/fixtures/generation";
    for (const char* part : {"unet", "scheduler"})
      std::filesystem::create_directory_symlink(from / "if_tiny/stage1" / part, folder_ / part);
    std::filesystem::create_directory_symlink(from / "t5_tiny", folder_ / "text_encoder");
    std::filesystem::create_directory_symlink(own / "shared/t5_tokenizer", folder_ / "tokenizer");
    const ModelConfig unet(from / "if_tiny/stage1/unet/config.json"), t5(from / "t5_tiny/config.json");
    if (unet.get<std::int64_t>("encoder_hid_dim") != t5.get<std::int64_t>("d_model"))
      GTEST_SKIP() << "T5 and UNets of this set do not go together";
    settings_.kind = "deepfloyd_if";
    settings_.sampler = "ddpm";
    settings_.weights = folder_.path();
    settings_.stage2 = from / "if_tiny/stage2";
    settings_.steps = 3;
    settings_.stage2_steps = 2;
  }
  static std::vector<std::uint8_t> bytes(const image::Image& picture) {
    return {picture.pixels.begin(), picture.pixels.end()};
  }
  test::TemporaryFolder folder_;
  GeneratorSettings settings_;
};

}  // namespace

TEST_F(IfPipeline, APictureDependsOnItsOwnItemOnly) {
  const auto model = make_generator(settings_);
  const std::vector<GenerationItem> first{{"a red apple", 5}, {"a blue chair", 6}};
  const std::vector<GenerationItem> second{{"three cats", 7}, {"a red apple", 5}};
  const auto a = model->generate(first), b = model->generate(second), again = model->generate(first);
  ASSERT_EQ(a.size(), 2u);
  EXPECT_EQ(a[0].width, ModelConfig(settings_.stage2 / "unet/config.json").get<int>("sample_size"));
  EXPECT_EQ(bytes(a[0]), bytes(b[1]));
  EXPECT_EQ(bytes(a[1]), bytes(again[1]));
  EXPECT_NE(bytes(a[0]), bytes(a[1]));
}

TEST_F(IfPipeline, IsTheStagesInTheDocumentedOrderOfDraws) {
  at::NoGradGuard no_grad;
  const auto pictures = make_generator(settings_)->generate(std::vector<GenerationItem>{{"a red apple", 5}});

  IfText text(settings_.weights, false, at::kFloat, at::kCPU, PromptCache::kDefaultBytes);
  const at::Tensor prompt = text.states("a red apple"), none = text.states("");
  at::Generator generator = noise_generator(5);
  at::Tensor x;
  for (const bool is_second : {false, true}) {
    const Path folder = is_second ? settings_.stage2 : settings_.weights;
    const auto unet = load_unet(folder / "unet");
    const Ddpm ddpm(ModelConfig(folder / "scheduler/scheduler_config.json"),
                    is_second ? settings_.stage2_steps : settings_.steps);
    const auto side = unet->config.sample_size;
    const auto draw = [&] { return draw_noise(generator, {1, 3, side, side}); };
    const at::Tensor start = draw();
    IfCondition condition;
    condition.guidance = is_second ? settings_.stage2_guidance : settings_.guidance;
    condition.text = unet->text(at::cat({none, prompt}));
    if (is_second) {
      condition.levels = at::full({1}, settings_.noise_level, at::kLong);
      condition.upscaled = NoiseSchedule::from(ModelConfig(folder / "image_noising_scheduler/scheduler_config.json"))
                               .add_noise(enlarge(x, side), draw(), condition.levels);
    }
    x = denoise_if(*unet, ddpm, condition, start, draw);
  }
  EXPECT_EQ(bytes(pictures[0]), bytes(to_pictures(x, PixelRule::Diffusers)[0]));
}

TEST_F(IfPipeline, FreesItsTextEncoderAndStillKnowsThePrompts) {
  const std::vector<GenerationItem> items{{"a red apple", 5}};
  const auto before = make_generator(settings_)->generate(items);
  settings_.free_text_encoder = true;
  const auto model = make_generator(settings_);
  const std::vector<std::string> prompts{"a red apple", "three cats"};
  model->prepare(prompts);
  std::filesystem::remove(folder_ / "text_encoder");  // whatever is encoded now would fail
  EXPECT_EQ(bytes(model->generate(items)[0]), bytes(before[0]));
  EXPECT_THROW(model->generate(std::vector<GenerationItem>{{"something else", 1}}), Error);
}

TEST_F(IfPipeline, RunsInHalfPrecisionAndWithNamedTimeSteps) {
  settings_.stage2.clear();  // stage I alone
  settings_.precision = "bf16";
  settings_.timesteps = "fast27";
  const auto pictures = make_generator(settings_)->generate(std::vector<GenerationItem>{{"a red apple", 5}});
  EXPECT_EQ(pictures.at(0).width, ModelConfig(folder_ / "unet/config.json").get<int>("sample_size"));
}

TEST_F(IfPipeline, RefusesSettingsThatDoNotFit) {
  const auto refused = [&](auto change) {
    GeneratorSettings settings = settings_;
    change(settings);
    EXPECT_THROW(make_generator(settings), Error);
  };
  refused([](auto& s) { s.sampler = "euler"; });
  refused([](auto& s) { s.size = 100; });
  refused([](auto& s) { s.stage2 = s.weights; });
  refused([](auto& s) { s.timesteps = "smart99"; });
  refused([](auto& s) { s.precision = "fp8"; });
}

TEST_F(IfPipeline, HashesBothStages) {
  GeneratorSettings alone = settings_;
  alone.stage2.clear();
  EXPECT_NE(hash_weights(settings_), hash_weights(alone));
}

TEST(Generators, AThirdKindFitsWithoutTouchingTheOthers) {
  std::vector<std::string> known;
  for (const auto& kind : config::generator_kinds()) known.push_back(kind.name);
  std::sort(known.begin(), known.end());
  EXPECT_EQ(generator_kinds(), known);  // what the configuration allows can be made

  class Grey : public TextToImage {
   public:
    std::vector<image::Image> generate(std::span<const GenerationItem> items) override {
      return std::vector<image::Image>(items.size(), image::Image(4, 4, 3, 128));
    }
    const std::string& weights_hash() const override { return hash_; }

   private:
    std::string hash_ = "grey";
  };
  register_generator("grey", [](const GeneratorSettings&, at::Device) { return std::make_unique<Grey>(); });
  GeneratorSettings settings;
  settings.kind = "grey";
  const std::vector<GenerationItem> items(3);
  EXPECT_EQ(make_generator(settings)->start(items)().size(), 3u);
  settings.kind = "gray";
  try {
    make_generator(settings);
    ADD_FAILURE() << "made";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'grey'"), std::string::npos) << error.what();
  }
}

}  // namespace divergen::models
