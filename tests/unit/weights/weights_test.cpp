#include "weights/weights.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "support/child.hpp"
#include "support/fixtures.hpp"
#include "support/weight_files.hpp"
#include "weights/convert.hpp"
#include "weights/key_maps.hpp"
#include "weights/safetensors_writer.hpp"

namespace divergen::weights {
namespace {

using test::FileTensor;

std::vector<FileTensor> some_tensors() {
  return {test::float_tensor("layer.weight", {3, 4}),
          test::float_tensor("layer.bias", {3}, -2),
          {"steps", DType::I64, {}, test::little<std::int64_t>(7)}};
}

std::string refusal(const std::function<void()>& body) {
  try {
    body();
    return "accepted";
  } catch (const Error& error) {
    return error.what();
  }
}

std::vector<float> floats(const WeightSource& source, const std::string& name) {
  const Weight* weight = source.find(name);
  if (weight == nullptr) return {};
  std::vector<float> out(weight->elements());
  read_as(source, *weight, DType::F32, std::as_writable_bytes(std::span(out)));
  return out;
}

void write_index(const Path& path, const std::map<std::string, std::string>& map) {
  write_file_atomic(path, nlohmann::json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
}

}  // namespace

TEST(Weights, EveryFormatGivesTheSameTensors) {
  const test::TemporaryFolder folder;
  const std::map<std::string, std::pair<std::string, std::string>> files{
      {"a.safetensors", {"safetensors", test::safetensors(some_tensors())}},
      {"b.pth", {"torch-zip", test::torch_zip(some_tensors())}},
      {"c.pt", {"torchscript", test::torch_script(some_tensors())}},
      {"d.bin", {"torch-legacy", test::torch_legacy(some_tensors())}},
      {"e.pkl", {"numpy-pickle", test::numpy_pickle(some_tensors())}}};
  std::string hash;
  for (const auto& [name, file] : files) {
    SCOPED_TRACE(name);
    write_file_atomic(folder / name, file.second);
    std::unique_ptr<WeightSource> source = open_weights(folder / name);
    EXPECT_EQ(source->format(), file.first);
    if (name == "e.pkl") source = select_prefix(std::move(source), "model.");
    EXPECT_EQ(floats(*source, "layer.bias"), (std::vector<float>{-2, -1, 0}));
    EXPECT_EQ(source->tensors().size(), 3u);
    if (hash.empty()) hash = content_hash(*source);
    EXPECT_EQ(content_hash(*source), hash);
  }
}

TEST(Weights, ShardsAreOneSourceAndMustFitTheirIndex) {
  const test::TemporaryFolder folder;
  const auto tensors = some_tensors();
  write_file_atomic(folder / "m-1.safetensors", test::safetensors({tensors[0]}));
  write_file_atomic(folder / "m-2.safetensors", test::safetensors({tensors[1], tensors[2]}));
  const Path index = folder / "model.safetensors.index.json";
  const std::map<std::string, std::string> map{
      {"layer.weight", "m-1.safetensors"}, {"layer.bias", "m-2.safetensors"}, {"steps", "m-2.safetensors"}};
  const auto open = [&] { open_weights(index); };

  write_index(index, map);
  write_file_atomic(folder / "whole.safetensors", test::safetensors(tensors));
  EXPECT_EQ(content_hash(*open_weights(folder.path())), content_hash(*open_weights(folder / "whole.safetensors")));

  auto spoilt = map;
  spoilt["steps"] = "m-3.safetensors";
  write_index(index, spoilt);
  EXPECT_NE(refusal(open).find("'m-3.safetensors'"), std::string::npos) << refusal(open);
  spoilt = map;
  spoilt["more"] = "m-2.safetensors";
  write_index(index, spoilt);
  EXPECT_NE(refusal(open).find("[more]"), std::string::npos) << refusal(open);
  spoilt = map;
  spoilt.erase("steps");
  write_index(index, spoilt);
  EXPECT_NE(refusal(open).find("[steps]"), std::string::npos) << refusal(open);
  spoilt = map;
  spoilt["steps"] = "../m-2.safetensors";
  write_index(index, spoilt);
  EXPECT_NE(refusal(open).find("not the name of a file beside"), std::string::npos) << refusal(open);
  write_file_atomic(index, R"({"weight_map":{"steps":"m-2.safetensors","steps":"m-2.safetensors"}})");
  EXPECT_NE(refusal(open).find("stands twice"), std::string::npos) << refusal(open);
  write_file_atomic(index, "{\"a\":" + std::string(100'000, '['));
  EXPECT_NE(refusal(open).find("nested too deeply"), std::string::npos) << refusal(open);
}

TEST(Weights, ConversionKeepsValuesNamesAndShards) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "m.pth", test::torch_zip(some_tensors()));
  const auto source = open_weights(folder / "m.pth");

  convert_weights(*source, folder / "half.safetensors", {.dtype = DType::F16});
  const auto half = open_weights(folder / "half.safetensors");
  EXPECT_EQ(half->find("layer.weight")->dtype, DType::F16);
  EXPECT_EQ(half->find("steps")->dtype, DType::I64);
  EXPECT_EQ(floats(*half, "layer.weight"), floats(*source, "layer.weight"));

  const ConvertReport report = convert_weights(*source, folder / "s.safetensors", {.shard_bytes = 50});
  EXPECT_EQ(report.files.size(), 3u);
  EXPECT_EQ(report.files[0].filename(), "s-00001-of-00002.safetensors");
  EXPECT_EQ(content_hash(*open_weights(folder / "s.safetensors")), content_hash(*source));
  EXPECT_NE(refusal([&] { convert_weights(*source, folder / "half.safetensors", {.shard_bytes = 50}); }).find("beside"),
            std::string::npos);
}

TEST(Weights, ConversionRefusesWhatDoesNotFitAndLeavesNothing) {
  const test::TemporaryFolder folder;
  FileTensor large = test::float_tensor("w", {3}, 65600);
  write_file_atomic(folder / "m.safetensors", test::safetensors({large}));
  const auto source = open_weights(folder / "m.safetensors");
  const auto text = refusal([&] { convert_weights(*source, folder / "out.safetensors", {.dtype = DType::F16}); });
  EXPECT_NE(text.find("[w]"), std::string::npos) << text;
  EXPECT_NE(text.find("range of F16"), std::string::npos) << text;
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "a part stayed";
}

TEST(Weights, MapsAndPrefixesNameWhatIsWrong) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "m.safetensors", test::safetensors({test::float_tensor("model.a", {2})}));
  std::shared_ptr<const WeightSource> source = open_weights(folder / "m.safetensors");
  EXPECT_NE(refusal([&] { select_prefix(source, "model_ema."); }).find("found model (1)"), std::string::npos);
  EXPECT_NE(refusal([&] { map_keys(source, "clip-openai-to-hf"); }).find("[model.a]"), std::string::npos);
  EXPECT_NE(refusal([&] { map_keys(source, "clip-openai-to-fh"); }).find("clip-openai-to-hf"), std::string::npos);
  write_file_atomic(folder / "q.safetensors",
                    test::safetensors({test::float_tensor("transformer.resblocks.0.attn.in_proj_bias", {4})}));
  source = open_weights(folder / "q.safetensors");
  EXPECT_NE(refusal([&] { map_keys(source, "clip-openai-to-hf"); }).find("3 equal parts"), std::string::npos);
}

TEST(Weights, LoadingTakesTheTargetAndLittleMore) {
  if (!test::kMeasuresMemory) GTEST_SKIP() << "sanitizers keep memory of their own";
  const test::TemporaryFolder folder;
  constexpr std::int64_t kRows = 1024, kTensors = 12;  // 12 tensors of 16 MB
  std::vector<TensorPlan> plan;
  for (std::int64_t i = 0; i < kTensors; ++i) plan.push_back({cat("t", i), DType::F32, {kRows, 4096}});
  {
    SafetensorsWriter writer(folder / "large.safetensors", plan);
    const std::vector<float> row(4096, 0.25f);
    for (std::int64_t i = 0; i < kRows * kTensors; ++i) writer.append(std::as_bytes(std::span(row)));
    writer.commit();
  }
  write_file_atomic(folder / "small.safetensors", test::safetensors(some_tensors()));
  const auto load = [](const Path& path) {
    const auto source = open_weights(path);
    std::vector<std::vector<std::byte>> model;
    for (const Weight& weight : source->tensors()) {
      if (!is_floating(weight.dtype)) continue;
      model.emplace_back(weight.elements() * 2);
      read_as(*source, weight, DType::F16, model.back(), {.refuse_not_finite = true});
    }
    return cat(model.size(), " tensors");
  };

  const auto outcome = test::in_child([&] { return load(folder / "large.safetensors"); }, false,
                                      [&] { load(folder / "small.safetensors"); });

  EXPECT_EQ(outcome.text, "12 tensors");
  constexpr double kTarget = kTensors * kRows * 4096.0 * 2;
  RecordProperty("grown_over_target", cat(static_cast<double>(outcome.grown) / kTarget));
  std::printf("memory taken: %.3f of the model in its target type\n", static_cast<double>(outcome.grown) / kTarget);
  EXPECT_LT(static_cast<double>(outcome.grown), 1.15 * kTarget);
}

TEST(Weights, OpeningAndConvertingTakeAFewMegabytes) {
  if (!test::kMeasuresMemory) GTEST_SKIP() << "sanitizers keep memory of their own";
  const test::TemporaryFolder folder;
  FileTensor large{"w", DType::F32, {16, 1024, 1024}, std::string(64u << 20, '\0')};
  write_file_atomic(folder / "large.pth", test::torch_zip({large}));
  write_file_atomic(folder / "small.pth", test::torch_zip({test::float_tensor("w", {4})}));
  const auto convert = [&](const char* name) {
    const ConvertReport report =
        convert_weights(*open_weights(folder / name), folder / "out.safetensors", {.dtype = DType::BF16});
    return cat(report.bytes);
  };
  const auto outcome = test::in_child([&] { return convert("large.pth"); }, false, [&] { convert("small.pth"); });
  EXPECT_EQ(outcome.text, cat(32u << 20));
  EXPECT_LT(outcome.grown, 16u << 20);
}

}  // namespace divergen::weights
