// Honest files that do not belong to the model: each is refused by a message that names file, key, expected and found,
// in little memory. Id weights_wrong of the reliability notes: ten faults in six formats.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.hpp"
#include "nn/module.hpp"
#include "nn/tensor_io.hpp"
#include "support/child.hpp"
#include "support/fixtures.hpp"
#include "support/weight_files.hpp"
#include "weights/weights.hpp"

namespace divergen::nn {
namespace {

using test::FileTensor;
using weights::DType;

/// Large enough that copying it would show: 20 MB of floats in its weight.
constexpr std::int64_t kOut = 2560, kIn = 2048;

struct Small : Module {
  Small() {
    parameter("head.weight", weight, {kOut, kIn});
    parameter("head.bias", bias, {kOut});
    buffer("steps", steps, {}, at::kLong);
  }
  at::Tensor weight, bias, steps;
};

std::vector<FileTensor> honest() {
  return {{"head.weight", DType::F32, {kOut, kIn}, std::string(static_cast<std::size_t>(kOut * kIn * 4), '\0')},
          {"head.bias", DType::F32, {kOut}, std::string(static_cast<std::size_t>(kOut * 4), '\0')},
          {"steps", DType::I64, {}, std::string(8, '\0')}};
}

struct Format {
  const char *id, *file;
  std::function<std::string(const std::vector<FileTensor>&)> make;
};
const std::vector<Format>& formats() {
  static const std::vector<Format> kFormats{{"Safetensors", "w.safetensors", test::safetensors},
                                            {"Shards", "w.safetensors.index.json", {}},
                                            {"TorchZip", "w.pth", test::torch_zip},
                                            {"TorchScript", "w.pt", test::torch_script},
                                            {"TorchLegacy", "w.bin", test::torch_legacy},
                                            {"NumpyPickle", "w.pkl", test::numpy_pickle}};
  return kFormats;
}

struct Fault {
  const char* id;
  std::vector<std::string> expected;  // pieces of the message
  std::function<void(std::vector<FileTensor>&)> spoil;
  bool is_truncated = false;
};
std::string put_float(std::string bytes, std::size_t index, float value) {
  return bytes.replace(index * 4, 4, test::little(value));
}
const std::vector<Fault>& faults() {
  static const std::vector<Fault> kFaults{
      {"MissingKey", {"missing 'head.bias'", "expected [2560]"}, [](auto& t) { t.erase(t.begin() + 1); }},
      {"SurplusKey",
       {"surplus 'other'", "found F32 [3]"},
       [](auto& t) { t.push_back(test::float_tensor("other", {3})); }},
      {"WrongShape",
       {"'head.bias'", "expected [2560], found [2561]"},
       [](auto& t) { t[1].shape = {kOut + 1}, t[1].bytes += std::string(4, '\0'); }},
      {"WrongRank",
       {"'head.bias'", "expected [2560], found [2560, 1]"},
       [](auto& t) {
         t[1].shape = {kOut, 1};
       }},
      {"Transposed",
       {"'head.weight'", "expected [2560, 2048], found [2048, 2560]"},
       [](auto& t) {
         t[0].shape = {kIn, kOut};
       }},
      {"IntegersForFloats", {"'head.bias'", "expected F32, found I32"}, [](auto& t) { t[1].dtype = DType::I32; }},
      {"FloatsForIntegers", {"'steps'", "expected I64, found F64"}, [](auto& t) { t[2].dtype = DType::F64; }},
      {"NanInside",
       {"head.weight]", "expected finite values, found NaN or infinity at element 3000000"},
       [](auto& t) { t[0].bytes = put_float(t[0].bytes, 3'000'000, std::nanf("")); }},
      {"Truncated", {"truncated"}, [](auto&) {}, true},
      {"OtherModel", {"missing 'head.weight'", "surplus 'conv1.weight'"}, [](auto& t) {
         t = {test::float_tensor("conv1.weight", {8, 3, 3, 3}), test::float_tensor("bn1.bias", {8})};
       }}};
  return kFaults;
}

/// Writes the weights in a format; the file that is opened. Shards: all but the first tensor in the second file.
Path write(const test::TemporaryFolder& folder, const Format& format, const std::vector<FileTensor>& tensors,
           bool cut) {
  const auto put = [&](const std::string& name, const std::string& bytes) {
    write_file_atomic(folder / name, cut ? bytes.substr(0, bytes.size() * 2 / 3) : bytes);
  };
  if (format.make) {
    put(format.file, format.make(tensors));
    return folder / format.file;
  }
  nlohmann::json map;
  for (std::size_t i = 0; i < tensors.size(); ++i) map[tensors[i].name] = i == 0 ? "a.safetensors" : "b.safetensors";
  put("a.safetensors", test::safetensors({tensors[0]}));
  put("b.safetensors", test::safetensors({tensors.begin() + 1, tensors.end()}));
  write_file_atomic(folder / format.file, nlohmann::json{{"weight_map", map}}.dump());
  return folder / format.file;
}

void load(Module& module, const Path& path) {
  if (path.extension() != ".pkl") return load_module(module, path);
  load_module(module, *weights::select_prefix(weights::open_weights(path), "model."));
}

class WeightsWrong : public testing::TestWithParam<std::tuple<std::size_t, std::size_t>> {};

TEST_P(WeightsWrong, IsRefusedByName) {
  const Format& format = formats()[std::get<0>(GetParam())];
  const Fault& fault = faults()[std::get<1>(GetParam())];
  const test::TemporaryFolder folder;
  std::vector<FileTensor> tensors = honest();
  fault.spoil(tensors);
  const Path path = write(folder, format, tensors, fault.is_truncated);
  const test::TemporaryFolder other;
  const Path good = write(other, format, honest(), false);
  Small module;

  const auto outcome = test::in_child(
      [&] {
        load(module, path);
        return std::string("accepted");
      },
      false, [&] { load(module, good); });

  EXPECT_EQ(outcome.signal, 0);
  const bool is_shard = std::string(format.id) == "Shards";
  EXPECT_NE(outcome.text.find(is_shard && fault.is_truncated ? "a.safetensors" : format.file), std::string::npos)
      << outcome.text;
  for (const std::string& piece : fault.expected)
    EXPECT_NE(outcome.text.find(piece), std::string::npos) << "'" << piece << "' is not in: " << outcome.text;
  if (test::kMeasuresMemory) {
    EXPECT_LT(outcome.grown, 64u << 20);
  }
}

INSTANTIATE_TEST_SUITE_P(All, WeightsWrong,
                         testing::Combine(testing::Range<std::size_t>(0, 6), testing::Range<std::size_t>(0, 10)),
                         [](const auto& info) {
                           return std::string(formats()[std::get<0>(info.param)].id) +
                                  faults()[std::get<1>(info.param)].id;
                         });

TEST(WeightsWrong, HonestFilesOfEveryFormatLoad) {
  for (const Format& format : formats()) {
    const test::TemporaryFolder folder;
    std::vector<FileTensor> tensors = honest();
    tensors[0].bytes = put_float(tensors[0].bytes, 5, 1.5f);
    tensors[2].bytes = test::little<std::int64_t>(42);
    Small module;
    load(module, write(folder, format, tensors, false));
    EXPECT_EQ(module.weight[0][5].item<float>(), 1.5f) << format.id;
    EXPECT_EQ(module.steps.item<std::int64_t>(), 42) << format.id;
  }
}

}  // namespace
}  // namespace divergen::nn
