// The generators' weight files as they are published: TorchScript archive, shards with an fp16 index, old names.

#include <gtest/gtest.h>

#include <set>

#include "base/error.hpp"
#include "support/fixtures.hpp"
#include "weights/key_maps.hpp"
#include "weights/weights.hpp"

namespace divergen::weights {
namespace {

Path folder() { return test::fixtures("generation"); }

std::vector<std::byte> values(const WeightSource& source, const Weight& weight, DType type) {
  std::vector<std::byte> out(weight.elements() * size_of(type));
  read_as(source, weight, type, out);
  return out;
}

/// Names and shapes of a table, without values.
class Table : public WeightSource {
 public:
  explicit Table(const Path& file) : WeightSource("table", file.string()) {
    std::istringstream lines(read_file(file));
    std::string name, shape, type;
    std::getline(lines, name);
    while (lines >> name >> shape >> type) add(name, type_of(type), shape_of(shape));
  }
  void read(const Weight&, std::uint64_t, std::span<std::byte>) const override { FAIL() << "a table has no values"; }
  void release(const Weight&, std::uint64_t, std::uint64_t) const override {}

 private:
  static DType type_of(const std::string& name) {
    return name == "float16" ? DType::F16 : name == "int64" ? DType::I64 : DType::F32;
  }
  static std::vector<std::int64_t> shape_of(const std::string& text) {
    std::vector<std::int64_t> out;
    std::istringstream sides(text);
    for (std::string side; text != "scalar" && std::getline(sides, side, 'x');) out.push_back(std::stoll(side));
    return out;
  }
};

std::map<std::string, std::vector<std::int64_t>> shapes(const WeightSource& source) {
  std::map<std::string, std::vector<std::int64_t>> out;
  for (const Weight& weight : source.tensors()) out[weight.name] = weight.shape;
  return out;
}

/// Tables hold names of published models, of any set of fixtures alike.
std::shared_ptr<Table> table(const std::string& name) {
  return std::make_shared<Table>(Path(DIVERGEN_SOURCE_DIR) / "tests/fixtures/generation/keys" / name);
}

}  // namespace

TEST(weight_files, OpenAiNamesBecomeThoseOfTransformersInFullSize) {
  const auto mapped = map_keys(table("clip_vit_l14_openai.tsv"), "clip-openai-to-hf");
  EXPECT_EQ(shapes(*mapped), shapes(*table("clip_vit_l14_hf.tsv")));
}

TEST(weight_files, TransformersNamesBecomeThoseOfOpenAiInFullSize) {
  const auto mapped = map_keys(table("clip_vit_l14_hf.tsv"), "clip-hf-to-openai");
  auto expected = shapes(*table("clip_vit_l14_openai.tsv"));
  for (const char* size : {"input_resolution", "context_length", "vocab_size"}) expected.erase(size);
  EXPECT_EQ(shapes(*mapped), expected);
}

TEST(weight_files, OldVaeNamesBecomeNewOnesAndBack) {
  const auto old_names = table("sd15_vae_official_oldnames.tsv"), new_names = table("sd15_vae.tsv");
  EXPECT_NE(shapes(*old_names), shapes(*new_names));
  EXPECT_EQ(shapes(*map_keys(old_names, "vae-old-to-new")), shapes(*new_names));
  EXPECT_EQ(shapes(*map_keys(new_names, "vae-old-to-new")), shapes(*new_names)) << "new names stay as they are";
  EXPECT_EQ(shapes(*map_keys(new_names, "vae-new-to-old")), shapes(*old_names));
}

TEST(weight_files, OpenAiArchiveIsSplitAndTransposedAndComesBack) {
  Path archive;
  for (const auto& entry : std::filesystem::directory_iterator(folder() / "clip_tiny"))
    if (entry.path().extension() == ".pt") archive = entry.path();
  std::shared_ptr<const WeightSource> openai = open_weights(archive);
  EXPECT_EQ(openai->format(), "torchscript");
  std::shared_ptr<const WeightSource> hf = map_keys(openai, "clip-openai-to-hf");
  const auto bytes = [](const WeightSource& source, const std::string& name) {
    const Weight* weight = source.find(name);
    return weight == nullptr ? std::vector<std::byte>() : values(source, *weight, weight->dtype);
  };

  // in_proj holds the rows of q, k and v one after the other.
  std::vector<std::byte> joined;
  for (const char* part : {"q", "k", "v"})
    for (const std::byte value : bytes(*hf, cat("vision_model.encoder.layers.0.self_attn.", part, "_proj.weight")))
      joined.push_back(value);
  EXPECT_FALSE(joined.empty());
  EXPECT_EQ(joined, bytes(*openai, "visual.transformer.resblocks.0.attn.in_proj_weight"));

  // visual_projection[i][j] is proj[j][i].
  const Weight& matrix = *openai->find("visual.proj");
  const auto proj = bytes(*openai, "visual.proj"), turned = bytes(*hf, "visual_projection.weight");
  const auto rows = static_cast<std::size_t>(matrix.shape[0]), columns = static_cast<std::size_t>(matrix.shape[1]);
  const std::size_t element = size_of(matrix.dtype);
  ASSERT_EQ(turned.size(), proj.size());
  for (std::size_t i = 0; i < columns; ++i)
    for (std::size_t j = 0; j < rows; ++j)
      for (std::size_t k = 0; k < element; ++k)
        ASSERT_EQ(turned[(i * rows + j) * element + k], proj[(j * columns + i) * element + k]) << i << " " << j;

  // There and back again, nothing changes.
  const auto back = map_keys(hf, "clip-hf-to-openai");
  EXPECT_EQ(back->tensors().size() + 3, openai->tensors().size());
  for (const Weight& weight : back->tensors()) {
    const Weight* first = openai->find(weight.name);
    ASSERT_NE(first, nullptr) << weight.name;
    EXPECT_EQ(weight.shape, first->shape) << weight.name;
    EXPECT_TRUE(values(*back, weight, weight.dtype) == values(*openai, *first, first->dtype)) << weight.name;
  }
}

TEST(weight_files, HalfPrecisionShardsAreFoundUnderTheNameOfTheWholeFile) {
  const Path t5 = folder() / "t5_tiny";
  const auto by_folder = open_weights(t5), by_name = open_weights(t5 / "model.safetensors");

  EXPECT_EQ(by_folder->format(), "safetensors-sharded");
  EXPECT_GT(by_folder->files().size(), 2u);
  EXPECT_EQ(content_hash(*by_folder), content_hash(*by_name));
  const nlohmann::json index = test::fixture_json(by_folder->files().front());
  EXPECT_EQ(by_folder->tensors().size(), index["weight_map"].size());
}

TEST(weight_files, EveryModelFolderOpens) {
  int opened = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder())) {
    if (!entry.is_directory() || find_weights(entry.path()).empty()) continue;
    EXPECT_FALSE(open_weights(entry.path())->tensors().empty()) << entry.path();
    ++opened;
  }
  EXPECT_GE(opened, 4);
}

}  // namespace divergen::weights
