#include "lvis/polygons.hpp"

#include <array>
#include <bit>
#include <cmath>

namespace divergen::lvis {
namespace {

constexpr std::array<double, 10> kPowers = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
constexpr int kMostTried = 3;  // decimals of numbers that come as doubles

/// Whether the value is a whole number of 10^-decimals that fits a word, and comes back from it bit by bit.
bool as_word(double value, int decimals, std::int32_t& word) {
  const double scaled = std::nearbyint(value * kPowers[static_cast<std::size_t>(decimals)]);
  if (!(std::abs(scaled) < 2147483647.0)) return false;
  word = static_cast<std::int32_t>(scaled);
  return std::bit_cast<std::uint64_t>(word / kPowers[static_cast<std::size_t>(decimals)]) ==
         std::bit_cast<std::uint64_t>(value);
}

}  // namespace

void Shapes::decode(std::size_t part, std::vector<double>& xy) const {
  const auto from = part_words(part);
  const std::size_t old = xy.size();
  if (kind[part] == kDoubles) {
    xy.resize(old + from.size() / 2);
    std::memcpy(xy.data() + old, from.data(), from.size_bytes());
    return;
  }
  const double power = kPowers[static_cast<std::size_t>(kind[part])];
  xy.resize(old + from.size());
  for (std::size_t i = 0; i < from.size(); ++i) xy[old + i] = static_cast<std::int32_t>(from[i]) / power;
}

mask::Rle Shapes::rle(std::size_t i) const {
  const auto from = part_words(first_part(i));
  return {static_cast<std::int64_t>(from[0]), static_cast<std::int64_t>(from[1]), {from.begin() + 2, from.end()}};
}

void Shapes::add_polygon(std::span<const double> xy) {
  const std::size_t old = words.size();
  int decimals = 0;
  for (std::size_t i = 0; i < xy.size() && decimals <= kMostTried;) {
    std::int32_t word = 0;
    if (as_word(xy[i], decimals, word)) {
      words.push_back(static_cast<std::uint32_t>(word));
      ++i;
    } else {  // another scale, from the start
      ++decimals;
      words.resize(old);
      i = 0;
    }
  }
  if (decimals > kMostTried) {
    words.resize(old + 2 * xy.size());
    std::memcpy(&words[old], xy.data(), xy.size_bytes());
    decimals = kDoubles;
  }
  kind.push_back(static_cast<std::int8_t>(decimals));
  word_end.push_back(words.size());
}

void Shapes::add_rle(const mask::Rle& rle) {
  words.push_back(static_cast<std::uint32_t>(rle.height));
  words.push_back(static_cast<std::uint32_t>(rle.width));
  words.append(rle.counts);
  kind.push_back(kRle);
  word_end.push_back(words.size());
}

void Shapes::append(const Shapes& other) {
  const std::uint64_t parts = kind.size(), old = words.size();
  for (const std::uint64_t end : other.part_end.span()) part_end.push_back(parts + end);
  for (const std::uint64_t end : other.word_end.span()) word_end.push_back(old + end);
  kind.append(other.kind.span());
  words.append(other.words.span());
}

std::vector<double> Polygons::operator[](std::size_t i) const {
  if (shapes_ == nullptr) return own_[i];
  std::vector<double> xy;
  shapes_->decode(first_ + i, xy);
  return xy;
}

}  // namespace divergen::lvis
