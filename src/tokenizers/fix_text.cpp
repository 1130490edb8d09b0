#include "tokenizers/fix_text.hpp"

#include <unicode/locid.h>
#include <unicode/normalizer2.h>
#include <unicode/utf8.h>

#include <array>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/error.hpp"
#include "tokenizers/html_text.hpp"
#include "tokenizers/text_tables.hpp"

namespace divergen::tokenizers {
namespace {

#include "tokenizers/text_tables.inc"

constexpr char16_t kReplacement = 0xFFFD;
constexpr char16_t kLost = 0x1A;  // the byte that stands for U+FFFD in sloppy code pages

/// Replaces "{name}" by the members of the class of that name.
template <std::size_t N>
std::string with_classes(std::string pattern, const CharClass (&classes)[N]) {
  for (const CharClass& c : classes) {
    const std::string key = cat("{", c.name, "}");
    for (auto at = pattern.find(key); at != std::string::npos; at = pattern.find(key, at))
      pattern.replace(at, key.size(), c.members);
  }
  return pattern;
}

/// Pairs and triples of characters that hardly ever stand side by side unless text was decoded wrongly.
bool is_bad(const UnicodeString& text) {
  static const PyRegex pattern(with_classes(
      "[{c1}]"
      "|[{bad}{lower_accented}{upper_accented}{box}{start_punctuation}{end_punctuation}{currency}{numeric}{law}][{bad}]"
      "|[a-zA-Z][{lower_common}{upper_common}][{bad}]"
      "|[{bad}][{lower_accented}{upper_accented}{box}{start_punctuation}{end_punctuation}{currency}{numeric}{law}]"
      "|[{lower_accented}{lower_common}{box}{end_punctuation}{currency}{numeric}][{upper_accented}]"
      "|[{box}{end_punctuation}{currency}{numeric}][{lower_accented}]"
      "|[{lower_accented}{box}{end_punctuation}][{currency}]"
      "|\\s[{upper_accented}][{currency}]"
      "|[{upper_accented}{box}][{numeric}{law}]"
      "|[{lower_accented}{upper_accented}{box}{currency}{end_punctuation}][{start_punctuation}][{numeric}]"
      "|[{lower_accented}{upper_accented}{currency}{numeric}{box}{law}][{end_punctuation}][{start_punctuation}]"
      "|[{currency}{numeric}{box}][{start_punctuation}]"
      "|[a-z][{upper_accented}][{start_punctuation}{currency}]"
      "|[{box}][{kaomoji}]"
      "|[{lower_accented}{upper_accented}{currency}{numeric}{start_punctuation}{end_punctuation}{law}][{box}]"
      "|[{box}][{end_punctuation}]"
      "|[{lower_accented}{upper_accented}][{start_punctuation}{end_punctuation}]\\w"
      "|[Œœ][^A-Za-z]"
      "|[{upper_accented}]°"
      // Windows-1252 that the classes do not tell: first bytes of two, Arabic, South Asian scripts
      "|[ÂÃÎÐ][€œŠš¢£Ÿž\\u00A0\\u00AD®©°·»{start_punctuation}{end_punctuation}–—´]"
      "|×[²³]"
      "|[ØÙ][{common}{currency}{bad}{numeric}{start_punctuation}ŸŠ®°µ»]"
      "[ØÙ][{common}{currency}{bad}{numeric}{start_punctuation}ŸŠ®°µ»]"
      "|à[²µ¹¼½¾]"
      // MacRoman
      "|√[±∂†≠®™´≤≥¥µø]|≈[°¢]|‚Ä[ìîïòôúùû†°¢π]|‚[âó][àä°ê]"
      // Windows-1251
      "|вЂ|[ВГРС][{c1}{bad}{start_punctuation}{end_punctuation}{currency}°µ][ВГРС]|ГўВЂВ.[A-Za-z ]"
      // à, á and the no-break space in Windows-1252
      "|Ã[\\u00A0¡]|[a-z]\\s?[ÃÂ][ ]|^[ÃÂ][ ]|[a-z.,?!{end_punctuation}]Â[ {start_punctuation}{end_punctuation}]"
      // Windows-1253, Windows-1257
      "|β€[™\\u00A0Ά\\u00AD®°]|[ΒΓΞΟ][{c1}{bad}{start_punctuation}{end_punctuation}{currency}°][ΒΓΞΟ]|ā€",
      kMojibakeClasses));
  return pattern.search(text);
}

// Bytes are kept as text of U+0000..U+00FF, so that regular expressions work on them.

/// A single-byte encoding, both ways.
class Codec {
 public:
  explicit Codec(const CodePage& page) : page_(&page) {
    for (int b = 0; b < 0x80; ++b) byte_of_[static_cast<char16_t>(b)] = static_cast<char16_t>(b);
    if (page.is_sloppy) {
      byte_of_.erase(kLost);
      byte_of_[kReplacement] = kLost;
    }
    for (int i = 0; i < 128; ++i) byte_of_[page.points[i]] = static_cast<char16_t>(0x80 + i);
  }
  bool is_sloppy() const { return page_->is_sloppy; }
  bool is(std::string_view name) const { return page_->name == name; }

