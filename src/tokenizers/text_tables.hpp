#pragma once
// The tables of text_tables.inc, which tools/make_text_tables.py makes.

#include <cstdint>

namespace divergen::tokenizers {

/// A single-byte encoding: what bytes 0x80..0xFF mean. Bytes below are ASCII, but 0x1A in sloppy ones stands for
/// U+FFFD.
struct CodePage {
  const char* name;
  bool is_sloppy;
  std::uint16_t points[128];
};

/// Members of a character class of a regular expression, escaped.
struct CharClass {
  const char* name;
  const char* members;
};

}  // namespace divergen::tokenizers
