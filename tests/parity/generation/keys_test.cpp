// Names and shapes of the full-size models against the key tables of the published files. Modules are made on the meta
// device: they have shapes and no memory.

#include <gtest/gtest.h>

#include <fstream>

#include "base/text.hpp"
#include "models/clip/clip.hpp"
#include "models/diffusion/autoencoder_kl.hpp"
#include "models/diffusion/unet2d_condition.hpp"
#include "models/sam/sam.hpp"
#include "models/t5/encoder.hpp"
#include "support/fixtures_torch.hpp"
#include "support/published_configs.hpp"
#include "weights/key_maps.hpp"

namespace divergen::models {
namespace {

using weights::DType;

struct Entry {
  std::vector<std::int64_t> shape;
  bool is_integer = false;
  bool operator==(const Entry&) const = default;
};
using Table = std::map<std::string, Entry>;  // in order of names: files of different writers have different orders

std::string text_of(const Entry& entry) {
  return cat(weights::shape_text(entry.shape), entry.is_integer ? " integers" : "");
}

Path table_file(const std::string& name) {
  const Path root = test::fixture_root();
  for (const Path& folder :
       {root / "generation/keys", root / "keys/generation", root.parent_path() / "keys/generation"})
    if (std::filesystem::exists(folder / name)) return folder / name;
  return Path(DIVERGEN_SOURCE_DIR) / "tests/fixtures/generation/keys" / name;
}

/// name, shape as AxBxC or "scalar", type; under a head.
Table table(const std::string& model) {
  std::ifstream in(table_file(model + ".tsv"));
  Table out;
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    const auto columns = split(line, '\t');
    Entry entry;
    if (columns.at(1) != "scalar")
      for (const std::string& size : split(columns.at(1), 'x')) entry.shape.push_back(std::stoll(size));
    entry.is_integer = columns.at(2).starts_with("int");
    out[columns.at(0)] = entry;
  }
  EXPECT_FALSE(out.empty()) << model;
  return out;
}

Table table_of(const nn::Module& module) {
  Table out;
  for (const nn::NamedTensor& t : module.named_tensors()) {
    EXPECT_TRUE(t.tensor.is_meta()) << t.name;
    if (t.is_persistent) out[t.name] = {t.tensor.sizes().vec(), !at::isFloatingType(t.tensor.scalar_type())};
  }
  return out;
}

Table table_of(const weights::WeightSource& source) {
  Table out;
  for (const weights::Weight& w : source.tensors()) out[w.name] = {w.shape, w.dtype == DType::I64};
  return out;
}

/// `optional`: ours that the table need not have (buffers that newer writers leave out).
void expect_equal(const Table& ours, const Table& expected,
                  const std::function<bool(const std::string&)>& optional = {}) {
  for (const auto& [name, entry] : expected) {
    const auto found = ours.find(name);
    if (found == ours.end()) ADD_FAILURE() << "missing " << name;
    else
      EXPECT_TRUE(found->second == entry) << name << ": " << text_of(found->second) << ", expected " << text_of(entry);
  }
  for (const auto& [name, entry] : ours)
    if (!expected.contains(name) && !(optional && optional(name))) ADD_FAILURE() << "surplus " << name;
}

/// Names and shapes of a table as a file that has no values.
class TableSource : public weights::WeightSource {
 public:
  explicit TableSource(const Table& table) : WeightSource("table", "table") {
    for (const auto& [name, entry] : table) add(name, entry.is_integer ? DType::I64 : DType::F32, entry.shape);
  }
  void read(const weights::Weight& w, std::uint64_t, std::span<std::byte>) const override {
    ADD_FAILURE() << "a value was read: " << w.name;
  }
  void release(const weights::Weight&, std::uint64_t, std::uint64_t) const override {}
};

Table mapped(const Table& table, const std::string& map) {
  return table_of(*weights::map_keys(std::make_shared<TableSource>(table), map));
}

class KeyTables : public testing::Test {
  nn::NewTensors meta_{at::TensorOptions().dtype(at::kFloat).device(at::kMeta)};
};

}  // namespace

TEST_F(KeyTables, T5V11XxlEncoder) { expect_equal(table_of(T5Encoder(T5Config())), table("t5_v1_1_xxl_encoder")); }

TEST_F(KeyTables, StableDiffusionTextEncoder) {
  expect_equal(table_of(ClipTextModel(ClipTextConfig())), table("sd15_text_encoder"));
}

TEST_F(KeyTables, StableDiffusionUnet) {
  expect_equal(table_of(UNet2DCondition(UnetConfig::from(sd15_unet()))), table("sd15_unet"));
}

TEST_F(KeyTables, StableDiffusionVae) {
  const Table ours = table_of(AutoencoderKL(VaeConfig::from(sd15_vae())));
  expect_equal(ours, table("sd15_vae"));
  expect_equal(ours, mapped(table("sd15_vae_official_oldnames"), "vae-old-to-new"));
  expect_equal(mapped(ours, "vae-new-to-old"), table("sd15_vae_official_oldnames"));
}

TEST_F(KeyTables, ClipVitL14) {
  const Table ours = table_of(Clip(ClipTextConfig(), ClipVisionConfig(), 768));
  expect_equal(ours, table("clip_vit_l14_hf"), is_optional_clip_key);
  expect_equal(ours, mapped(table("clip_vit_l14_openai"), "clip-openai-to-hf"), is_optional_clip_key);
  // The three integers of OpenAI's archive are sizes, which have no place in a module.
  Table back = mapped(ours, "clip-hf-to-openai");
  for (const auto& [name, entry] : table("clip_vit_l14_openai"))
    if (entry.is_integer) back[name] = entry;
  expect_equal(back, table("clip_vit_l14_openai"));
}

TEST_F(KeyTables, SegmentAnything) {
  for (const char* name : {"vit_b", "vit_l", "vit_h"})
    expect_equal(table_of(Sam(SamConfig::published(name))), table(cat("sam_", name)));
}

}  // namespace divergen::models
