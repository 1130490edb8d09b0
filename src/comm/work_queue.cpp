#include "comm/work_queue.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.hpp"
#include "comm/mpi_support.hpp"

namespace divergen::comm {
namespace {

constexpr int kRequestTag = 1, kReplyTag = 2;
// A look for requests takes some 20 us of a core (Open MPI polls all its transports), so this costs 1 % of one.
constexpr std::chrono::microseconds kServicePause{2000};
// Of a rank that waits for its answer: the service is there within its pause, so there is no point in longer ones.
constexpr std::chrono::microseconds kClaimPause{200};
enum class Request : std::int64_t { Claim, Close, Done };

}  // namespace

/// The counter, and on rank 0 of several ranks the thread that serves the others.
struct WorkQueue::Service {
  std::mutex mutex;
  std::int64_t next = 0;

  std::thread thread;
  std::atomic<bool> stop{false};
  std::exception_ptr failure;  // of the thread; read after it was joined

  Claim take(std::int64_t items, std::int64_t largest, int ranks) {
    const std::lock_guard lock(mutex);
    const std::int64_t left = items - next;
    if (left <= 0) return {};
    const Claim claim{next, std::clamp<std::int64_t>(left / (2 * ranks), 1, largest)};
    next += claim.count;
    return claim;
  }
  void close(std::int64_t items) {
    const std::lock_guard lock(mutex);
    next = items;
  }

  // Ends when all other ranks are done, or on `stop`.
  void serve(MPI_Comm comm, std::int64_t items, std::int64_t largest, int ranks);
};

void WorkQueue::Service::serve(MPI_Comm comm, std::int64_t items, std::int64_t largest, int ranks) {
  detail::Backoff backoff(kServicePause);
  for (int done = 0; done < ranks - 1 && !stop;) {
    int found = 0;
    MPI_Message message;
    MPI_Status status;
    detail::check(MPI_Improbe(MPI_ANY_SOURCE, kRequestTag, comm, &found, &message, &status), "work queue");
    if (!found) {
      backoff.pause();
      continue;
    }
    backoff.reset();
    Request request;
    detail::check(MPI_Mrecv(&request, 1, MPI_INT64_T, &message, MPI_STATUS_IGNORE), "work queue");
    if (request == Request::Done) ++done;
    if (request == Request::Close) close(items);
    if (request == Request::Claim) {
      const Claim claim = take(items, largest, ranks);
      const std::int64_t reply[2] = {claim.first, claim.count};
      // 16 bytes go out at once (MPI buffers so short a message): this does not wait for the other side.
      detail::check(MPI_Send(reply, 2, MPI_INT64_T, status.MPI_SOURCE, kReplyTag, comm), "work queue");
    }
  }
}

WorkQueue::WorkQueue(World& world, std::int64_t items, std::int64_t largest_claim)
    : world_(world), items_(items), largest_claim_(largest_claim), service_(std::make_unique<Service>()) {
  DIVERGEN_CHECK(items >= 0 && largest_claim >= 1, items, " items, claims of ", largest_claim);
  if (world.size() == 1) return;
  channel_ = detail::to_pointer(detail::duplicate_world());
  if (!world.is_root()) return;
  service_->thread = std::thread([this, ranks = world.size()] {
    try {
      service_->serve(detail::to_comm(channel_), items_, largest_claim_, ranks);
    } catch (...) {
      service_->failure = std::current_exception();
    }
  });
}

WorkQueue::~WorkQueue() {
  service_->stop = true;
  if (service_->thread.joinable()) service_->thread.join();
  // Without finish() the communicator is left to MPI's end: freeing it would need all ranks.
}

WorkQueue::Claim WorkQueue::claim() {
  DIVERGEN_CHECK(!finished_, "claim() after finish()");
  if (world_.is_root()) return service_->take(items_, largest_claim_, world_.size());
  const Request request = Request::Claim;
  std::int64_t reply[2] = {0, 0};
  MPI_Request received;
  detail::check(MPI_Irecv(reply, 2, MPI_INT64_T, 0, kReplyTag, detail::to_comm(channel_), &received), "claim work");
  detail::check(MPI_Send(&request, 1, MPI_INT64_T, 0, kRequestTag, detail::to_comm(channel_)), "claim work");
  detail::wait(received, "claim work", kClaimPause);
  return {reply[0], reply[1]};
}

void WorkQueue::close() {
  DIVERGEN_CHECK(!finished_, "close() after finish()");
  if (world_.is_root()) return service_->close(items_);
  const Request request = Request::Close;
  detail::check(MPI_Send(&request, 1, MPI_INT64_T, 0, kRequestTag, detail::to_comm(channel_)), "close the work queue");
}

void WorkQueue::finish() {
  DIVERGEN_CHECK(!finished_, "finish() twice");
  finished_ = true;
  if (world_.size() == 1) return;
  if (world_.is_root()) {
    // The thread goes on serving until every other rank has said that it is done; joining waits asleep.
    service_->thread.join();
  } else {
    const Request request = Request::Done;
    detail::check(MPI_Send(&request, 1, MPI_INT64_T, 0, kRequestTag, detail::to_comm(channel_)),
                  "finish the work queue");
  }
  world_.barrier();
  MPI_Comm comm = detail::to_comm(channel_);
  channel_ = nullptr;
  detail::check(MPI_Comm_free(&comm), "finish the work queue");
  if (service_->failure) std::rethrow_exception(service_->failure);
}

}  // namespace divergen::comm
