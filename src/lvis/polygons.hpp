#pragma once
// Segmentations as words of 32 bits. COCO and LVIS write coordinates with few decimals, so most polygons are kept as
// whole numbers of 1/10^d px: word / 10^d gives the very double that the decimal text stands for, since both are exact
// and a quotient is rounded once. What does not fit (many decimals) is kept as doubles.

#include <cstdint>
#include <span>
#include <vector>

#include "lvis/column.hpp"
#include "mask/rle.hpp"

namespace divergen::lvis {

/// The segmentations of many annotations.
struct Shapes {
  static constexpr std::int8_t kDoubles = -1, kRle = -2;  // instead of a number of decimals

  Column<std::uint64_t> part_end;  // of each annotation: where its parts end
  Column<std::uint64_t> word_end;  // of each part
  Column<std::int8_t> kind;        // of each part: decimals, kDoubles (two words a number), kRle (height, width, runs)
  Column<std::uint32_t> words;

  std::size_t size() const { return part_end.size(); }
  std::size_t first_part(std::size_t i) const { return i == 0 ? 0 : part_end[i - 1]; }
  std::span<const std::uint32_t> part_words(std::size_t part) const {
    const std::uint64_t first = part == 0 ? 0 : word_end[part - 1];
    return words.span().subspan(first, word_end[part] - first);
  }
  /// Appends the coordinates of a part that is no run-length mask.
  void decode(std::size_t part, std::vector<double>& xy) const;
  bool has_rle(std::size_t i) const { return first_part(i) < part_end[i] && kind[first_part(i)] == kRle; }
  mask::Rle rle(std::size_t i) const;  // has_rle(i)
  std::size_t polygon_count(std::size_t i) const { return has_rle(i) ? 0 : part_end[i] - first_part(i); }

  void add_polygon(std::span<const double> xy);
  void add_rle(const mask::Rle& rle);
  /// Ends the parts of an annotation.
  void finish() { part_end.push_back(kind.size()); }
  void append(const Shapes& other);
};

/// The polygons of one annotation: views of Shapes (decoded on access), or own ones.
class Polygons {
 public:
  Polygons() = default;
  Polygons(const Shapes& shapes, std::size_t annotation)
      : shapes_(&shapes), first_(shapes.first_part(annotation)), count_(shapes.polygon_count(annotation)) {}
  Polygons& operator=(std::vector<std::vector<double>> own) {
    own_ = std::move(own);
    shapes_ = nullptr;
    return *this;
  }
  std::size_t size() const { return shapes_ != nullptr ? count_ : own_.size(); }
  bool empty() const { return size() == 0; }
  void clear() { *this = std::vector<std::vector<double>>(); }
  /// x0, y0, x1, y1, ... in pixels.
  std::vector<double> operator[](std::size_t i) const;

  class Iterator {
   public:
    Iterator(const Polygons* of, std::size_t at) : of_(of), at_(at) {}
    std::vector<double> operator*() const { return (*of_)[at_]; }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    bool operator==(const Iterator& other) const { return at_ == other.at_; }

   private:
    const Polygons* of_;
    std::size_t at_;
  };
  Iterator begin() const { return {this, 0}; }
  Iterator end() const { return {this, size()}; }

 private:
  const Shapes* shapes_ = nullptr;
  std::size_t first_ = 0, count_ = 0;
  std::vector<std::vector<double>> own_;
};

}  // namespace divergen::lvis
