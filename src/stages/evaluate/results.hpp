#pragma once
// What an evaluation leaves behind: results files that lvis-api reads, and metrics. No LibTorch.

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>

#include "base/fs.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::stages {

/// A file that grows under a temporary name beside `target`, and is published or removed. Not thread-safe. Throws
/// Error(NoSpace | Io).
class GrowingFile {
 public:
  explicit GrowingFile(const Path& target);
  ~GrowingFile();  // removes what was not committed
  GrowingFile(const GrowingFile&) = delete;
  GrowingFile& operator=(const GrowingFile&) = delete;

  void write(std::string_view text);
  /// Of all that was written.
  std::uint64_t size() const { return size_; }
  /// Ends the writing, so that others can read the file under its temporary name as long as this object lives.
  void close();
  const Path& temporary() const { return part_; }
  /// Publishes it.
  void commit();

 private:
  Path target_, part_;
  std::FILE* file_ = nullptr;
  std::uint64_t size_ = 0;
  bool committed_ = false;
};

/// Entries of a results file are joined by this.
inline constexpr std::string_view kBetweenResults = ",\n", kBeforeResults = "[\n", kAfterResults = "\n]\n";

/// The entries of detections in a results file: boxes for IouType::Box, run-length masks and no boxes for
/// IouType::Mask, so that lvis-api takes a mask's area (reference/lvis-evaluation.md §1, rule 2). Numbers read back to
/// the same doubles.
std::string results_text(std::span<const lvis::Detection> detections, lvis::IouType type);

/// {"bbox": {"AP": ...}, "segm": {...}, "per_category": {"bbox": {"<id>": ap}, "segm": {...}}}, atomically.
void write_metrics(const Path& file, const lvis::Evaluation& box, const lvis::Evaluation& mask);

}  // namespace divergen::stages
