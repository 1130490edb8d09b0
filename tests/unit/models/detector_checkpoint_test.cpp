// Detectors and backbones from files as others write them, and for others to read.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>

#include "base/error.hpp"
#include "models/detector/checkpoint.hpp"
#include "nn/tensor_io.hpp"
#include "support/fixtures_torch.hpp"
#include "weights/detectron2.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

config::DetectorSettings small_settings(const std::string& backbone) {
  config::DetectorSettings s;
  s.backbone = backbone;
  s.depths = {1, 2, 1, 1};
  s.stem_channels = 8;
  s.base_width = 4;
  s.backbone_classes = 3;
  s.swin_width = 8;
  s.swin_heads = {1, 2, 2, 4};
  s.swin_window = 3;
  s.fpn_channels = 16;
  s.tower_convs = 1;
  s.group_norm_groups = 4;
  s.box_fc = 32;
  s.mask_channels = 16;
  s.mask_convs = 1;
  return s;
}

std::unique_ptr<CenterNet2> make(const std::string& backbone, std::size_t classes, std::uint64_t seed) {
  std::vector<double> counts;
  for (std::size_t i = 0; i < classes; ++i) counts.push_back(static_cast<double>(seed + i + 1));
  auto detector = std::make_unique<CenterNet2>(small_settings(backbone), counts);
  at::Generator generator = at::detail::createCPUGenerator(seed);
  init_detector(*detector, small_settings(backbone), generator);
  return detector;
}

using Named = std::vector<std::pair<std::string, at::Tensor>>;

Named tensors_of(const CenterNet2& detector, const std::string& prefix = "") {
  Named out;
  for (const nn::NamedTensor& t : detector.named_tensors())
    if (t.is_persistent) out.emplace_back(prefix + t.name, t.tensor);
  return out;
}

/// A safetensors file whose names are those of an entry of a checkpoint, seen as this entry: what the reader gives for
/// a .pth is the same (its own tests), so that files of any layout can be made here.
Path save(const Path& file, Named tensors) {
  nn::save_tensors(file, tensors);
  return file;
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Data) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

class detector_checkpoint : public testing::TestWithParam<const char*> {
 protected:
  void expect_equal(const CenterNet2& ours, const CenterNet2& file, bool with_classes = true) const {
    const auto a = tensors_of(ours), b = tensors_of(file);
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      const bool of_classes = a[i].first.find("cls_score") != std::string::npos || a[i].first.ends_with("freq_weight");
      if (!of_classes || with_classes) EXPECT_TRUE(at::equal(a[i].second, b[i].second)) << a[i].first;
    }
  }
  test::TemporaryFolder folder;
  std::unique_ptr<CenterNet2> file = make(GetParam(), 7, 1);
};

}  // namespace

TEST_P(detector_checkpoint, AveragedWeightsComeFirstAndPrefixesGo) {
  const auto averaged = make(GetParam(), 7, 2);
  Named all = tensors_of(*file, "model.");
  const Named ema = tensors_of(*averaged, "model_ema.module.");
  all.insert(all.end(), ema.begin(), ema.end());
  all.emplace_back("optimizer.state.0.exp_avg", at::zeros({3}));
  const auto detector = make(GetParam(), 7, 3);
  load_detector(*detector, save(folder / "trained.safetensors", all));
  expect_equal(*detector, *averaged);
  load_detector(*detector, save(folder / "plain.safetensors", tensors_of(*file, "model.")));
  expect_equal(*detector, *file);
  load_detector(*detector, save(folder / "wrapped.safetensors", tensors_of(*file, "module.")));
  expect_equal(*detector, *file);
}

TEST_P(detector_checkpoint, OptionalBuffersMayComeAndGo) {
  Named tensors = tensors_of(*file);
  std::erase_if(tensors, [](const auto& t) { return t.first.ends_with("num_batches_tracked"); });
  tensors.emplace_back("pixel_mean", at::zeros({3, 1, 1}));
  tensors.emplace_back("pixel_std", at::ones({3, 1, 1}));
  const auto detector = make(GetParam(), 7, 3);
  load_detector(*detector, save(folder / "old.safetensors", tensors));
  const auto ours = tensors_of(*detector);
  for (const auto& [name, tensor] : tensors_of(*file))
    if (name == "roi_heads.mask_head.predictor.weight") {
      EXPECT_TRUE(at::equal(
          tensor, std::find_if(ours.begin(), ours.end(), [&](const auto& t) { return t.first == name; })->second));
    }
}

