#pragma once
// The ranks of a run. The only wrapper of MPI's start, end and small collectives; mpi.h stays inside src/comm's .cpp
// files (and its private headers).
//
// MPI is started with MPI_THREAD_MULTIPLE. Every function marked "collective" must be called by all ranks of the World
// in the same order, from the main thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace divergen::comm {

class World {
 public:
  /// Starts MPI (a program that was not launched by mpirun or srun is a world of one rank). Throws Error(Comm) when
  /// MPI does not give MPI_THREAD_MULTIPLE. One object a process.
  World(int* argc, char*** argv);
  /// Ends MPI. While an exception is on its way, ends all ranks instead (abort), so that nobody waits for this one.
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this node
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }
  bool is_root() const { return rank_ == 0; }

  void barrier();                                                  // collective; sleeps instead of spinning
  void broadcast(std::span<std::byte> bytes, int root = 0);        // collective; sizes agree on all ranks
  std::string broadcast_text(std::string text, int root = 0);      // collective; any length
  std::vector<std::string> gather_texts(const std::string& text);  // collective; all ranks' texts at rank 0, else empty
  void sum(std::span<double> values);                              // collective; in place, on all ranks
  void sum(std::span<float> values);
  void sum(std::span<std::int64_t> values);
  std::int64_t max(std::int64_t value);                            // collective
  bool any(bool value);                                            // collective: true if it is on some rank

  /// Runs `action` on every rank; if it throws an Error on some, all ranks throw: that error on the rank that had it,
  /// and a Comm error naming that rank and its message on the others. Collective.
  void together(const std::function<void()>& action);
  /// Ends all ranks at once with `exit_code`; does not return.
  [[noreturn]] void abort(int exit_code);

 private:
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  std::string host_;
};

}  // namespace divergen::comm
