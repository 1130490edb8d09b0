#pragma once
// Faults on request, for tests of what must survive them: named points of the code at which a process can be killed,
// stopped for a while, or made to fail, and at which its numbers can be spoilt. Compiled in always, off unless asked
// for; a point that is off costs one load.
//
//   fault::reach("commit.renamed");                              in the code
//   DIVERGEN_FAULT=commit.renamed:kill:3 divergen run ...        dies at the third time of reaching it
//   fault::arm("commit.renamed", fault::Action::Kill, 3);        the same, from a test
//   if (fault::spoils("train.loss")) loss = loss * NaN;          in the code: what a faulty device would do

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace divergen::fault {

enum class Action {
  Kill,   // "kill": the process ends as by kill -9
  Fail,   // "fail": Error(Io) with EIO, once
  Pause,  // "pause": sleeps 10 s or up to disarm(), for signals from outside
  Spoil,  // "spoil": spoils() says so, once; reach() does nothing
  Break,  // "break": std::runtime_error, this time and every time after it, as a defective device would
};

/// At the `hit`-th time (1: the first) that `point` is reached from now on. Replaces what was armed before.
void arm(std::string point, Action action, std::int64_t hit = 1);
/// Also ends a pause that is going on.
void disarm();
/// From the form "point:action[:hit]" of DIVERGEN_FAULT. Throws Error(Usage).
void arm(std::string_view text);

namespace detail {
extern std::atomic<bool> is_armed;
void reach(const char* point);
bool spoils(const char* point);
}  // namespace detail

/// A place where a fault can be asked for. Thread-safe.
inline void reach(const char* point) {
  if (detail::is_armed.load(std::memory_order_relaxed)) [[unlikely]]
    detail::reach(point);
}

/// Whether the numbers that are at hand at this place are to be made bad now. Thread-safe.
inline bool spoils(const char* point) {
  if (detail::is_armed.load(std::memory_order_relaxed)) [[unlikely]]
    return detail::spoils(point);
  return false;
}

}  // namespace divergen::fault
