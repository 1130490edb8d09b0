#include "base/rank_record.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"

namespace divergen {
namespace detail {

/// The layout of the file. Notes are single words, so that a reader never sees half of one.
struct RecordPage {
  static constexpr std::uint64_t kMagic = 0x3145'4b4e'4152'5644;  // "DVRANKE1"

  struct LaneWords {
    std::atomic<std::uint64_t> begun{0}, ended{0}, bytes{0};
    std::atomic<std::int64_t> changed{0};  // nanoseconds
    std::atomic<std::uint32_t> call{0};
  };
  std::uint64_t magic = kMagic;
  std::int32_t rank = 0, ranks = 1;
  std::int64_t pid = 0;
  std::uint64_t started = 0;
  char host[128] = {}, stage[128] = {};
  std::atomic<std::int64_t> beat{0}, beat_epoch{0};  // nanoseconds
  std::atomic<std::int64_t> step{-1};
  std::atomic<std::uint32_t> phase{0}, leaving{0};
  std::array<LaneWords, kLanes> lanes;
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free);

}  // namespace detail

namespace {

using detail::RecordPage;

constexpr std::size_t kFileBytes = 4096;
static_assert(sizeof(RecordPage) <= kFileBytes);

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string text_of(const char* field, std::size_t size) { return {field, ::strnlen(field, size)}; }

RankState state_of(const RecordPage& page) {
  RankState out;
  out.rank = page.rank;
  out.ranks = page.ranks;
  out.pid = page.pid;
  out.started = page.started;
  out.host = text_of(page.host, sizeof page.host);
  out.stage = text_of(page.stage, sizeof page.stage);
  out.beat = static_cast<double>(page.beat.load()) * 1e-9;
  out.beat_epoch = static_cast<double>(page.beat_epoch.load()) * 1e-9;
  out.step = page.step.load();
  out.phase = static_cast<Phase>(page.phase.load());
  out.leaving = static_cast<Leaving>(page.leaving.load());
  for (std::size_t i = 0; i < kLanes; ++i) {
    const auto& from = page.lanes[i];
    LaneState& to = out.lanes[i];
    to.ended = from.ended.load(std::memory_order_acquire);  // before begun: never more ended than begun
    to.begun = from.begun.load(std::memory_order_acquire);
    to.call = static_cast<Call>(from.call.load());
    to.bytes = from.bytes.load();
    to.changed = static_cast<double>(from.changed.load()) * 1e-9;
  }
  return out;
}

/// Fields of /proc/<pid>/stat behind the name, which may hold anything but ends with the last parenthesis.
std::optional<std::pair<char, std::uint64_t>> stat_of(std::int64_t pid) {
  std::ifstream in(cat("/proc/", pid, "/stat"));
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(name_end + 1));
  char state = '?';
  rest >> state;  // field 3
  std::string skipped;
  for (int field = 4; field < 22; ++field) rest >> skipped;
  std::uint64_t started = 0;
  rest >> started;  // field 22
  if (!rest) return std::nullopt;
  return std::pair{state, started};
}

std::string size_text(std::uint64_t bytes) {
  if (bytes >= 1 << 20) return cat(fixed(static_cast<double>(bytes) / (1 << 20), 1), " MiB");
  if (bytes >= 1 << 10) return cat(fixed(static_cast<double>(bytes) / (1 << 10), 1), " KiB");
  return cat(bytes, " bytes");
}

}  // namespace

std::string_view to_string(Call call) {
  switch (call) {
    case Call::Barrier:
      return "barrier";
    case Call::Broadcast:
      return "broadcast";
    case Call::Gather:
      return "gather";
    case Call::Sum:
      return "sum";
    case Call::Maximum:
      return "maximum";
    case Call::GradientSum:
      return "sum of gradients";
    case Call::GradientsOnDevice:
      return "sum of gradients by NCCL";
    case Call::None:
      return "none";
  }
  return "unknown";
}

std::string_view to_string(Phase phase) {
  switch (phase) {
    case Phase::Starting:
      return "starting";
    case Phase::Forward:
      return "samples and forward";
    case Phase::Backward:
      return "backward";
    case Phase::Agreement:
      return "agreement of the step";
    case Phase::Comparison:
      return "comparison of replicas";
    case Phase::Saving:
      return "saving";
    case Phase::Restoring:
      return "restoring";
    case Phase::Ending:
      return "ending";
    case Phase::Other:
      return "";
  }
  return "unknown";
}

