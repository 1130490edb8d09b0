#include "nn/mpi_backend.hpp"

#include <ATen/core/ivalue.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.hpp"
#include "base/time_use.hpp"
#include "comm/channel.hpp"

namespace divergen::nn {
namespace {

// A collective that was asked for: done when the worker says so; its future carries the tensors.
class MpiWork : public c10d::Work {
 public:
  MpiWork(c10d::OpType type, std::vector<at::Tensor> tensors)
      : Work(-1, type),
        tensors_(std::move(tensors)),
        future_(c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()))) {}

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  std::vector<at::Tensor> result() override { return tensors_; }

  void complete(std::exception_ptr failure) {
    finish(failure);
    // The future last: what waits for it may look at the work.
    if (failure) {
      future_->setError(failure);
    } else {
      future_->markCompleted(c10::IValue(tensors_));
    }
  }

 private:
  std::vector<at::Tensor> tensors_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

void check_tensor(const at::Tensor& tensor) {
  DIVERGEN_CHECK(tensor.device().is_cpu() && tensor.layout() == at::kStrided && tensor.is_contiguous(),
                 "a collective over MPI wants a contiguous tensor in main memory");
}

void sum(comm::Channel& channel, at::Tensor& tensor) {
  const auto count = static_cast<std::size_t>(tensor.numel());
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return channel.sum(tensor.mutable_data_ptr<float>(), count);
    case at::kDouble:
      return channel.sum(tensor.mutable_data_ptr<double>(), count);
    case at::kInt:
      return channel.sum(tensor.mutable_data_ptr<std::int32_t>(), count);
    case at::kLong:
      return channel.sum(tensor.mutable_data_ptr<std::int64_t>(), count);
    default:
      DIVERGEN_CHECK(false, "no sum over MPI for ", c10::toString(tensor.scalar_type()));
  }
}

}  // namespace

/// The queue and the thread that works it off.
class MpiBackend::Worker : public std::enable_shared_from_this<MpiBackend::Worker> {
 public:
  explicit Worker(comm::World& world) : channel_(world) {}

  void start() {
    // The thread holds the worker: it may outlive the backend when that is torn down by an exception.
    thread_ = std::thread([self = shared_from_this()] { self->run(); });
  }

  c10::intrusive_ptr<c10d::Work> ask(c10d::OpType type, std::vector<at::Tensor> tensors,
                                     std::function<void(comm::Channel&)> action) {
    auto work = c10::make_intrusive<MpiWork>(type, std::move(tensors));
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back({work, std::move(action)});
      last_asked_ = Clock::now();
    }
    wake_.notify_one();
    return work;
  }

  void stop(bool abandon) {
    bool busy = false;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      if (abandon) queue_.clear();
      busy = busy_;
    }
    wake_.notify_one();
    if (abandon && busy) {
      thread_.detach();
    } else {
      thread_.join();
    }
  }

  void count_wait() {
    const std::lock_guard lock(mutex_);
    time_use().add(TimeUse::Comm, std::exchange(waited_, 0));
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_between(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  }

  struct Task {
    c10::intrusive_ptr<MpiWork> work;
    std::function<void(comm::Channel&)> action;
  };

  void run() {
    for (std::unique_lock lock(mutex_);;) {
      wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      Task task = std::move(queue_.front());
      queue_.pop_front();
      busy_ = true;
      lock.unlock();
      std::exception_ptr failure;
      const auto begin = Clock::now();
      try {
        task.action(channel_);
      } catch (...) {
        failure = std::current_exception();
      }
      const auto end = Clock::now();
      task.work->complete(failure);
      task = {};
      lock.lock();
      busy_ = false;
      time_use().add(TimeUse::Moving, seconds_between(begin, end));
      waited_ = seconds_between(last_asked_, end);
    }
  }

  comm::Channel channel_;
  std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  std::deque<Task> queue_;
  bool stopping_ = false, busy_ = false;
  Clock::time_point last_asked_;
  double waited_ = 0;  // seconds from when the last collective was asked for to when all were done
  std::thread thread_;
};

MpiBackend::MpiBackend(comm::World& world)
    : Backend(world.rank(), world.size()),
      worker_(std::make_shared<Worker>(world)),
      exceptions_(std::uncaught_exceptions()) {
  worker_->start();
}

MpiBackend::~MpiBackend() { worker_->stop(std::uncaught_exceptions() > exceptions_); }

void MpiBackend::count_wait() { worker_->count_wait(); }

c10::intrusive_ptr<c10d::Work> MpiBackend::allreduce(std::vector<at::Tensor>& tensors,
                                                     const c10d::AllreduceOptions& options) {
  DIVERGEN_CHECK(tensors.size() == 1, "one tensor a collective");
  const bool average = options.reduceOp == c10d::ReduceOp::AVG;
  DIVERGEN_CHECK(average || options.reduceOp == c10d::ReduceOp::SUM, "only sums and averages");
  check_tensor(tensors[0]);
  return worker_->ask(c10d::OpType::ALLREDUCE, tensors, [tensor = tensors[0], average](comm::Channel& channel) mutable {
    sum(channel, tensor);
    if (average) tensor.div_(channel.size());
  });
}

c10::intrusive_ptr<c10d::Work> MpiBackend::broadcast(std::vector<at::Tensor>& tensors,
                                                     const c10d::BroadcastOptions& options) {
  DIVERGEN_CHECK(tensors.size() == 1, "one tensor a collective");
  check_tensor(tensors[0]);
  return worker_->ask(c10d::OpType::BROADCAST, tensors,
                      [tensor = tensors[0], root = static_cast<int>(options.rootRank)](comm::Channel& channel) {
                        channel.broadcast(tensor.mutable_data_ptr(), tensor.nbytes(), root);
                      });
}

c10::intrusive_ptr<c10d::Work> MpiBackend::allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                                     std::vector<at::Tensor>& inputs,
                                                     const c10d::AllgatherOptions& /*options*/) {
  DIVERGEN_CHECK(inputs.size() == 1 && outputs.size() == 1, "one tensor a collective");
  DIVERGEN_CHECK(outputs[0].size() == static_cast<std::size_t>(size_), "one output for each rank");
  check_tensor(inputs[0]);
  for (const at::Tensor& output : outputs[0]) {
    DIVERGEN_CHECK(output.sizes() == inputs[0].sizes() && output.scalar_type() == inputs[0].scalar_type(),
                   "outputs are shaped like the input");
  }
  return worker_->ask(c10d::OpType::ALLGATHER, outputs[0],
                      [input = inputs[0], all = outputs[0]](comm::Channel& channel) {
                        const at::Tensor received = at::empty({channel.size(), input.numel()}, input.options());
                        channel.all_gather(input.const_data_ptr(), input.nbytes(), received.mutable_data_ptr());
                        for (std::size_t r = 0; r < all.size(); ++r)
                          all[r].copy_(received[static_cast<std::int64_t>(r)].view(input.sizes()));
                      });
}

c10::intrusive_ptr<c10d::Work> MpiBackend::barrier(const c10d::BarrierOptions& /*options*/) {
  return worker_->ask(c10d::OpType::BARRIER, {}, [](comm::Channel& channel) { channel.barrier(); });
}

}  // namespace divergen::nn
