// The queue's rules without MPI: whatever the order of events, every position goes to one rank, and everybody comes to
// the end.

#include "comm/claims.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <vector>

#include "base/rng.hpp"

namespace divergen::comm {
namespace {

/// Nodes, ranks and the wires between them; each step moves one of them, chosen at random.
class Machine {
 public:
  struct Options {
    double gives_back = 0;        // chance that a rank does not do a claim
    double leaves = 0;            // chance that it leaves after a claim (never the last rank)
    std::int64_t closes_at = -1;  // claims after which one rank closes the queue
  };

  Machine(QueueShape shape, std::vector<std::int64_t> ranks_of_node, std::uint64_t seed, Options options)
      : shape_(shape), rng_(seed), options_(options), steward_(shape, ranks_of_node) {
    std::int64_t before = 0;
    for (std::size_t n = 0; n < ranks_of_node.size(); ++n) {
      nodes_.push_back({NodeQueue(shape, ranks_of_node[n], before), {}, {}});
      for (std::int64_t r = 0; r < ranks_of_node[n]; ++r) ranks_.push_back({n, {}, {}, false});
      before += ranks_of_node[n];
    }
    staying_ = ranks_.size();
    done.assign(static_cast<std::size_t>(shape.items), 0);
  }

  /// False when it does not come to an end.
  bool run() {
    for (std::int64_t step = 0; step < 200'000; ++step) {
      if (is_over()) return true;
      const std::size_t what = rng_.below(ranks_.size() + 3 * nodes_.size());
      if (what < ranks_.size()) move(ranks_[what]);
      else transport((what - ranks_.size()) / 3, (what - ranks_.size()) % 3);
    }
    return false;
  }

  std::vector<int> done;  // how often each position was done
  std::int64_t claims = 0, asks = 0, messages = 0;

 private:
  struct Node {
    NodeQueue queue;
    std::deque<NodeMessage> up;
    std::deque<StewardReply> down;
  };
  struct Rank {
    std::size_t node;
    NodeQueue::Rank state;
    Claim claim;
    bool left;
  };

  bool is_over() const {
    if (nodes_.size() > 1 && !steward_.is_over()) return false;
    return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.left; });
  }

  void leave(Rank& rank) {
    nodes_[rank.node].queue.leave(rank.state);
    rank.left = true;
    --staying_;
  }

  void move(Rank& rank) {
    if (rank.left) return;
    NodeQueue& queue = nodes_[rank.node].queue;
    if (rank.claim) {
      if (rng_.chance(options_.gives_back)) {
        const auto does = static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(rank.claim.count)));
        if (!queue.give_back(rank.state, {rank.claim.first + does, rank.claim.count - does})) return;
        rank.claim.count = does;
      }
      for (std::int64_t i = 0; i < rank.claim.count; ++i) ++done.at(static_cast<std::size_t>(rank.claim.first + i));
      rank.claim = {};
      if (options_.closes_at > 0 && claims >= options_.closes_at) queue.close();
      if (staying_ > 1 && rng_.chance(options_.leaves)) return leave(rank);
    }
    const NodeQueue::Draw draw = queue.draw(rank.state);
    if (draw.state == NodeQueue::State::End) return leave(rank);
    if (draw.state == NodeQueue::State::Wait) return;
    ++claims;
    rank.claim = draw.claim;
  }

  void transport(std::size_t n, std::size_t what) {
    if (nodes_.size() == 1) return;
    Node& node = nodes_[n];
    if (what == 0) {
      if (const auto message = node.queue.next_message()) {
        ++messages;
        asks += message->kind == NodeMessage::Kind::Ask;
        node.up.push_back(*message);
      }
    } else if (what == 1 && !node.up.empty()) {
      Steward::Replies replies;
      steward_.receive(static_cast<std::int64_t>(n), node.up.front(), replies);
      node.up.pop_front();
      for (const auto& [to, reply] : replies) nodes_[static_cast<std::size_t>(to)].down.push_back(reply);
    } else if (what == 2 && !node.down.empty()) {
      node.queue.receive(node.down.front());
      node.down.pop_front();
    }
  }

  QueueShape shape_;
  Rng rng_;
  Options options_;
  Steward steward_;
  std::vector<Node> nodes_;
  std::vector<Rank> ranks_;
  std::size_t staying_ = 0;
};

std::vector<std::int64_t> some_nodes(Rng& rng) {
  std::vector<std::int64_t> nodes;
  for (std::size_t i = 0; i <= rng.below(6); ++i) nodes.push_back(rng.range(1, 6));
  return nodes;
}

