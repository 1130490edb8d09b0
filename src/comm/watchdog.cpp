#include "comm/watchdog.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "base/text.hpp"

namespace divergen::comm {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
// A thread that comes so late was stopped itself, perhaps with the whole job (scontrol suspend, a laptop's lid): what
// it knows of others is as old.
constexpr double kOwnPause = 2;
// Records reach other nodes at least so often; with many ranks less often, for the file system's sake.
constexpr double kFlushInterval = 10, kFlushesPerSecond = 100;
// Rank 0 speaks first, the others when it does not.
constexpr double kTurn = 2;
constexpr int kLastTurn = 3;
// Of a node's ranks the lowest speaks first. mpirun kills a second after it has asked the ranks to end.
constexpr auto kPeerTurn = std::chrono::milliseconds(300);
constexpr double kSecondsPerPeer = 0.002;
constexpr double kLeastSilence = 2;
// After MPI was asked to end the job.
constexpr auto kAbortTime = std::chrono::seconds(4);

Path record_file(const Path& folder, const std::string& stage, int rank) {
  return folder / cat(stage, ".rank-", rank, ".heartbeat");
}
Path lost_file(const Path& folder, const std::string& stage) { return folder / (stage + ".lost"); }

/// The records of a stage that lie in the folder.
std::vector<Path> record_files(const Path& folder, const std::string& stage) {
  std::vector<Path> out;
  const std::string prefix = stage + ".rank-";
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(".heartbeat")) out.push_back(entry.path());
  }
  return out;
}

/// Seconds between the last sign of life and now, by the clock that both share.
double silence_of(const RankState& state, bool same_host) {
  return std::max(0.0, same_host ? monotonic_seconds() - state.beat : epoch_seconds() - state.beat_epoch);
}

/// describe() for a record whose host's monotonic clock may not be ours.
std::string describe_from_here(const RankState& state, bool same_host) {
  return describe(state, same_host ? monotonic_seconds() : state.beat + silence_of(state, false));
}

std::string text_of(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += (out.empty() ? "" : "; ") + line;
  return out;
}

constexpr std::size_t kMostNamed = 8;

}  // namespace

std::vector<LostRank> find_lost(std::span<const RankSign> ranks, int me, double waited) {
  std::vector<LostRank> dead, gone, behind;
  std::array<std::uint64_t, kLanes> most{};
  for (const RankSign& sign : ranks)
    if (sign.state)
      for (std::size_t lane = 0; lane < kLanes; ++lane)
        most[lane] = std::max(most[lane], sign.state->lanes[lane].begun);
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const RankSign& sign = ranks[i];
    const int rank = static_cast<int>(i);
    if (rank == me) continue;
    if (!sign.state) {
      gone.push_back({rank, "it has left the job, or its record cannot be read"});
      continue;
    }
    const bool left = sign.state->leaving != Leaving::No;
    if (left) gone.push_back({rank, "it has left the job"});
    else if (sign.life == Life::Gone) dead.push_back({rank, "its process is gone"});
    else if (sign.life == Life::Stopped) dead.push_back({rank, "its process is stopped (SIGSTOP, or a debugger)"});
    else if (sign.silence > std::max(kLeastSilence, waited / 2))
      dead.push_back({rank, cat("it has given no sign of life for ", fixed(sign.silence, 0), " s")});
    for (std::size_t lane = 0; lane < kLanes && !left; ++lane) {
      if (sign.state->lanes[lane].begun >= most[lane]) continue;
      behind.push_back({rank, cat("it is alive, but has not come to the call #", most[lane], " that others are in")});
      break;
    }
  }
  if (!dead.empty()) return dead;
  return gone.empty() ? behind : gone;
}

