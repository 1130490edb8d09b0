#include "stages/pretrain/layout.hpp"

namespace divergen::stages {

void copy_files(const Path& from, const Path& to) {
  make_folder(to);
  for (const auto& entry : std::filesystem::directory_iterator(from))
    if (entry.is_regular_file()) write_file_atomic(to / entry.path().filename(), read_file(entry.path()));
}

}  // namespace divergen::stages
