#pragma once
// An LVIS v1 or COCO-style annotation file in columns: every number in a flat array, polygons and run lengths as words
// of one pool, names in one text. An LVIS-train file of 1.1 GB takes about half its size, and all of it can lie in
// memory that the ranks of a node share (shared_dataset.hpp).
//
// Images and annotations are handed out by value: `dataset.annotations[i]` is a small struct made from the columns, and
// its polygons are decoded when they are asked for. Where only one number of each is needed, the columns themselves are
// quicker (`dataset.annotations.columns().area[i]`).

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "lvis/column.hpp"
#include "lvis/id_index.hpp"
#include "lvis/polygons.hpp"
#include "mask/rle.hpp"

namespace divergen::lvis {

struct Category {
  std::int64_t id = 0;
  std::string name, frequency;  // frequency "r", "c", "f", or empty where the file has none
  std::int64_t image_count = 0;
};

struct ImageRecord {
  std::int64_t id = 0;
  std::int32_t height = 0, width = 0;
  std::string file;  // the last two components of coco_url ("train2017/000000000009.jpg"), else file_name
  bool has_federated = false;
  std::vector<std::int64_t> negative, not_exhaustive;  // category ids
};

struct Annotation {
  std::int64_t id = 0, image_id = 0, category_id = 0;
  std::array<double, 4> box{};  // x, y, width, height
  double area = 0;
  bool is_crowd = false, ignore = false;
  Polygons polygons;  // empty where the file has a run-length mask
  mask::Rle rle;      // empty where the file has polygons
};

/// A container whose elements are made when they are asked for.
template <class Container, class Value>
class ByValueIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = Value;
  using difference_type = std::ptrdiff_t;
  using pointer = const Value*;
  using reference = Value;
  ByValueIterator(const Container* of, std::size_t at) : of_(of), at_(at) {}
  Value operator*() const { return (*of_)[at_]; }
  ByValueIterator& operator++() {
    ++at_;
    return *this;
  }
  void operator++(int) { ++at_; }
  bool operator==(const ByValueIterator& other) const { return at_ == other.at_; }

 private:
  const Container* of_;
  std::size_t at_;
};

class Images {
 public:
  struct Columns {
    Column<std::int64_t> id;
    Column<std::int32_t> height, width;
    Column<std::uint8_t> has_federated;
    Column<std::uint64_t> name_end, negative_end, not_exhaustive_end;  // where the next image's begin
    Column<char> names;
    Column<std::int32_t> negative, not_exhaustive;
  };
  std::size_t size() const { return columns_.id.size(); }
  bool empty() const { return size() == 0; }
  ImageRecord operator[](std::size_t i) const;
  ImageRecord back() const { return (*this)[size() - 1]; }
  ByValueIterator<Images, ImageRecord> begin() const { return {this, 0}; }
  ByValueIterator<Images, ImageRecord> end() const { return {this, size()}; }
  void push_back(const ImageRecord& image);
  void clear() { columns_ = {}; }

  std::span<const std::int32_t> negative(std::size_t i) const {
    return part(columns_.negative, columns_.negative_end, i);
  }
  std::span<const std::int32_t> not_exhaustive(std::size_t i) const {
    return part(columns_.not_exhaustive, columns_.not_exhaustive_end, i);
  }
  const Columns& columns() const { return columns_; }
  Columns& columns() { return columns_; }

 private:
  template <class T>
  static std::span<const T> part(const Column<T>& pool, const Column<std::uint64_t>& end, std::size_t i) {
    const std::uint64_t first = i == 0 ? 0 : end[i - 1];
    return pool.span().subspan(first, end[i] - first);
  }
  Columns columns_;
};

class Annotations {
 public:
  enum Flag : std::uint8_t { kCrowd = 1, kIgnore = 2 };
  struct Columns {
    Column<std::int64_t> id, image_id, category_id;
    Column<std::array<double, 4>> box;
    Column<double> area;
    Column<std::uint8_t> flags;
    Shapes shapes;  // one entry an annotation
  };
  std::size_t size() const { return columns_.id.size(); }
  bool empty() const { return size() == 0; }
  Annotation operator[](std::size_t i) const;
  ByValueIterator<Annotations, Annotation> begin() const { return {this, 0}; }
  ByValueIterator<Annotations, Annotation> end() const { return {this, size()}; }
  void push_back(const Annotation& annotation);
  void clear() { columns_ = {}; }

  const Columns& columns() const { return columns_; }
  Columns& columns() { return columns_; }

 private:
  Columns columns_;
};

struct Dataset {
  std::vector<Category> categories;  // sorted by id
  Images images;                     // in file order
  Annotations annotations;           // in file order
  IdIndex image_index, category_index;
  std::shared_ptr<const void> shared;  // keeps memory that the columns only borrow

  /// Mask of an annotation at its image's size.
  mask::Rle mask_of(const Annotation& annotation) const;
  mask::Rle mask_of(std::size_t annotation) const;
  void rebuild_indices();
};

struct ReadOptions {
  unsigned threads = 0;    // 0: as many as this process may use
  bool has_shapes = true;  // false: segmentations are checked and passed over
};

/// Throws Error(Io), or Error(Data) naming file, entry, image, category and field. Of annotations that share an id all
/// are kept. Peak memory: what the data set takes and a few MB a thread.
Dataset read_dataset(const Path& file, const ReadOptions& options = {});
/// The same from memory; `name` stands for the file in messages.
Dataset parse_dataset(std::string_view json, const Path& name, const ReadOptions& options = {});
/// Writes an LVIS v1 file atomically.
void write_dataset(const Dataset& dataset, const Path& file);

}  // namespace divergen::lvis
