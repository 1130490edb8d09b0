#include "stages/common/shard_canary.hpp"

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr double kMinute = 60;

/// What earlier starts found out; a damaged file is none.
std::map<std::string, std::string> read_remembered(const Path& file) {
  std::map<std::string, std::string> out;
  if (!std::filesystem::exists(file)) return out;
  const json parsed = json::parse(read_file(file), nullptr, false);
  if (!parsed.is_object()) return out;
  for (const auto& [key, hash] : parsed.items())
    if (hash.is_string()) out[key] = hash.get<std::string>();
  return out;
}

struct Vote {
  std::map<std::string, std::set<int>> ranks_of;  // by hash
};

/// The hash that more than half of the ranks have; nothing when there is none. A single rank is right.
std::optional<std::string> majority(const Vote& vote) {
  std::size_t all = 0;
  for (const auto& [hash, ranks] : vote.ranks_of) all += ranks.size();
  for (const auto& [hash, ranks] : vote.ranks_of)
    if (!hash.empty() && 2 * ranks.size() > all) return hash;
  return std::nullopt;
}

std::string names(const std::set<int>& ranks, const std::vector<std::string>& hosts) {
  std::string out;
  for (const int rank : ranks)
    out += cat(out.empty() ? "" : ", ", "rank ", rank, " on ", hosts[static_cast<std::size_t>(rank)]);
  return out;
}

}  // namespace

CanaryWatch::CanaryWatch(const RunContext& context, const ShardedStage& stage)
    : context_(context), stage_(stage), seconds_(kMinute * static_cast<double>(context.config.run.canary_minutes)) {}

Canary CanaryWatch::make(std::size_t shard) const {
  try {
    return stage_.canary(shard);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Bug) throw;  // missing weights, wrong settings: the run's affair, not the rank's
    log::warn(stage_.name, ": the canary failed: ", error.what());
  } catch (const std::exception& error) {
    log::warn(stage_.name, ": the canary failed: ", error.what());
  }
  return {};
}

std::map<int, std::string> CanaryWatch::start(std::size_t shard) {
  std::map<int, std::string> bad;
  if (!is_on()) return bad;
  comm::World& world = context_.world;
  Canary own;
  world.together([&] { own = make(shard); });
  const Path file = context_.dir.root() / "canary.json";
  std::string verdict;
  const std::vector<std::string> all =
      world.gather_texts(json{{"key", own.key}, {"hash", own.hash}, {"host", world.host()}}.dump());
  world.together([&] {
    if (!world.is_root()) return;
    std::map<std::string, Vote> votes;
    std::vector<std::string> hosts;
    json quarantined = json::object();
    for (std::size_t r = 0; r < all.size(); ++r) {
      const json one = json::parse(all[r]);
      hosts.push_back(one.at("host"));
      const std::string hash = one.at("hash");
      if (hash.empty()) quarantined[std::to_string(r)] = "it cannot make the canary item";
      else votes[one.at("key")].ranks_of[hash].insert(static_cast<int>(r));
    }
    auto remembered = read_remembered(file);
    for (const auto& [key, vote] : votes) {
      if (!remembered.contains(key)) {
        const auto most = majority(vote);
        if (!most) {
          std::string who;
          for (const auto& [hash, ranks] : vote.ranks_of)
            who += cat(who.empty() ? "" : "; ", names(ranks, hosts), " made ", hash);
          fail(ErrorKind::Bug, {"the ranks make different bits of one item", who, cat("all of them are '", key, "'"),
                                "find the defective device and start without its node, or set run.canary_minutes = 0"});
        }
        remembered[key] = *most;
      }
      for (const auto& [hash, ranks] : vote.ranks_of)
        for (const int rank : ranks)
          if (hash != remembered.at(key))
            quarantined[std::to_string(rank)] = cat("its canary item is ", hash, ", not ", remembered.at(key));
    }
    write_file_atomic(file, json(remembered).dump(1) + "\n");
    verdict = quarantined.dump();
  });
  const json told = json::parse(world.broadcast_text(std::move(verdict)));
  for (const auto& [rank, why] : told.items()) bad[std::stoi(rank)] = why.get<std::string>();
  if (!own.hash.empty()) seen_[own.key] = own.hash;
  next_ = epoch_seconds() + seconds_;
  return bad;
}

std::optional<std::string> CanaryWatch::look(std::size_t shard, bool last) {
  if (!is_on()) return std::nullopt;
  if (!last) doubtful_.insert(shard);
  if (doubtful_.empty() || (!last && epoch_seconds() < next_)) return std::nullopt;
  const Canary now = make(shard);
  if (now.hash.empty()) return "it can no longer make the canary item";
  const auto [first, is_new] = seen_.emplace(now.key, now.hash);
  if (!is_new && first->second != now.hash)
    return cat("its canary item is ", now.hash, ", and was ", first->second, " when it began");
  doubtful_.clear();
  next_ = epoch_seconds() + seconds_;
  return std::nullopt;
}

}  // namespace divergen::stages
