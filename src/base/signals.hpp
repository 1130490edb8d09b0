#pragma once
// Being asked to stop. Slurm warns a job of its end with a signal (sbatch --signal=B:USR2@300), mpirun passes USR1,
// USR2 and TERM on to its ranks, and people press Ctrl-C: all of it becomes one flag, which stages look at between
// items, so that they commit what they have and leave with exit code 75.

#include <optional>
#include <string_view>

namespace divergen {

/// From now on SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 raise the flag instead of ending the program; a second SIGINT ends
/// it as usual, for people who cannot wait. Interrupted system calls go on. Call once, early, from the main thread
/// (after MPI has been started: launchers install handlers of their own).
void install_stop_signals();

/// Whether one of them has come. Cheap; from any thread.
bool stop_signalled();
/// The name of the first that came, "SIGUSR1", or "" when none has.
std::string_view stop_signal_name();
/// Seconds since the first SIGTERM, after which a launcher will kill before long; nothing when none has come. Other
/// signals ask, and leave time.
std::optional<double> seconds_since_term();

}  // namespace divergen
