#include "stages/scaling/simulated_ranks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "base/rng.hpp"

namespace divergen::stages {
namespace {

comm::QueueShape shape_of(const SimulationInput& input, std::size_t open) {
  return {static_cast<std::int64_t>(open), input.ranks, input.largest_claim, true};
}

std::vector<std::int64_t> ranks_of_nodes(const SimulationInput& input) {
  std::vector<std::int64_t> nodes;
  for (std::int64_t first = 0; first < input.ranks; first += input.ranks_per_node)
    nodes.push_back(std::min(input.ranks_per_node, input.ranks - first));
  return nodes;
}

}  // namespace

double SharedServer::serve(double now, double amount) {
  if (amount <= 0) return now;
  const double start = std::max(now, free_), takes = amount / rate_;
  longest_wait_ = std::max(longest_wait_, start - now);
  busy_ += takes;
  free_ = start + takes;
  return free_;
}

SimulatedRanks::SimulatedRanks(const SimulationInput& input, const std::vector<Plan::Range>& ranges,
                               const std::vector<std::size_t>& open)
    : input_(input),
      ranges_(ranges),
      open_(open),
      shape_(shape_of(input, open.size())),
      ranks_(static_cast<std::size_t>(input.ranks)),
      steward_(shape_, ranks_of_nodes(input)),
      metadata_(input.file_system.metadata_rate),
      bandwidth_(input.file_system.bandwidth) {
  std::int64_t before = 0;
  for (const std::int64_t ranks : ranks_of_nodes(input)) {
    nodes_.push_back({comm::NodeQueue(shape_, ranks, before), before, false, false});
    before += ranks;
  }
  finished_.reserve(open.size());
}

/// Launch, opening of files, reading of weights: when each rank is ready.
void SimulatedRanks::start() {
  const StartModel& model = input_.start;
  const auto nodes = static_cast<double>(nodes_.size());
  const double launched = model.launch + model.launch_per_doubling * std::log2(nodes);
  // All nodes read at once and share the bandwidth; one alone is bound by its own.
  const double reading = std::max(model.weight_bytes / input_.file_system.node_bandwidth,
                                  nodes * model.weight_bytes / input_.file_system.bandwidth);
  Rng rng(derive_seed(input_.seed, "speed of ranks"));
  first_item_ = std::numeric_limits<double>::infinity();
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    const std::int64_t first = nodes_[n].first_rank;
    const std::int64_t last = n + 1 < nodes_.size() ? nodes_[n + 1].first_rank : input_.ranks;
    const double operations = model.metadata_per_node + model.metadata_per_rank * static_cast<double>(last - first);
    const double opened =
        std::max(metadata_.serve(launched, operations),
                 launched + (model.metadata_per_node + model.metadata_per_rank) * input_.file_system.metadata_latency);
    const double ready = opened + reading + model.load_seconds;
    for (std::int64_t r = first; r < last; ++r) {
      Rank& rank = ranks_[static_cast<std::size_t>(r)];
      if (input_.rank_spread > 0) rank.speed = static_cast<float>(std::exp(input_.rank_spread * rng.normal()));
      rank.since = ready;
      start_up_ += opened;
      load_ += ready - opened;
      ready_sum_ += ready;
      at(ready, What::Draw, r);
    }
    first_item_ = std::min(first_item_, ready);
    last_ready_ = std::max(last_ready_, ready);
  }
}

SimulationResult SimulatedRanks::run() {
  start();
  while (!events_.empty()) {
    const Event event = events_.top();
    events_.pop();
    now_ = event.time;
    switch (event.what) {
      case What::Draw:
        draw(event.who);
        break;
      case What::Write:
        write(event.who);
        break;
      case What::Agent:
        agent(event.who);
        break;
      case What::Request:
        inbox_.push_back(requests_.front());
        requests_.pop_front();
        if (!std::exchange(steward_is_due_, true)) at(now_ + input_.queue.steward_pause / 2, What::Serve, 0);
        break;
      case What::Serve:
        serve();
        break;
      case What::Reply: {
        const auto [node, reply] = replies_.front();
        replies_.pop_front();
        deliver(node, reply);
        break;
      }
    }
  }
  return result();
}