QueueShape shape_of(const std::vector<std::int64_t>& nodes, std::int64_t items, std::int64_t largest) {
  QueueShape shape{items, 0, largest, true};
  for (const std::int64_t ranks : nodes) shape.ranks += ranks;
  return shape;
}

TEST(Claims, EveryPositionOnceInAnyOrderOfEvents) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Rng rng(derive_seed(seed, "shape"));
    const auto nodes = some_nodes(rng);
    QueueShape shape = shape_of(nodes, rng.range(0, 150), rng.range(1, 9));
    shape.may_return = rng.chance(0.5);
    Machine machine(shape, nodes, seed, {});
    ASSERT_TRUE(machine.run()) << "seed " << seed << " does not end";
    ASSERT_EQ(machine.done, std::vector<int>(machine.done.size(), 1)) << "seed " << seed;
  }
}

TEST(Claims, EveryPositionOnceWhenRanksGiveBackAndLeave) {
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    Rng rng(derive_seed(seed, "shape"));
    const auto nodes = some_nodes(rng);
    Machine machine(shape_of(nodes, rng.range(0, 150), rng.range(1, 9)), nodes, seed,
                    {.gives_back = rng.uniform(0, 0.5), .leaves = rng.uniform(0, 0.3)});
    ASSERT_TRUE(machine.run()) << "seed " << seed << " does not end";
    ASSERT_EQ(machine.done, std::vector<int>(machine.done.size(), 1)) << "seed " << seed;
  }
}

TEST(Claims, CloseEndsEverythingAndNothingIsDoneTwice) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Rng rng(derive_seed(seed, "shape"));
    const auto nodes = some_nodes(rng);
    Machine machine(shape_of(nodes, 100'000, 3), nodes, seed,
                    {.gives_back = 0.1, .leaves = 0.05, .closes_at = rng.range(1, 40)});
    ASSERT_TRUE(machine.run()) << "seed " << seed << " does not end";
    ASSERT_LE(*std::max_element(machine.done.begin(), machine.done.end()), 1) << "seed " << seed;
  }
}

TEST(Claims, FirstBlocksCoverTheStartAndNeedNoMessage) {
  for (const std::int64_t items : {0, 7, 40, 41, 1000, 100'000}) {
    const std::vector<std::int64_t> nodes{8, 8, 3, 1, 8, 12};
    const QueueShape shape = shape_of(nodes, items, 4);
    std::int64_t at = 0, before = 0;
    for (const std::int64_t ranks : nodes) {
      const Claim block = first_block(shape, ranks, before);
      EXPECT_EQ(block.first, at);
      EXPECT_GE(block.count, items >= shape.ranks ? ranks : 0) << "a claim for each rank";
      EXPECT_LE(block.count, shape.largest_claim * ranks + 1);
      at += block.count;
      before += ranks;
    }
    EXPECT_EQ(at, end_of_first_blocks(shape, false));
    EXPECT_LE(at, std::max(items / 2, std::min(items, shape.ranks))) << "the rest is shared dynamically";
  }
  const QueueShape alone = shape_of({16}, 1000, 4);
  EXPECT_EQ(first_block(alone, 16, 0).count, 1000);
}

TEST(Claims, NodesAskRarelyAndClaimsShrink) {
  const std::vector<std::int64_t> nodes(8, 8);
  const QueueShape shape = shape_of(nodes, 4000, 4);
  Machine machine(shape, nodes, 1, {});
  ASSERT_TRUE(machine.run());
  EXPECT_LT(machine.asks, machine.claims / 3) << "blocks hold claims for many ranks";

  EXPECT_EQ(guided_claim(1000, 4, 50), 50);
  EXPECT_EQ(guided_claim(100, 4, 50), 12);
  EXPECT_EQ(guided_claim(7, 4, 50), 1);
  EXPECT_EQ(guided_claim(0, 4, 50), 0);
}

TEST(Claims, ResumeMapKnowsWhatIsOpen) {
  for (const std::size_t items : {0u, 1u, 63u, 64u, 65u, 1000u}) {
    ResumeMap map(items);
    std::vector<std::size_t> expected;
    Rng rng(items);
    for (std::size_t i = 0; i < items; ++i) {
      if (rng.chance(0.7)) map.set_done(i);
      else expected.push_back(i);
    }
    EXPECT_EQ(map.open(), expected);
  }
}

}  // namespace
}  // namespace divergen::comm
