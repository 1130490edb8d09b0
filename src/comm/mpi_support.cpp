#include "comm/mpi_support.hpp"

#include <sched.h>

#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace divergen::comm::detail {
namespace {

template <class T>
MPI_Datatype type_of() {
  if constexpr (std::is_same_v<T, float>) return MPI_FLOAT;
  if constexpr (std::is_same_v<T, double>) return MPI_DOUBLE;
  if constexpr (std::is_same_v<T, std::int32_t>) return MPI_INT32_T;
  if constexpr (std::is_same_v<T, std::int64_t>) return MPI_INT64_T;
}

/// Bytes of one piece of a sum: the parts of a piece stay in the cache, and the scratch memory stays small.
constexpr std::size_t kSumPieceBytes = std::size_t{8} << 20;

// Memory for `count` numbers, with unspecified values; kept for the next sum of this thread (a fresh mapping for each
// cost as much as the sum itself).
template <class T>
T* scratch(std::size_t count) {
  thread_local std::unique_ptr<std::byte[]> memory;
  thread_local std::size_t size = 0;
  if (size < count * sizeof(T)) {
    size = count * sizeof(T);
    memory = std::make_unique_for_overwrite<std::byte[]>(size);
  }
  return reinterpret_cast<T*>(memory.get());
}

// out[i] = parts[0][i] + parts[1][i] + ..., the parts of two ranks or more lying one after another.
template <class T>
void add_parts(T* out, const T* parts, std::size_t each, int ranks) {
  for (std::size_t i = 0; i < each; ++i) out[i] = parts[i] + parts[each + i];
  for (int r = 2; r < ranks; ++r) {
    const T* part = parts + static_cast<std::size_t>(r) * each;
    for (std::size_t i = 0; i < each; ++i) out[i] += part[i];
  }
}

// Few numbers: everybody gets everything and adds up by itself; one exchange.
template <class T>
void sum_small(MPI_Comm comm, T* values, int count, int ranks) {
  T* all = scratch<T>(static_cast<std::size_t>(count) * static_cast<std::size_t>(ranks));
  MPI_Request request;
  check(MPI_Iallgather(values, count, type_of<T>(), all, count, type_of<T>(), comm, &request), "sum");
  wait(request, "sum", kBusyPause);  // twice in each step of a training
  add_parts(values, all, static_cast<std::size_t>(count), ranks);
}

// Many: rank r adds up the r-th part of the numbers and hands the result to all. Each rank sends and receives
// 2 (ranks-1)/ranks of the data, as little as any all-reduce can.
template <class T>
void sum_large(MPI_Comm comm, T* values, int count, int ranks, int me) {
  std::vector<int> counts(static_cast<std::size_t>(ranks)), offsets(counts.size()), mine(counts.size()),
      mine_offsets(counts.size());
  for (int r = 0, offset = 0; r < ranks; ++r) {
    const auto i = static_cast<std::size_t>(r);
    counts[i] = count / ranks + (r < count % ranks ? 1 : 0);
    offsets[i] = offset;
    offset += counts[i];
  }
  const int each = counts[static_cast<std::size_t>(me)];
  for (int r = 0; r < ranks; ++r) {
    mine[static_cast<std::size_t>(r)] = each;
    mine_offsets[static_cast<std::size_t>(r)] = r * each;
  }
  T* parts = scratch<T>(static_cast<std::size_t>(each) * static_cast<std::size_t>(ranks));
  MPI_Request request;
  check(MPI_Ialltoallv(values, counts.data(), offsets.data(), type_of<T>(), parts, mine.data(), mine_offsets.data(),
                       type_of<T>(), comm, &request),
        "sum");
  wait(request, "sum", kBusyPause);
  add_parts(values + offsets[static_cast<std::size_t>(me)], parts, static_cast<std::size_t>(each), ranks);
  check(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values, counts.data(), offsets.data(), type_of<T>(), comm,
                        &request),
        "sum");
  wait(request, "sum", kBusyPause);
}

}  // namespace

void check(int code, std::string_view what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown MPI error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(ErrorKind::Comm, {"communication between the ranks failed", std::string(what), text,
                         "look for a rank or node that died (its log comes first), then run the same command again: it "
                         "continues"});
}

void Backoff::pause() {
  if (tries_ < kYields) {
    ++tries_;
    sched_yield();
    return;
  }
  std::this_thread::sleep_for(sleep_);
  sleep_ = std::min(sleep_ * 2, longest_);
}

void wait(MPI_Request& request, std::string_view what, std::chrono::microseconds longest_pause) {
  Backoff backoff(longest_pause);
  for (int done = 0;;) {
    check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), what);
    if (done) return;
    backoff.pause();
  }
}

MPI_Comm duplicate_world() {
  // MPI_Comm_dup spins until the last rank has come; the barrier waits for it asleep.
  sleeping_barrier(MPI_COMM_WORLD);
  MPI_Comm made = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &made), "duplicate the communicator");
  return made;
}

template <class T>
void ordered_sum(MPI_Comm comm, T* values, std::size_t count) {
  int ranks = 1, me = 0;
  check(MPI_Comm_size(comm, &ranks), "sum");
  check(MPI_Comm_rank(comm, &me), "sum");
  if (ranks == 1) return;
  constexpr std::size_t kSmall = 512;  // numbers; below it the time is all latency, and one exchange beats two
  while (count > 0) {
    const std::size_t now = std::min(count, kSumPieceBytes / sizeof(T));
    if (now <= kSmall) {
      sum_small(comm, values, static_cast<int>(now), ranks);
    } else {
      sum_large(comm, values, static_cast<int>(now), ranks, me);
    }
    values += now;
    count -= now;
  }
}

template void ordered_sum<float>(MPI_Comm, float*, std::size_t);
template void ordered_sum<double>(MPI_Comm, double*, std::size_t);
template void ordered_sum<std::int32_t>(MPI_Comm, std::int32_t*, std::size_t);
template void ordered_sum<std::int64_t>(MPI_Comm, std::int64_t*, std::size_t);

void broadcast_bytes(MPI_Comm comm, void* bytes, std::size_t count, int root) {
  auto* at = static_cast<std::byte*>(bytes);
  while (count > 0) {
    const std::size_t now = std::min(count, kPieceBytes);
    MPI_Request request;
    check(MPI_Ibcast(at, static_cast<int>(now), MPI_BYTE, root, comm, &request), "broadcast");
    // Short messages are often long awaited (a plan, a decision of rank 0); long ones must be kept moving.
    wait(request, "broadcast", now > 65536 ? kBusyPause : std::chrono::microseconds(1000));
    at += now;
    count -= now;
  }
}

void sleeping_barrier(MPI_Comm comm) {
  MPI_Request request;
  check(MPI_Ibarrier(comm, &request), "barrier");
  wait(request, "barrier");
}

}  // namespace divergen::comm::detail
