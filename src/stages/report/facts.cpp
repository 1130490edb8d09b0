#include "stages/report/facts.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"
#include "config/document.hpp"
#include "stages/plan/categories.hpp"
#include "store/table.hpp"

namespace divergen::stages::report {
namespace {

using nlohmann::json;

std::string spaced(std::string text) {
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

/// Runs `read`; an error becomes a line of the page instead of ending it.
template <class Read>
void attempt(RunFacts& facts, const std::string& what, const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    facts.problems.push_back(
        cat(what, ": ", error.text().why.empty() ? error.what() : error.text().why, " (", error.text().object, ")"));
  } catch (const json::exception&) {
    facts.problems.push_back(cat(what, ": its JSON is damaged, or lacks what it must hold"));
  } catch (const std::exception& error) {
    facts.problems.push_back(cat(what, ": ", error.what()));
  }
}

/// Names of the folders below `folder`: those of the configuration first, in its order, then the others by name.
std::vector<std::string> folders(const Path& folder, const config::RunConfig& config) {
  std::set<std::string> there;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent))
    if (entry.is_directory()) there.insert(entry.path().filename().string());
  std::vector<std::string> names;
  for (const auto& training : config.trainings)
    if (there.erase(training.name) > 0) names.push_back(training.name);
  names.insert(names.end(), there.begin(), there.end());
  return names;
}

/// Of a training that the configuration does not name (any more), its name tells what it was.
bool uses_pool(const std::string& name, const config::RunConfig& config) {
  for (const auto& training : config.trainings)
    if (training.name == name) return training.use_pool;
  return name.find("baseline") == std::string::npos && name.find("without") == std::string::npos;
}

std::map<std::string, double> summary_of(const json& from) {
  std::map<std::string, double> out;
  for (const auto& [key, value] : from.items())
    if (value.is_number()) out[key] = value.get<double>();
  return out;
}

std::map<std::int64_t, double> by_category(const json& from, const char* kind) {
  std::map<std::int64_t, double> out;
  if (!from.contains("per_category") || !from["per_category"].contains(kind)) return out;
  for (const auto& [id, value] : from["per_category"][kind].items()) out[std::stoll(id)] = value.get<double>();
  return out;
}

void gather_evaluations(RunFacts& facts, const RunDirectory& dir, const config::RunConfig& config) {
  for (const std::string& name : folders(dir.root() / "evaluate", config)) {
    const Path file = dir.evaluation(name) / "metrics.json";
    if (!std::filesystem::exists(file)) continue;
    attempt(facts, cat("the metrics of evaluation ", name, " cannot be read"), [&] {
      const json metrics = json::parse(read_file(file));
      EvaluationFact fact;
      fact.name = name;
      fact.uses_pool = uses_pool(name, config);
      if (metrics.contains("bbox")) fact.box = summary_of(metrics["bbox"]);
      if (metrics.contains("segm")) fact.mask = summary_of(metrics["segm"]);
      fact.category_box = by_category(metrics, "bbox");
      fact.category_mask = by_category(metrics, "segm");
      facts.evaluations.push_back(std::move(fact));
    });
  }
}

TrainingFact read_journal(const Path& file) {
  TrainingFact fact;
  std::vector<json> lines;
  for (const std::string& line : split(read_file(file), '\n')) {
    json entry = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (entry.is_object()) lines.push_back(std::move(entry));  // a torn last line of a killed run is none
  }
  fact.lines = lines.size();
  for (std::size_t i = 0; i < lines.size(); ++i)
    for (const auto& [key, value] : lines[i].items()) {
      if (!value.is_number()) continue;
      auto& column = fact.columns[key];
      column.resize(lines.size(), std::nan(""));
      column[i] = value.get<double>();
    }
  return fact;
}

void gather_trainings(RunFacts& facts, const RunDirectory& dir, const config::RunConfig& config) {
  for (const std::string& name : folders(dir.root() / "train", config)) {
    const Path file = dir.training(name) / "log.jsonl";
    if (!std::filesystem::exists(file)) continue;
    attempt(facts, cat("the journal of training ", name, " cannot be read"), [&] {
      TrainingFact fact = read_journal(file);
      fact.name = name;
      fact.uses_pool = uses_pool(name, config);
      facts.trainings.push_back(std::move(fact));
    });
  }
}

void gather_library(RunFacts& facts, const RunDirectory& dir) {
  if (!std::filesystem::exists(dir.library() / "index.h5")) return;
  attempt(facts, "the instance library cannot be opened", [&] {
    const store::Library library(dir.library());
    LibraryFact fact;
    fact.instances = library.size();
    fact.hash = library.hash();
    fact.tables = library.tables();
    for (const auto& entry : library.entries()) {
      ++fact.per_category[entry.category_id];
      ++fact.per_generator[entry.generator];
    }
    for (const auto& entry : std::filesystem::directory_iterator(dir.library()))
      if (entry.is_regular_file() && entry.path().extension() == ".h5") fact.bytes += entry.file_size();
    facts.annotator_hash = fact.tables.annotator_hash;
    facts.clip_hash = fact.tables.clip_hash;
    for (const auto& g : fact.tables.generators)
      facts.generators.push_back({g.name, g.kind, g.sampler, std::to_string(g.steps), cat(g.guidance), g.weights_hash});
    facts.library = std::move(fact);
  });
}

