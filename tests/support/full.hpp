#pragma once
// How often a test that counts does it: a part by default, so that the whole suite stays short, all with
// DIVERGEN_FULL=1.

#include <cstdlib>
#include <string_view>

namespace divergen::test {

inline bool is_full() {
  const char* text = std::getenv("DIVERGEN_FULL");
  return text != nullptr && std::string_view(text) == "1";
}
inline int times(int usual, int full) { return is_full() ? full : usual; }

}  // namespace divergen::test
