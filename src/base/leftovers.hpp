#pragma once
// What killed parallel programs leave behind on a machine, outside of any run directory.
//
// Open MPI 4 cleans up when it ends in order, and after the loss of a rank. After kill -9 of everything it cannot, and
// the next start does it: shared memory of ranks (/dev/shm/vader_segment.<host>.<user>..., 4 MB each) and session
// folders of launchers (<tmp>/ompi.<host>.<user>/pid.<launcher>). Two hundred killed starts of four ranks would fill
// 3 GB of memory that nobody owns.

#include <cstddef>

#include "base/fs.hpp"

namespace divergen {

struct Leftovers {
  std::size_t segments = 0, sessions = 0;
};

/// Removes what belongs to this user and host and to no living process: segments that no process has mapped and that
/// are older than `young_seconds` (a rank makes its segment before the others map it), and session folders whose
/// launcher is gone. Never throws; what cannot be looked at is left alone. `shared_memory`: /dev/shm, `temporary`: the
/// folder that Open MPI takes, $TMPDIR or /tmp.
Leftovers sweep_leftovers(double young_seconds = 60);
Leftovers sweep_leftovers(const Path& shared_memory, const Path& temporary, double young_seconds);

}  // namespace divergen
