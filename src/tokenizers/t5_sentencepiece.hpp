#pragma once
// T5's tokenizer: SentencePiece with an end mark (reference/generation.md §6).

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fs.hpp"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace divergen::tokenizers {

/// Thread-safe after construction.
class T5SentencePiece {
 public:
  static constexpr std::int64_t kPad = 0, kEnd = 1, kUnknown = 2, kLength = 77, kExtraIds = 100;

  struct Encoded {
    std::vector<std::int64_t> ids;   // kPad where the text is over
    std::vector<std::int64_t> mask;  // 1 where a token is, 0 at padding
  };

  /// A spiece.model with a unigram model, or a folder that holds one. Throws Error(Io | Data).
  explicit T5SentencePiece(const Path& file_or_folder);
  ~T5SentencePiece();

  /// Pieces of the text as it is (DeepFloyd-IF's text rule comes before: if_caption.hpp), then the end mark. The text
  /// is normalised by the model itself (nmt_nfkc in T5's). Marks such as <extra_id_0> are plain text here, as they are
  /// to SentencePiece.
  std::vector<std::int64_t> encode(std::string_view text) const;
  /// encode() cut to `length` with the end mark kept, or padded to it.
  Encoded encode_padded(std::string_view text, std::int64_t length = kLength) const;

  /// Pieces of the model. T5's has 32000.
  std::int64_t pieces() const;
  /// <extra_id_n>, n in 0..99: counted down from the end, after the pieces (32099 - n in T5's).
  std::int64_t extra_id(std::int64_t n) const;
  /// Pieces and extra ids. A model's embedding table may be larger (32128 in T5's), never smaller.
  std::int64_t vocabulary_size() const { return pieces() + kExtraIds; }

 private:
  struct Piece {
    std::int64_t id;
    float score;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  void read_pieces();
  /// The best cut of a normalised text.
  std::vector<std::int64_t> segment(std::string_view text) const;

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::unordered_map<std::string, Piece, Hash, std::equal_to<>> pieces_;
  std::size_t longest_ = 0;  // piece, in bytes
  float unknown_score_ = 0;
};

}  // namespace divergen::tokenizers
