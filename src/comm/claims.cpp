#include "comm/claims.hpp"

#include <algorithm>
#include <bit>
#include <type_traits>

#include "base/error.hpp"

namespace divergen::comm {

static_assert(std::is_trivially_copyable_v<NodeQueue>, "it lies in memory that processes share");

std::int64_t guided_claim(std::int64_t left, std::int64_t ranks, std::int64_t largest) {
  return left <= 0 ? 0 : std::clamp<std::int64_t>(left / (2 * ranks), 1, largest);
}

std::int64_t end_of_first_blocks(const QueueShape& shape, bool is_sole_node) {
  if (is_sole_node) return shape.items;
  return std::clamp(shape.items / 2, std::min(shape.items, shape.ranks), shape.largest_claim * shape.ranks);
}

Claim first_block(const QueueShape& shape, std::int64_t node_ranks, std::int64_t ranks_before) {
  const std::int64_t all = end_of_first_blocks(shape, node_ranks == shape.ranks);
  // all <= 10^8 shards and as many ranks at the most: the product fits.
  const std::int64_t first = all * ranks_before / shape.ranks;
  return {first, all * (ranks_before + node_ranks) / shape.ranks - first};
}

// ---- steward -------------------------------------------------------------------------------------------------------

Steward::Steward(const QueueShape& shape, std::vector<std::int64_t> ranks_of_node)
    : shape_(shape), next_(end_of_first_blocks(shape, ranks_of_node.size() == 1)) {
  DIVERGEN_CHECK(!ranks_of_node.empty() && shape.items >= 0 && shape.largest_claim >= 1);
  nodes_.reserve(ranks_of_node.size());
  for (const std::int64_t ranks : ranks_of_node) nodes_.push_back({ranks, 0, State::Working});
}

StewardReply Steward::take(const Node& node) {
  StewardReply reply;
  reply.kind = StewardReply::Kind::Block;
  if (!returned_.empty()) {
    reply.first = returned_.front().first;
    reply.count = returned_.front().count;
    returned_.pop_front();
  } else {
    const std::int64_t left = shape_.items - next_;
    // Of the last claims a node gets those that its ranks wait for: what lies in a block while all ranks of its node
    // work could be done by others.
    const bool is_tail = left < 2 * shape_.ranks;
    reply.first = next_;
    reply.count = is_tail ? std::min(left, std::max<std::int64_t>(node.waiting, 1))
                          : std::clamp<std::int64_t>(left * node.ranks / (2 * shape_.ranks), 1,
                                                     shape_.largest_claim * node.ranks);
    next_ += reply.count;
  }
  reply.left = shape_.items - next_;
  return reply;
}

void Steward::set_state(Node& node, State state) {
  idle_ += (state == State::ParkedIdle) - (node.state == State::ParkedIdle);
  gone_ += (state == State::Gone) - (node.state == State::Gone);
  node.state = state;
}

/// Those that wait get what there is; or the end, when nobody is left who could bring something.
void Steward::serve_parked(Replies& replies) {
  while (!parked_.empty() && (next_ < shape_.items || !returned_.empty())) {
    const std::int64_t node = parked_.front();
    Node& at = nodes_[static_cast<std::size_t>(node)];
    parked_.pop_front();
    if (at.state != State::Parked && at.state != State::ParkedIdle) continue;
    set_state(at, State::Working);
    replies.emplace_back(node, take(at));
  }
  const bool all_idle = idle_ + gone_ == static_cast<std::int64_t>(nodes_.size());
  if (shape_.may_return && !all_idle && !closed_) return;
  for (const std::int64_t node : parked_) {
    Node& at = nodes_[static_cast<std::size_t>(node)];
    if (at.state != State::Parked && at.state != State::ParkedIdle) continue;
    set_state(at, State::Working);
    replies.emplace_back(node, StewardReply{StewardReply::Kind::End, 0, 0, 0});
  }
  parked_.clear();
}

void Steward::close(Replies& replies) {
  if (closed_) return;
  closed_ = true;
  next_ = shape_.items;
  returned_.clear();
  parked_.clear();
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].state == State::Gone) continue;
    set_state(nodes_[i], State::Working);
    replies.emplace_back(static_cast<std::int64_t>(i), StewardReply{StewardReply::Kind::Closed, 0, 0, 0});
  }
}

void Steward::receive(std::int64_t node, const NodeMessage& message, Replies& replies) {
  Node& at = nodes_.at(static_cast<std::size_t>(node));
  using Kind = NodeMessage::Kind;
  switch (message.kind) {
    case Kind::Ask:
      at.waiting = message.first;
      set_state(at, message.count != 0 ? State::ParkedIdle : State::Parked);
      parked_.push_back(node);
      break;
    case Kind::Idle:  // may have crossed a reply, which it then says nothing about
      if (at.state == State::Parked) set_state(at, State::ParkedIdle);
      break;
    case Kind::GiveBack:
      if (!closed_) returned_.push_back({message.first, message.count});
      break;
    case Kind::Close:
      close(replies);
      break;
    case Kind::Leave:
      // Until it says Left, what was sent to it may come back.
      set_state(at, State::Working);
      replies.emplace_back(node, StewardReply{StewardReply::Kind::Bye, 0, 0, 0});
      break;
    case Kind::Left:
      set_state(at, State::Gone);
      break;
  }
  serve_parked(replies);
}

