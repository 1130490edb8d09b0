#pragma once
// Small programs that are asked something: squeue, sbatch, mpirun --version.

#include <string>
#include <vector>

namespace divergen::driver {

struct Captured {
  int code = 0;     // exit code; 127: it is not installed
  std::string out;  // what it wrote to stdout
};

/// Runs a program to its end; no shell is in between. Its stderr goes to ours, or nowhere. Throws Error(Io) when no
/// process can be started.
Captured capture(const std::vector<std::string>& command, bool keep_errors = false);
/// The first line of what it says, "" when it is not installed or fails.
std::string first_line_of(const std::vector<std::string>& command);

/// `text` as one word of a POSIX shell.
std::string shell_quoted(const std::string& text);

}  // namespace divergen::driver
