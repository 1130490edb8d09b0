#pragma once
// CLIP's byte-pair encoding (reference/generation.md §6), with the two ways in which texts are prepared for it.

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fs.hpp"

namespace divergen::tokenizers {

/// Thread-safe after construction.
class ClipBpe {
 public:
  static constexpr std::int64_t kStart = 49406, kEnd = 49407, kLength = 77;

  /// From bpe_simple_vocab_16e6.txt.gz (OpenAI's file) or a folder with merges.txt (transformers' layout).
  /// Throws Error(Io | Data).
  explicit ClipBpe(const Path& file_or_folder);

  /// transformers' preparation: NFC, white space collapsed, lower case. No start or end.
  std::vector<std::int64_t> encode(std::string_view text) const;
  /// As Stable Diffusion feeds it: start, ids, end, cut to 77 with the end kept, padded with the end.
  std::vector<std::int64_t> encode_padded(std::string_view text) const;

  std::size_t vocabulary_size() const { return ids_.size() + 2; }

 private:
  void load(std::string_view merges);
  std::vector<std::int64_t> encode_word(std::string word) const;

  std::unordered_map<std::string, std::int64_t> ids_;
  std::unordered_map<std::string, std::size_t> ranks_;  // "left right" -> priority
  std::vector<std::string> byte_symbols_;               // of each byte, as UTF-8
};

}  // namespace divergen::tokenizers
