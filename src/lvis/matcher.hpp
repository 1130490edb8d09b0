#pragma once
// Which detections are right: the greedy matching of lvis-api and pycocotools. Private to src/lvis.

#include <cstdint>
#include <span>
#include <vector>

#include "lvis/curves.hpp"
#include "lvis/truth_table.hpp"

namespace divergen::lvis {

/// A detection that takes part.
struct Hit {
  double score = 0;
  std::uint32_t rank = 0;       // of its image, in the order of ids
  std::uint32_t candidate = 0;  // its overlaps: candidates[candidate .. candidate + candidates)
  std::uint16_t candidates = 0;
  std::uint8_t outside = 0;  // bit a: ignored in area range a unless it is matched
};

/// An annotation that a detection overlaps by half or more.
struct Overlap {
  std::uint32_t truth = 0;
  double iou = 0;
};

/// Whether a stands before b: NaN last, as numpy's sort puts it.
inline bool scores_higher(double a, double b) { return b != b ? a == a : a > b; }

/// Matches the detections of one category. One a thread.
class Matcher {
 public:
  Matcher(const TruthTable& truth, std::span<const Overlap> overlaps);

  /// `hits`: of one category; those of an image follow each other, images in the order of ids, in the order of the file
  /// within. Puts what they turn out to be into `out`, by image and place.
  void run(std::span<const Hit> hits, std::vector<Judged>& out);

 private:
  void match_image(std::span<const Hit> hits, std::vector<Judged>& out);
  Verdict judge(const Hit& hit);
  std::uint16_t accepted(const Hit& hit, std::size_t area, std::uint16_t& ignored);
  bool is_free(std::uint32_t truth, std::size_t area, std::size_t threshold) const;

  const TruthTable& truth_;
  std::span<const Overlap> overlaps_;
  std::array<double, kThresholds> thresholds_;
  std::uint32_t most_;
  std::vector<std::array<std::uint16_t, kAreas>> taken_;  // by truth: bit t for threshold t
  std::vector<std::uint32_t> order_;
};

}  // namespace divergen::lvis
