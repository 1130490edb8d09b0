// Swin Transformer, piece by piece, against the implementation in Detic and DiverGen (ops.safetensors).

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/error.hpp"
#include "models/detector/swin.hpp"
#include "nn/checkpointing.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

class swin : public testing::Test {
 protected:
  const at::Tensor& get(const std::string& name) const { return tensors.at(name); }
  nn::TensorMap part(const std::string& prefix) const {
    nn::TensorMap out;
    for (const auto& [name, tensor] : tensors)
      if (name.starts_with(prefix)) out[name.substr(prefix.size())] = tensor;
    return out;
  }
  testing::AssertionResult near(const at::Tensor& ours, const std::string& name) const {
    const at::Tensor& reference = get(name);
    return test::tensors_near(ours, reference, 2e-5 * std::max(1e-3, reference.abs().max().item<double>()))
           << " in " << name;
  }
  SwinSizes sizes() const {
    const auto& given = facts.at("swinbb");
    SwinSizes s;
    s.width = given.at("embed_dim");
    s.depths = given.at("depths").get<std::vector<std::int64_t>>();
    s.heads = given.at("num_heads").get<std::vector<std::int64_t>>();
    s.window = given.at("window_size");
    s.drop_path = given.at("drop_path_rate");
    s.outputs = given.at("out_indices").get<std::vector<std::size_t>>();
    return s;
  }
  nn::TensorMap tensors = test::fixture_tensors(test::fixtures("detector") / "ops.safetensors");
  nlohmann::json facts = test::fixture_json(test::fixtures("detector") / "ops.json");
};

/// One stage: two blocks, the second shifted, and the merging.
struct Layer : nn::Module {
  explicit Layer(const nlohmann::json& facts, std::int64_t hidden)
      : window(facts.at("window")), downsample(facts.at("dim").get<std::int64_t>()) {
    child("blocks", blocks);
    for (int i = 0; i < facts.at("depth").get<int>(); ++i)
      blocks.add(facts.at("dim").get<std::int64_t>(), hidden, window, facts.at("heads").get<std::int64_t>(), 0.0);
    child("downsample", downsample);
  }
  std::int64_t window;
  nn::List<SwinBlock> blocks;
  PatchMerging downsample;
};

}  // namespace

TEST_F(swin, StagesOnOddWholeAndTinyMaps) {
  const auto& given = facts.at("swinlayer");
  Layer layer(given, get("swinlayer.w.blocks.0.mlp.fc1.weight").size(0));
  nn::load_module(layer, part("swinlayer.w."), "swinlayer");
  layer.requires_grad(true);
  for (const std::string name : {"odd", "mult", "tiny"}) {
    const auto size = given.at(name).get<std::vector<std::int64_t>>();
    const at::Tensor x = get(cat("swinlayer.", name, ".x")).clone().requires_grad_(true);
    for (const bool checkpointed : {false, true}) {
      at::Tensor y = x;
      for (std::size_t i = 0; i < layer.blocks.size(); ++i) {
        const SwinWindows windows(size[0], size[1], layer.window, i % 2 == 0 ? 0 : layer.window / 2, at::kCPU);
        const auto run = [&, i, windows](const at::Tensor& in) { return layer.blocks[i].forward(in, windows, {}, {}); };
        std::vector<at::Tensor> parameters;
        for (const auto& p : layer.blocks[i].named_parameters()) parameters.push_back(p.tensor);
        y = checkpointed ? nn::checkpoint(run, y, parameters) : run(y);
      }
      EXPECT_TRUE(near(y, cat("swinlayer.", name, ".out")));
      const at::Tensor down = layer.downsample.forward(y, size[0], size[1]);
      EXPECT_EQ(down.size(1), size[2] * size[3]);
      EXPECT_TRUE(near(down, cat("swinlayer.", name, ".down")));
      x.mutable_grad() = at::Tensor();
      down.backward(get(cat("swinlayer.", name, ".grad_down")));
      EXPECT_TRUE(near(x.grad(), cat("swinlayer.", name, ".grad_x"))) << " checkpointed: " << checkpointed;
    }
  }
}

TEST_F(swin, AttentionWithAndWithoutMask) {
  const auto& given = facts.at("swinlayer");
  WindowAttention attention(given.at("dim"), given.at("window"), given.at("heads"));
  const at::Tensor index = attention.relative_position_index.clone();
  nn::load_module(attention, part("swinlayer.w.blocks.0.attn."), "winattn");
  EXPECT_TRUE(at::equal(index, attention.relative_position_index));

  const at::Tensor &x = get("winattn.x"), &mask = get("winattn.mask");
  const std::int64_t windows = mask.size(0), tokens = x.size(1), images = x.size(0) / windows;
  SwinWindows layout(attention.window, attention.window * windows, attention.window, 0, at::kCPU);
  layout.place = nn::RowMap::of(at::arange(windows * tokens, at::kLong), windows * tokens);  // they lie in windows
  ASSERT_EQ(layout.count, windows);
  const at::Tensor in = x.reshape({images, windows * tokens, -1});
  EXPECT_TRUE(near(attention.forward(in, layout).view(x.sizes()), "winattn.out_nomask"));
  layout.mask = mask;
  EXPECT_TRUE(near(attention.forward(in, layout).view(x.sizes()), "winattn.out_mask"));
}

TEST_F(swin, WholeBackboneOnAnUnevenPicture) {
  at::NoGradGuard no_grad;
  Swin backbone(sizes());
  nn::load_module(backbone, part("swinbb.w."), "swinbb");
  const auto compare = [&](const char* mode) {
    const auto maps = backbone.maps(get("swinbb.x"));
    ASSERT_EQ(maps.size(), sizes().outputs.size());
    for (std::size_t i = 0; i < maps.size(); ++i) EXPECT_TRUE(near(maps[i], cat("swinbb.", mode, ".swin", i)));
  };
  backbone.eval();
  compare("eval");
  backbone.train();
  at::manual_seed(facts.at("swinbb").at("manual_seed").get<std::uint64_t>());
  compare("train");
}

TEST_F(swin, DropsBranchesAsTheReferenceDraws) {
  const auto& given = facts.at("swinbb");
  const SwinSizes s = sizes();
  const at::Tensor rates = at::linspace(0, s.drop_path, std::accumulate(s.depths.begin(), s.depths.end(), 0));
  at::manual_seed(given.at("manual_seed").get<std::uint64_t>());
  std::int64_t block = 0, drawn = 0;
  for (std::size_t stage = 0; stage < s.depths.size(); ++stage)
    for (std::int64_t i = 0; i < s.depths[stage]; ++i, ++block) {
      SwinBlock one(8, 8, s.window, 1, rates[block].item<float>());
      one.train();
      for (int call = 0; call < 2; ++call) {
        const at::Tensor keep = one.draw_branch(get("swinbb.x"));
        const std::string name = cat("layers.", stage, ".blocks.", i, ".drop_path");
        EXPECT_EQ(keep.defined(), given.at("drop_path_rates").contains(name)) << name;
        if (!keep.defined()) continue;
        EXPECT_NEAR(one.drop_path, given.at("drop_path_rates").at(name).get<double>(), 0);
        EXPECT_TRUE(near(keep.view(-1), cat("swinbb.dp.", name, ".", call)));
        ++drawn;
      }
    }
  EXPECT_EQ(drawn, 2 * static_cast<std::int64_t>(given.at("drop_path_rates").size()));
}

}  // namespace divergen::models
