#pragma once
// Unicode text and regular expressions with Python's meanings, for rules that were written in Python. ICU stays inside
// this folder: other folders include none of these headers.

#include <unicode/regex.h>
#include <unicode/unistr.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace divergen::tokenizers {

using icu::UnicodeString;

/// Bytes that are no UTF-8 become U+FFFD.
UnicodeString from_utf8(std::string_view text);
std::string to_utf8(const UnicodeString& text);

bool is_space(UChar32 c);                           // str.isspace(), which \s means too
UnicodeString lowered(const UnicodeString& text);   // str.lower()
UnicodeString stripped(const UnicodeString& text);  // str.strip()
UnicodeString nfc(const UnicodeString& text);

/// A pattern in the syntax of Python's re for str: \w \d \s \b have its meanings (ICU's differ), "." is anything but
/// \n, "$" stands at the end and before a last \n. \W is not known. Thread-safe after construction.
class PyRegex {
 public:
  /// Throws Error(Bug) for a pattern that does not compile.
  explicit PyRegex(std::string_view pattern);

  bool search(const UnicodeString& text) const;
  int count(const UnicodeString& text) const;  // of matches that do not overlap
  /// re.sub; "$1" in `with` is group 1, "\\" and "$" themselves need a "\\" before them.
  UnicodeString sub(const UnicodeString& text, const UnicodeString& with) const;
  UnicodeString sub(const UnicodeString& text, const std::function<UnicodeString(const UnicodeString&)>& with) const;
  /// The end of the match that begins at `from`, or -1. A lookbehind sees what is before `from`.
  int match_end(const UnicodeString& text, int from) const;
  /// Start and end of the first match from `from` on, or {-1, -1}.
  std::pair<int, int> find(const UnicodeString& text, int from) const;

 private:
  std::unique_ptr<icu::RegexMatcher> matcher(const UnicodeString& text) const;
  std::unique_ptr<icu::RegexPattern> pattern_;
};

}  // namespace divergen::tokenizers
