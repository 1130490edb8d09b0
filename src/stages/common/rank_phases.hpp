#pragma once
// Where the time of a stage's ranks went, for scaling studies (reference/reliability.md §7): told by each rank, kept in
// the stage's record as means.

#include <map>
#include <string>
#include <vector>

#include "base/time_use.hpp"

namespace divergen::stages {

/// Of one rank. Between start and end it worked (steady) and waited for what is named here; the rest was for claims.
struct RankPhases {
  double ready = 0;                                             // seconds since the epoch: MPI was there
  double start = 0, end = 0;                                    // of its first and last claim; start 0: it had nothing
  double steady = 0, load = 0, commit = 0, wait = 0, comm = 0;  // seconds; wait: for input; comm: for other ranks
};

std::string to_text(const RankPhases& phases);
RankPhases rank_phases_of(const std::string& text);

/// Adds to a record's figures: phase_ready, phase_first, phase_last (seconds since the epoch: mean readiness, first
/// start, last end), and means of seconds over the ranks: phase_load (from readiness on), phase_steady, phase_wait,
/// phase_comm, phase_commit, phase_queue (for claims), phase_tail (idle until the last rank's end).
void add_phases(std::map<std::string, double>& figures, const std::vector<RankPhases>& ranks);

/// What time_use() has seen since `before`, between the first claim and the last.
void take_phases(RankPhases& phases, const TimeUseClock::Seconds& before);

}  // namespace divergen::stages
