// Tokenizers and text rules against transformers, OpenAI's CLIP, SentencePiece and diffusers, on every string of the
// fixtures.

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "support/fixtures.hpp"
#include "tokenizers/clip_bpe.hpp"
#include "tokenizers/if_caption.hpp"
#include "tokenizers/t5_sentencepiece.hpp"

namespace divergen::tokenizers {
namespace {

using Ids = std::vector<std::int64_t>;

nlohmann::json strings_of(const char* file) {
  return test::fixture_json(test::fixtures("generation") / file).at("strings");
}

const ClipBpe& clip() {
  static const ClipBpe tokenizer(Path(DIVERGEN_SOURCE_DIR) / "data/tokenizers/clip/bpe_simple_vocab_16e6.txt.gz");
  return tokenizer;
}

/// The files that all sets share lie beside the set (shared/) or beside its folder (common/), else in the repository.
Path shared_file(const Path& relative) {
  for (const Path& root : {test::fixtures("generation") / "shared", test::fixture_root() / "shared",
                           test::fixture_root() / "common", test::fixture_root().parent_path() / "common"})
    if (std::filesystem::exists(root / relative)) return root / relative;
  return Path(DIVERGEN_SOURCE_DIR) / "tests/fixtures/generation/shared" / relative;
}

}  // namespace

TEST(clip_bpe, NormalisesAsOpenAi) {
  for (const auto& entry : strings_of("clip_bpe.json"))
    EXPECT_EQ(ClipBpe::normalized(entry.at("text").get<std::string>(), ClipText::OpenAi),
              entry.at("normalized_openai").get<std::string>());
}

TEST(clip_bpe, EncodesAsOpenAi) {
  for (const auto& entry : strings_of("clip_bpe.json")) {
    const auto text = entry.at("text").get<std::string>();
    EXPECT_EQ(clip().encode(text, ClipText::OpenAi), entry.at("ids_openai").get<Ids>()) << text;
  }
}

TEST(clip_bpe, TokenizesAsOpenAiAndRefusesLongTexts) {
  for (const auto& entry : strings_of("clip_bpe.json")) {
    const auto text = entry.at("text").get<std::string>();
    EXPECT_EQ(clip().tokenize(text, /*truncate=*/true), entry.at("tokenize77").get<Ids>()) << text;
    if (entry.at("openai_raises_without_truncate")) {
      EXPECT_THROW(clip().tokenize(text), Error) << text;
    } else {
      EXPECT_EQ(clip().tokenize(text), entry.at("tokenize77").get<Ids>()) << text;
    }
  }
}

TEST(clip_bpe, EncodesAsTransformersAtFullLength) {
  for (const auto& entry : strings_of("clip_bpe.json")) {
    const auto text = entry.at("text").get<std::string>();
    Ids ids = clip().encode(text, ClipText::Transformers);
    ids.insert(ids.begin(), ClipBpe::kStart);
    ids.push_back(ClipBpe::kEnd);
    EXPECT_EQ(ids, entry.at("hf_ids_untruncated").get<Ids>()) << text;
  }
}

TEST(t5_tokenizer, EqualsSentencePiece) {
  const T5SentencePiece tokenizer(shared_file("t5_tokenizer/spiece.model"));
  for (const auto& entry : strings_of("t5_tokenizer.json")) {
    const auto text = entry.at("text").get<std::string>();
    const std::string plain = if_caption(text, /*clean=*/false);
    EXPECT_EQ(plain, entry.at("lowered").get<std::string>());
    EXPECT_EQ(tokenizer.encode(plain), entry.at("ids").get<Ids>()) << text;
    const auto padded = tokenizer.encode_padded(plain);
    EXPECT_EQ(padded.ids, entry.at("ids77").get<Ids>()) << text;
    EXPECT_EQ(padded.mask, entry.at("mask77").get<Ids>()) << text;
  }
}

TEST(t5_tokenizer, ExtraIdsFollowThePieces) {
  const T5SentencePiece tokenizer(shared_file("t5_tokenizer/spiece.model"));
  EXPECT_EQ(tokenizer.extra_id(0), tokenizer.pieces() + 99);
  EXPECT_EQ(tokenizer.extra_id(99), tokenizer.pieces());
}

TEST(if_caption, CleansAsDiffusers) {
  for (const auto& entry : strings_of("if_clean_caption.json")) {
    const auto text = entry.at("text").get<std::string>();
    EXPECT_EQ(if_clean_caption_once(text), entry.at("cleaned_once").get<std::string>()) << text;
    EXPECT_EQ(if_caption(text, /*clean=*/true), entry.at("cleaned").get<std::string>()) << text;
    EXPECT_EQ(if_caption(text, /*clean=*/false), entry.at("plain").get<std::string>()) << text;
  }
}

}  // namespace divergen::tokenizers
