#pragma once
// Ground truth as the evaluator needs it: annotations by (image, category), the categories that were looked for in each
// image, and masks that are drawn when a detection first comes near.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lvis/dataset.hpp"
#include "mask/spans.hpp"

namespace divergen::lvis {

enum class IouType { Box, Mask };
/// Whose rules count: lvis-api's or pycocotools' COCOeval's.
enum class Protocol { Lvis, Coco };

inline constexpr std::size_t kThresholds = 10, kRecalls = 101, kAreas = 4;

struct AreaRange {
  double low, high;  // px², both inclusive (rule 8)
};
inline constexpr std::array<AreaRange, kAreas> kAreaRanges{
    {{0, 1e10}, {0, 32.0 * 32.0}, {32.0 * 32.0, 96.0 * 96.0}, {96.0 * 96.0, 1e10}}};
/// Bit a: the area lies outside of range a.
std::uint8_t outside_ranges(double area);

class TruthTable {
 public:
  /// Throws Error(Data) when the rules need something that the data set does not have. The data set must outlive it.
  TruthTable(const Dataset& dataset, IouType type, Protocol protocol);

  const Dataset& dataset() const { return dataset_; }
  IouType type() const { return type_; }
  Protocol protocol() const { return protocol_; }
  std::size_t categories() const { return dataset_.categories.size(); }

  /// One annotation that takes part.
  struct Truth {
    std::array<double, 4> box{};   // as the file says it
    std::uint32_t annotation = 0;  // index into the data set
    std::uint8_t ignored = 0;      // bit a: ignored in area range a
    bool is_crowd = false;         // COCO: may be matched again and again
    bool has_id_zero = false;      // rule 10
  };
  /// The annotations of one category in one image: truths()[first .. first + count).
  struct Cell {
    std::uint32_t category = 0, first = 0, count = 0;
  };
  std::span<const Truth> truths() const { return truths_; }
  std::span<const Cell> cells() const { return cells_; }
  /// Cells of an image (index into the data set), by category.
  std::span<const Cell> cells_of(std::size_t image) const {
    return std::span(cells_).subspan(cell_begin_[image], cell_begin_[image + 1] - cell_begin_[image]);
  }
  std::size_t first_cell_of(std::size_t image) const { return cell_begin_[image]; }
  /// Place of an image in the order of ids.
  std::uint32_t rank(std::size_t image) const { return rank_[image]; }
  /// Annotations that are not ignored, by category and area range.
  std::int64_t positives(std::size_t category, std::size_t area) const { return positives_[category][area]; }

  bool has_positives(std::size_t category) const {
    const auto& counts = positives_[category];
    return std::any_of(counts.begin(), counts.end(), [](std::int64_t n) { return n > 0; });
  }

  /// Mask of a truth; drawn at the first call. Any thread.
  const mask::Spans& mask(std::size_t truth) const;
  /// Frees all masks that were drawn so far.
  void release_masks();
  /// A box around that mask that costs nothing.
  const std::array<double, 4>& bounds(std::size_t truth) const { return bounds_[truth]; }

 private:
  void check_lists() const;
  void gather();
  std::array<double, 4> bounds_of(std::size_t annotation) const;

  const Dataset& dataset_;
  IouType type_;
  Protocol protocol_;
  std::vector<std::uint32_t> rank_;
  std::vector<Truth> truths_;
  std::vector<Cell> cells_;
  std::vector<std::uint32_t> cell_begin_;  // by image
  std::vector<std::array<std::int64_t, kAreas>> positives_;
  std::vector<std::array<double, 4>> bounds_;  // x0 y0 x1 y1
  struct MaskSlot {
    std::atomic<const mask::Spans*> mask{nullptr};
    ~MaskSlot() { delete mask.load(); }
  };
  std::unique_ptr<MaskSlot[]> masks_;
};

}  // namespace divergen::lvis