TEST_P(detector_checkpoint, ExtraClassesAreCutOnlyWhereTheSettingsSaySo) {
  const Path path = save(folder / "extra.safetensors", tensors_of(*file));
  const auto detector = make(GetParam(), 4, 5);
  const Named before = tensors_of(*make(GetParam(), 4, 5));

  const std::string text = refusal([&] { load_detector(*detector, path); });
  for (const char* part : {"extra.safetensors", "7 classes", "4", "init_classes = \"cut\"", "init_classes = \"new\""})
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  const Named after = tensors_of(*detector);
  for (std::size_t i = 0; i < after.size(); ++i)
    EXPECT_TRUE(at::equal(after[i].second, before[i].second)) << "refused, and yet changed: " << after[i].first;

  load_detector(*detector, path, FileClasses::Cut);
  expect_equal(*detector, *file, /*with_classes=*/false);
  std::map<std::string, at::Tensor> ours, theirs;
  for (const auto& [name, tensor] : tensors_of(*detector)) ours[name] = tensor;
  for (const auto& [name, tensor] : tensors_of(*file)) theirs[name] = tensor;
  for (int k = 0; k < 3; ++k) {
    const std::string predictor = cat("roi_heads.box_predictor.", k, ".");
    for (const std::string part : {"cls_score.weight", "cls_score.bias"}) {
      const at::Tensor &a = ours.at(predictor + part), &b = theirs.at(predictor + part);
      ASSERT_EQ(a.size(0), 5);
      EXPECT_TRUE(at::equal(a.narrow(0, 0, 4), b.narrow(0, 0, 4))) << part;
      EXPECT_TRUE(at::equal(a[4], b[7])) << part << ": background";
    }
    EXPECT_TRUE(at::equal(ours.at(predictor + "freq_weight"), theirs.at(predictor + "freq_weight").narrow(0, 0, 4)));
  }
}

TEST_P(detector_checkpoint, NewClassesKeepTheirOwnValues) {
  const Path path = save(folder / "other.safetensors", tensors_of(*file));
  for (const std::size_t classes : {4, 7, 9}) {  // fewer, as many, more than the file
    const auto detector = make(GetParam(), classes, 5), before = make(GetParam(), classes, 5);
    load_detector(*detector, path, FileClasses::New);
    const Named ours = tensors_of(*detector), was = tensors_of(*before), given = tensors_of(*file);
    for (std::size_t i = 0; i < ours.size(); ++i) {
      const bool of_classes =
          ours[i].first.find("cls_score") != std::string::npos || ours[i].first.ends_with("freq_weight");
      EXPECT_TRUE(at::equal(ours[i].second, of_classes ? was[i].second : given[i].second)) << ours[i].first;
    }
  }
  const auto more = make(GetParam(), 9, 5);
  for (const FileClasses classes : {FileClasses::Same, FileClasses::Cut}) {
    const std::string text = refusal([&] { load_detector(*more, path, classes); });
    EXPECT_NE(text.find("7 classes"), std::string::npos) << text;
    EXPECT_EQ(text.find("\"cut\""), std::string::npos) << "cutting does not help: " << text;
  }
}

TEST_P(detector_checkpoint, NothingElseMayBeMissing) {
  Named tensors = tensors_of(*file);
  std::erase_if(tensors, [](const auto& t) { return t.first == "roi_heads.mask_head.deconv.bias"; });
  const Path path = save(folder / "part.safetensors", tensors);
  for (const FileClasses classes : {FileClasses::Same, FileClasses::New})
    EXPECT_NE(refusal([&] { load_detector(*make(GetParam(), 7, 2), path, classes); }).find("deconv.bias"),
              std::string::npos);
  std::erase_if(tensors, [](const auto& t) { return t.first.find("box_predictor") != std::string::npos; });
  EXPECT_NE(refusal([&] {
              load_detector(*make(GetParam(), 7, 2), save(folder / "backbone.safetensors", tensors));
            }).find("detector.backbone_weights"),
            std::string::npos);
}

