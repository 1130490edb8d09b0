#include "tokenizers/clip_bpe.hpp"

#include <zlib.h>

#include <limits>
#include <memory>

#include "base/error.hpp"
#include "tokenizers/fix_text.hpp"
#include "tokenizers/html_text.hpp"

namespace divergen::tokenizers {
namespace {

constexpr std::size_t kMerges = 49152 - 256 - 2;  // lines of the file that count, after its header
constexpr std::size_t kMaxUnpacked = 16u << 20;
constexpr const char* kStartText = "<|startoftext|>";
constexpr const char* kEndText = "<|endoftext|>";
// The words between which no pair is ever merged; ICU and Python agree on these classes.
constexpr const char* kWords =
    R"(<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";

std::string utf8(char32_t point) { return to_utf8(UnicodeString(static_cast<UChar32>(point))); }

/// GPT-2's table: printable bytes stand for themselves, the others for code points from 256.
std::vector<std::string> make_byte_symbols(std::vector<int>& order) {
  std::vector<std::string> symbols(256);
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  char32_t next = 256;
  for (int b = 0; b < 256; ++b)
    if (printable(b)) order.push_back(b);
  for (int b = 0; b < 256; ++b) {
    if (!printable(b)) order.push_back(b);
    symbols[static_cast<std::size_t>(b)] = utf8(printable(b) ? static_cast<char32_t>(b) : next++);
  }
  return symbols;
}

std::string gunzip(const std::string& packed, const Path& path) {
  z_stream stream{};
  if (inflateInit2(&stream, 15 + 16) != Z_OK) fail(ErrorKind::Bug, {"zlib could not start", "", "", ""});
  std::string out(kMaxUnpacked, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int status = inflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  inflateEnd(&stream);
  if (status != Z_STREAM_END)
    fail(ErrorKind::Data, {"the vocabulary is damaged", path.string(), "it cannot be unpacked", "restore the file"});
  return out;
}

/// The compiled patterns are made once; matchers made from them are cheap and belong to one thread.
const icu::RegexPattern& pattern(ClipText rule) {
  const auto compile = [](const std::string& source, std::uint32_t flags) {
    UErrorCode status = U_ZERO_ERROR;
    UParseError where;
    std::unique_ptr<icu::RegexPattern> p(icu::RegexPattern::compile(from_utf8(source), flags, where, status));
    DIVERGEN_CHECK(U_SUCCESS(status));
    return p;
  };
  static const auto transformers = compile(kWords, 0);
  static const auto openai = compile(kWords, UREGEX_CASE_INSENSITIVE);
  return rule == ClipText::OpenAi ? *openai : *transformers;
}

/// Lower case letter by letter, as transformers' tokenizers do it: no final sigma.
UnicodeString lowered_singly(const UnicodeString& text) {
  UnicodeString out;
  for (int i = 0; i < text.length(); i = text.moveIndex32(i, 1)) out.append(lowered(UnicodeString(text.char32At(i))));
  return out;
}

UnicodeString prepare(std::string_view text, ClipText rule) {
  static const PyRegex spaces(R"(\s+)"), white(R"([\t-\r\u0085\p{Z}]+)");  // str.isspace(); Unicode's White_Space
  const UnicodeString given = from_utf8(text);
  if (rule == ClipText::Transformers) return lowered_singly(white.sub(nfc(given), UnicodeString(u" ")));
  const UnicodeString clean = html_unescape(html_unescape(fix_text(given)));
  return lowered(stripped(spaces.sub(clean, UnicodeString(u" "))));
}

}  // namespace

ClipBpe::ClipBpe(const Path& file_or_folder) {
  if (std::filesystem::is_directory(file_or_folder)) {
    load(read_file(file_or_folder / "merges.txt"));
  } else {
    load(gunzip(read_file(file_or_folder), file_or_folder));
  }
  if (vocabulary_size() != 49408)
    fail(ErrorKind::Data, {"the vocabulary is not CLIP's", file_or_folder.string(),
                           cat("it has ", vocabulary_size(), " entries, not 49408"), "restore the file"});
}

void ClipBpe::load(std::string_view merges) {
  std::vector<int> order;
  byte_symbols_ = make_byte_symbols(order);
  std::int64_t id = 0;
  for (const int b : order) ids_[byte_symbols_[static_cast<std::size_t>(b)]] = id++;
  for (const int b : order) ids_[byte_symbols_[static_cast<std::size_t>(b)] + "</w>"] = id++;
  std::size_t at = merges.find('\n') + 1;  // the first line is a header
  while (at < merges.size() && ranks_.size() < kMerges) {
    std::size_t end = merges.find('\n', at);
    if (end == std::string_view::npos) end = merges.size();
    const std::string line(merges.substr(at, end - at));
    at = end + 1;
    const auto space = line.find(' ');
    if (space == std::string::npos) continue;
    ranks_.emplace(line, ranks_.size());
    ids_.emplace(line.substr(0, space) + line.substr(space + 1), id++);
  }
}

std::vector<std::int64_t> ClipBpe::encode_word(const std::string& word) const {
  std::vector<std::string> parts;
  for (const char byte : word) parts.push_back(byte_symbols_[static_cast<std::uint8_t>(byte)]);
  parts.back() += "</w>";
  while (parts.size() > 1) {
    std::size_t best = std::numeric_limits<std::size_t>::max(), where = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks_.find(parts[i] + " " + parts[i + 1]);
      if (found != ranks_.end() && found->second < best) {
        best = found->second;
        where = i;
      }
    }
    if (best == std::numeric_limits<std::size_t>::max()) break;
    // Every occurrence of the best pair merges, from the left, before the next pair is looked for.
    const std::string left = parts[where], right = parts[where + 1];
    std::vector<std::string> merged;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (i + 1 < parts.size() && parts[i] == left && parts[i + 1] == right) {
        merged.push_back(left + right);
        ++i;
      } else {
        merged.push_back(parts[i]);
      }
    }
    parts = std::move(merged);
  }
  std::vector<std::int64_t> out;
  for (const std::string& part : parts) out.push_back(ids_.at(part));
  return out;
}