// ---- node ----------------------------------------------------------------------------------------------------------

NodeQueue::NodeQueue(const QueueShape& shape, std::int64_t node_ranks, std::int64_t ranks_before)
    : shape_(shape),
      ranks_(node_ranks),
      block_(first_block(shape, node_ranks, ranks_before)),
      seen_left_(shape.items - end_of_first_blocks(shape, node_ranks == shape.ranks)),
      ended_(node_ranks == shape.ranks) {}

NodeQueue::Draw NodeQueue::draw(Rank& rank) {
  if (std::exchange(rank.holds, false)) --working_;
  Draw out;
  if (is_sole() && returned_count_ > 0) {
    out.claim = returned_[static_cast<std::size_t>(--returned_count_)];
  } else if (block_) {
    const std::int64_t fair = guided_claim(block_.count + next_.count, ranks_, shape_.largest_claim);
    out.claim = {block_.first, std::min(fair, block_.count)};
    block_.first += out.claim.count;
    block_.count -= out.claim.count;
    if (!block_) block_ = std::exchange(next_, {});
  }
  if (out.claim) {
    rank.holds = true;
    ++working_;
    out.state = State::Work;
  } else if (!closed_ && (!ended_ || (is_sole() && shape_.may_return && working_ > 0))) {
    out.state = State::Wait;
  }
  const bool waits = out.state == State::Wait;
  waiting_ += waits - rank.waits;
  rank.waits = waits;
  return out;
}

bool NodeQueue::give_back(Rank& rank, const Claim& claim) {
  if (claim && !closed_) {
    if (returned_count_ == kMostReturned) return false;
    returned_[static_cast<std::size_t>(returned_count_++)] = claim;
  }
  if (std::exchange(rank.holds, false)) --working_;
  return true;
}

void NodeQueue::close() {
  close_is_told_ = closed_;  // those who are told by the steward need not tell it
  closed_ = ended_ = true;
  block_ = next_ = {};
  returned_count_ = 0;
}

void NodeQueue::leave(Rank& rank) {
  if (std::exchange(rank.holds, false)) --working_;
  if (std::exchange(rank.waits, false)) --waiting_;
  ++finished_;
}

/// While there is much left, when the next claim of each rank would be the last of the block: its answer takes longer
/// than a short item. At the end only for ranks that wait.
bool NodeQueue::wants_block() const {
  if (ended_ || asked_ || next_) return false;
  return seen_left_ >= 4 * shape_.ranks ? block_.count <= ranks_ : !block_ && waiting_ > 0;
}

std::optional<NodeMessage> NodeQueue::next_message() {
  using Kind = NodeMessage::Kind;
  if (left_) return std::nullopt;
  if (!close_is_told_) {
    close_is_told_ = true;
    return NodeMessage{Kind::Close, 0, 0};
  }
  if (returned_count_ > 0) {
    const Claim claim = returned_[static_cast<std::size_t>(--returned_count_)];
    return NodeMessage{Kind::GiveBack, claim.first, claim.count};
  }
  if (finished_ == ranks_) {
    if (const Claim rest = std::exchange(block_, std::exchange(next_, {})))
      return NodeMessage{Kind::GiveBack, rest.first, rest.count};
    if (!std::exchange(leaving_, true)) return NodeMessage{Kind::Leave, 0, 0};
    if (!bye_) return std::nullopt;
    left_ = true;
    return NodeMessage{Kind::Left, 0, 0};
  }
  if (wants_block()) {
    asked_ = true;
    idle_is_told_ = is_idle();
    return NodeMessage{Kind::Ask, waiting_, idle_is_told_ ? 1 : 0};
  }
  if (asked_ && !idle_is_told_ && is_idle()) {
    idle_is_told_ = true;
    return NodeMessage{Kind::Idle, 0, 0};
  }
  return std::nullopt;
}

void NodeQueue::receive(const StewardReply& reply) {
  switch (reply.kind) {
    case StewardReply::Kind::Block:
      asked_ = false;
      seen_left_ = reply.left;
      if (!closed_) (block_ ? next_ : block_) = {reply.first, reply.count};
      break;
    case StewardReply::Kind::End:
      asked_ = false;
      ended_ = true;
      break;
    case StewardReply::Kind::Closed:
      asked_ = false;
      closed_ = ended_ = true;
      block_ = next_ = {};
      returned_count_ = 0;
      break;
    case StewardReply::Kind::Bye:
      bye_ = true;
      break;
  }
}

// ---- resuming ------------------------------------------------------------------------------------------------------

std::vector<std::size_t> ResumeMap::open() const {
  std::vector<std::size_t> out;
  for (std::size_t w = 0; w < words_.size(); ++w)
    for (std::uint64_t bits = ~words_[w]; bits != 0; bits &= bits - 1) {
      const std::size_t item = w * 64 + static_cast<std::size_t>(std::countr_zero(bits));
      if (item < items_) out.push_back(item);
    }
  return out;
}

}  // namespace divergen::comm
