#pragma once
// The journal of a training: log.jsonl, one JSON object a line, no iteration twice, however often it was interrupted.

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/fs.hpp"
#include "stages/train/tensorboard.hpp"

namespace divergen::stages {

struct LogLine {
  std::int64_t iteration = 0;           // steps done
  double lr = 0;                        // of the last of them
  double seconds = 0;                   // of training, over all starts
  std::map<std::string, double> terms;  // means since the last line, over steps and ranks
  double loss_total = 0;                // their sum
  double data_wait = 0;                 // share of the time that ranks waited for samples, 0..1
  double images_per_second = 0;         // of all ranks together
  double memory_mb = 0;                 // resident, of rank 0's process
};

/// Resident memory of this process in MB (2^20 bytes); 0 where the system does not tell.
double resident_megabytes();

/// Written by rank 0 only. Not thread-safe.
class TrainingLog {
 public:
  /// `folder`: of the training; TensorBoard's event files go to <folder>/tensorboard.
  explicit TrainingLog(Path folder);
  /// Drops every line after `iteration` (and a torn last line), atomically: what a resumed training writes again.
  void rewind(std::int64_t iteration);
  void write(const LogLine& line);
  const Path& file() const { return file_; }

 private:
  Path file_, board_folder_;
  std::unique_ptr<EventFile> board_;
};

}  // namespace divergen::stages
