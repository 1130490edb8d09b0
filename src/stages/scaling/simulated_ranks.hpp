#pragma once
// The event loop of a simulation: ranks, their nodes' queues, the steward and the shared file system in virtual time.

#include <cstdint>
#include <deque>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "comm/claims.hpp"
#include "stages/plan/plan.hpp"
#include "stages/scaling/simulate.hpp"

namespace divergen::stages {

/// First come, first served, at a fixed rate: the metadata server, the bandwidth of the file system. Callers come in
/// the order of time.
class SharedServer {
 public:
  explicit SharedServer(double rate) : rate_(rate) {}
  /// When a demand of `amount` that arrives at `now` is served.
  double serve(double now, double amount);
  double busy() const { return busy_; }  // seconds
  double longest_wait() const { return longest_wait_; }

 private:
  double rate_, free_ = 0, busy_ = 0, longest_wait_ = 0;
};

class SimulatedRanks {
 public:
  /// `open`: the shards to make, of the plan's `ranges`. Both outlive this.
  SimulatedRanks(const SimulationInput& input, const std::vector<Plan::Range>& ranges,
                 const std::vector<std::size_t>& open);
  SimulationResult run();

 private:
  enum class What : std::uint8_t {
    Draw,     // a rank looks for its next claim
    Write,    // a rank's commit reaches the file system
    Agent,    // a node's agent looks at its memory
    Request,  // the oldest message on its way reaches the steward
    Serve,    // the steward looks at its oldest message
    Reply     // the oldest reply on its way reaches its node
  };
  struct Event {
    double time;
    std::uint64_t number;  // events of the same time happen in the order in which they were made
    std::int64_t who;
    What what;
    bool operator>(const Event& other) const { return time != other.time ? time > other.time : number > other.number; }
  };
  struct Rank {
    comm::NodeQueue::Rank state;
    comm::Claim claim;  // what is left of it
    float speed = 1;    // factor on the items' times
    double bytes = 0;   // of the shard that it commits
    double since = 0;   // when it had nothing to do
    bool over = false;  // from `since` on
  };
  struct Node {
    comm::NodeQueue queue;
    std::int64_t first_rank = 0;
    bool agent_is_due = false;
    bool is_over = false;  // its ranks have been told
  };

  void start();
  void at(double time, What what, std::int64_t who) { events_.push({time, number_++, who, what}); }
  void draw(std::int64_t rank);
  void work(std::int64_t rank);
  void write(std::int64_t rank);
  void wake_agent(std::int64_t node, double delay);
  void agent(std::int64_t node);
  void send_replies();
  void serve();
  void deliver(std::int64_t node, const comm::StewardReply& reply);
  void wake_ranks(std::int64_t node);
  SimulationResult result() const;

  const SimulationInput& input_;
  const std::vector<Plan::Range>& ranges_;
  const std::vector<std::size_t>& open_;
  comm::QueueShape shape_;
  std::vector<Node> nodes_;
  std::vector<Rank> ranks_;
  comm::Steward steward_;
  SharedServer metadata_, bandwidth_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t number_ = 0;
  double now_ = 0;

  struct Letter {
    std::int64_t node;
    comm::NodeMessage message;
    double sent;
  };
  // Every message between nodes takes equally long: they arrive in the order in which they were sent.
  std::deque<Letter> requests_, inbox_;
  std::deque<std::pair<std::int64_t, comm::StewardReply>> replies_;
  comm::Steward::Replies said_;
  bool steward_is_due_ = false;

  // What is added up on the way; seconds of all ranks together unless said otherwise.
  double start_up_ = 0, load_ = 0, steady_ = 0, commit_ = 0, io_wait_ = 0, queue_ = 0;
  double first_item_ = 0, last_ready_ = 0, ready_sum_ = 0, last_claim_ = 0, makespan_ = 0;  // moments
  double steward_busy_ = 0, steward_longest_wait_ = 0;
  std::int64_t claims_ = 0, blocks_ = 0, messages_ = 0;
  std::vector<double> finished_;  // moments at which shards were published
};

}  // namespace divergen::stages
