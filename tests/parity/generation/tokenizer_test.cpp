// CLIP's tokenizer against transformers, on every string of the fixtures.

#include <gtest/gtest.h>

#include "support/fixtures.hpp"
#include "tokenizers/clip_bpe.hpp"

namespace divergen::tokenizers {

TEST(clip_bpe, EqualsTransformers) {
  const ClipBpe tokenizer(Path(DIVERGEN_SOURCE_DIR) / "data/tokenizers/clip/bpe_simple_vocab_16e6.txt.gz");

  for (const auto& entry : test::fixture_json(test::fixtures("generation") / "clip_bpe.json").at("strings")) {
    const std::string text = entry.at("text");
    EXPECT_EQ(tokenizer.encode_padded(text), entry.at("hf_ids77").get<std::vector<std::int64_t>>()) << text;
  }
}

TEST(clip_bpe, ReadsTheTransformersFolder) {
  const ClipBpe packed(Path(DIVERGEN_SOURCE_DIR) / "data/tokenizers/clip/bpe_simple_vocab_16e6.txt.gz");
  const ClipBpe folder(test::fixtures("generation") / "sd_tiny/tokenizer");

  EXPECT_EQ(packed.encode("a photo of a single alarm_clock"), folder.encode("a photo of a single alarm_clock"));
}

}  // namespace divergen::tokenizers