TEST_P(detector_checkpoint, BackbonesMatchByTheLongestEnd) {
  constexpr std::string_view kTimm = "backbone.bottom_up.base.", kSwin = "backbone.bottom_up.";
  const std::string_view prefix = GetParam() == std::string("swin") ? kSwin : kTimm;
  Named tensors;
  for (const auto& [name, tensor] : tensors_of(*file)) {
    if (!name.starts_with(prefix) || name.ends_with("num_batches_tracked")) continue;
    // Of a classifier with other classes, which is never used.
    const bool unused = name.find(".fc.") != std::string::npos;
    tensors.emplace_back(cat("model.", name.substr(prefix.size())), unused ? at::zeros({2, 2}) : tensor);
  }
  tensors.emplace_back("model.head.weight", at::zeros({2, 2}));
  tensors.emplace_back("model.norm.weight", at::zeros({2}));
  const auto detector = make(GetParam(), 7, 9), before = make(GetParam(), 7, 9);
  load_backbone(*detector, save(folder / "pretrained.safetensors", tensors));
  const Named ours = tensors_of(*detector), was = tensors_of(*before), given = tensors_of(*file);
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const bool taken = ours[i].first.starts_with(kSwin) && ours[i].first.find(".fc.") == std::string::npos &&
                       !ours[i].first.ends_with("num_batches_tracked");
    EXPECT_TRUE(at::equal(ours[i].second, taken ? given[i].second : was[i].second)) << ours[i].first;
  }
  const std::string gone =
      GetParam() == std::string("swin") ? "layers.1.blocks.1.attn.qkv.bias" : "layer2.1.conv2.weight";
  std::erase_if(tensors, [&](const auto& t) { return t.first == "model." + gone; });
  EXPECT_NE(refusal([&] { load_backbone(*detector, save(folder / "part.safetensors", tensors)); }).find(gone),
            std::string::npos);
}

TEST_P(detector_checkpoint, IsWrittenForDetectron2) {
  save(folder / "detector.safetensors", tensors_of(*file));
  const auto source = weights::open_weights(folder / "detector.safetensors");
  for (const char* name : {"detector.pth", "detector.pkl"}) {
    weights::write_detectron2(folder / name, *source);
    const auto back = make(GetParam(), 7, 8);
    load_detector(*back, folder / name);
    expect_equal(*back, *file);
  }
  EXPECT_THROW(weights::write_detectron2(folder / "detector.onnx", *source), Error);

  // Python's own readers: pickle as detectron2 calls it, and the zip's checksums.
  std::ofstream(folder / "check.py") << R"(
import pickle, sys, zipfile
import numpy
with open(sys.argv[1] + "/detector.pkl", "rb") as f:
    data = pickle.load(f, encoding="latin1")
assert data["__author__"] == "divergen" and "matching_heuristics" not in data, data.keys()
assert all(isinstance(v, numpy.ndarray) and v.flags.writeable for v in data["model"].values())
numpy.savez(sys.argv[1] + "/names.npz", **data["model"])
archive = zipfile.ZipFile(sys.argv[1] + "/detector.pth")
assert archive.testzip() is None
assert all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())
for info in archive.infolist():
    archive.fp.seek(info.header_offset + 26)
    name, extra = (int.from_bytes(archive.fp.read(2), "little") for _ in range(2))
    assert (info.header_offset + 30 + name + extra) % 64 == 0, info
print(len(data["model"]))
for name, value in data["model"].items():
    print(name, value.dtype, "x".join(map(str, value.shape)), repr(float(value.astype("f8").sum())))
)";
  // The first Python that has NumPy (Debian's: python3-numpy).
  const std::string command =
      cat("for p in python3 /usr/bin/python3; do if $p -c 'import numpy' 2>/dev/null; then exec $p ",
          (folder / "check.py").string(), " ", folder.path().string(), " > ", (folder / "out.txt").string(),
          "; fi; done; exit 1");
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::ifstream in(folder / "out.txt");
  std::size_t count = 0;
  in >> count;
  const Named expected = tensors_of(*file);
  ASSERT_EQ(count, expected.size());
  for (const auto& [name, tensor] : expected) {
    std::string read_name, type, shape;
    double sum = 0;
    if (tensor.dim() == 0) in >> read_name >> type >> sum;  // no shape
    else in >> read_name >> type >> shape >> sum;
    EXPECT_EQ(read_name, name);
    EXPECT_EQ(type, tensor.scalar_type() == at::kLong ? "int64" : "float32");
    EXPECT_NEAR(sum, tensor.to(at::kDouble).sum().item<double>(), 1e-6 * (1 + std::abs(sum))) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(of, detector_checkpoint, testing::Values("resnet", "swin"),
                         [](const auto& backbone) { return std::string(backbone.param); });

}  // namespace divergen::models
