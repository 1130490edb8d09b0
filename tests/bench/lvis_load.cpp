// Reads an annotation file and says how much of it there is: for lvis_eval.py, which measures the process.
//
//   bench_lvis_load FILE [threads]

#include <cstdio>
#include <cstdlib>

#include "base/error.hpp"
#include "lvis/dataset.hpp"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: bench_lvis_load FILE [threads]\n", stderr);
    return 64;
  }
  try {
    divergen::lvis::ReadOptions options;
    if (argc > 2) options.threads = static_cast<unsigned>(std::atoi(argv[2]));
    const auto dataset = divergen::lvis::read_dataset(argv[1], options);
    std::printf("%zu images, %zu annotations\n", dataset.images.size(), dataset.annotations.size());
  } catch (const divergen::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return divergen::exit_code(error.kind());
  }
  return 0;
}
