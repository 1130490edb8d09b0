// The UNets of DeepFloyd-IF against diffusers, block by block; names and shapes of the full-size networks against the
// key tables of the published files.

#include <gtest/gtest.h>

#include <fstream>

#include "models/diffusion/unet2d_condition.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

// reference/generation.md §5: the reference against itself differs by 6e-6 (stage II: 1.1e-5); gates 2e-5 and 5e-5.
constexpr double kStage1 = 2e-5, kStage2 = 5e-5;

Path folder() { return test::fixtures("generation"); }

/// Traces of large maps keep their first channels only.
at::Tensor as_stored(const at::Tensor& ours, const at::Tensor& reference) {
  return ours.dim() == 4 && reference.size(1) < ours.size(1) ? ours.narrow(1, 0, reference.size(1)) : ours;
}

/// All "out_t<step>" of the file.
void check_outputs(const UNet2DCondition& unet, const nn::TensorMap& expected, const at::Tensor& labels,
                   double tolerance) {
  const at::Tensor& sample = expected.at("sample");
  int checked = 0;
  for (const auto& [name, reference] : expected) {
    if (!name.starts_with("out_t")) continue;
    const at::Tensor steps = at::full({sample.size(0)}, std::stod(name.substr(5)));
    EXPECT_TENSOR_NEAR(unet.forward(sample, steps, expected.at("encoder_hidden_states"), labels), reference, tolerance)
        << name;
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

/// All "trace_t<step>_b0.<part>" of the file: the first sample of the batch alone.
void check_traces(const UNet2DCondition& unet, const nn::TensorMap& expected, const at::Tensor& labels,
                  double tolerance) {
  const std::string start = "trace_t";
  std::string prefix;
  for (const auto& [name, tensor] : expected)
    if (name.starts_with(start)) prefix = name.substr(0, name.find('.') + 1);
  ASSERT_FALSE(prefix.empty());
  const at::Tensor states = expected.at("encoder_hidden_states").narrow(0, 0, 1);
  UnetTrace trace;
  unet.forward(expected.at("sample").narrow(0, 0, 1), at::full({1}, std::stod(prefix.substr(start.size()))),
               unet.text(states), labels.defined() ? labels.narrow(0, 0, 1) : at::Tensor(), &trace);
  std::map<std::string, at::Tensor> ours(trace.begin(), trace.end());
  const at::Tensor time =
      ours.contains("time_embed_act") ? ours["time_embed_act"] : ours["time_embedding"] + ours["add_embedding"];
  const at::Tensor& lowest = ours["down_" + std::to_string(unet.down_blocks.size() - 1)];
  ours["add_embedding.pool"] = unet.add_embedding->pool.forward(unet.add_embedding->norm1.forward(states));
  ours["mid_block.resnet_0"] = unet.mid_block.resnets[0].forward(lowest, time);
  ours["mid_block.attn_0"] = unet.mid_block.attentions.forward(0, ours["mid_block.resnet_0"], ours["encoder_hid_proj"]);
  std::size_t checked = 0;
  for (const auto& [name, reference] : expected) {
    if (!name.starts_with(prefix)) continue;
    const std::string part = name.substr(prefix.size());
    ASSERT_TRUE(ours.contains(part)) << part;
    // Inner states are larger than outputs: the gate is of their own size.
    const double scale = std::max(1.0, reference.abs().max().item<double>());
    EXPECT_TENSOR_NEAR(as_stored(ours[part], reference), reference, tolerance * scale) << name;
    ++checked;
  }
  EXPECT_EQ(checked, ours.size());
}

/// Lines "name <tab> shape" of a table.
std::vector<std::string> table(const std::string& name) {
  std::ifstream in(Path(DIVERGEN_SOURCE_DIR) / "tests/fixtures/generation/keys" / name);
  std::vector<std::string> lines;
  std::string line;
  std::getline(in, line);  // the head
  while (std::getline(in, line)) lines.push_back(line);
  return lines;
}

/// Makes the network without memory and compares all names, shapes and types, in order.
void check_table(const nlohmann::json& config, const std::string& name, const std::string& type) {
  const nn::NewTensors meta(at::TensorOptions().dtype(type == "float16" ? at::kHalf : at::kFloat).device(at::kMeta));
  const UNet2DCondition unet(UnetConfig::from(ModelConfig(config, name)));
  std::vector<std::string> ours;
  for (const nn::NamedTensor& t : unet.named_tensors()) {
    std::string shape;
    for (const std::int64_t n : t.tensor.sizes()) shape += (shape.empty() ? "" : "x") + std::to_string(n);
    ours.push_back(t.name + "\t" + shape + "\t" + (t.tensor.scalar_type() == at::kHalf ? "float16" : "float32"));
  }
  const std::vector<std::string> expected = table(name);
  ASSERT_FALSE(expected.empty());
  ASSERT_EQ(ours.size(), expected.size());
  for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_EQ(ours[i], expected[i]) << "line " << i;
}

/// What both stages of DeepFloyd-IF have in common (reference/generation.md §2).
nlohmann::json if_config() {
  return {{"act_fn", "gelu"},
          {"addition_embed_type", "text"},
          {"addition_embed_type_num_heads", 64},
          {"attention_head_dim", 64},
          {"cross_attention_norm", "group_norm"},
          {"encoder_hid_dim", 4096},
          {"encoder_hid_dim_type", "text_proj"},
          {"mid_block_type", "UNetMidBlock2DSimpleCrossAttn"},
          {"norm_eps", 1e-5},
          {"norm_num_groups", 32},
          {"out_channels", 6},
          {"resnet_time_scale_shift", "scale_shift"}};
}

}  // namespace

TEST(if_stage1_unet, EqualsDiffusers) {
  at::NoGradGuard no_grad;
  const auto unet = load_unet(folder() / "if_tiny/stage1/unet");
  const auto expected = test::fixture_tensors(folder() / "if_stage1_unet.safetensors");
  check_outputs(*unet, expected, {}, kStage1);
  check_traces(*unet, expected, {}, kStage1);
}

TEST(if_stage2_unet, EqualsDiffusers) {
  at::NoGradGuard no_grad;
  const auto unet = load_unet(folder() / "if_tiny/stage2/unet");
  const auto expected = test::fixture_tensors(folder() / "if_stage2_unet.safetensors");
  check_outputs(*unet, expected, expected.at("class_labels"), kStage2);
  check_traces(*unet, expected, expected.at("class_labels"), kStage2);
}

TEST(if_unet, WritesTheConfigurationThatItReads) {
  for (const char* stage : {"stage1", "stage2"}) {
    const UnetConfig read = UnetConfig::from(ModelConfig(folder() / "if_tiny" / stage / "unet/config.json"));
    const nlohmann::json written = read.to_json();
    EXPECT_EQ(UnetConfig::from(ModelConfig(written, "written")).to_json(), written);
    const nlohmann::json original = test::fixture_json(folder() / "if_tiny" / stage / "unet/config.json");
    for (const auto& [key, value] : written.items())
      if (original.contains(key)) {
        EXPECT_EQ(value, original[key]) << key;
      }
  }
}

TEST(if_unet, RefusesWhatItDoesNotCompute) {
  nlohmann::json config = test::fixture_json(folder() / "if_tiny/stage1/unet/config.json");
  for (const auto& [key, value] : std::map<std::string, nlohmann::json>{{"resnet_time_scale_shift", "spatial"},
                                                                        {"class_embed_type", "projection"},
                                                                        {"addition_embed_type", "text_time"},
                                                                        {"act_fn", "mish"},
                                                                        {"only_cross_attention", true}}) {
    nlohmann::json changed = config;
    changed[key] = value;
    try {
      UnetConfig::from(ModelConfig(changed, "changed.json"));
      ADD_FAILURE() << key << " was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
}

TEST(full_size_keys, IfStage1) {
  nlohmann::json config = if_config();
  config.update(
      {{"block_out_channels", {704, 1408, 2112, 2816}},
       {"cross_attention_dim", 2816},
       {"down_block_types",
        {"ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D",
         "SimpleCrossAttnDownBlock2D"}},
       {"up_block_types",
        {"SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"}},
       {"in_channels", 3},
       {"layers_per_block", 3}});
  check_table(config, "if_i_xl_unet.tsv", "float16");
}

TEST(full_size_keys, IfStage2) {
  nlohmann::json config = if_config();
  config.update({{"block_out_channels", {160, 320, 640, 960, 1280}},
                 {"class_embed_type", "timestep"},
                 {"cross_attention_dim", 1280},
                 {"down_block_types",
                  {"ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D",
                   "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"}},
                 {"up_block_types",
                  {"SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D",
                   "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"}},
                 {"in_channels", 6},
                 {"layers_per_block", {2, 2, 3, 5, 5}},
                 {"mid_block_scale_factor", 1.4142271248762552},
                 {"resnet_out_scale_factor", 1.4142271248762552},
                 {"resnet_skip_time_act", true},
                 {"time_embedding_act_fn", "gelu"},
                 {"time_embedding_dim", 1280}});
  const auto lines = table("if_ii_l_unet.tsv");
  check_table(config, "if_ii_l_unet.tsv", lines.front().substr(lines.front().rfind('\t') + 1));
}

TEST(full_size_keys, StableDiffusion15) {
  const nlohmann::json config{
      {"block_out_channels", {320, 640, 1280, 1280}},
      {"down_block_types", {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"}},
      {"up_block_types", {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"}},
      {"cross_attention_dim", 768},
      {"attention_head_dim", 8}};
  const auto lines = table("sd15_unet.tsv");
  check_table(config, "sd15_unet.tsv", lines.front().substr(lines.front().rfind('\t') + 1));
}

}  // namespace divergen::models
