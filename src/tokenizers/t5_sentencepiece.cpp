#include "tokenizers/t5_sentencepiece.hpp"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <limits>

#include "base/error.hpp"

namespace divergen::tokenizers {
namespace {

constexpr float kUnknownPenalty = 10;  // SentencePiece's, below the worst piece

/// Bytes of the UTF-8 character that begins with `lead`.
std::size_t character_size(char lead) {
  const auto byte = static_cast<std::uint8_t>(lead);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace

T5SentencePiece::T5SentencePiece(const Path& file_or_folder)
    : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
  const Path file = std::filesystem::is_directory(file_or_folder) ? file_or_folder / "spiece.model" : file_or_folder;
  const auto status = processor_->LoadFromSerializedProto(read_file(file));
  if (!status.ok())
    fail(ErrorKind::Data, {"the SentencePiece model cannot be used", file.string(), status.ToString(),
                           "restore the file spiece.model of the model's tokenizer"});
  // The three marks have fixed ids in every T5; with others the text encoder would see nonsense.
  if (processor_->pad_id() != kPad || processor_->eos_id() != kEnd || processor_->unk_id() != kUnknown)
    fail(ErrorKind::Data, {"the SentencePiece model is not T5's", file.string(),
                           cat("its ids of <pad>, </s>, <unk> are ", processor_->pad_id(), ", ", processor_->eos_id(),
                               ", ", processor_->unk_id(), ", not 0, 1, 2"),
                           "name the tokenizer of a T5 model, or train one with these ids"});
  float entropy = 0;
  if (!processor_->CalculateEntropy("a", 1, &entropy).ok())  // the library's only way to tell
    fail(ErrorKind::Data, {"the SentencePiece model is not T5's", file.string(), "it is not a unigram model",
                           "name the tokenizer of a T5 model, or train one with --model_type=unigram"});
  read_pieces();
}

void T5SentencePiece::read_pieces() {
  float best = std::numeric_limits<float>::lowest(), worst = std::numeric_limits<float>::max();
  std::vector<int> own;  // symbols that their user defined: always taken
  for (int id = 0; id < processor_->GetPieceSize(); ++id) {
    if (processor_->IsControl(id) || processor_->IsUnknown(id) || processor_->IsByte(id)) continue;
    const std::string& piece = processor_->IdToPiece(id);
    longest_ = std::max(longest_, piece.size());
    if (processor_->IsUnused(id)) continue;
    const float score = processor_->GetScore(id);
    pieces_[piece] = {id, score};
    // The library has no question for user-defined symbols: they score 0, which no learnt piece does.
    if (score == 0) {
      own.push_back(id);
      continue;
    }
    best = std::max(best, score);
    worst = std::min(worst, score);
  }
  for (const int id : own) {
    const std::string& piece = processor_->IdToPiece(id);
    pieces_[piece].score = static_cast<float>(static_cast<float>(piece.size()) * best - 0.1);
  }
  unknown_score_ = worst - kUnknownPenalty;
}

T5SentencePiece::~T5SentencePiece() = default;

std::vector<std::int64_t> T5SentencePiece::segment(std::string_view text) const {
  // Viterbi over the positions of bytes. All sums are float32, as in SentencePiece 0.2; releases up to 0.2.1 compare a
  // double with a rounded float, which decides cuts of equal worth ("??" + "?" or "?" + "??") the other way round.
  struct Node {
    float score = 0;
    std::ptrdiff_t begin = -1;
    std::int64_t id = kUnknown;
  };
  std::vector<Node> ends(text.size() + 1);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t character = std::min(character_size(text[at]), text.size() - at);
    bool has_single = false;
    const auto offer = [&](std::size_t size, float score, std::int64_t id) {
      Node& end = ends[at + size];
      const float sum = score + ends[at].score;
      if (end.begin < 0 || sum > end.score) end = {sum, static_cast<std::ptrdiff_t>(at), id};
    };
    const std::size_t longest = std::min(longest_, text.size() - at);
    for (std::size_t size = character; size <= longest;) {
      const auto found = pieces_.find(text.substr(at, size));
      if (found != pieces_.end()) {
        offer(size, found->second.score, found->second.id);
        has_single = has_single || size == character;
      }
      if (at + size == text.size()) break;
      size += character_size(text[at + size]);
    }
    if (!has_single) offer(character, unknown_score_, kUnknown);
    at += character;
  }
  std::vector<std::int64_t> ids;
  for (auto end = static_cast<std::ptrdiff_t>(text.size()); end > 0; end = ends[static_cast<std::size_t>(end)].begin) {
    const std::int64_t id = ends[static_cast<std::size_t>(end)].id;
    if (id != kUnknown || ids.empty() || ids.back() != kUnknown) ids.push_back(id);  // a run of unknowns is one
  }
  std::reverse(ids.begin(), ids.end());
  return ids;
}

std::vector<std::int64_t> T5SentencePiece::encode(std::string_view text) const {
  // The pieces of the library, put together again, are the text as the model normalises it.
  std::vector<std::string> pieces;
  const auto status = processor_->Encode({text.data(), text.size()}, &pieces);
  DIVERGEN_CHECK(status.ok(), status.ToString());
  std::string normalized;
  for (const std::string& piece : pieces) normalized += piece;
  std::vector<std::int64_t> out = segment(normalized);
  out.push_back(kEnd);
  return out;
}

T5SentencePiece::Encoded T5SentencePiece::encode_padded(std::string_view text, std::int64_t length) const {
  DIVERGEN_CHECK(length >= 1);
  const auto size = static_cast<std::size_t>(length);
  Encoded out{encode(text), {}};
  if (out.ids.size() > size) {
    out.ids.resize(size);
    out.ids.back() = kEnd;
  }
  out.mask.assign(out.ids.size(), 1);
  out.ids.resize(size, kPad);
  out.mask.resize(size, 0);
  return out;
}

std::int64_t T5SentencePiece::pieces() const { return processor_->GetPieceSize(); }

std::int64_t T5SentencePiece::extra_id(std::int64_t n) const {
  DIVERGEN_CHECK(n >= 0 && n < kExtraIds);
  return vocabulary_size() - 1 - n;
}

}  // namespace divergen::tokenizers