std::string describe(const RankState& state, double now) {
  std::string out = cat("rank ", state.rank, " on ", state.host, " (process ", state.pid, "): ");
  if (state.step >= 0) out += cat("step ", state.step, ", ");
  if (const auto phase = to_string(state.phase); !phase.empty()) out += cat(phase, "; ");
  // The lane that changed last is what the rank was at.
  std::size_t last = 0;
  for (std::size_t i = 1; i < kLanes; ++i) {
    const LaneState &one = state.lanes[i], &best = state.lanes[last];
    if (std::pair(one.is_inside(), one.changed) > std::pair(best.is_inside(), best.changed)) last = i;
  }
  const LaneState& lane = state.lanes[last];
  out += cat("last collective: ", to_string(lane.call));
  if (lane.call == Call::None) return out;
  out += cat(" #", lane.begun);
  if (lane.bytes > 0) out += cat(" (", size_text(lane.bytes), ")");
  const std::string ago = fixed(std::max(0.0, now - lane.changed), 1);
  return out + (lane.is_inside() ? cat(", in it for ", ago, " s") : cat(", left ", ago, " s ago"));
}

detail::RecordPage& RankRecord::own_page() {
  static RecordPage page;
  return page;
}

bool RankRecord::attach(const Path& file, int rank, int ranks, const std::string& host, const std::string& stage) {
  const auto refuse = [&](const char* what, int number) {
    log::warn("a lost rank ", rank, " could not be named: cannot ", what, " ", file.string(), ": ",
              std::strerror(number));
    return false;
  };
  remove_quietly(file);
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return refuse("make", errno);
  // With its blocks: a page that finds no room when it is written to would end the process.
  if (const int number = ::posix_fallocate(descriptor, 0, kFileBytes); number != 0) {
    ::close(descriptor);
    return refuse("make room for", number);
  }
  void* memory = ::mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  const int number = errno;
  ::close(descriptor);
  if (memory == MAP_FAILED) return refuse("map", number);
  auto* page = new (memory) RecordPage;
  page->rank = rank;
  page->ranks = ranks;
  page->pid = ::getpid();
  page->started = own_start();
  std::copy_n(host.data(), std::min(host.size(), sizeof page->host - 1), page->host);
  std::copy_n(stage.data(), std::min(stage.size(), sizeof page->stage - 1), page->stage);
  page_.store(page, std::memory_order_release);
  beat();
  return true;
}

void RankRecord::detach() { page_.store(&own_page(), std::memory_order_release); }

void RankRecord::begin(Lane lane, Call call, std::uint64_t bytes) {
  auto& words = page().lanes[static_cast<std::size_t>(lane)];
  words.call.store(static_cast<std::uint32_t>(call), std::memory_order_relaxed);
  words.bytes.store(bytes, std::memory_order_relaxed);
  words.changed.store(now_ns(), std::memory_order_relaxed);
  words.begun.fetch_add(1, std::memory_order_release);
}

void RankRecord::end(Lane lane) {
  auto& words = page().lanes[static_cast<std::size_t>(lane)];
  words.changed.store(now_ns(), std::memory_order_relaxed);
  words.ended.store(words.begun.load(std::memory_order_relaxed), std::memory_order_release);
}

void RankRecord::set_step(std::int64_t step) { page().step.store(step, std::memory_order_relaxed); }
void RankRecord::set_phase(Phase phase) {
  page().phase.store(static_cast<std::uint32_t>(phase), std::memory_order_relaxed);
}
void RankRecord::leave(Leaving how) { page().leaving.store(static_cast<std::uint32_t>(how)); }

void RankRecord::beat() {
  page().beat.store(now_ns(), std::memory_order_relaxed);
  page().beat_epoch.store(static_cast<std::int64_t>(epoch_seconds() * 1e9), std::memory_order_relaxed);
}

void RankRecord::flush() {
  RecordPage& now = page();
  if (&now != &own_page()) ::msync(&now, kFileBytes, MS_SYNC);
}

RankState RankRecord::state() const { return state_of(page()); }

RankRecord& rank_record() {
  static RankRecord record;
  return record;
}

std::optional<RankState> read_rank_record(const Path& file) {
  // Opened anew each time: network file systems show what others wrote at opening.
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return std::nullopt;
  alignas(RecordPage) std::byte bytes[sizeof(RecordPage)];
  const auto got = ::pread(descriptor, bytes, sizeof bytes, 0);
  ::close(descriptor);
  const auto* page = reinterpret_cast<const RecordPage*>(bytes);
  if (got != static_cast<ssize_t>(sizeof bytes) || page->magic != RecordPage::kMagic) return std::nullopt;
  return state_of(*page);
}

Life life_of(std::int64_t pid, std::uint64_t started) {
  const auto stat = stat_of(pid);
  if (!stat || stat->second != started || stat->first == 'Z' || stat->first == 'X') return Life::Gone;
  return stat->first == 'T' || stat->first == 't' ? Life::Stopped : Life::Runs;
}

std::uint64_t own_start() {
  const auto stat = stat_of(::getpid());
  return stat ? stat->second : 0;
}

double monotonic_seconds() { return static_cast<double>(now_ns()) * 1e-9; }

}  // namespace divergen
