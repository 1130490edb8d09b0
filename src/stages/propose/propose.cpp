#include "stages/propose/propose.hpp"

#include <algorithm>
#include <set>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;
using Node = WordNet::Node;

json parse(const Path& file) {
  json value = json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded())
    fail(ErrorKind::Data, {"a file is not JSON", file.string(), "it cannot be parsed", "mend the file"});
  return value;
}

json category_list(const Path& file) {
  json list = parse(file);
  if (list.is_object() && list.contains("categories")) list = json(list["categories"]);
  if (!list.is_array() || list.empty())
    fail(ErrorKind::Data, {"the category file cannot be used", file.string(), "it holds no list of categories",
                           "name a JSON list of categories, for example data/lvis/lvis_v1_train_cat_info.json"});
  return list;
}

/// The nearest known category over the hypernyms of a candidate: the fewest steps down from each hypernym to a known
/// category are found once, for all candidates.
class PathSearch {
 public:
  PathSearch(const WordNet& wordnet, const std::vector<Node>& known) : wordnet_(wordnet) {
    for (const Node node : known)
      for (const auto& up : wordnet.ancestors(node)) {
        const auto [entry, is_new] = nearest_.emplace(up.node, Down{node, up.distance});
        if (!is_new && up.distance < entry->second.distance) entry->second = {node, up.distance};
      }
  }

  std::pair<double, Node> nearest(Node candidate) const {
    std::int32_t fewest = -1;
    Node best = -1;
    for (const auto& up : wordnet_.ancestors(candidate)) {
      const auto found = nearest_.find(up.node);
      if (found == nearest_.end()) continue;
      const std::int32_t steps = up.distance + found->second.distance;
      if (fewest < 0 || steps < fewest) fewest = steps, best = found->second.node;
    }
    return {fewest < 0 ? 0.0 : 1.0 / (1.0 + fewest), best};
  }

 private:
  struct Down {
    Node node;
    std::int32_t distance;
  };
  const WordNet& wordnet_;
  std::unordered_map<Node, Down> nearest_;
};

std::pair<double, Node> nearest_by_wup(const WordNet& wordnet, const std::vector<Node>& known, Node candidate) {
  std::pair<double, Node> best{0.0, -1};
  for (const Node node : known)
    if (const double s = wordnet.wup_similarity(candidate, node); s > best.first) best = {s, node};
  return best;
}

}  // namespace

Proposal propose(const WordNet& wordnet, const std::vector<KnownCategory>& known,
                 const std::vector<std::string>& synsets, const ProposeOptions& options) {
  DIVERGEN_CHECK(options.measure == "path" || options.measure == "wup", options.measure);
  Proposal out;
  std::vector<Node> nodes;
  for (const KnownCategory& category : known) {
    if (const auto node = wordnet.find(category.synset)) nodes.push_back(*node);
    else out.unknown_categories.push_back(category.name);
  }
  const PathSearch search(wordnet, nodes);
  std::set<Node> seen;
  for (const std::string& given : synsets) {
    Candidate candidate{given, {}, {}, 0, false, {}};
    if (const auto node = wordnet.find(given); !node) {
      candidate.why_not = "unknown synset";
    } else {
      candidate.synset = wordnet.name(*node);
      const auto [similarity, nearest] =
          options.measure == "path" ? search.nearest(*node) : nearest_by_wup(wordnet, nodes, *node);
      candidate.similarity = similarity;
      if (nearest >= 0) candidate.nearest = wordnet.name(nearest);
      if (!seen.insert(*node).second) candidate.why_not = "listed twice";
      else if (similarity >= options.bound) candidate.why_not = "too near";
      candidate.is_proposed = candidate.why_not.empty();
    }
    out.candidates.push_back(std::move(candidate));
  }
  return out;
}

std::vector<std::string> read_synsets(const Path& file) {
  std::vector<std::string> out;
  if (file.extension() == ".json") {
    json list = parse(file);
    if (list.is_object() && list.contains("categories")) list = json(list["categories"]);
    if (!list.is_array())
      fail(ErrorKind::Data, {"the list of synsets cannot be used", file.string(), "it is no JSON list",
                             "write a list of texts, or of objects with 'synset'"});
    for (std::size_t i = 0; i < list.size(); ++i) {
      const json& entry = list[i].is_object() ? list[i].value("synset", json()) : list[i];
      if (!entry.is_string())
        fail(ErrorKind::Data, {"the list of synsets cannot be used", cat(file.string(), ", entry ", i),
                               "it is no text and no object with 'synset'", "mend the entry"});
      out.push_back(entry.get<std::string>());
    }
  } else {
    const std::string text = read_file(file);
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = std::min(text.find('\n', begin), text.size());
      std::string line = text.substr(begin, end - begin);
      line.resize(std::min(line.find_first_of(" \t\r,#"), line.size()));
      if (!line.empty()) out.push_back(std::move(line));
      begin = end + 1;
    }
  }
  if (out.empty())
    fail(ErrorKind::Data, {"the list of synsets is empty", file.string(), "it names no synset",
                           "write one synset a line: tench.n.01, or ImageNet's n01440764"});
  return out;
}

std::vector<KnownCategory> read_known_categories(const Path& categories) {
  std::vector<KnownCategory> out;
  for (const json& entry : category_list(categories)) {
    if (!entry.is_object() || entry.value("role", "eval") == "extra") continue;
    const std::string synset = entry.value("synset", "");
    if (!synset.empty()) out.push_back({entry.value("name", ""), synset});
  }
  if (out.empty())
    fail(ErrorKind::Data, {"the category file cannot be used", categories.string(),
                           "none of its categories has a synset", "name a file with 'synset', as LVIS has it"});
  return out;
}

std::string with_extra_categories(const Path& categories, const WordNet& wordnet, const Proposal& proposal,
                                  std::int64_t first_id) {
  json list = category_list(categories);
  std::int64_t largest = 0;
  for (json& entry : list) {
    if (!entry.is_object() || !entry.contains("id") || !entry["id"].is_number_integer())
      fail(ErrorKind::Data, {"the category file cannot be used", categories.string(),
                             "an entry has no whole number 'id'", "mend the file"});
    largest = std::max(largest, entry["id"].get<std::int64_t>());
    if (!entry.contains("role")) entry["role"] = "eval";
  }
  if (first_id > 0 && first_id <= largest)
    fail(ErrorKind::Usage, {"the ids of the extra categories would collide", cat("--first-id ", first_id),
                            cat("the largest id in ", categories.string(), " is ", largest), "choose a larger one"});
  std::int64_t id = first_id > 0 ? first_id : largest + 1;
  for (const Candidate& candidate : proposal.candidates) {
    if (!candidate.is_proposed) continue;
    const Node node = *wordnet.find(candidate.synset);
    const auto lemmas = wordnet.lemmas(node);
    list.push_back({{"id", id++},
                    {"name", lemmas.front()},
                    {"def", wordnet.definition(node)},
                    {"synonyms", lemmas},
                    {"synset", candidate.synset},
                    {"role", "extra"}});
  }
  return list.dump(1) + "\n";
}

}  // namespace divergen::stages
