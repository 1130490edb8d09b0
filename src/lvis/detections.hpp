#pragma once
// What is kept of detections until they are judged. A detection that takes part costs 16 bytes, and 16 more for each
// annotation that it overlaps by half or more: overlaps are computed when a detection comes in, so that neither boxes
// nor masks need to be kept.

#include <array>
#include <cstdint>
#include <vector>

#include "lvis/column.hpp"
#include "lvis/truth_table.hpp"
#include "mask/spans.hpp"

namespace divergen::lvis {

struct Entry {
  static constexpr std::uint32_t kDropped = 0xFFFFFFFF;
  double score = 0;
  std::uint32_t image = 0;        // index into the data set
  std::uint32_t code = kDropped;  // category << 4 | area ranges in which it is ignored unless it is matched
  std::uint32_t category() const { return code >> 4; }
};

/// An overlap that some threshold may accept.
struct Candidate {
  std::uint32_t entry = 0;  // index within the batch
  std::uint32_t truth = 0;
  double iou = 0;
};

/// Detections in the order of their file.
struct Batch {
  std::vector<Entry> entries;
  std::vector<Candidate> candidates;  // by entry, and by truth within
};

/// What a detection turned out to be, in each area range: bit t for threshold t.
struct Verdict {
  std::array<std::uint16_t, kAreas> right{}, wrong{};  // neither: it is ignored
};

/// A detection after matching: all of it that curves need.
struct Judged {
  double score = 0;
  std::uint32_t image = 0;  // TruthTable::rank
  std::uint32_t place = 0;  // among the image's detections of the category, by score
  Verdict verdict;
};
static_assert(sizeof(Judged) == 32, "it is sent between ranks as it is");

/// Detections after matching, by category (index into the data set's).
struct JudgedColumns {
  std::vector<Column<Judged>> of_category;  // by image and place; none where there is nothing to be found (rule 12)
  std::vector<std::int64_t> kept;           // that took part
  std::int64_t detections = 0;              // that came in
};

/// Turns detections into entries. One a thread.
class Collector {
 public:
  explicit Collector(const TruthTable& truth);

  /// Where a detection belongs. Rule 6: only categories that were looked for in the image count.
  struct Place {
    std::uint32_t image = 0, category = 0;
    bool counts = false;         // false: it only takes up one of the image's places
    std::uint32_t cell = kNone;  // annotations of its category
    static constexpr std::uint32_t kNone = 0xFFFFFFFF;
  };
  Place place(std::size_t image, std::int64_t category_id);

  void drop(Batch& to, const Place& place, double score) const { to.entries.push_back({score, place.image}); }
  /// `area` is that of the results' format: of the box or of the mask.
  void add(Batch& to, const Place& place, double score, double area, const std::array<double, 4>& box) const;
  void add(Batch& to, const Place& place, double score, double area, const mask::Spans& mask) const;

 private:
  bool put(Batch& to, const Place& place, double score, double area) const;

  const TruthTable& truth_;
  std::size_t image_ = static_cast<std::size_t>(-1);
  static constexpr std::uint32_t kUnverified = 0xFFFFFFFE;
  std::uint32_t default_ = 0;
  std::vector<std::uint32_t> cell_of_;  // by category, for image_
  std::vector<std::uint32_t> touched_;  // categories whose cell_of_ is not default_
};

/// Intersection over union of boxes x, y, width, height, in the order of operations of pycocotools' bbIou.
double box_iou(const std::array<double, 4>& d, const std::array<double, 4>& g, bool crowd);

}  // namespace divergen::lvis
