#pragma once
// A folder in memory where there is such a file system: for tests whose subject is the order of things, not the disk.

#include <cstdlib>
#include <string>

#include "base/fs.hpp"

namespace divergen::test {

class MemoryFolder {
 public:
  MemoryFolder() {
    std::error_code absent;
    const Path memory = "/dev/shm";
    const Path parent = std::filesystem::is_directory(memory, absent) ? memory : std::filesystem::temp_directory_path();
    std::string name = (parent / "divergen-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data()) != nullptr ? Path(name) : Path();
  }
  ~MemoryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  MemoryFolder(const MemoryFolder&) = delete;
  MemoryFolder& operator=(const MemoryFolder&) = delete;
  const Path& path() const { return path_; }
  Path operator/(const std::string& name) const { return path_ / name; }

 private:
  Path path_;
};

}  // namespace divergen::test
