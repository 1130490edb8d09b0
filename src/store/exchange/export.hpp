#pragma once
// A library, or a part of it, in the formats that other trainers and viewers read. What each folder holds is described
// in data/README.md §2. Beside the data, every export has
//   instances.jsonl   one line an instance: its file and everything that is known of it
//   tables.json       categories, generators and what the library says of its making
//   croissant.json    the data set in Croissant 1.0 (JSON-LD)
//   datasheet.md      the same for people

#include <cstdint>
#include <string>
#include <vector>

#include "store/library.hpp"

namespace divergen::store {

/// Which instances; empty lists mean all.
struct Selection {
  std::vector<std::string> categories;  // names or ids
  std::vector<std::string> generators;  // names
  float min_similarity = -2;            // cosines are above
  std::int64_t limit = 0;               // at most so many, spread evenly over the others' choice; 0: all
};
/// Entries of the library, ascending. Throws Error(Usage) when a name is not in the library.
std::vector<std::size_t> select(const Library& library, const Selection& selection);

struct ExportOptions {
  std::string format;  // "coco", "lvis", "png", "webdataset"
  Selection selection;
  std::string pictures = "rgb";      // coco and lvis: "rgb" (the cut-out with its own background) or "rgba"
  std::string segmentation = "rle";  // coco and lvis: "rle" (exact) or "polygon" (within a pixel)
  int alpha_threshold = 128;         // a pixel belongs to the object above it
  std::string name = "divergen-instances", license;
};

struct ExportSummary {
  std::int64_t instances = 0, files = 0;
  std::uint64_t bytes = 0;
};
/// Makes the folder `out`, whole or not at all. Throws Error(Usage) for a folder that is not empty, Error(Io | NoSpace
/// | Data).
ExportSummary export_library(const Library& library, const Path& out, const ExportOptions& options);

}  // namespace divergen::store
