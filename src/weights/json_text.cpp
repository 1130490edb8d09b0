#include "weights/json_text.hpp"

#include "base/error.hpp"

namespace divergen::weights {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

void append_utf8(std::string& out, unsigned code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
}

/// Length of the well-formed sequence at the front (Unicode 15, table 3-7), 0 if there is none.
std::size_t sequence(std::string_view text) {
  const auto at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto follows = [&](std::size_t i) { return (at(i) & 0xc0u) == 0x80u; };
  const unsigned lead = at(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return follows(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const bool overlong = lead == 0xe0 && at(1) < 0xa0, surrogate = lead == 0xed && at(1) > 0x9f;
    return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool overlong = lead == 0xf0 && at(1) < 0x90, beyond = lead == 0xf4 && at(1) > 0x8f;
    return follows(1) && follows(2) && follows(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = sequence(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

void JsonText::refuse(const std::string& why) const {
  refuse_(why);
  check_failed("refuse() throws", why);
}

char JsonText::peek() {
  while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  return at_ < text_.size() ? text_[at_] : '\0';
}

void JsonText::expect(char c, const char* what) {
  if (!take_if(c)) refuse(cat(what, " is expected at byte ", at_));
}

bool JsonText::take_if(char c) {
  if (peek() != c || at_ >= text_.size()) return false;
  ++at_;
  return true;
}

std::string JsonText::string(std::size_t longest, const char* what) {
  expect('"', what);
  const std::size_t start = at_;
  std::string out;
  while (true) {
    if (at_ >= text_.size()) refuse("a text in it does not end");
    const char c = text_[at_];
    if (c == '"') break;
    if (static_cast<unsigned char>(c) < 0x20) refuse(cat("a text in it holds a control character at byte ", at_));
    if (out.size() >= longest) refuse(cat("a text at byte ", start, " is longer than ", longest, " bytes"));
    if (c == '\\') {
      escape(out);
      continue;
    }
    const std::size_t length = sequence(text_.substr(at_));
    if (length == 0) refuse(cat("a text in it is not UTF-8 at byte ", at_));
    out.append(text_, at_, length);
    at_ += length;
  }
  ++at_;
  return out;
}

unsigned JsonText::hex4() {
  unsigned code = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) refuse(cat("a \\u escape is malformed at byte ", at_));
    code = code * 16 + static_cast<unsigned>(digit);
  }
  return code;
}

void JsonText::escape(std::string& out) {
  ++at_;
  const char c = at_ < text_.size() ? text_[at_++] : '\0';
  constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
  if (const auto simple = kNames.find(c); simple != std::string_view::npos) {
    out += kValues[simple];
    return;
  }
  if (c != 'u') refuse(cat("an escape is malformed at byte ", at_));
  unsigned code = hex4();
  if (code >= 0xd800 && code <= 0xdbff) {
    if (text_.substr(at_, 2) != "\\u") refuse(cat("half a surrogate pair stands at byte ", at_));
    at_ += 2;
    const unsigned low = hex4();
    if (low < 0xdc00 || low > 0xdfff) refuse(cat("half a surrogate pair stands at byte ", at_));
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  } else if (code >= 0xdc00 && code <= 0xdfff) {
    refuse(cat("half a surrogate pair stands at byte ", at_));
  }
  append_utf8(out, code);
}

std::string_view JsonText::scalar() {
  peek();
  const std::size_t start = at_;
  constexpr std::size_t kLongest = 64;
  while (at_ < text_.size() && at_ - start < kLongest && !is_space(text_[at_]) &&
         std::string_view(",:[]{}\"").find(text_[at_]) == std::string_view::npos)
    ++at_;
  return text_.substr(start, at_ - start);
}

}  // namespace divergen::weights
