#include "base/allocator.hpp"

#include <cstdlib>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace divergen {

void keep_freed_memory() {
#if defined(__GLIBC__)
  // 1 GiB: above the largest tensor of a small model; larger ones are worth a mapping.
  constexpr int kThreshold = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kThreshold);
  mallopt(M_TRIM_THRESHOLD, kThreshold);
#endif
}

}  // namespace divergen