// ---- ranks ---------------------------------------------------------------------------------------------------------

void SimulatedRanks::draw(std::int64_t r) {
  Rank& rank = ranks_[static_cast<std::size_t>(r)];
  if (rank.over) return;
  if (rank.claim) return work(r);
  const std::int64_t n = r / input_.ranks_per_node;
  Node& node = nodes_[static_cast<std::size_t>(n)];
  const bool waited = rank.state.waits;
  const comm::NodeQueue::Draw drawn = node.queue.draw(rank.state);
  switch (drawn.state) {
    case comm::NodeQueue::State::Work:
      queue_ += now_ - rank.since + input_.queue.draw;
      rank.claim = drawn.claim;
      ++claims_;
      last_claim_ = std::max(last_claim_, now_);
      now_ += input_.queue.draw;
      work(r);
      break;
    case comm::NodeQueue::State::Wait:
      if (!waited) rank.since = now_;
      break;
    case comm::NodeQueue::State::End:
      if (!waited) rank.since = now_;
      rank.over = true;
      makespan_ = std::max(makespan_, now_);
      node.queue.leave(rank.state);
      break;
  }
  wake_agent(n, input_.queue.agent_pause / 2);
  // On a lone node it is a rank, not the steward, that lets those that wait come to the end.
  if (rank.over && nodes_.size() == 1 && !std::exchange(node.is_over, true)) wake_ranks(n);
}

/// The next shard of a rank's claim, until its commit has come to the file system.
void SimulatedRanks::work(std::int64_t r) {
  Rank& rank = ranks_[static_cast<std::size_t>(r)];
  const std::size_t shard = open_[static_cast<std::size_t>(rank.claim.first)];
  const auto items = static_cast<std::int64_t>(ranges_[shard].last - ranges_[shard].first);
  ++rank.claim.first;
  --rank.claim.count;
  const double seconds = shard_seconds(input_, shard, items) * static_cast<double>(rank.speed);
  const double committing = input_.commit.seconds +
                            input_.commit.seconds_per_byte * input_.commit.bytes_per_item * static_cast<double>(items);
  steady_ += seconds;
  commit_ += committing;
  rank.bytes = static_cast<double>(items) * input_.commit.bytes_per_item;
  at(now_ + seconds + committing, What::Write, r);
}

void SimulatedRanks::write(std::int64_t r) {
  Rank& rank = ranks_[static_cast<std::size_t>(r)];
  const double bytes = rank.bytes, operations = input_.commit.metadata_operations;
  const double asked =
      std::max(metadata_.serve(now_, operations), now_ + operations * input_.file_system.metadata_latency);
  const double written = std::max(bandwidth_.serve(now_, bytes), now_ + bytes / input_.file_system.node_bandwidth);
  const double end = asked + (written - now_);  // one after the other: created, written, renamed
  io_wait_ += end - now_;
  finished_.push_back(end);
  rank.since = end;
  makespan_ = std::max(makespan_, end);
  at(end, What::Draw, r);
}

/// Those of a node that wait look again.
void SimulatedRanks::wake_ranks(std::int64_t n) {
  const auto last = std::min(input_.ranks, (n + 1) * input_.ranks_per_node);
  for (std::int64_t r = n * input_.ranks_per_node; r < last; ++r)
    if (ranks_[static_cast<std::size_t>(r)].state.waits) at(now_ + input_.queue.answer_pause / 2, What::Draw, r);
}

// ---- the queue's messages ------------------------------------------------------------------------------------------

void SimulatedRanks::wake_agent(std::int64_t n, double delay) {
  if (nodes_.size() > 1 && !std::exchange(nodes_[static_cast<std::size_t>(n)].agent_is_due, true))
    at(now_ + delay, What::Agent, n);
}

