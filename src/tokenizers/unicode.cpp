#include "tokenizers/unicode.hpp"

#include <unicode/locid.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include "base/error.hpp"

namespace divergen::tokenizers {
namespace {

// Members of character classes. Space: str.isspace(). Word: str.isalnum() and "_".
constexpr const char* kSpaces =
    R"(\u0009-\u000D\u001C-\u0020\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000)";
constexpr const char* kWord = R"(\p{L}\p{N}_)";
constexpr const char* kDigits = R"(\p{Nd})";

std::string escape(char letter, bool in_class) {
  const auto set = [&](const char* members, bool negated) {
    if (in_class) {
      DIVERGEN_CHECK(!negated, "a negated class inside a class");
      return std::string(members);
    }
    return cat(negated ? "[^" : "[", members, "]");
  };
  switch (letter) {
    case 'w':
      return set(kWord, false);
    case 's':
      return set(kSpaces, false);
    case 'S':
      return set(kSpaces, true);
    case 'd':
      return set(kDigits, false);
    case 'D':
      return set(kDigits, true);
    case 'b':
      DIVERGEN_CHECK(!in_class);
      return cat("(?:(?<=[", kWord, "])(?![", kWord, "])|(?<![", kWord, "])(?=[", kWord, "]))");
    default:
      return {'\\', letter};
  }
}

std::string to_icu(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      out += escape(pattern[++i], in_class);
    } else if (c == '$' && !in_class) {
      out += R"((?=\n?\z))";
    } else if (c == '.' && !in_class) {
      out += R"([^\n])";
    } else {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      out += c;
    }
  }
  return out;
}

}  // namespace

UnicodeString from_utf8(std::string_view text) {
  return UnicodeString::fromUTF8({text.data(), static_cast<std::int32_t>(text.size())});
}

std::string to_utf8(const UnicodeString& text) {
  std::string out;
  text.toUTF8String(out);
  return out;
}

bool is_space(UChar32 c) {
  // White space by category or by direction, which adds the separators U+001C..U+001F.
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

UnicodeString lowered(const UnicodeString& text) {
  UnicodeString out(text);
  out.toLower(icu::Locale::getRoot());
  return out;
}

UnicodeString stripped(const UnicodeString& text) {
  int begin = 0, end = text.length();  // all white space is in the basic plane: one unit each
  while (begin < end && is_space(text[begin])) ++begin;
  while (end > begin && is_space(text[end - 1])) --end;
  return UnicodeString(text, begin, end - begin);
}

UnicodeString nfc(const UnicodeString& text) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = icu::Normalizer2::getNFCInstance(status);
  DIVERGEN_CHECK(U_SUCCESS(status));
  UnicodeString out = normalizer->normalize(text, status);
  DIVERGEN_CHECK(U_SUCCESS(status));
  return out;
}

PyRegex::PyRegex(std::string_view pattern) {
  UErrorCode status = U_ZERO_ERROR;
  UParseError where;
  pattern_.reset(icu::RegexPattern::compile(from_utf8(to_icu(pattern)), 0, where, status));
  DIVERGEN_CHECK(U_SUCCESS(status), u_errorName(status), " at ", where.offset, " of ", pattern);
}

std::unique_ptr<icu::RegexMatcher> PyRegex::matcher(const UnicodeString& text) const {
  UErrorCode status = U_ZERO_ERROR;
  std::unique_ptr<icu::RegexMatcher> matcher(pattern_->matcher(text, status));
  matcher->setStackLimit(0, status);  // a caption may be of any length
  DIVERGEN_CHECK(U_SUCCESS(status), u_errorName(status));
  return matcher;
}

bool PyRegex::search(const UnicodeString& text) const { return find(text, 0).first >= 0; }

int PyRegex::count(const UnicodeString& text) const {
  UErrorCode status = U_ZERO_ERROR;
  const auto m = matcher(text);
  int found = 0;
  while (m->find(status)) ++found;
  DIVERGEN_CHECK(U_SUCCESS(status), u_errorName(status));
  return found;
}

UnicodeString PyRegex::sub(const UnicodeString& text, const UnicodeString& with) const {
  UErrorCode status = U_ZERO_ERROR;
  UnicodeString out = matcher(text)->replaceAll(with, status);
  DIVERGEN_CHECK(U_SUCCESS(status), u_errorName(status));
  return out;
}

UnicodeString PyRegex::sub(const UnicodeString& text,
                           const std::function<UnicodeString(const UnicodeString&)>& with) const {
  UErrorCode status = U_ZERO_ERROR;
  const auto m = matcher(text);
  UnicodeString out;
  int at = 0;
  while (m->find(status)) {
    const int begin = m->start(status), end = m->end(status);
    out.append(text, at, begin - at);
    out.append(with(UnicodeString(text, begin, end - begin)));
    at = end;
  }
  DIVERGEN_CHECK(U_SUCCESS(status), u_errorName(status));
  out.append(text, at, text.length() - at);
  return out;
}

int PyRegex::match_end(const UnicodeString& text, int from) const {
  UErrorCode status = U_ZERO_ERROR;
  const auto m = matcher(text);
  m->useTransparentBounds(true);
  m->useAnchoringBounds(false);
  m->region(from, text.length(), status);
  const bool found = m->lookingAt(status);
  DIVERGEN_CHECK(U_SUCCESS(status), u_errorName(status));
  return found ? m->end(status) : -1;
}

std::pair<int, int> PyRegex::find(const UnicodeString& text, int from) const {
  UErrorCode status = U_ZERO_ERROR;
  const auto m = matcher(text);
  const bool found = m->find(from, status);
  DIVERGEN_CHECK(U_SUCCESS(status), u_errorName(status));
  if (!found) return {-1, -1};
  return {m->start(status), m->end(status)};
}

}  // namespace divergen::tokenizers
