#pragma once
// Who gets which part of a list of work: the rules of the work queue without MPI, threads or clocks, so that a real run
// (work_queue.cpp) and a simulated one (stages/scaling) execute the same code.
//
// Two levels (reference/reliability.md §8): a steward holds the list and hands out blocks to nodes; the ranks of a node
// draw claims from their node's block. Both shrink towards the end (guided self-scheduling: at most half of an even
// share of what is left), so that one slow rank or item does not hold up the others. Every node starts with a block
// that follows from the shape alone, so that ten thousand ranks begin without a message. Between a node and the steward
// go NodeMessage and StewardReply; whoever transports them keeps the order of those between one node and the steward.

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

namespace divergen::comm {

/// Positions first .. first+count-1 of the list.
struct Claim {
  std::int64_t first = 0, count = 0;  // count 0: nothing
  explicit operator bool() const { return count > 0; }
};

/// What all ranks agree on.
struct QueueShape {
  std::int64_t items = 0;          // length of the list
  std::int64_t ranks = 1;          // of all nodes
  std::int64_t largest_claim = 1;  // of one rank
  /// Whether the end waits for claims that may come back: draw() says End only when no rank holds a claim any more. A
  /// rank's draw() means that it is through with its claim before, so ranks must not draw ahead.
  bool may_return = true;
};

/// A rank's claim out of `left` positions that `ranks` ranks share.
std::int64_t guided_claim(std::int64_t left, std::int64_t ranks, std::int64_t largest);

/// What a node begins with: its part of a list's start that gives every rank one claim at least (while there are items)
/// and at most half of an even share. A sole node begins with the whole list.
Claim first_block(const QueueShape& shape, std::int64_t node_ranks, std::int64_t ranks_before);
/// Where the steward goes on.
std::int64_t end_of_first_blocks(const QueueShape& shape, bool is_sole_node);

struct NodeMessage {
  enum class Kind : std::int64_t {
    Ask,       // for a block; first: ranks that wait, count: 1 when no rank of the node holds a claim
    Idle,      // since the last Ask all ranks of the node have come to the end of their claims
    GiveBack,  // a claim for others
    Close,     // nothing more is to be handed out, to nobody
    Leave,     // all ranks of the node have left
    Left       // after Bye, and after what was still on its way had been given back: the last message
  };
  Kind kind = Kind::Ask;
  std::int64_t first = 0, count = 0;
};

struct StewardReply {
  enum class Kind : std::int64_t {
    Block,   // first, count
    End,     // nothing is left, and nothing can come back
    Closed,  // drop what was not drawn
    Bye      // answer to Leave
  };
  Kind kind = Kind::End;
  std::int64_t first = 0, count = 0;
  std::int64_t left = 0;  // positions that nobody has yet
};

/// The list, and who may still bring something back. Not thread-safe.
class Steward {
 public:
  /// Node i has ranks_of_node[i] ranks.
  Steward(const QueueShape& shape, std::vector<std::int64_t> ranks_of_node);

  using Replies = std::vector<std::pair<std::int64_t, StewardReply>>;  // (node, reply)
  /// Appends what is to be sent, in this order.
  void receive(std::int64_t node, const NodeMessage& message, Replies& replies);
  /// All nodes have left.
  bool is_over() const { return gone_ == static_cast<std::int64_t>(nodes_.size()); }

 private:
  enum class State : std::uint8_t { Working, Parked, ParkedIdle, Gone };
  struct Node {
    std::int64_t ranks = 0, waiting = 0;
    State state = State::Working;
  };
  StewardReply take(const Node& node);
  void set_state(Node& node, State state);
  void serve_parked(Replies& replies);
  void close(Replies& replies);

  QueueShape shape_;
  std::vector<Node> nodes_;
  std::deque<Claim> returned_;
  std::deque<std::int64_t> parked_;              // nodes, in the order in which they asked; some of them served already
  std::int64_t next_ = 0, idle_ = 0, gone_ = 0;  // idle_: ParkedIdle nodes
  bool closed_ = false;
};

/// What the ranks of one node draw from. Holds no pointers: it may lie in memory that processes share, under a lock.
class NodeQueue {
 public:
  static constexpr int kMostReturned = 256;

  /// Of one rank; lives with the rank.
  struct Rank {
    bool holds = false, waits = false;
  };
  enum class State { Work, Wait, End };
  struct Draw {
    State state = State::End;
    Claim claim;
  };

  NodeQueue(const QueueShape& shape, std::int64_t node_ranks, std::int64_t ranks_before);

  /// The next claim of a rank, which is through with the one before. Wait: ask again soon.
  Draw draw(Rank& rank);
  /// For others: what a rank does not do of its claim. False when there is no room just now: try again.
  bool give_back(Rank& rank, const Claim& claim);
  /// No rank draws anything any more.
  void close();
  /// The rank does not draw again.
  void leave(Rank& rank);

  // What the node and the steward have to say to each other; never of a sole node.
  std::optional<NodeMessage> next_message();
  void receive(const StewardReply& reply);
  bool is_over() const { return left_; }
  /// Whether an answer is on its way, for those who look for it.
  bool is_asking() const { return asked_ || leaving_; }

 private:
  bool is_sole() const { return ranks_ == shape_.ranks; }
  bool is_idle() const { return working_ == 0 && !block_ && !next_; }
  bool wants_block() const;

  QueueShape shape_;
  std::int64_t ranks_;
  Claim block_, next_;      // next_: came before block_ was used up
  std::int64_t seen_left_;  // at the steward, as its last reply said
  std::int64_t working_ = 0, waiting_ = 0, finished_ = 0;
  bool ended_ = false, closed_ = false, close_is_told_ = true;
  bool asked_ = false, idle_is_told_ = false, leaving_ = false, bye_ = false, left_ = false;
  int returned_count_ = 0;
  std::array<Claim, kMostReturned> returned_;
};

/// Positions that earlier starts have not done: a bit each.
class ResumeMap {
 public:
  explicit ResumeMap(std::size_t items) : words_((items + 63) / 64, 0), items_(items) {}
  void set_done(std::size_t item) { words_[item / 64] |= std::uint64_t{1} << item % 64; }
  bool is_done(std::size_t item) const { return words_[item / 64] >> item % 64 & 1; }
  std::size_t items() const { return items_; }
  /// What the queue's list consists of, ascending.
  std::vector<std::size_t> open() const;

 private:
  std::vector<std::uint64_t> words_;
  std::size_t items_;
};

}  // namespace divergen::comm
