#pragma once
// The end of an evaluation: results files and average precision from the part files, in bounded memory. No LibTorch.
//
// The ranks share the part files. A rank reads one of them at a time, matches its detections with the ground truth of
// their images (an image is whole in one part), and writes their text into a file of its own. Rank 0 copies the texts
// in the order of the data set, and gathers what is left of the detections, category by category.
//
// What a rank holds at most, whatever the number of images and ranks:
//   * one part (runner.cpp: 100,000 detections and one batch more; 40 to 60 MB with LVIS's masks),
//   * of each detection of its own parts that takes part, 32 bytes for boxes and 32 for masks: on one rank 0.38 GB for
//     LVIS's 19,809 validation images with 300 detections each if all of them count, and about half of them do;
//   * on rank 0, 48 bytes an image; three times kGatherBytes, or what the largest category takes in its place; and the
//     curves, 33 kB for each category for boxes, as much for masks.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "comm/world.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::stages {

inline constexpr std::size_t kGatherBytes = std::size_t{16} << 20;

struct ConcludeInput {
  const lvis::Dataset& dataset;
  Path parts;   // folder of the part files: together they hold every image of the data set
  Path folder;  // where results.bbox.json and results.segm.json are written
  std::string fingerprint;
  std::size_t gather_bytes = kGatherBytes;
};

struct Conclusion {
  lvis::Evaluation box, mask;
  std::map<std::string, std::int64_t> rejected;  // reason -> images
};

/// Collective. Writes the results files (each atomically) and returns the rest on rank 0; other ranks get an empty
/// object. Files and numbers are the same bytes for any number of ranks and any division into parts, and the numbers
/// are those of the results files. An image that several parts hold is taken from the first. Throws Error(Data) for a
/// damaged part or an image that no part holds, Error(NoSpace | Io).
Conclusion conclude(comm::World& world, const ConcludeInput& input);

/// Rank 0's part files, in order.
std::vector<Path> part_files(const Path& folder);

/// The detections of some images (ids), in the order of the parts, read from them one after another. Throws like
/// read_part.
std::vector<lvis::Detection> detections_of(const Path& parts, const lvis::Dataset& dataset,
                                           const std::string& fingerprint, const std::vector<std::int64_t>& images);

}  // namespace divergen::stages
