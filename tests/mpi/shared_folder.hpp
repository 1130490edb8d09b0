#pragma once
// One folder for all ranks of an MPI test, removed by the first.

#include <memory>

#include "mpi/mpi_main.hpp"
#include "support/fixtures.hpp"

namespace divergen::test {

class SharedFolder {
 public:
  SharedFolder() {
    if (world().is_root()) own_ = std::make_unique<TemporaryFolder>();
    path_ = world().broadcast_text(own_ ? own_->path().string() : "");
  }
  ~SharedFolder() { world().barrier(); }
  const Path& path() const { return path_; }

 private:
  std::unique_ptr<TemporaryFolder> own_;
  Path path_;
};

}  // namespace divergen::test
