#include "comm/work_queue.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "base/log.hpp"
#include "comm/mpi_support.hpp"
#include "comm/node_memory.hpp"

namespace divergen::comm {
namespace {

constexpr int kMessageTag = 1, kReplyTag = 2;
// How often an agent looks at its node's memory; and at MPI, where a look takes some 20 us of a core (Open MPI polls
// all its transports): together 1 % of one core a node.
constexpr std::chrono::microseconds kAgentPause{500}, kMessagePause{2000};
// Of an agent that waits for an answer: the steward is there within its pause, so there is no point in longer ones.
constexpr std::chrono::microseconds kAnswerPause{200};
// Of a rank that waits for its node's block, or for the end.
constexpr std::chrono::microseconds kClaimPause{200}, kEndPause{2000};

using Clock = std::chrono::steady_clock;

int ranks_of_a_node(const World& world, const QueueOptions& options) {
  int wanted = options.ranks_per_node;
  if (const char* text = std::getenv("DIVERGEN_RANKS_PER_NODE"); wanted == 0 && text != nullptr)
    wanted = std::atoi(text);
  return wanted > 0 ? std::min(wanted, world.local_size()) : world.local_size();
}

}  // namespace

/// What the ranks of a node share. A rank that dies inside the lock takes the run with it (MPI ends all ranks); the
/// others say so instead of waiting for it.
struct WorkQueue::Node {
  Node(const QueueShape& shape, std::int64_t ranks, std::int64_t ranks_before) : queue(shape, ranks, ranks_before) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    const int problem = pthread_mutex_init(&mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (problem != 0) fail_errno("cannot make a lock that ranks share", "", problem);
  }

  class Lock {
   public:
    explicit Lock(Node& node) : node_(node) {
      const int problem = pthread_mutex_lock(&node.mutex);
      if (problem == 0) return;
      if (problem == EOWNERDEAD) pthread_mutex_unlock(&node.mutex);  // from now on ENOTRECOVERABLE, for everybody
      fail(ErrorKind::Comm, {"the work queue of this node is lost", "", "a rank ended while it was claiming work",
                             "see that rank's log, then run the same command again: it continues"});
    }
    ~Lock() { pthread_mutex_unlock(&node_.mutex); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    Node& node_;
  };

  pthread_mutex_t mutex;
  NodeQueue queue;
};

/// A rank's part of the transport: the node's memory on all ranks, the rest on the first of each node.
struct WorkQueue::Agent {
  std::optional<NodeMemory> memory;
  std::unique_ptr<Node> own;  // of a lone rank, in place of shared memory
  void* channel = nullptr;    // an own MPI communicator; none within one node

  std::thread thread;
  std::atomic<bool> stop{false};

  // On rank 0:
  std::optional<Steward> steward;
  std::vector<int> leaders;           // rank of each node's agent
  std::vector<std::int64_t> node_of;  // of an agent's rank; -1: of no agent
  Steward::Replies replies;

