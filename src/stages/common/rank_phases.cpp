#include "stages/common/rank_phases.hpp"

#include <algorithm>

#include <nlohmann/json.hpp>

namespace divergen::stages {

std::string to_text(const RankPhases& p) {
  return nlohmann::json{p.ready, p.start, p.end, p.steady, p.load, p.commit, p.wait, p.comm}.dump();
}

RankPhases rank_phases_of(const std::string& text) {
  const auto n = nlohmann::json::parse(text).get<std::vector<double>>();
  return {n.at(0), n.at(1), n.at(2), n.at(3), n.at(4), n.at(5), n.at(6), n.at(7)};
}

void add_phases(std::map<std::string, double>& figures, const std::vector<RankPhases>& ranks) {
  double first = 0, last = 0;
  for (const RankPhases& p : ranks) {
    if (p.start <= 0) continue;
    first = first == 0 ? p.start : std::min(first, p.start);
    last = std::max(last, p.end);
  }
  if (ranks.empty() || last == 0) return;
  const auto n = static_cast<double>(ranks.size());
  const auto add = [&](const char* name, double seconds) { figures[name] += std::max(0.0, seconds) / n; };
  for (const char* name : {"phase_ready", "phase_load", "phase_steady", "phase_wait", "phase_comm", "phase_commit",
                           "phase_queue", "phase_tail"})
    figures[name] = 0;
  for (const RankPhases& p : ranks) {
    add("phase_ready", p.ready);
    if (p.start <= 0) {  // nothing was left for it
      add("phase_tail", last - p.ready);
      continue;
    }
    add("phase_load", p.start - p.ready + p.load);
    add("phase_steady", p.steady);
    add("phase_wait", p.wait);
    add("phase_comm", p.comm);
    add("phase_commit", p.commit);
    add("phase_queue", p.end - p.start - p.load - p.steady - p.wait - p.comm - p.commit);
    add("phase_tail", last - p.end);
  }
  figures["phase_first"] = first;
  figures["phase_last"] = last;
}

void take_phases(RankPhases& phases, const TimeUseClock::Seconds& before) {
  const auto since = [&](TimeUse use) { return time_use().seconds(use) - before[static_cast<std::size_t>(use)]; };
  phases.ready = time_use().ready();
  phases.load = since(TimeUse::Load);
  phases.commit = since(TimeUse::Commit);
  phases.wait = since(TimeUse::Input);
}

}  // namespace divergen::stages
