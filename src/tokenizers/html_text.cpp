#include "tokenizers/html_text.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <unordered_map>
#include <vector>

#include "base/error.hpp"

namespace divergen::tokenizers {
namespace {

#include "tokenizers/html_entities.inc"

using EntityMap = std::unordered_map<std::string, UnicodeString>;

const EntityMap& entities() {
  static const EntityMap map = [] {
    EntityMap made;
    std::string_view rest(kHtmlEntities);
    while (!rest.empty()) {
      const auto end = std::min(rest.find_first_of(" \n"), rest.size());
      const std::string_view token = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      const auto equals = token.find('=');
      if (equals == std::string_view::npos) continue;
      UnicodeString text;
      for (std::size_t at = equals; at != std::string_view::npos; at = token.find('+', at + 1))
        text.append(static_cast<UChar32>(std::stoul(std::string(token.substr(at + 1)), nullptr, 16)));
      made.emplace(token.substr(0, equals), text);
    }
    return made;
  }();
  return map;
}

// What browsers take the numeric references to C1 controls for: Windows-1252.
constexpr std::array<char16_t, 32> kC1 = {0x20AC, 0x81,   0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                          0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8D,   0x017D, 0x8F,
                                          0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                          0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,   0x017E, 0x0178};
constexpr UChar32 kReplacement = 0xFFFD, kTooLarge = 0x110000;

bool is_ascii_digit(char16_t c) { return c >= '0' && c <= '9'; }
bool is_ascii_letter(char16_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_ascii_alnum(char16_t c) { return is_ascii_digit(c) || is_ascii_letter(c); }
bool is_hex_digit(char16_t c) { return is_ascii_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

/// The number of text[begin, end), at most kTooLarge.
UChar32 number_of(const UnicodeString& text, int begin, int end, int base) {
  UChar32 value = 0;
  for (int i = begin; i < end; ++i) {
    const char16_t c = text[i];
    const int digit = is_ascii_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10;
    value = std::min<UChar32>(value * base + digit, kTooLarge);
  }
  return value;
}

bool is_noncharacter(UChar32 c) { return (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE; }

/// html.unescape's reading of a number. Empty for controls, which it drops.
UnicodeString unescape_number(UChar32 c) {
  if (c >= 0x80 && c <= 0x9F) return UnicodeString(kC1[static_cast<std::size_t>(c - 0x80)]);
  if (c == 0 || c >= kTooLarge || (c >= 0xD800 && c <= 0xDFFF)) return UnicodeString(kReplacement);
  if (c == 0x0D) return UnicodeString(c);
  if (c < 0x09 || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || is_noncharacter(c)) return {};
  return UnicodeString(c);
}

/// Beautiful Soup's reading of a number.
UnicodeString soup_number(UChar32 c) {
  if (c == 0 || c >= kTooLarge || (c >= 0xD800 && c <= 0xDFFF)) return UnicodeString(kReplacement);
  return UnicodeString(c >= 0x80 && c <= 0x9F ? static_cast<UChar32>(kC1[static_cast<std::size_t>(c - 0x80)]) : c);
}

UnicodeString unescape_name(const UnicodeString& name) {
  const std::string key = to_utf8(name);
  if (const UnicodeString* whole = html_entity(key)) return *whole;
  // The longest beginning that is a name counts: "notit;" is "not" and "it;".
  for (int length = name.length() - 1; length > 1; --length) {
    const UnicodeString* part = html_entity(to_utf8(UnicodeString(name, 0, length)));
    if (part != nullptr) return *part + UnicodeString(name, length);
  }
  return UnicodeString(u"&") + name;
}

/// The strings of a document as Beautiful Soup's tree builder cuts them, as far as they make up its text.
class Soup {
 public:
  enum class Kind { Text, Cdata, Other };

  void data(const UnicodeString& text) {
    current_ += text;
    has_data_ = true;
  }

  void end_data(Kind kind = Kind::Text) {
    if (!has_data_) return;
    if (preserving_ == 0 && is_blank(current_)) current_ = current_.indexOf(u'\n') >= 0 ? u"\n" : u" ";
    // Inside script, style, template, rt and rp text is of a kind of its own.
    if (kind == Kind::Cdata || (kind == Kind::Text && contained_ == 0)) text_ += current_;
    current_.remove();
    has_data_ = false;
  }

  /// A comment, declaration or instruction: breaks the text, adds nothing.
  void special(const UnicodeString& text, Kind kind = Kind::Other) {
    end_data();
    data(text);
    end_data(kind);
  }

  void start(const std::string& tag, bool closes_itself) {
    end_data();
    stack_.push_back(tag);
    count(tag, +1);
    if (closes_itself) {
      end(tag, /*may_be_redundant=*/false);
    } else if (is_empty_element(tag)) {
      end(tag, false);
      already_closed_.push_back(tag);  // an end tag that may follow is redundant
    }
  }

  void end(const std::string& tag, bool may_be_redundant = true) {
    if (may_be_redundant) {
      const auto found = std::find(already_closed_.begin(), already_closed_.end(), tag);
      if (found != already_closed_.end()) {
        already_closed_.erase(found);
        return;
      }
    }
    end_data();
    if (std::find(stack_.begin(), stack_.end(), tag) == stack_.end()) return;
    while (true) {  // everything that was opened since closes too
      const std::string top = stack_.back();
      stack_.pop_back();
      count(top, -1);
      if (top == tag) return;
    }
  }

  UnicodeString text() {
    end_data();
    return text_;
  }

 private:
  static bool is_blank(const UnicodeString& text) {
    for (int i = 0; i < text.length(); ++i)
      if (UnicodeString(u" \n\t\f\r").indexOf(text[i]) < 0) return false;
    return true;
  }
  static bool is_empty_element(const std::string& tag) {
    static const std::set<std::string> names{"area",    "base",   "br",     "col",     "embed",    "hr",
                                             "img",     "input",  "keygen", "link",    "menuitem", "meta",
                                             "param",   "source", "track",  "wbr",     "basefont", "bgsound",
                                             "command", "frame",  "image",  "isindex", "nextid",   "spacer"};
    return names.contains(tag);
  }
  void count(const std::string& tag, int step) {
    if (tag == "pre" || tag == "textarea") preserving_ += step;
    if (tag == "script" || tag == "style" || tag == "template" || tag == "rt" || tag == "rp") contained_ += step;
  }

  UnicodeString text_, current_;
  bool has_data_ = false;
  std::vector<std::string> stack_, already_closed_;
  int preserving_ = 0, contained_ = 0;
};

/// Markup on which Python's parser gives up.
struct Refused {};

/// Python's html.parser (3.11) with references left to the tree builder.
class Parser {
 public:
  explicit Parser(const UnicodeString& text) : raw_(text) {
    go_ahead(/*at_end=*/false);
    go_ahead(/*at_end=*/true);
  }
  UnicodeString text() { return soup_.text(); }

 private:
  int find(char16_t c, int from) const { return from > raw_.length() ? -1 : raw_.indexOf(c, from); }
  bool has(std::u16string_view what, int at) const {
    return raw_.compare(at, static_cast<int>(what.size()), what.data(), 0, static_cast<int>(what.size())) == 0;
  }
  UnicodeString slice(int begin, int end) const { return UnicodeString(raw_, begin, end - begin); }
  static std::string tag_name(const UnicodeString& name) { return to_utf8(lowered(name)); }

  /// Consumes raw_ from the start. What cannot be decided before the end stays in it.
  void go_ahead(bool at_end) {
    int i = 0;
    bool goes_on = true;
    while (goes_on && i < raw_.length()) {
      const int j = next_markup(i);
      if (j < 0) break;
      if (i < j) soup_.data(slice(i, j));
      i = j;
      if (i == raw_.length()) break;
      goes_on = raw_[i] == u'<' ? angle(i, at_end) : ampersand(i, at_end);
    }
    if (at_end && i < raw_.length() && cdata_element_.empty()) {
      soup_.data(slice(i, raw_.length()));
      i = raw_.length();
    }
    raw_.remove(0, i);
  }

  /// Where the next "<" or "&" is, or the end; in a script or style sheet its end tag, or -1.
  int next_markup(int from) const {
    if (!cdata_element_.empty()) {
      static const PyRegex script(R"(</\s*[sS][cC][rR][iI][pP][tT]\s*>)"), style(R"(</\s*[sS][tT][yY][lL][eE]\s*>)");
      return (cdata_element_ == "script" ? script : style).find(raw_, from).first;
    }
    int at = from;
    while (at < raw_.length() && raw_[at] != u'<' && raw_[at] != u'&') ++at;
    return at;
  }

  bool angle(int& i, bool at_end) {
    const int n = raw_.length();
    int k;
    if (i + 1 < n && is_ascii_letter(raw_[i + 1])) k = start_tag(i);
    else if (has(u"</", i)) k = end_tag(i);
    else if (has(u"<!--", i)) k = comment(i);
    else if (has(u"<?", i)) k = instruction(i);
    else if (has(u"<!", i)) k = declaration(i);
    else if (i + 1 < n) {
      soup_.data(u"<");
      k = i + 1;
    } else return false;
    if (k < 0) {
      if (!at_end) return false;
      k = find(u'>', i + 1);
      if (k >= 0) ++k;
      else if ((k = find(u'<', i + 1)) < 0) k = i + 1;
      soup_.data(slice(i, k));
    }
    i = k;
    return true;
  }

  bool ampersand(int& i, bool at_end) {
    const int n = raw_.length();
    if (has(u"&#", i)) {
      if (number_reference(i)) return true;
      if (raw_.indexOf(u';', i) >= 0) {
        soup_.data(u"&#");
        i += 2;
      }
      return false;
    }
    if (name_reference(i)) return true;
    if (i + 1 < n && is_ascii_letter(raw_[i + 1])) {  // may go on
      if (at_end && n - i == 2) ++i;
      return false;
    }
    if (i + 1 >= n) return false;
    soup_.data(u"&");
    ++i;
    return true;
  }

  bool number_reference(int& i) {
    const int n = raw_.length();
    int begin = i + 2, base = 10;
    if (begin < n && (raw_[begin] | 0x20) == 'x') {
      ++begin;
      base = 16;
    }
    int end = begin;
    while (end < n && (base == 16 ? is_hex_digit(raw_[end]) : is_ascii_digit(raw_[end]))) ++end;
    if (end == begin || end == n || is_hex_digit(raw_[end])) return false;
    soup_.data(soup_number(number_of(raw_, begin, end, base)));
    i = raw_[end] == u';' ? end + 1 : end;
    return true;
  }

  bool name_reference(int& i) {
    const int n = raw_.length();
    if (i + 1 >= n || !is_ascii_letter(raw_[i + 1])) return false;
    int end = i + 2;
    while (end < n && (is_ascii_alnum(raw_[end]) || raw_[end] == u'-' || raw_[end] == u'.')) ++end;
    if (end == n)  // something must follow the name: a hyphen or dot of its own, if nothing else
      do --end;
      while (end > i + 1 && is_ascii_alnum(raw_[end]));
    if (end <= i + 1) return false;
    const UnicodeString name = slice(i + 1, end);
    const UnicodeString* character = html_entity(to_utf8(name) + ";");
    soup_.data(character != nullptr ? *character : UnicodeString(u"&") + name);
    i = raw_[end] == u';' ? end + 1 : end;
    return true;
  }

  int start_tag(int i);
  int whole_start_tag(int i) const;
  int end_tag(int i);

  int bogus_comment(int i) {
    const int end = find(u'>', i + 2);
    if (end < 0) return -1;
    soup_.special(slice(i + 2, end));
    return end + 1;
  }
  int comment(int i) {
    static const PyRegex close(R"(--\s*>)");
    const auto [begin, end] = i + 4 <= raw_.length() ? close.find(raw_, i + 4) : std::pair{-1, -1};
    if (begin < 0) return -1;
    soup_.special(slice(i + 4, begin));
    return end;
  }
  int instruction(int i) {
    const int end = find(u'>', i + 2);
    if (end < 0) return -1;
    soup_.special(slice(i + 2, end));
    return end + 1;
  }
  int declaration(int i) {
    if (has(u"<![", i)) return marked_section(i);
    if (lowered(slice(i, std::min(i + 9, raw_.length()))) != u"<!doctype") return bogus_comment(i);
    const int end = find(u'>', i + 9);
    if (end < 0) return -1;
    soup_.special(slice(i + 2, end));
    return end + 1;
  }
  int marked_section(int i) {
    static const PyRegex name(R"([a-zA-Z][\-_.a-zA-Z0-9]*\s*)"), close(R"(\]\s*\]\s*>)"), office_close(R"(\]\s*>)");
    if (i + 3 == raw_.length()) return -1;
    const int end = name.match_end(raw_, i + 3);
    if (end < 0) throw Refused{};
    if (end == raw_.length()) return -1;
    const std::string keyword = tag_name(stripped(slice(i + 3, end)));
    static const std::set<std::string> standard{"temp", "cdata", "ignore", "include", "rcdata"};
    const bool is_office = keyword == "if" || keyword == "else" || keyword == "endif";
    if (!is_office && !standard.contains(keyword)) throw Refused{};
    const auto [begin, after] = (is_office ? office_close : close).find(raw_, i + 3);
    if (begin < 0) return -1;
    const UnicodeString content = slice(i + 3, begin);
    const bool is_cdata = lowered(UnicodeString(content, 0, 6)) == u"cdata[";
    if (is_cdata) soup_.special(UnicodeString(content, 6), Soup::Kind::Cdata);
    else soup_.special(content);
    return after;
  }

  UnicodeString raw_;
  std::string cdata_element_;
  Soup soup_;
};

// A tag's name, with the white space and lone slashes that follow it.
const PyRegex& tag_pattern() {
  static const PyRegex pattern(R"([a-zA-Z][^\t\n\r\f />\x00]*(?:\s|/(?!>))*)");
  return pattern;
}

UnicodeString name_at(const UnicodeString& raw, int begin) {
  int end = begin;
  while (end < raw.length() && UnicodeString(u"\t\n\r\f />").append(u'\0').indexOf(raw[end]) < 0) ++end;
  return UnicodeString(raw, begin, end - begin);
}

int Parser::whole_start_tag(int i) const {
  static const PyRegex pattern(R"(<[a-zA-Z][^\t\n\r\f />\x00]*(?:[\s/]*(?:(?<=['"\s/])[^\s/>][^\s/=>]*)"
                               R"((?:\s*=+\s*(?:'[^']*'|"[^"]*"|(?!['"])[^>\s]*)\s*)?(?:\s|/(?!>))*)*)?\s*)");
  const int j = pattern.match_end(raw_, i);
  if (j >= raw_.length()) return -1;
  const char16_t next = raw_[j];
  if (next == u'>') return j + 1;
  if (next == u'/') return has(u"/>", j) ? j + 2 : -1;
  if (next == u'=' || is_ascii_letter(next)) return -1;
  return j > i ? j : i + 1;
}

int Parser::start_tag(int i) {
  static const PyRegex attribute(
      R"((?<=['"\s/])[^\s/>][^\s/=>]*(?:\s*=+\s*(?:'[^']*'|"[^"]*"|(?!['"])[^>\s]*))?(?:\s|/(?!>))*)");
  const int end = whole_start_tag(i);
  if (end < 0) return -1;
  const std::string tag = tag_name(name_at(raw_, i + 1));
  int k = tag_pattern().match_end(raw_, i + 1);
  while (k < end) {
    const int next = attribute.match_end(raw_, k);
    if (next < 0) break;
    k = next;
  }
  const UnicodeString rest = stripped(slice(k, std::max(k, end)));
  if (rest != u">" && rest != u"/>") {
    soup_.data(slice(i, end));
    return end;
  }
  const bool closes_itself = rest == u"/>";
  soup_.start(tag, closes_itself);
  if (!closes_itself && (tag == "script" || tag == "style")) cdata_element_ = tag;
  return end;
}

int Parser::end_tag(int i) {
  static const PyRegex pattern(R"(</\s*[a-zA-Z][\-.a-zA-Z0-9:_]*\s*>)");
  const int bracket = find(u'>', i + 1);
  if (bracket < 0) return -1;
  if (const int end = pattern.match_end(raw_, i); end >= 0) {
    const std::string tag = tag_name(stripped(slice(i + 2, end - 1)));
    if (!cdata_element_.empty() && tag != cdata_element_) {
      soup_.data(slice(i, bracket + 1));
    } else {
      soup_.end(tag);
      cdata_element_.clear();
    }
    return bracket + 1;
  }
  if (!cdata_element_.empty()) {
    soup_.data(slice(i, bracket + 1));
    return bracket + 1;
  }
  const int after = tag_pattern().match_end(raw_, i + 2);
  if (after < 0) return has(u"</>", i) ? i + 3 : bogus_comment(i);
  const int close = find(u'>', after);
  soup_.end(tag_name(name_at(raw_, i + 2)));
  return close + 1;
}

}  // namespace

const UnicodeString* html_entity(const std::string& name) {
  const auto found = entities().find(name);
  return found == entities().end() ? nullptr : &found->second;
}

void for_each_html_entity(const std::function<void(const std::string&, const UnicodeString&)>& visit) {
  for (const auto& [name, text] : entities())
    if (name.ends_with(';')) visit(name, text);
}

UnicodeString html_unescape(const UnicodeString& text) {
  if (text.indexOf(u'&') < 0) return text;
  static const PyRegex reference(R"(&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?))");
  return reference.sub(text, [](const UnicodeString& match) {
    if (match[1] != u'#') return unescape_name(UnicodeString(match, 1));
    const bool is_hex = (match[2] | 0x20) == 'x';
    const int end = match[match.length() - 1] == u';' ? match.length() - 1 : match.length();
    return unescape_number(number_of(match, is_hex ? 3 : 2, end, is_hex ? 16 : 10));
  });
}

UnicodeString html_to_text(const UnicodeString& text) {
  try {
    return Parser(text).text();
  } catch (const Refused&) {
    return text;
  }
}

}  // namespace divergen::tokenizers
