#pragma once
// Random numbers as pure functions of a key: no global state, the same numbers on any rank, in any order.
//
// Philox4x32-10 (Salmon et al., SC 2011) with the key as seed. Two Rng with the same seed give the same numbers on
// every machine; derive() makes independent seeds for parts ("epoch 3", "image 17") of a seeded whole.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace divergen {

/// A new seed from a seed and what it is for. Pure; collisions are as unlikely as XXH3-64 collisions.
std::uint64_t derive_seed(std::uint64_t seed, std::string_view purpose);
std::uint64_t derive_seed(std::uint64_t seed, std::string_view purpose, std::initializer_list<std::uint64_t> indices);

/// Counter-based generator. Not thread-safe; copies continue independently from the same point.
class Rng {
 public:
  using result_type = std::uint32_t;
  explicit Rng(std::uint64_t seed) : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)} {}

  std::uint32_t next();
  std::uint64_t next64();
  double uniform();                                         // [0, 1), 53 bits
  double uniform(double low, double high);                  // [low, high)
  double normal();                                          // mean 0, standard deviation 1
  std::uint64_t below(std::uint64_t bound);                 // 0 .. bound-1, unbiased; bound > 0
  std::int64_t range(std::int64_t low, std::int64_t high);  // low .. high-1
  bool chance(double probability) { return uniform() < probability; }

  template <class T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return 0xffffffffu; }
  result_type operator()() { return next(); }

 private:
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> counter_{};
  std::array<std::uint32_t, 4> block_{};
  int used_ = 4;
  double spare_normal_ = 0;
  bool has_spare_ = false;
};

}  // namespace divergen
