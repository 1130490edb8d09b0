#pragma once
// Words and numbers as people read them.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace divergen {

/// The candidate that takes the fewest insertions, deletions and replacements; "" when none is close (over half its
/// length).
std::string nearest_word(std::string_view word, std::span<const std::string> candidates);

std::string with_thousands(std::int64_t number);  // 1,234,567
std::string human_bytes(std::uint64_t bytes);     // 1.2 GB
std::string human_seconds(double seconds);        // 1 h 51 min, 42 s, 0.3 s
std::string fixed(double value, int digits);
std::vector<std::string> split(std::string_view text, char separator);
std::string html_escape(std::string_view text);

}  // namespace divergen
