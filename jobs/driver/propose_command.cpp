// divergen propose: extra categories from WordNet.

#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "stages/propose/propose.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string synsets, categories = "data/lvis/lvis_v1_train_cat_info.json", out, wordnet = "/usr/share/wordnet";
  stages::ProposeOptions rule;
  std::int64_t first_id = 0;
  bool json = false;
};

nlohmann::json facts_of(const Options& o, const stages::Proposal& proposal) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& c : proposal.candidates) {
    nlohmann::json entry{{"given", c.given}, {"synset", c.synset}, {"proposed", c.is_proposed}};
    if (!c.nearest.empty()) entry.update({{"nearest", c.nearest}, {"similarity", c.similarity}});
    if (!c.why_not.empty()) entry["why_not"] = c.why_not;
    list.push_back(std::move(entry));
  }
  return {{"measure", o.rule.measure},
          {"bound", o.rule.bound},
          {"candidates", std::move(list)},
          {"categories_without_synset", proposal.unknown_categories}};
}

int run(const Options& o) {
  const stages::WordNet wordnet(o.wordnet);
  const auto known = stages::read_known_categories(o.categories);
  const auto proposal = stages::propose(wordnet, known, stages::read_synsets(o.synsets), o.rule);
  std::map<std::string, std::int64_t> counts;
  for (const auto& c : proposal.candidates) {
    ++counts[c.is_proposed ? "proposed" : c.why_not];
    if (!o.json)
      std::cout << (c.is_proposed ? "+ " : "- ") << (c.synset.empty() ? c.given : c.synset)
                << (c.nearest.empty() ? "" : cat("  nearest ", c.nearest, " ", fixed(c.similarity, 3)))
                << (c.why_not.empty() ? "" : cat("  (", c.why_not, ")")) << '\n';
  }
  if (o.json) std::cout << facts_of(o, proposal).dump(1) << '\n';
  for (const auto& name : proposal.unknown_categories)
    log::warn("propose: WordNet does not have the synset of the category ", name);
  std::string summary;
  for (const auto& [what, count] : counts) summary += cat(summary.empty() ? "" : ", ", count, " ", what);
  log::info("propose: ", summary, " (", o.rule.measure, " similarity below ", o.rule.bound, " to each of ",
            known.size() - proposal.unknown_categories.size(), " categories)");
  if (!o.out.empty()) {
    write_file_atomic(o.out, stages::with_extra_categories(o.categories, wordnet, proposal, o.first_id));
    log::info("propose: wrote ", o.out, "; name it as data.categories");
  }
  return 0;
}

}  // namespace

void add_propose_command(CLI::App& app, Action& action) {
  auto o = std::make_shared<Options>();
  auto* command = app.add_subcommand(
      "propose",
      "extra categories from WordNet: the synsets of a list that are far from every evaluated category\n\n"
      "Example: divergen propose data/imagenet/synsets.txt --out categories.json\n"
      "Needs WordNet's database files: apt-get install wordnet-base");
  command->add_option("synsets", o->synsets, "list of synsets: tench.n.01 or ImageNet's n01440764, one a line, or JSON")
      ->required();
  command->add_option("--categories", o->categories, "JSON list of the evaluated categories, with synsets")
      ->capture_default_str();
  command->add_option("--measure", o->rule.measure, "similarity: path or wup (Wu and Palmer)")
      ->check(CLI::IsMember({"path", "wup"}))
      ->capture_default_str();
  command->add_option("--bound", o->rule.bound, "proposed below this similarity to every category")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--wordnet", o->wordnet, "folder with data.noun and index.noun")->capture_default_str();
  command->add_option("--first-id", o->first_id, "id of the first extra category (default: after the largest)")
      ->check(CLI::PositiveNumber);
  command->add_option("--out", o->out, "write the categories with the proposed ones, for data.categories");
  command->add_flag("--json", o->json, "machine-readable, on stdout");
  command->callback([o, &action] { action = [o] { return run(*o); }; });
}

}  // namespace divergen::driver
