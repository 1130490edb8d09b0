#pragma once
// CLIP's byte-pair encoding (reference/generation.md §6), with the two ways in which texts are prepared for it.

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fs.hpp"

namespace divergen::tokenizers {

/// How a text is prepared before its words are looked up. On LVIS-style prompts both are the same.
enum class ClipText {
  Transformers,  // NFC, white space collapsed, lower case letter by letter
  OpenAi,        // ftfy's repair, HTML references decoded twice, white space collapsed and stripped, lower case
};

/// Thread-safe after construction.
class ClipBpe {
 public:
  static constexpr std::int64_t kStart = 49406, kEnd = 49407, kLength = 77;

  /// From bpe_simple_vocab_16e6.txt.gz (OpenAI's file) or a folder with merges.txt (transformers' layout).
  /// Throws Error(Io | Data).
  explicit ClipBpe(const Path& file_or_folder);

  /// The text as `rule` prepares it.
  static std::string normalized(std::string_view text, ClipText rule);

  /// Ids of the words, no start or end. <|startoftext|> and <|endoftext|> in the text are the marks themselves;
  /// OpenAI's rule takes them in capitals too.
  std::vector<std::int64_t> encode(std::string_view text, ClipText rule = ClipText::Transformers) const;
  /// As Stable Diffusion feeds it: start, ids, end, cut to 77 with the end kept, padded with the end.
  std::vector<std::int64_t> encode_padded(std::string_view text) const;
  /// OpenAI's clip.tokenize: start, ids, end, padded with 0. A text of over 77 tokens is cut, with the end kept, where
  /// `truncate` allows it; Error(Data) otherwise.
  std::vector<std::int64_t> tokenize(std::string_view text, bool truncate = false) const;

  std::size_t vocabulary_size() const { return ids_.size() + 2; }

 private:
  void load(std::string_view merges);
  void encode_words(std::string_view text, ClipText rule, std::vector<std::int64_t>& out) const;
  std::vector<std::int64_t> encode_word(const std::string& word) const;

  std::unordered_map<std::string, std::int64_t> ids_;
  std::unordered_map<std::string, std::size_t> ranks_;  // "left right" -> priority
  std::vector<std::string> byte_symbols_;               // of each byte, as UTF-8
};

}  // namespace divergen::tokenizers
