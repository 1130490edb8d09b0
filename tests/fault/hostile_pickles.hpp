#pragma once
// Checkpoints made to run code, to fill memory or to lie about themselves.

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "support/weight_files.hpp"

namespace divergen::test {

struct HostileFile {
  std::string id, name, expected;     // what the message must say
  std::function<std::string()> make;  // the file's bytes
  std::uint64_t memory = 64u << 20;   // bytes that refusing it may take
};

inline void PrintTo(const HostileFile& file, std::ostream* out) { *out << file.id; }

/// At least 50; each must be refused.
std::vector<HostileFile> hostile_pickles();

}  // namespace divergen::test
