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
  /// Ends MPI, when all ranks have come here. While an exception is on its way, ends all ranks instead (abort, exit
  /// code 70), so that nobody waits for this one: catch inside the scope of the World to print the message, to choose
  /// the code, or to leave in order with an error that all ranks share (together).
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this node
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }
  bool is_root() const { return rank_ == 0; }

  // All waits sleep instead of spinning: ranks may outnumber cores. Failures of MPI throw Error(Comm).
  void barrier();                                                  // collective
  void broadcast(std::span<std::byte> bytes, int root = 0);        // collective; sizes agree on all ranks
  std::string broadcast_text(std::string text, int root = 0);      // collective; any length
  std::vector<std::string> gather_texts(const std::string& text);  // collective; all ranks' texts at rank 0, else empty
  // Collective; in place, on all ranks. Every element is added up in the order of the ranks: the same bits from run to
  // run and on all ranks.
  void sum(std::span<double> values);
  void sum(std::span<float> values);
  void sum(std::span<std::int64_t> values);
  std::int64_t max(std::int64_t value);  // collective
  bool any(bool value);                  // collective: true if it is on some rank

  /// Runs `action` on every rank; if it throws on some, all ranks throw when all are through: its own exception on a
  /// rank that had one, and on the others an Error of the same kind (so that all leave with one exit code; Comm when it
  /// was no Error) that names the first such rank and its message. Collective. An action that waits for other ranks
  /// inside must not be able to throw before that on some ranks only.
  void together(const std::function<void()>& action);
  /// Ends all ranks at once with `exit_code`; does not return.
  [[noreturn]] void abort(int exit_code);

 private:
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  int exceptions_ = 0;  // that were on their way when the World was made
  std::string host_;
};

}  // namespace divergen::comm
