#include "lvis/json_scanner.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace divergen::lvis {
namespace {

constexpr std::array<double, 23> kPowers = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                            1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

/// Whether all eight bytes are digits.
bool eight_digits(std::uint64_t v) {
  return ((v & 0xF0F0F0F0F0F0F0F0) | (((v + 0x0606060606060606) & 0xF0F0F0F0F0F0F0F0) >> 4)) == 0x3333333333333333;
}
/// Their value, the first byte being the highest digit (pairs, then fours, then all).
std::uint64_t value_of_eight(std::uint64_t v) {
  v -= 0x3030303030303030;
  v = v * 10 + (v >> 8);
  return (((v & 0x000000FF000000FF) * 0x000F424000000064) + (((v >> 16) & 0x000000FF000000FF) * 0x0000271000000001)) >>
         32;
}

inline const char* digits(const char* p, std::uint64_t& m) {
  std::uint64_t eight;
  std::memcpy(&eight, p, 8);
  while (eight_digits(eight)) {
    m = m * 100000000 + value_of_eight(eight);
    p += 8;
    std::memcpy(&eight, p, 8);
  }
  while (is_digit(*p)) m = m * 10 + static_cast<std::uint64_t>(*p++ - '0');
  return p;
}

/// Length of a UTF-8 sequence at p, 0 when it is none (RFC 3629: no overlong forms, no surrogates).
int utf8_length(const char* p) {
  const auto byte = [&](int i) { return static_cast<unsigned char>(p[i]); };
  const auto follows = [&](int i, unsigned low = 0x80, unsigned high = 0xBF) {
    return byte(i) >= low && byte(i) <= high;
  };
  const unsigned lead = byte(0);
  if (lead >= 0xC2 && lead <= 0xDF) return follows(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF)
    return follows(1, lead == 0xE0 ? 0xA0 : 0x80, lead == 0xED ? 0x9F : 0xBF) && follows(2) ? 3 : 0;
  if (lead >= 0xF0 && lead <= 0xF4)
    return follows(1, lead == 0xF0 ? 0x90 : 0x80, lead == 0xF4 ? 0x8F : 0xBF) && follows(2) && follows(3) ? 4 : 0;
  return 0;
}

int hex_value(const char* p) {
  int out = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = p[i];
    const int digit = is_digit(c)            ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return -1;
    out = out * 16 + digit;
  }
  return out;
}

/// The characters of a \uXXXX at p (after the u), with its second half where it has one; how many bytes it takes, 0
/// when it is malformed.
int unicode_escape(const char* p, std::uint32_t& code) {
  const int first = hex_value(p);
  if (first < 0 || (first >= 0xDC00 && first <= 0xDFFF)) return 0;
  code = static_cast<std::uint32_t>(first);
  if (first < 0xD800 || first > 0xDBFF) return 4;
  if (p[4] != '\\' || p[5] != 'u') return 0;
  const int second = hex_value(p + 6);
  if (second < 0xDC00 || second > 0xDFFF) return 0;
  code = 0x10000 + ((static_cast<std::uint32_t>(first) - 0xD800) << 10) + (static_cast<std::uint32_t>(second) - 0xDC00);
  return 10;
}

void put_utf8(std::string& out, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F)), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  }
}

/// Bytes that end the plain run of a string: quote, backslash, control, and what is not ASCII.
constexpr std::array<bool, 256> kSpecial = [] {
  std::array<bool, 256> out{};
  for (unsigned c = 0; c < 256; ++c) out[c] = c < 0x20 || c == '"' || c == '\\' || c >= 0x80;
  return out;
}();

}  // namespace

bool Scanner::next_member(bool& first, std::string_view& key) {
  if (take('}')) return false;
  if (!first) expect(',', "a comma or } is missing");
  first = false;
  if (peek() != '"') refuse("a name in quotes is missing");
  bool escaped = false;
  key = raw_string(escaped);
  expect(':', "a colon is missing");
  return true;
}

bool Scanner::next_element(bool& first) {
  if (first) {
    first = false;
    return !take(']');
  }
  if (take(']')) return false;
  expect(',', "a comma or ] is missing");
  return true;
}

/// What the fast ways leave: exponents, many digits, underflow.
double Scanner::slow_number(const char* first) {
  double value = 0;
  const auto [stop, error] = std::from_chars(first, at_, value);
  if (error == std::errc::result_out_of_range) value = std::strtod(std::string(first, at_).c_str(), nullptr);
  if (!std::isfinite(value)) refuse("the number is too large");
  return value;
}

