#pragma once
// soak_memory (reference/reliability.md §6): what a process holds, watched over many items.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "support/child.hpp"

namespace divergen::test {

class Soak {
 public:
  /// After so many items.
  void look(double items) {
    looks_.push_back({items, static_cast<double>(resident_bytes()) / (1 << 20), entries("/proc/self/fd"),
                      entries("/proc/self/task")});
  }
  /// The first fifth is warm-up. After it: less than 1 MB per 1,000 items, and no more descriptors and threads.
  /// `passing`: threads that come and go (a checkpoint's writer), and descriptors with them.
  void expect_flat(const char* name, std::int64_t passing = 0) const {
    ASSERT_GE(looks_.size(), 10u);
    const std::vector<Look> steady(looks_.begin() + static_cast<std::ptrdiff_t>(looks_.size() / 5), looks_.end());
    const double slope = 1000 * slope_of(steady);
    const auto [least_files, most_files] = range_of(steady, &Look::files);
    const auto [least_threads, most_threads] = range_of(steady, &Look::threads);
    std::printf("%s: %.0f items, %.1f MB, %+.3f MB per 1,000 items, %lld..%lld descriptors, %lld..%lld threads\n", name,
                looks_.back().items, steady.back().megabytes, slope, static_cast<long long>(least_files),
                static_cast<long long>(most_files), static_cast<long long>(least_threads),
                static_cast<long long>(most_threads));
    if (kMeasuresMemory) {
      EXPECT_LT(slope, 1) << name;
    }
    EXPECT_LE(most_files - least_files, passing) << name;
    EXPECT_LE(most_threads - least_threads, passing) << name;
    EXPECT_LE(steady.back().files, steady.front().files + passing) << name;
  }

 private:
  struct Look {
    double items, megabytes;
    std::int64_t files, threads;
  };
  static std::int64_t entries(const char* folder) {
    std::int64_t count = 0;
    std::error_code ignored;
    for (auto entry = std::filesystem::directory_iterator(folder, ignored); entry != std::filesystem::end(entry);
         entry.increment(ignored))
      ++count;
    return count;
  }
  /// Least squares: megabytes an item.
  static double slope_of(const std::vector<Look>& looks) {
    double x = 0, y = 0, xx = 0, xy = 0;
    for (const Look& look : looks) {
      x += look.items / static_cast<double>(looks.size());
      y += look.megabytes / static_cast<double>(looks.size());
    }
    for (const Look& look : looks) {
      xx += (look.items - x) * (look.items - x);
      xy += (look.items - x) * (look.megabytes - y);
    }
    return xy / xx;
  }
  static std::pair<std::int64_t, std::int64_t> range_of(const std::vector<Look>& looks, std::int64_t Look::*value) {
    const auto [least, most] = std::minmax_element(looks.begin(), looks.end(),
                                                   [&](const Look& a, const Look& b) { return a.*value < b.*value; });
    return {(*least).*value, (*most).*value};
  }
  std::vector<Look> looks_;
};

}  // namespace divergen::test
