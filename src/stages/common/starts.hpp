#pragma once
// How long a stage has worked over all its starts: a journal of one line for each start that ended in order.

#include <string>

#include "base/fs.hpp"

namespace divergen::stages {

class StartsJournal {
 public:
  /// `file`: stages/<stage>.starts. Only starts with this fingerprint count: others made something else.
  StartsJournal(Path file, std::string fingerprint) : file_(std::move(file)), fingerprint_(std::move(fingerprint)) {}

  /// Throws Error(Io | NoSpace).
  void append(double seconds) const;
  /// Lines that are torn, or no line of ours, count nothing. Throws Error(Io).
  double seconds() const;

 private:
  Path file_;
  std::string fingerprint_;
};

}  // namespace divergen::stages
