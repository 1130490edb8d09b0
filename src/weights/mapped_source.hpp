#pragma once
// Tensors made of parts of another source's tensors: what key maps are written with.

#include <memory>
#include <string>
#include <vector>

#include "weights/weights.hpp"

namespace divergen::weights {

/// Rows [row, row + rows) of `from` along its first side; a scalar has one row.
struct RowsOf {
  const Weight* from = nullptr;
  std::int64_t row = 0, rows = 0;
};

/// Collects mapped tensors, then reads them through the source below.
class MappedSource : public WeightSource {
 public:
  MappedSource(std::shared_ptr<const WeightSource> source, const std::string& map);

  /// The tensor as it is, under another name.
  void rename(const Weight& from, std::string name);
  /// One of `count` equal parts along the first side.
  void split(const Weight& from, std::string name, std::int64_t part, std::int64_t count);
  /// The parts one after the other along the first side. Types and other sides must be equal.
  void join(const std::vector<const Weight*>& parts, std::string name);
  /// A matrix, transposed.
  void transpose(const Weight& from, std::string name);

  const WeightSource& source() const { return *source_; }
  /// Throws Error(Data) about a tensor of the source.
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;

  void read(const Weight& weight, std::uint64_t first, std::span<std::byte> out) const override;
  void release(const Weight& weight, std::uint64_t first, std::uint64_t count) const override;

 private:
  struct Recipe {
    std::vector<RowsOf> parts;
    bool is_transposed = false;
  };
  void enter(std::string name, DType dtype, std::vector<std::int64_t> shape, Recipe recipe);

  std::shared_ptr<const WeightSource> source_;
  std::string map_;
  std::vector<Recipe> recipes_;
};

}  // namespace divergen::weights
