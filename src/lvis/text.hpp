#pragma once
// The bytes of a JSON file (or of a string), readable beyond their end: at least kPadding zero bytes follow them, so
// that a scanner needs no bound for single steps.

#include <cstddef>
#include <string>
#include <string_view>

#include "base/fs.hpp"

namespace divergen::lvis {

class Text {
 public:
  static constexpr std::size_t kPadding = 64;

  /// Maps the file; its pages are read as they are touched. Throws Error(Io). The file must not shrink while it is
  /// open.
  static Text map(const Path& file);
  /// Copies the bytes.
  static Text copy(std::string_view bytes);
  ~Text();
  Text(Text&& other) noexcept;
  Text& operator=(Text&& other) noexcept;

  const char* begin() const { return begin_; }
  const char* end() const { return begin_ + size_; }
  std::size_t size() const { return size_; }
  /// The pages that lie whole within [first, last) are not needed soon: a mapped file's leave memory (they are read
  /// again when they are touched), a copy's stay. Any thread.
  void release(const char* first, const char* last) const;

 private:
  Text() = default;
  const char* begin_ = nullptr;
  std::size_t size_ = 0, mapped_ = 0;  // mapped_ == 0: of the heap
};

}  // namespace divergen::lvis
