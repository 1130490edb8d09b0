#include "tokenizers/if_caption.hpp"

#include <vector>

#include "tokenizers/fix_text.hpp"
#include "tokenizers/html_text.hpp"
#include "tokenizers/unicode.hpp"

namespace divergen::tokenizers {
namespace {

struct Rule {
  PyRegex pattern;
  UnicodeString with;
};
using Rules = std::vector<Rule>;

Rules make_rules(std::initializer_list<std::pair<const char*, const char16_t*>> rules) {
  Rules made;
  for (const auto& [pattern, with] : rules) made.push_back({PyRegex(pattern), UnicodeString(with)});
  return made;
}

UnicodeString apply(const Rules& rules, UnicodeString text) {
  for (const Rule& rule : rules) text = rule.pattern.sub(text, rule.with);
  return text;
}

// The rules stand in the order of the reference; each sees what the ones before it left.

const Rules& before_html() {
  static const Rules rules = make_rules({
      {"<person>", u"person"},
      {R"(\b(?:https?:(?:/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/\-]*\b/?(?!@)))",
       u""},
      {R"(\b(?:www:(?:/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/\-]*\b/?(?!@)))", u""},
  });
  return rules;
}

const Rules& before_dashes_are_counted() {
  static const Rules rules = make_rules({
      {R"(@[\w\d]+\b)", u""},
      // CJK strokes, phonetic extensions, enclosed letters, compatibility, ideographs and hexagrams
      {R"([\u31c0-\u31ef]+)", u""},
      {R"([\u31f0-\u31ff]+)", u""},
      {R"([\u3200-\u32ff]+)", u""},
      {R"([\u3300-\u33ff]+)", u""},
      {R"([\u3400-\u4dbf]+)", u""},
      {R"([\u4dc0-\u4dff]+)", u""},
      {R"([\u4e00-\u9fff]+)", u""},
      {R"([\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0\uFE31\uFE32\uFE58\uFE63\uFF0D]+)",
       u"-"},
      {"[`´«»“”¨]", u"\""},
      {"[‘’]", u"'"},
      {"&quot;?", u""},
      {"&amp", u""},
      {R"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})", u" "},  // addresses
      {R"(\d:\d\d\s+$)", u""},                          // numbers of articles
      {R"(\\n)", u" "},
      {R"(#\d{1,3}\b)", u""},
      {R"(#\d{5,}\b)", u""},
      {R"(\b\d{6,}\b)", u""},
      {R"(\S+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4))", u""},  // names of files
      {R"(["']{2,})", u"\""},
      {R"([.]{2,})", u" "},
      {R"([#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\/\*]{1,})", u" "},
      {R"(\s+\.\s+)", u" "},
  });
  return rules;
}

const Rules& after_fixing() {
  static const Rules rules = make_rules({
      {R"(\b[a-zA-Z]{1,3}\d{3,15}\b)", u""},  // jc6640
      {R"(\b[a-zA-Z]+\d+[a-zA-Z]+\b)", u""},  // jc6640vc
      {R"(\b\d+[a-zA-Z]+\d+\b)", u""},        // 6640vc231
      {R"((?:worldwide\s+)?(?:free\s+)?shipping)", u""},
      {R"((?:free\s)?download(?:\sfree)?)", u""},
      {R"(\bclick\b\s(?:for|on)\s\w+)", u""},
      {R"(\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(?:\simage[s]?)?)", u""},
      {R"(\bpage\s+\d+\b)", u""},
      {R"(\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b)", u" "},  // j2d1a2a
      {R"(\b\d+\.?\d*[xх×]\d+\.?\d*\b)", u""},                  // 12x18, with a Latin x, a Cyrillic one, or a cross
      {R"(\b\s+:\s+)", u": "},
      {R"((\D[,./])\b)", u"$1 "},
      {R"(\s+)", u" "},
      {R"(^["']((?:.|\n)+)["']$)", u"$1"},
      {R"(^['_,\-:;])", u""},
      {R"(['_,\-:+]$)", u""},
      {R"(^\.\S+$)", u""},
  });
  return rules;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/// urllib.parse.unquote_plus: "+" is a space, "%41" is a byte; runs of bytes are read as UTF-8 with U+FFFD for what is
/// none.
std::string unquote_plus(std::string_view text) {
  std::string out, bytes;
  const auto flush = [&] {
    if (!bytes.empty()) out += to_utf8(from_utf8(bytes));
    bytes.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool is_byte =
        text[i] == '%' && i + 2 < text.size() && hex_value(text[i + 1]) >= 0 && hex_value(text[i + 2]) >= 0;
    if (is_byte) {
      bytes.push_back(static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2])));
      i += 2;
    } else {
      // Plain ASCII between two escapes goes through the same decoding in the reference; it ends a broken character.
      flush();
      out.push_back(text[i] == '+' ? ' ' : text[i]);
    }
  }
  flush();
  return out;
}

}  // namespace

std::string if_plain_text(std::string_view text) { return to_utf8(stripped(lowered(from_utf8(text)))); }

std::string if_clean_caption_once(std::string_view text) {
  UnicodeString caption = lowered(stripped(from_utf8(unquote_plus(text))));
  caption = html_to_text(apply(before_html(), caption));
  caption = apply(before_dashes_are_counted(), caption);
  static const PyRegex joints(R"([\-_])");  // this-is-my-cute-cat, this_is_my_cute_cat
  if (joints.count(caption) > 3) caption = joints.sub(caption, UnicodeString(u" "));
  caption = html_unescape(html_unescape(fix_text(caption)));
  return to_utf8(stripped(apply(after_fixing(), caption)));
}

std::string if_caption(std::string_view text, bool clean) {
  return clean ? if_clean_caption_once(if_clean_caption_once(text)) : if_plain_text(text);
}

}  // namespace divergen::tokenizers