std::string ClipBpe::normalized(std::string_view text, ClipText rule) { return to_utf8(prepare(text, rule)); }

void ClipBpe::encode_words(std::string_view text, ClipText rule, std::vector<std::int64_t>& out) const {
  const UnicodeString prepared = prepare(text, rule);
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<icu::RegexMatcher> matcher(pattern(rule).matcher(prepared, status));
  DIVERGEN_CHECK(U_SUCCESS(status));
  const auto append = [&](const std::string& word) {
    const auto ids = encode_word(word);
    out.insert(out.end(), ids.begin(), ids.end());
  };
  while (matcher->find(status) && U_SUCCESS(status)) {
    const std::string word = to_utf8(matcher->group(status));
    const bool is_mark = word == kStartText || word == kEndText;
    if (is_mark && rule == ClipText::OpenAi) {
      out.push_back(word == kStartText ? kStart : kEnd);
    } else if (is_mark) {  // from capitals: three words
      append(word.substr(0, 2));
      append(word.substr(2, word.size() - 4));
      append(word.substr(word.size() - 2));
    } else {
      append(word);
    }
  }
}

std::vector<std::int64_t> ClipBpe::encode(std::string_view text, ClipText rule) const {
  std::vector<std::int64_t> out;
  if (rule == ClipText::Transformers) {
    // transformers looks for the marks in the text as given: in capitals they are words like others.
    for (std::size_t at = text.find("<|"); at != std::string_view::npos; at = text.find("<|", at)) {
      const std::string_view rest = text.substr(at);
      const bool is_start = rest.starts_with(kStartText), is_end = rest.starts_with(kEndText);
      if (!is_start && !is_end) {
        ++at;
        continue;
      }
      encode_words(text.substr(0, at), rule, out);
      out.push_back(is_start ? kStart : kEnd);
      text.remove_prefix(at + std::string_view(is_start ? kStartText : kEndText).size());
      at = 0;
    }
  }
  encode_words(text, rule, out);
  return out;
}

std::vector<std::int64_t> ClipBpe::encode_padded(std::string_view text) const {
  std::vector<std::int64_t> ids = encode(text);
  ids.insert(ids.begin(), kStart);
  if (ids.size() >= static_cast<std::size_t>(kLength)) ids.resize(static_cast<std::size_t>(kLength) - 1);
  ids.resize(static_cast<std::size_t>(kLength), kEnd);
  return ids;
}

std::vector<std::int64_t> ClipBpe::tokenize(std::string_view text, bool truncate) const {
  constexpr auto length = static_cast<std::size_t>(kLength);
  std::vector<std::int64_t> ids = encode(text, ClipText::OpenAi);
  ids.insert(ids.begin(), kStart);
  ids.push_back(kEnd);
  if (ids.size() > length) {
    if (!truncate)
      fail(ErrorKind::Data, {"a text is too long for CLIP", std::string(text),
                             cat("it has ", ids.size(), " tokens, CLIP takes ", length), "shorten it"});
    ids.resize(length);
    ids.back() = kEnd;
  }
  ids.resize(length, 0);
  return ids;
}

}  // namespace divergen::tokenizers