  /// Nothing when a character has no byte.
  std::optional<UnicodeString> encode(const UnicodeString& text) const {
    UnicodeString bytes;
    for (int i = 0; i < text.length(); ++i) {
      const auto found = byte_of_.find(text[i]);
      if (found == byte_of_.end()) return std::nullopt;
      bytes.append(found->second);
    }
    return bytes;
  }
  char16_t decode(char16_t byte) const {
    if (byte >= 0x80) return page_->points[byte - 0x80];
    return page_->is_sloppy && byte == kLost ? kReplacement : byte;
  }

 private:
  const CodePage* page_;
  std::unordered_map<char16_t, char16_t> byte_of_;
};

const std::vector<Codec>& codecs() {  // in the order in which they are tried
  static const std::vector<Codec> made(std::begin(kCodePages), std::end(kCodePages));
  return made;
}

const Codec& windows_1252() {
  for (const Codec& codec : codecs())
    if (codec.is("sloppy-windows-1252")) return codec;
  check_failed("the table has Windows-1252", "");
}

/// Strict UTF-8. `variants`: surrogate pairs written as two three-byte sequences (CESU-8) and C0 80 for U+0000 count
/// too. Nothing when the bytes are something else.
std::optional<UnicodeString> decode_utf8(const UnicodeString& text, bool variants) {
  std::string bytes;
  for (int i = 0; i < text.length(); ++i) bytes.push_back(static_cast<char>(text[i]));
  const auto at = [&](int i) { return static_cast<std::uint8_t>(bytes[static_cast<std::size_t>(i)]); };
  const auto n = static_cast<int>(bytes.size());
  UnicodeString out;
  for (int i = 0; i < n;) {
    if (variants && at(i) == 0xC0 && i + 1 < n && at(i + 1) == 0x80) {
      out.append(u'\0');
      i += 2;
      continue;
    }
    const auto is_surrogate = [&](int k, int low) {
      return at(k) == 0xED && at(k + 1) >= low && at(k + 1) < low + 16 && (at(k + 2) & 0xC0) == 0x80;
    };
    if (variants && i + 6 <= n && is_surrogate(i, 0xA0) && is_surrogate(i + 3, 0xB0)) {
      out.append(static_cast<UChar32>(((at(i + 1) & 0x0F) << 16) + ((at(i + 2) & 0x3F) << 10) +
                                      ((at(i + 4) & 0x0F) << 6) + (at(i + 5) & 0x3F) + 0x10000));
      i += 6;
      continue;
    }
    UChar32 c;
    U8_NEXT(bytes.data(), i, n, c);
    if (c < 0) return std::nullopt;
    out.append(c);
  }
  return out;
}

/// UTF-8 sequences in which a space stands where a no-break space (byte A0) was.
const PyRegex& altered_utf8() {
  static const PyRegex pattern(R"([\xc2\xc3\xc5\xce\xd0\xd9][ ])"
                               R"(|[\xe2\xe3][ ][\x80-\x84\x86-\x9f\xa1-\xbf])"
                               R"(|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf][ ])"
                               R"(|[\xf0][ ][\x80-\xbf][\x80-\xbf])"
                               R"(|[\xf0][\x80-\xbf][ ][\x80-\xbf])"
                               R"(|[\xf0][\x80-\xbf][\x80-\xbf][ ])");
  return pattern;
}

UnicodeString restore_byte_a0(const UnicodeString& bytes) {
  // "à" as a word of its own keeps the space that follows it, except in Portuguese contractions such as "àquele".
  static const PyRegex a_grave(R"(\xc3 (?! |quele|quela|quilo|s ))");
  return altered_utf8().sub(a_grave.sub(bytes, UnicodeString(u"\u00C3\u00A0 ")),
                            [](UnicodeString match) { return match.findAndReplace(u" ", u"\u00A0"); });
}

/// UTF-8 sequences of which bytes are lost become U+FFFD.
UnicodeString replace_lossy_sequences(const UnicodeString& bytes) {
  static const PyRegex pattern(R"([\xc2-\xdf][\x1a])"
                               R"(|[\xc2-\xc3][?])"
                               R"(|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf])"
                               R"(|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?])"
                               R"(|[\xe0-\xef][\x1a?][\x1a\x80-\xbf])"
                               R"(|[\xe0-\xef][\x1a\x80-\xbf][\x1a?])"
                               R"(|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf])"
                               R"(|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf])"
                               R"(|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?])"
                               R"(|\x1a)");
  return pattern.sub(bytes, UnicodeString(u"\u00EF\u00BF\u00BD"));
}

const PyRegex& c1_control() {
  static const PyRegex pattern(R"([\x80-\x9f])");
  return pattern;
}

UnicodeString fix_c1_controls(const UnicodeString& text) {
  return c1_control().sub(text, [](const UnicodeString& c) { return UnicodeString(windows_1252().decode(c[0])); });
}

/// Latin-1 that was meant to be Windows-1252. Nothing when a byte has no meaning there.
std::optional<UnicodeString> latin1_as_windows1252(const UnicodeString& text) {
  UnicodeString out;
  for (int i = 0; i < text.length(); ++i) {
    const char16_t c = windows_1252().decode(text[i]);
    const bool is_unassigned = text[i] >= 0x80 && text[i] <= 0x9F && c == text[i];
    if (is_unassigned) return std::nullopt;
    out.append(text[i] == kLost ? kLost : c);
  }
  return out;
}

UnicodeString fix_encoding(UnicodeString text);

/// Wrong text inside of right text: every stretch that looks like UTF-8 is mended by itself.
UnicodeString decode_inconsistent_utf8(const UnicodeString& text) {
  static const PyRegex detector(
      with_classes("(?<![{utf8_continuation_strict}])(?:[{utf8_first_of_2}][{utf8_continuation}]"
                   "|[{utf8_first_of_3}][{utf8_continuation}]{2}|[{utf8_first_of_4}][{utf8_continuation}]{3})+",
                   kUtf8Classes));
  return detector.sub(text, [&](const UnicodeString& part) {
    return part.length() < text.length() && is_bad(part) ? fix_encoding(part) : part;
  });
}

std::optional<UnicodeString> redecode(const UnicodeString& text, const Codec& codec) {
  auto bytes = codec.encode(text);
  if (!bytes) return std::nullopt;
  // In MacRoman, byte and space would be an en dash and a space.
  if (!codec.is("macroman") && altered_utf8().search(*bytes)) bytes = restore_byte_a0(*bytes);
  if (codec.is_sloppy()) bytes = replace_lossy_sequences(*bytes);
  const bool has_variants = bytes->indexOf(u'\u00ED') >= 0 || bytes->indexOf(u'\u00C0') >= 0;
  return decode_utf8(*bytes, has_variants);
}

UnicodeString fix_encoding_step(const UnicodeString& text) {
  bool is_ascii = true;
  for (int i = 0; i < text.length(); ++i) is_ascii = is_ascii && text[i] < 0x80;
  if (is_ascii || !is_bad(text)) return text;
  bool may_be_latin1 = false;
  for (const Codec& codec : codecs()) {
    if (codec.is("latin-1")) may_be_latin1 = codec.encode(text).has_value();
    if (auto fixed = redecode(text, codec)) return *fixed;
  }
  if (const UnicodeString fixed = decode_inconsistent_utf8(text); fixed != text) return fixed;
  if (may_be_latin1)
    if (const auto fixed = latin1_as_windows1252(text); fixed && *fixed != text) return *fixed;
  return fix_c1_controls(text);
}

UnicodeString fix_encoding(UnicodeString text) {
  while (true) {
    UnicodeString next = fix_encoding_step(text);
    if (next == text) return text;
    text = std::move(next);
  }
}

/// References that end in ";", and those of lower-case names that somebody wrote in capitals.
UnicodeString unescape_references(const UnicodeString& text) {
  static const std::unordered_map<std::string, UnicodeString> capitals = [] {
    std::unordered_map<std::string, UnicodeString> made;
    for_each_html_entity([&](const std::string& name, const UnicodeString& character) {
      std::string upper = name;
      for (char& c : upper) {
        if (c >= 'A' && c <= 'Z') return;
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
      }
      const UnicodeString reference = UnicodeString(u"&") + from_utf8(upper);
      if (html_unescape(reference) == reference) made[upper] = UnicodeString(character).toUpper(icu::Locale::getRoot());
    });
    return made;
  }();
  static const PyRegex reference(R"(&#?[0-9A-Za-z]{1,24};)");
  return reference.sub(text, [](const UnicodeString& match) {
    if (match[1] == u'#') {
      const UnicodeString out = html_unescape(match);
      return out.indexOf(u';') >= 0 ? match : out;  // only a part was a number
    }
    const std::string name = to_utf8(UnicodeString(match, 1));
    if (const UnicodeString* character = html_entity(name)) return *character;
    const auto found = capitals.find(name);
    return found != capitals.end() ? found->second : match;
  });
}

/// What one character becomes by itself; nothing: it stays.
std::optional<UnicodeString> replacement_of(UChar32 c) {
  static const std::unordered_map<UChar32, std::u16string> ligatures{
      {0x132, u"IJ"},      {0x133, u"ij"},      {0x149, u"\u02BCn"},  {0x1F1, u"DZ"},  {0x1F2, u"Dz"},  {0x1F3, u"dz"},
      {0x1C4, u"D\u017D"}, {0x1C5, u"D\u017E"}, {0x1C6, u"d\u017E"},  {0x1C7, u"LJ"},  {0x1C8, u"Lj"},  {0x1C9, u"lj"},
      {0x1CA, u"NJ"},      {0x1CB, u"Nj"},      {0x1CC, u"nj"},       {0xFB00, u"ff"}, {0xFB01, u"fi"}, {0xFB02, u"fl"},
      {0xFB03, u"ffi"},    {0xFB04, u"ffl"},    {0xFB05, u"\u017Ft"}, {0xFB06, u"st"}};
  if (const auto found = ligatures.find(c); found != ligatures.end()) return UnicodeString(found->second.c_str());
  if (c == 0x3000) return UnicodeString(u" ");
  if (c >= 0xFF01 && c < 0xFFF0) {  // full and half width
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* nfkc = icu::Normalizer2::getNFKCInstance(status);
    UnicodeString out = nfkc->normalize(UnicodeString(c), status);
    DIVERGEN_CHECK(U_SUCCESS(status));
    return out;
  }
  return std::nullopt;
}

UnicodeString replace_characters(const UnicodeString& text) {
  UnicodeString out;
  for (int i = 0; i < text.length(); i = text.moveIndex32(i, 1)) {
    const UChar32 c = text.char32At(i);
    if (const auto with = replacement_of(c)) out.append(*with);
    else out.append(c);
  }
  return out;
}

UnicodeString straighten(const UnicodeString& text) {
  static const PyRegex doubles(R"([\u201c-\u201f])"), singles(R"([\u02bc\u2018-\u201b])"),
      breaks(R"(\r\n|[\r\u2028\u2029\u0085])"), escapes(R"(\x1b\[(?:\d|;)*[a-zA-Z])"),
      controls(R"([\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc])");
  UnicodeString out = singles.sub(doubles.sub(text, UnicodeString(u"\"")), UnicodeString(u"'"));
  out = escapes.sub(breaks.sub(out, UnicodeString(u"\n")), UnicodeString());
  return controls.sub(out, UnicodeString());
}

UnicodeString fix_line(UnicodeString text, bool unescapes) {
  while (true) {
    const UnicodeString before = text;
    if (unescapes) text = unescape_references(text);
    text = nfc(straighten(replace_characters(fix_c1_controls(fix_encoding(text)))));
    if (text == before) return text;
  }
}

}  // namespace

UnicodeString fix_text(const UnicodeString& text) {
  UnicodeString out;
  bool unescapes = true;
  for (int at = 0; at < text.length();) {
    const int line_end = text.indexOf(u'\n', at);
    const int end = line_end < 0 ? text.length() : line_end + 1;
    const UnicodeString line(text, at, end - at);
    if (line.indexOf(u'<') >= 0) unescapes = false;  // real HTML: references stay, here and below
    out.append(fix_line(line, unescapes));
    at = end;
  }
  return out;
}

}  // namespace divergen::tokenizers