  MPI_Comm comm() const { return detail::to_comm(channel); }
  bool exchange(Node& node);
  bool receive_messages(Node& node);
  void deliver(Node& node);
};

WorkQueue::WorkQueue(World& world, std::int64_t items, QueueOptions options)
    : world_(world), agent_(std::make_unique<Agent>()) {
  DIVERGEN_CHECK(items >= 0 && options.largest_claim >= 1, items, " items, claims of ", options.largest_claim);
  const QueueShape shape{items, world.size(), options.largest_claim, options.may_return};
  if (world.size() == 1) {
    agent_->own = std::make_unique<Node>(shape, 1, 0);
    node_ = agent_->own.get();
    return;
  }
  const int group = ranks_of_a_node(world, options);
  const bool leads = world.local_rank() % group == 0;
  // Ranks of the node that each rank leads.
  std::int64_t led = leads ? std::min(group, world.local_size() - world.local_rank()) : 0;
  std::vector<std::int64_t> led_by(static_cast<std::size_t>(world.size()));
  const MPI_Comm comm = detail::duplicate_world();
  agent_->channel = detail::to_pointer(comm);
  MPI_Request request;
  detail::check(MPI_Iallgather(&led, 1, MPI_INT64_T, led_by.data(), 1, MPI_INT64_T, comm, &request), "work queue");
  detail::wait(request, "work queue");

  agent_->memory.emplace(world, sizeof(Node), NodeMemory::Access::All, group);
  std::int64_t before = 0;
  for (int r = 0; r < world.rank(); ++r) before += led_by[static_cast<std::size_t>(r)];
  world.together([&] {
    node_ = reinterpret_cast<Node*>(agent_->memory->bytes().data());
    if (leads) new (node_) Node(shape, led, before);
  });
  if (!leads || led == world.size()) return;
  if (world.is_root()) {
    std::vector<std::int64_t> ranks;
    agent_->node_of.assign(led_by.size(), -1);
    for (std::size_t r = 0; r < led_by.size(); ++r) {
      if (led_by[r] == 0) continue;
      agent_->node_of[r] = static_cast<std::int64_t>(ranks.size());
      agent_->leaders.push_back(static_cast<int>(r));
      ranks.push_back(led_by[r]);
    }
    agent_->steward.emplace(shape, std::move(ranks));
  }
  agent_->thread = std::thread([this] {
    try {
      run_agent();
    } catch (const std::exception& error) {
      // Ranks of this node wait for it, and the steward for what it has: nobody could go on.
      log::error("the work queue's agent on ", world_.host(), " failed: ", error.what());
      world_.abort(exit_code(ErrorKind::Comm));
    }
  });
}

WorkQueue::~WorkQueue() {
  agent_->stop = true;
  if (agent_->thread.joinable()) agent_->thread.join();
  // Without finish() the communicator is left to MPI's end: freeing it would need all ranks.
}

// ---- the agent -----------------------------------------------------------------------------------------------------

/// On rank 0: what the steward said, to the agents, in order.
void WorkQueue::Agent::deliver(Node& node) {
  for (const auto& [to, reply] : replies) {
    if (to == 0) {
      const Node::Lock lock(node);
      node.queue.receive(reply);
      continue;
    }
    const std::int64_t words[4] = {static_cast<std::int64_t>(reply.kind), reply.first, reply.count, reply.left};
    // 32 bytes go out at once (MPI buffers so short a message): this does not wait for the other side.
    detail::check(MPI_Send(words, 4, MPI_INT64_T, leaders[static_cast<std::size_t>(to)], kReplyTag, comm()),
                  "work queue");
  }
  replies.clear();
}

/// Tells the steward what the node has to say. True when there was something.
bool WorkQueue::Agent::exchange(Node& node) {
  bool any = false;
  while (true) {
    std::optional<NodeMessage> message;
    {
      const Node::Lock lock(node);
      message = node.queue.next_message();
    }
    if (!message) return any;
    any = true;
    if (steward) {
      steward->receive(0, *message, replies);
      deliver(node);
      continue;
    }
    const std::int64_t words[3] = {static_cast<std::int64_t>(message->kind), message->first, message->count};
    detail::check(MPI_Send(words, 3, MPI_INT64_T, 0, kMessageTag, comm()), "work queue");
  }
}

/// What other agents have sent: messages for the steward, or its replies. True when there was something.
bool WorkQueue::Agent::receive_messages(Node& node) {
  bool any = false;
  while (true) {
    int found = 0;
    MPI_Message message;
    MPI_Status status;
    detail::check(
        MPI_Improbe(steward ? MPI_ANY_SOURCE : 0, steward ? kMessageTag : kReplyTag, comm(), &found, &message, &status),
        "work queue");
    if (!found) return any;
    any = true;
    std::int64_t words[4] = {};
    detail::check(MPI_Mrecv(words, steward ? 3 : 4, MPI_INT64_T, &message, MPI_STATUS_IGNORE), "work queue");
    if (steward) {
      const std::int64_t from = node_of[static_cast<std::size_t>(status.MPI_SOURCE)];
      steward->receive(from, {static_cast<NodeMessage::Kind>(words[0]), words[1], words[2]}, replies);
      deliver(node);
    } else {
      const Node::Lock lock(node);
      node.queue.receive({static_cast<StewardReply::Kind>(words[0]), words[1], words[2], words[3]});
    }
  }
}

/// Ends when its node (on rank 0: every node) has left the queue, or on `stop`.
void WorkQueue::run_agent() {
  Agent& agent = *agent_;
  Clock::time_point looked{};
  while (!agent.stop) {
    bool any = agent.exchange(*node_);
    bool asking, over;
    {
      const Node::Lock lock(*node_);
      asking = node_->queue.is_asking();
      over = node_->queue.is_over();
    }
    if (agent.steward ? agent.steward->is_over() : over) return;
    const bool hurried = asking && !agent.steward;
    const Clock::time_point now = Clock::now();
    if (hurried || any || now - looked >= kMessagePause) {
      any = agent.receive_messages(*node_) || any;
      looked = now;
    }
    if (!any) std::this_thread::sleep_for(hurried ? kAnswerPause : kAgentPause);
  }
}

// ---- the ranks -----------------------------------------------------------------------------------------------------

WorkQueue::Claim WorkQueue::claim() {
  DIVERGEN_CHECK(!finished_, "claim() after finish()");
  detail::Backoff backoff(kClaimPause);
  const Clock::time_point start = Clock::now();
  while (true) {
    NodeQueue::Draw draw;
    {
      const Node::Lock lock(*node_);
      draw = node_->queue.draw(rank_);
    }
    if (draw.state != NodeQueue::State::Wait) return draw.claim;
    // A block is there within milliseconds; who still waits waits for the others' end.
    if (Clock::now() - start > 25 * kEndPause) std::this_thread::sleep_for(kEndPause);
    else backoff.pause();
  }
}

void WorkQueue::give_back(const Claim& claim) {
  DIVERGEN_CHECK(!finished_ && claim.count >= 0, claim.count);
  detail::Backoff backoff(kClaimPause);
  while (true) {
    {
      const Node::Lock lock(*node_);
      if (node_->queue.give_back(rank_, claim)) return;
    }
    backoff.pause();
  }
}

void WorkQueue::close() {
  DIVERGEN_CHECK(!finished_, "close() after finish()");
  const Node::Lock lock(*node_);
  node_->queue.close();
}

void WorkQueue::finish() {
  DIVERGEN_CHECK(!finished_, "finish() twice");
  finished_ = true;
  {
    const Node::Lock lock(*node_);
    node_->queue.leave(rank_);
  }
  if (world_.size() == 1) return;
  // The agent goes on until all ranks of its node have left, on rank 0 until all nodes have; joining waits asleep.
  if (agent_->thread.joinable()) agent_->thread.join();
  world_.barrier();
  MPI_Comm comm = agent_->comm();
  agent_->channel = nullptr;
  detail::check(MPI_Comm_free(&comm), "finish the work queue");
}

}  // namespace divergen::comm