/// What the shards say of their making, for a run whose library does not stand yet.
void gather_generators(RunFacts& facts, const RunDirectory& dir) {
  constexpr std::size_t kMostHeads = 64;
  if (!facts.generators.empty()) return;
  std::set<std::string> seen;
  const std::string stage = std::filesystem::exists(dir.shard("generate", 0)) ? "generate" : "fused";
  for (std::size_t i = 0; i < kMostHeads && std::filesystem::exists(dir.shard(stage, i)); ++i)
    attempt(facts, "a shard of pictures cannot be read", [&] {
      auto a = store::read_table_head(dir.shard(stage, i)).attributes;
      if (stage == "fused") facts.annotator_hash = a["annotator_hash"];
      if (a.contains("generator") && seen.insert(a["generator"]).second)
        facts.generators.push_back({a["generator"], "", a["sampler"], a["steps"], a["guidance"], a["weights_hash"]});
    });
  if (std::filesystem::exists(dir.shard("annotate", 0)))
    attempt(facts, "a shard of masks cannot be read", [&] {
      facts.annotator_hash = store::read_table_head(dir.shard("annotate", 0)).attributes["weights_hash"];
    });
}

void gather_categories(RunFacts& facts, const config::RunConfig& config) {
  attempt(facts, "the categories cannot be read", [&] {
    if (config.data.categories.empty()) return;
    for (const CategoryInfo& c : read_categories(config.data.categories))
      facts.categories.push_back({c.id, spaced(c.name), c.frequency, c.is_extra});
  });
  if (facts.categories.empty() && facts.library)
    for (const auto& c : facts.library->tables.categories)
      facts.categories.push_back({c.id, spaced(c.name), c.frequency, c.is_extra});
}

void note_missing(RunFacts& facts, const config::RunConfig& config) {
  const bool wants_library = config.trainings.empty() || std::any_of(config.trainings.begin(), config.trainings.end(),
                                                                     [](const auto& t) { return t.use_pool; });
  if (wants_library)
    for (const std::string& stage : config.run.fused
                                        ? std::vector<std::string>{"plan", "fused", "filter", "pool"}
                                        : std::vector<std::string>{"plan", "generate", "annotate", "filter", "pool"})
      if (facts.record(stage) == nullptr) facts.missing.push_back(cat("stage ", stage, " is not complete"));
  for (const auto& training : config.trainings) {
    if (facts.record("train." + training.name) == nullptr) {
      const bool begun = std::any_of(facts.trainings.begin(), facts.trainings.end(),
                                     [&](const TrainingFact& t) { return t.name == training.name && t.lines > 0; });
      facts.missing.push_back(cat("training “", training.name, "” ", begun ? "is not complete" : "has not begun"));
    }
    if (std::none_of(facts.evaluations.begin(), facts.evaluations.end(),
                     [&](const EvaluationFact& e) { return e.name == training.name; }))
      facts.missing.push_back(cat("training “", training.name, "” has not been evaluated"));
  }
}

}  // namespace

const std::vector<double>& TrainingFact::column(const std::string& key) const {
  static const std::vector<double> kNone;
  const auto found = columns.find(key);
  return found == columns.end() ? kNone : found->second;
}

const EvaluationFact* RunFacts::without() const {
  for (const auto& e : evaluations)
    if (!e.uses_pool) return &e;
  return nullptr;
}

const EvaluationFact* RunFacts::with() const {
  const EvaluationFact* last = nullptr;
  for (const auto& e : evaluations) {
    if (!e.uses_pool) continue;
    if (e.name == "divergen") return &e;
    last = &e;
  }
  return last;
}

const CategoryFact* RunFacts::category(std::int64_t id) const {
  for (const auto& c : categories)
    if (c.id == id) return &c;
  return nullptr;
}

const StageRecord* RunFacts::record(const std::string& stage) const {
  for (const auto& r : records)
    if (r.stage == stage) return &r;
  return nullptr;
}

bool RunFacts::is_pass(const StageRecord& of) const {
  const auto dot = of.stage.find('.');
  return dot != std::string::npos && record(of.stage.substr(0, dot)) != nullptr;
}

RunFacts gather(const RunDirectory& dir, const config::RunConfig& config) {
  RunFacts facts;
  facts.title = config.title;
  facts.root = dir.root();
  facts.config_hash = config.hash();
  facts.software = "divergen " DIVERGEN_VERSION;
  facts.config_text = config::to_toml(config.table, /*with_origins=*/true);
  for (const std::string& stage : recorded_stages(dir))
    attempt(facts, cat("the record of stage ", stage, " cannot be read"), [&] {
      if (auto record = read_record(dir, stage)) facts.records.push_back(std::move(*record));
    });
  gather_evaluations(facts, dir, config);
  gather_trainings(facts, dir, config);
  gather_library(facts, dir);
  gather_generators(facts, dir);
  gather_categories(facts, config);
  note_missing(facts, config);
  return facts;
}

std::string percent(double fraction) { return fraction < 0 || std::isnan(fraction) ? "–" : fixed(100 * fraction, 1); }

std::string gain(double before, double after) {
  if (before < 0 || after < 0 || std::isnan(before) || std::isnan(after)) return "–";
  // The difference of what is printed, so that the numbers of a row add up.
  const double points = std::round(1000 * after) / 10 - std::round(1000 * before) / 10;
  if (std::abs(points) < 0.05) return "±0.0";
  return cat(points > 0 ? "+" : "−", fixed(std::abs(points), 1));
}

double value_of(const std::map<std::string, double>& summary, const std::string& key) {
  const auto found = summary.find(key);
  return found == summary.end() ? -1 : found->second;
}

}  // namespace divergen::stages::report