Watchdog::Watchdog(World& world, Path folder, std::string stage)
    : world_(world), folder_(std::move(folder)), stage_(std::move(stage)), exceptions_(std::uncaught_exceptions()) {
  world.together([&] {
    if (!world.is_root()) return;
    if (const auto words = last_words(folder_, stage_)) log::warn("the start before this one: ", *words);
    for (const Path& file : record_files(folder_, stage_)) remove_quietly(file);
    remove_quietly(lost_file(folder_, stage_));
  });
  rank_record().attach(record_file(folder_, stage_, world.rank()), world.rank(), world.size(), world.host(), stage_);
  if (world.size() == 1) return;  // nobody to wait for; the record alone says where it ended
  find_peers();
  last_look_ = last_flush_ = monotonic_seconds();
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  rank_record().leave(Leaving::InOrder);
  // With an error the record stays, and says so: this rank may go on to end the others (World::abort).
  if (std::uncaught_exceptions() > exceptions_) return;
  rank_record().detach();
  remove_quietly(record_file(folder_, stage_, world_.rank()));
}

/// Collective. Peers are processes that can be seen from here, so that one that cannot any more has ended: containers
/// may hide them from each other.
void Watchdog::find_peers() {
  std::error_code unknown;
  const std::string space = std::filesystem::read_symlink("/proc/self/ns/pid", unknown).string();
  const std::string mine = cat(world_.host(), " ", space.empty() ? "?" : space, " ", ::getpid(), " ", own_start());
  std::string all;
  for (const std::string& one : world_.gather_texts(mine)) all += one + "\n";
  all = world_.broadcast_text(all);
  int rank = 0;
  for (const std::string& line : split(all, '\n')) {
    std::istringstream words(line);
    std::string host, its_space;
    Peer peer{rank++, 0, 0};
    words >> host >> its_space >> peer.pid >> peer.started;
    if (words && peer.rank != world_.rank() && host == world_.host() && its_space == space && !space.empty() &&
        life_of(peer.pid, peer.started) != Life::Gone)
      peers_.push_back(peer);
  }
  world_.barrier();  // nobody ends before it has been looked at
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kTick, [this] { return done_; })) look(monotonic_seconds());
}

void Watchdog::look(double now) {
  RankRecord& record = rank_record();
  record.beat();
  const bool was_stopped = now - std::exchange(last_look_, now) > kOwnPause;
  if (now - last_flush_ > std::max(kFlushInterval, world_.size() / kFlushesPerSecond)) {
    record.flush();
    last_flush_ = now;
  }
  // A look at a process takes some 20 microseconds, and a node may have hundreds.
  const bool due = now - last_peers_ > kSecondsPerPeer * static_cast<double>(peers_.size());
  if (due) last_peers_ = now;
  if (const auto peer = due ? vanished_peer() : std::nullopt) {
    // The one who was first may end the job, and this process with it, before this one has a word.
    const bool first = std::none_of(peers_.begin(), peers_.end(), [&](const Peer& other) {
      return other.rank < world_.rank() && life_of(other.pid, other.started) == Life::Runs;
    });
    if (!first) std::this_thread::sleep_for(kPeerTurn);
    const auto state = read_rank_record(record_file(folder_, stage_, peer->rank));
    const std::string whereabouts = state ? describe_from_here(*state, true) : cat("rank ", peer->rank);
    end_job(cat(whereabouts, "; its process is gone"));
  }
  const RankState mine = record.state();
  const double patience = record.patience();
  for (std::size_t i = 0; i < kLanes; ++i) {
    const LaneState& lane = mine.lanes[i];
    Wait& wait = waits_[i];
    if (was_stopped || !lane.is_inside() || wait.call != lane.begun) wait = {lane.begun, now};
    const double waited = now - wait.since;
    if (patience <= 0 || waited < patience + kTurn * std::min(world_.rank(), kLastTurn)) continue;
    end_job(explain_wait(static_cast<Lane>(i), waited));
  }
}

std::optional<Watchdog::Peer> Watchdog::vanished_peer() const {
  for (const Peer& peer : peers_) {
    if (life_of(peer.pid, peer.started) != Life::Gone) continue;
    // One that left in order has taken its record away, or says so in it.
    const auto state = read_rank_record(record_file(folder_, stage_, peer.rank));
    if (state && state->pid == peer.pid && state->leaving == Leaving::No) return peer;
  }
  return std::nullopt;
}

