#pragma once
// Every random number of the augmentation passes through one small interface, under the name of what it decides. The
// production implementation is keyed by (seed, position); the parity tests replay the reference's recorded draws and
// check that name, kind and bounds agree, so that a missing, surplus or misplaced draw is seen at once.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.hpp"

namespace divergen::stages {

class Draws {
 public:
  virtual ~Draws() = default;
  /// [low, high)
  virtual double uniform(std::string_view meaning, double low, double high) = 0;
  /// Mean 0, deviation 1.
  virtual double normal(std::string_view meaning) = 0;
  /// low .. high-1, after both bounds have been truncated towards zero, as numpy's randint takes fractional bounds.
  virtual std::int64_t integer(std::string_view meaning, double low, double high) = 0;
  /// `count` different numbers of 0 .. from-1, in random order.
  virtual std::vector<std::size_t> choose(std::string_view meaning, std::size_t from, std::size_t count) = 0;
  /// Index of one of the options.
  virtual std::size_t pick(std::string_view meaning, std::span<const std::string> options) = 0;
};

class RandomDraws : public Draws {
 public:
  explicit RandomDraws(std::uint64_t seed) : rng_(seed) {}
  double uniform(std::string_view meaning, double low, double high) override;
  double normal(std::string_view meaning) override;
  std::int64_t integer(std::string_view meaning, double low, double high) override;
  std::vector<std::size_t> choose(std::string_view meaning, std::size_t from, std::size_t count) override;
  std::size_t pick(std::string_view meaning, std::span<const std::string> options) override;

 private:
  Rng rng_;
};

}  // namespace divergen::stages
