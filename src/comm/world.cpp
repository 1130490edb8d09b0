#include "comm/world.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <optional>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/rank_record.hpp"
#include "comm/mpi_support.hpp"

namespace divergen::comm {
namespace {

using detail::check;
using detail::wait;

constexpr int kTextTag = 11;

// Whether mpirun, srun or a PMI-speaking launcher started this process.
bool was_launched() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr ||
         std::getenv("PMI_RANK") != nullptr;
}

// What a rank tells the others of its failure: "<kind>\n<message>"; no kind for exceptions that are not ours.
struct Failure {
  std::exception_ptr exception;
  std::string report;
};

std::optional<Failure> attempt(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return Failure{std::current_exception(), cat(static_cast<int>(error.kind()), "\n", error.what())};
  } catch (const std::exception& error) {
    return Failure{std::current_exception(), cat(static_cast<int>(ErrorKind::Comm), "\n", error.what())};
  } catch (...) {
    return Failure{std::current_exception(), cat(static_cast<int>(ErrorKind::Comm), "\nunknown exception")};
  }
  return std::nullopt;
}

}  // namespace

World::World(int* argc, char*** argv) {
  int started = 0;
  MPI_Initialized(&started);
  DIVERGEN_CHECK(!started, "MPI has been started already: one World a process");
  // Without a launcher Open MPI would start its daemon, which refuses root; a lone process needs none.
  const bool alone = !was_launched();
  if (alone) setenv("OMPI_MCA_ess_singleton_isolated", "1", 1);
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS)
    fail(ErrorKind::Comm, {"MPI does not start", "", "MPI_Init_thread failed",
                           "run `divergen doctor`; start the program through mpirun, srun, or alone"});
  if (provided < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    fail(ErrorKind::Comm, {"this MPI cannot be used", "", "it does not give MPI_THREAD_MULTIPLE",
                           "use an MPI that was built with thread support (Open MPI 4 is, by default)"});
  }
  if (alone) unsetenv("OMPI_MCA_ess_singleton_isolated");  // not for programs that this one starts
  exceptions_ = std::uncaught_exceptions();
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "start");
  check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "start");
  MPI_Comm node = MPI_COMM_NULL;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node), "start");
  check(MPI_Comm_rank(node, &local_rank_), "start");
  check(MPI_Comm_size(node, &local_size_), "start");
  check(MPI_Comm_free(&node), "start");
  char name[256] = "unknown";
  gethostname(name, sizeof(name) - 1);
  // Slurm's own name of the node is the one to drain or to exclude.
  const char* node_name = std::getenv("SLURMD_NODENAME");
  host_ = node_name != nullptr ? node_name : name;
}

World::~World() {
  if (std::uncaught_exceptions() > exceptions_ && size_ > 1) abort(exit_code(ErrorKind::Comm));
  try {
    barrier();  // MPI_Finalize waits for the last rank, and spins while it does
  } catch (const Error& error) {
    log::error(error.what());
  }
  MPI_Finalize();
}

void World::barrier() {
  if (size_ == 1) return;
  const InCall note(Lane::Main, Call::Barrier);
  detail::sleeping_barrier(MPI_COMM_WORLD);
}

void World::broadcast(std::span<std::byte> bytes, int root) {
  if (size_ == 1) return;
  const InCall note(Lane::Main, Call::Broadcast, bytes.size());
  detail::broadcast_bytes(MPI_COMM_WORLD, bytes.data(), bytes.size(), root);
}

std::string World::broadcast_text(std::string text, int root) {
  if (size_ == 1) return text;
  const InCall note(Lane::Main, Call::Broadcast, text.size());
  std::uint64_t length = text.size();
  detail::broadcast_bytes(MPI_COMM_WORLD, &length, sizeof(length), root);
  text.resize(length);
  detail::broadcast_bytes(MPI_COMM_WORLD, text.data(), length, root);
  return text;
}

std::vector<std::string> World::gather_texts(const std::string& text) {
  if (size_ == 1) return {text};
  const InCall note(Lane::Main, Call::Gather, text.size());
  std::uint64_t mine = text.size();
  std::vector<std::uint64_t> lengths(is_root() ? static_cast<std::size_t>(size_) : 0);
  MPI_Request request;
  check(MPI_Igather(&mine, 1, MPI_UINT64_T, lengths.data(), 1, MPI_UINT64_T, 0, MPI_COMM_WORLD, &request), "gather");
  wait(request, "gather");

  // From rank to rank in pieces rather than by MPI_Gatherv, whose offsets are ints: all detections of LVIS exceed them.
  const auto pieces = [](std::size_t length, const auto& each) {
    for (std::size_t at = 0; at < length; at += detail::kPieceBytes)
      each(at, std::min(detail::kPieceBytes, length - at));
  };
  if (!is_root()) {
    pieces(text.size(), [&](std::size_t at, std::size_t count) {
      check(MPI_Isend(text.data() + at, static_cast<int>(count), MPI_BYTE, 0, kTextTag, MPI_COMM_WORLD, &request),
            "gather");
      wait(request, "gather", detail::kBusyPause);
    });
    return {};
  }
  std::vector<std::string> all(lengths.size());
  all[0] = text;
  for (std::size_t r = 1; r < all.size(); ++r) {
    all[r].resize(lengths[r]);
    pieces(lengths[r], [&](std::size_t at, std::size_t count) {
      check(MPI_Irecv(all[r].data() + at, static_cast<int>(count), MPI_BYTE, static_cast<int>(r), kTextTag,
                      MPI_COMM_WORLD, &request),
            "gather");
      wait(request, "gather", detail::kBusyPause);
    });
  }
  return all;
}

namespace {
template <class T>
void noted_sum(std::span<T> values) {
  const InCall note(Lane::Main, Call::Sum, values.size_bytes());
  detail::ordered_sum(MPI_COMM_WORLD, values.data(), values.size());
}
}  // namespace

void World::sum(std::span<double> values) { noted_sum(values); }
void World::sum(std::span<float> values) { noted_sum(values); }
void World::sum(std::span<std::int64_t> values) { noted_sum(values); }

std::int64_t World::max(std::int64_t value) {
  if (size_ == 1) return value;
  const InCall note(Lane::Main, Call::Maximum, sizeof(value));
  std::int64_t most = value;
  MPI_Request request;
  check(MPI_Iallreduce(&value, &most, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD, &request), "maximum");
  wait(request, "maximum");
  return most;
}

bool World::any(bool value) { return max(value ? 1 : 0) != 0; }

void World::together(const std::function<void()>& action) {
  if (size_ == 1) return action();
  const std::optional<Failure> mine = attempt(action);
  const std::int64_t first = size_ - max(mine ? size_ - rank_ : 0);  // lowest rank that failed; size_: none did
  if (first == size_) return;
  const std::string report = broadcast_text(mine ? mine->report : "", static_cast<int>(first));
  const std::string host = broadcast_text(host_, static_cast<int>(first));
  if (mine) std::rethrow_exception(mine->exception);
  const std::size_t line_end = report.find('\n');
  fail(static_cast<ErrorKind>(std::stoi(report.substr(0, line_end))),
       {"another rank could not go on", cat("rank ", first, " on ", host), report.substr(line_end + 1), ""});
}

void World::abort(int exit_code) {
  rank_record().leave(Leaving::EndedJob);
  log::flush();
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace divergen::comm