RankSign Watchdog::sign_of(int rank) const {
  RankSign out;
  out.state = read_rank_record(record_file(folder_, stage_, rank));
  if (!out.state) return out;
  out.silence = silence_of(*out.state, out.state->host == world_.host());
  for (const Peer& peer : peers_)
    if (peer.rank == rank) out.life = life_of(peer.pid, peer.started);
  return out;
}

std::string Watchdog::explain_wait(Lane lane, double waited) const {
  std::vector<RankSign> signs;
  for (int rank = 0; rank < world_.size(); ++rank) signs.push_back(sign_of(rank));
  const auto lost = find_lost(signs, world_.rank(), waited);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < std::min(lost.size(), kMostNamed); ++i) {
    const auto& state = signs[static_cast<std::size_t>(lost[i].rank)].state;
    lines.push_back(cat(state ? describe_from_here(*state, state->host == world_.host()) : cat("rank ", lost[i].rank),
                        "; ", lost[i].why));
  }
  if (lost.size() > kMostNamed) lines.push_back(cat("and ", lost.size() - kMostNamed, " more"));
  if (lost.empty()) lines.push_back("all ranks are alive and in the same call: the network does not carry it");
  const RankState mine = rank_record().state();
  return cat(text_of(lines), ". Rank ", world_.rank(), " on ", world_.host(), " has waited ", fixed(waited, 1),
             " s in the ", to_string(mine.lane(lane).call), " #", mine.lane(lane).begun);
}

void Watchdog::end_job(const std::string& why) {
  const Error error(ErrorKind::Comm, {"a rank is lost", cat("stage ", stage_), why,
                                      "submit or run the same again to go on from what was committed"});
  log::error(error.what());
  try {
    write_file_atomic(lost_file(folder_, stage_), why + "\n");
  } catch (const Error& problem) {
    log::debug("the loss is not noted: ", problem.what());
  }
  rank_record().leave(Leaving::EndedJob);
  // MPI may be what hangs: then this process goes, and takes along what is left on its node, stopped processes too.
  std::thread([peers = peers_] {
    std::this_thread::sleep_for(kAbortTime);
    for (const Peer& peer : peers)
      if (life_of(peer.pid, peer.started) != Life::Gone) ::kill(static_cast<pid_t>(peer.pid), SIGKILL);
    std::_Exit(exit_code(ErrorKind::Comm));
  }).detach();
  world_.abort(exit_code(ErrorKind::Comm));
}

std::optional<std::string> last_words(const Path& folder, const std::string& stage) {
  std::error_code absent;
  if (std::filesystem::exists(lost_file(folder, stage), absent)) {
    std::string text = read_file(lost_file(folder, stage));
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return "a rank was lost: " + text;
  }
  std::vector<RankState> ended_from_outside;
  for (const Path& file : record_files(folder, stage)) {
    const auto state = read_rank_record(file);
    if (!state) continue;
    if (state->leaving == Leaving::EndedJob) return std::nullopt;  // it has told why, and ended the others
    if (state->leaving == Leaving::No) ended_from_outside.push_back(*state);
  }
  if (ended_from_outside.empty()) return std::nullopt;
  std::sort(ended_from_outside.begin(), ended_from_outside.end(),
            [](const RankState& a, const RankState& b) { return a.beat_epoch < b.beat_epoch; });
  // The rank that fell silent first comes first.
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < std::min(ended_from_outside.size(), kMostNamed); ++i)
    lines.push_back(describe(ended_from_outside[i], ended_from_outside[i].beat));
  if (ended_from_outside.size() > kMostNamed)
    lines.push_back(cat("and ", ended_from_outside.size() - kMostNamed, " more"));
  return cat(ended_from_outside.size(), " of ", ended_from_outside.front().ranks,
             " ranks were ended from outside (kill -9, out of memory, a lost node): ", text_of(lines));
}

}  // namespace divergen::comm