Decimal Scanner::decimal() {
  peek();
  const char *first = at_, *p = at_;
  const bool is_negative = *p == '-';
  p += is_negative;
  if (!is_digit(*p)) refuse("it is not a number");
  Decimal out;
  std::uint64_t m = 0;
  const char* whole = p;
  if (*p == '0') ++p;
  else p = digits(p, m);
  auto count = p - whole;
  if (*p == '.') {
    const char* fraction = ++p;
    p = digits(p, m);
    if (p == fraction) refuse("a digit after the decimal point is missing");
    out.decimals = static_cast<int>(p - fraction);
    count += p - fraction;
  }
  const bool has_exponent = (*p | 0x20) == 'e';
  if (has_exponent) {
    ++p;
    if (*p == '+' || *p == '-') ++p;
    if (!is_digit(*p)) refuse("a digit in the exponent is missing");
    while (is_digit(*p)) ++p;
  }
  at_ = p;
  if (!has_exponent && count <= 18 && !(is_negative && m == 0)) {
    out.is_exact = true;
    out.mantissa = is_negative ? -static_cast<std::int64_t>(m) : static_cast<std::int64_t>(m);
  } else {
    out.value = slow_number(first);
  }
  return out;
}

double Scanner::number() {
  const char* first = (peek(), at_);
  const Decimal d = decimal();
  if (!d.is_exact) return d.value;
  constexpr std::int64_t kExact = std::int64_t{1} << 53;
  // Both are exact in a double, so that their quotient is rounded once: the double nearest to the number.
  if (d.mantissa <= kExact && d.mantissa >= -kExact)
    return static_cast<double>(d.mantissa) / kPowers[static_cast<std::size_t>(d.decimals)];
  return slow_number(first);
}

std::int64_t Scanner::integer() {
  const Decimal d = decimal();
  if (d.is_exact && d.decimals == 0) return d.mantissa;
  const double value =
      d.is_exact ? static_cast<double>(d.mantissa) / kPowers[static_cast<std::size_t>(d.decimals)] : d.value;
  if (std::abs(value) > 9e15 || value != std::trunc(value)) refuse("it is not an integer");
  return static_cast<std::int64_t>(value);
}

std::string_view Scanner::raw_string(bool& escaped) {
  if (peek() != '"') refuse("it is not text");
  const char* first = ++at_;
  while (true) {
    while (!kSpecial[static_cast<unsigned char>(*at_)]) ++at_;
    if (*at_ == '"') break;
    if (*at_ == '\\') {
      escaped = true;
      const char c = at_[1];
      std::uint32_t code = 0;
      if (c == 'u') {
        const int length = unicode_escape(at_ + 2, code);
        if (length == 0) refuse("an escape in a text is malformed");
        at_ += 2 + length;
      } else {
        if (c == '\0' || std::strchr("\"\\/bfnrt", c) == nullptr) refuse("an escape in a text is malformed");
        at_ += 2;
      }
    } else if (static_cast<unsigned char>(*at_) >= 0x80) {
      const int length = utf8_length(at_);
      if (length == 0) refuse("a text is not UTF-8");
      at_ += length;
    } else {
      refuse(at_ >= end_ ? "the file ends within a text" : "a text holds a control character");
    }
  }
  return {first, static_cast<std::size_t>(at_++ - first)};
}

std::string Scanner::string() {
  bool escaped = false;
  const std::string_view raw = raw_string(escaped);
  return escaped ? unescape(raw) : std::string(raw);
}

std::string unescape(std::string_view raw) {
  std::string out;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] != '\\') {
      out += raw[i];
      continue;
    }
    const char c = raw[++i];
    if (c == 'u') {
      std::uint32_t code = 0;
      i += static_cast<std::size_t>(unicode_escape(raw.data() + i + 1, code));
      put_utf8(out, code);
    } else {
      constexpr std::string_view kNames = "bfnrt", kValues = "\b\f\n\r\t";
      const auto found = kNames.find(c);
      out += found == std::string_view::npos ? c : kValues[found];
    }
  }
  return out;
}

void Scanner::literal(std::string_view word) {
  if (std::strncmp(at_, word.data(), word.size()) != 0) refuse("it is not a JSON value");
  at_ += word.size();
}

bool Scanner::truth() {
  switch (peek()) {
    case 't':
      literal("true");
      return true;
    case 'f':
      literal("false");
      return false;
    case 'n':
      literal("null");
      return false;
    default:
      return number() != 0;
  }
}

void Scanner::skip_value(int depth) {
  if (depth > kDepth) refuse("values are nested too deep");
  bool first = true, escaped = false;
  std::string_view key;
  switch (peek()) {
    case '{':
      ++at_;
      while (next_member(first, key)) skip_value(depth + 1);
      return;
    case '[':
      ++at_;
      while (next_element(first)) skip_value(depth + 1);
      return;
    case '"':
      raw_string(escaped);
      return;
    case 't':
      return literal("true");
    case 'f':
      return literal("false");
    case 'n':
      return literal("null");
    default:
      if (at_ >= end_) refuse("the file ends too early");
      if (!is_number()) refuse("it is not a JSON value");
      number();
  }
}

}  // namespace divergen::lvis
