#pragma once
// A strict JSON reader (RFC 8259) that goes over text once and builds nothing. It takes and refuses what nlohmann::json
// takes and refuses (tests/fuzz compares the two), but for two things: values nested more than kDepth deep, and numbers
// that no double can hold, are refused.

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "lvis/text.hpp"

namespace divergen::lvis {

/// What is wrong at a place of the text; readers turn it into an Error that names file, entry and field.
struct Malformed {
  const char* at = nullptr;
  std::string why;
};

/// A number as digits and a power of ten, exact: value = mantissa / 10^decimals.
struct Decimal {
  std::int64_t mantissa = 0;
  int decimals = 0;
  bool is_exact = false;  // false: too many digits, an exponent, or -0; then only `value` holds
  double value = 0;       // set only where !is_exact
};

class Scanner {
 public:
  static constexpr int kDepth = 512;

  /// `at` .. `end`, which must be followed by Text::kPadding readable bytes, zeros where the text ends.
  Scanner(const char* at, const char* end) : at_(at), end_(end) {}

  const char* position() const { return at_; }
  const char* end() const { return end_; }
  [[noreturn]] void refuse(std::string why) const { throw Malformed{at_, std::move(why)}; }

  void skip_space() {
    while (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t') ++at_;
  }
  /// The next character that is no space; 0 at the end.
  char peek() {
    if (static_cast<unsigned char>(*at_) <= ' ') skip_space();
    return *at_;
  }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c, const char* why) {
    if (!take(c)) refuse(why);
  }

  /// Before each member of an object that starts here: false when it is over. `first` is true for the first call.
  bool next_member(bool& first, std::string_view& key);
  /// The same for the elements of an array.
  bool next_element(bool& first);

  /// Refuses what is no number ("it is missing", "it is NaN" are told apart by the caller through peek()).
  double number();
  Decimal decimal();
  /// An integer, or a number with an integral value.
  std::int64_t integer();
  bool is_number() {
    const char c = peek();
    return c == '-' || (c >= '0' && c <= '9');
  }
  /// The inside of a string as it stands in the text; `escaped` says whether it holds a backslash.
  std::string_view raw_string(bool& escaped);
  std::string string();
  /// true, false, 1 or 0 and other numbers (not 0 is true), as Python's truth of a value goes.
  bool truth();
  /// Any value, checked and passed over.
  void skip_value() { skip_value(0); }

 private:
  void skip_value(int depth);
  void literal(std::string_view word);
  double slow_number(const char* first);

  const char* at_;
  const char* end_;
};

/// A string's inside with its escapes resolved. Throws Malformed.
std::string unescape(std::string_view raw);

/// A list of exactly four numbers: a box, of a truth or of a detection.
inline void read_box(Scanner& scanner, std::array<double, 4>& box) {
  std::size_t n = 0;
  if (!scanner.take('[')) scanner.refuse("it is not four numbers");
  for (bool first = true; scanner.next_element(first); ++n) {
    if (n == 4) scanner.refuse("it is not four numbers");
    box[n] = scanner.number();
  }
  if (n != 4) scanner.refuse("it is not four numbers");
}

}  // namespace divergen::lvis