void SimulatedRanks::agent(std::int64_t n) {
  Node& node = nodes_[static_cast<std::size_t>(n)];
  node.agent_is_due = false;
  while (const auto message = node.queue.next_message()) {
    blocks_ += message->kind == comm::NodeMessage::Kind::Ask;
    if (n == 0) {  // the steward's own node
      steward_.receive(0, *message, said_);
    } else {
      ++messages_;
      requests_.push_back({n, *message, now_});
      at(now_ + input_.queue.message, What::Request, 0);
    }
    send_replies();
  }
}

void SimulatedRanks::send_replies() {
  for (const auto& [to, reply] : std::exchange(said_, {})) {
    if (to == 0) {
      deliver(0, reply);
      continue;
    }
    ++messages_;
    replies_.emplace_back(to, reply);
    at(now_ + input_.queue.message, What::Reply, to);
  }
}

/// One message; the next right after it, or after a pause when there is none.
void SimulatedRanks::serve() {
  const Letter letter = inbox_.front();
  inbox_.pop_front();
  steward_longest_wait_ = std::max(steward_longest_wait_, now_ - letter.sent);
  steward_busy_ += input_.queue.steward_service;
  now_ += input_.queue.steward_service;
  steward_.receive(letter.node, letter.message, said_);
  send_replies();
  steward_is_due_ = !inbox_.empty();
  if (steward_is_due_) at(now_, What::Serve, 0);
}

void SimulatedRanks::deliver(std::int64_t n, const comm::StewardReply& reply) {
  nodes_[static_cast<std::size_t>(n)].queue.receive(reply);
  wake_ranks(n);
  wake_agent(n, input_.queue.answer_pause / 2);
}

// ---- what came out -------------------------------------------------------------------------------------------------

SimulationResult SimulatedRanks::result() const {
  for (const Rank& rank : ranks_) DIVERGEN_CHECK(rank.over, "a simulated rank does not come to its end");
  DIVERGEN_CHECK(nodes_.size() == 1 || steward_.is_over(), "the simulated steward still waits for nodes");
  DIVERGEN_CHECK(finished_.size() == open_.size(), finished_.size(), " of ", open_.size(), " shards");
  const auto ranks = static_cast<double>(input_.ranks);
  const double all = ranks * makespan_;
  SimulationResult out;
  out.ranks = input_.ranks;
  out.nodes = static_cast<std::int64_t>(nodes_.size());
  out.shards = static_cast<std::int64_t>(open_.size());
  for (const std::size_t shard : open_)
    out.items += static_cast<std::int64_t>(ranges_[shard].last - ranges_[shard].first);
  out.makespan = makespan_;
  out.item_seconds = steady_;
  out.efficiency = steady_ / all;
  out.items_per_second = static_cast<double>(out.items) / makespan_;
  out.first_item = first_item_;
  out.last_claim = last_claim_;
  out.ready_spread = last_ready_ - first_item_;

  double tail = 0, idle_before_last_claim = queue_;
  for (const Rank& rank : ranks_) {
    tail += makespan_ - rank.since;
    idle_before_last_claim += std::max(0.0, last_claim_ - rank.since);
  }
  out.busy_until_last_claim = 1 - idle_before_last_claim / std::max(ranks * last_claim_ - ready_sum_, 1e-9);
  out.shares = {start_up_ / all, load_ / all, steady_ / all, commit_ / all, io_wait_ / all, queue_ / all, tail / all};

  std::vector<double> moments = finished_;
  const auto at95 = static_cast<std::ptrdiff_t>(0.95 * static_cast<double>(moments.size() - 1));
  std::nth_element(moments.begin(), moments.begin() + at95, moments.end());
  out.tail_seconds = makespan_ - moments[static_cast<std::size_t>(at95)];

  const double span = std::max(last_claim_ - first_item_, 1e-9);
  out.claims = claims_;
  out.blocks = blocks_;
  out.messages = messages_;
  out.steward_busy = steward_busy_ / span;
  out.steward_longest_wait = steward_longest_wait_;
  out.metadata_busy = metadata_.busy() / makespan_;
  out.metadata_longest_wait = metadata_.longest_wait();
  return out;
}

}  // namespace divergen::stages
