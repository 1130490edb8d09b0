#pragma once
// The few pieces of JSON that a safetensors header is made of, read strictly and one after the other.

#include <functional>
#include <string>
#include <string_view>

namespace divergen::weights {

/// A cursor over JSON text (RFC 8259). Every error goes through `refuse`, which must throw.
class JsonText {
 public:
  using Refuse = std::function<void(const std::string& why)>;
  JsonText(std::string_view text, Refuse refuse) : text_(text), refuse_(std::move(refuse)) {}

  /// The next character that is not white space, without taking it; '\0' at the end.
  char peek();
  /// Takes `c`, or refuses, saying that `what` was expected.
  void expect(char c, const char* what);
  /// Takes `c` if it is next.
  bool take_if(char c);
  /// A string of at most `longest` bytes: valid UTF-8, escapes resolved.
  std::string string(std::size_t longest, const char* what);
  /// The characters of the next number or word, for a caller that knows what it wants ("12", "-3", "1e5", "null").
  std::string_view scalar();
  std::size_t position() const { return at_; }

 private:
  [[noreturn]] void refuse(const std::string& why) const;
  void escape(std::string& out);
  unsigned hex4();

  std::string_view text_;
  std::size_t at_ = 0;
  Refuse refuse_;
};

bool is_utf8(std::string_view text);

}  // namespace divergen::weights
