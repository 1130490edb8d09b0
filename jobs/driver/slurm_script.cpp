#include "driver/slurm_script.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>

#include "base/error.hpp"
#include "base/text.hpp"
#include "base/walltime.hpp"
#include "driver/launch.hpp"
#include "driver/process.hpp"
#include "driver/steps.hpp"

namespace divergen::driver {
namespace {

// Five minutes of warning, but no more than a quarter of a short job.
constexpr double kWarningSeconds = 300, kWarningShare = 0.25;
constexpr std::string_view kDirective = "#SBATCH ";

/// What slurm/lib.sh does unless it is told otherwise.
constexpr const char* kStagedLibrary = "plan generate annotate filter pool";

bool is_light(const std::string& stage) { return stage == "plan" || stage == "pool" || stage == "report"; }

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

/// sbatch splits its lines at blanks, and honours double quotes.
std::string directive(const std::string& word) {
  const std::size_t equal = word.find('=');
  return word.find(' ') == std::string::npos ? word
                                             : cat(word.substr(0, equal + 1), "\"", word.substr(equal + 1), "\"");
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> out;
  std::string word;
  for (const char c : text + " ") {
    if (!std::isspace(static_cast<unsigned char>(c))) word += c;
    else if (!word.empty()) out.push_back(std::exchange(word, ""));
  }
  return out;
}

/// Names of files and jobs: letters, digits, dot, dash and underscore.
std::string file_name(const std::string& label) {
  std::string out = label;
  for (char& c : out)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-' && c != '_') c = '_';
  return out;
}

/// sbatch reads a lone number as minutes.
std::optional<double> time_limit_seconds(const std::string& text) {
  const bool is_minutes = text.find_first_of(":-") == std::string::npos;
  const auto seconds = parse_slurm_time(text);
  return seconds && is_minutes ? std::optional(*seconds * 60) : seconds;
}

/// A template in its parts: options of each component of a heterogeneous job, and what follows them.
struct Template {
  std::vector<SbatchOptions> components{1};
  std::string purpose, body;
};

Template read_template(const Path& file) {
  Template out;
  bool in_body = false;
  std::string pending;
  for (const std::string& line : split(read_file(file), '\n')) {
    if (line.starts_with(kDirective)) {
      const std::string rest = line.substr(kDirective.size());
      if (rest == "hetjob") out.components.emplace_back();
      else
        for (const std::string& word : words_of(rest)) out.components.back().add(word, file.string());
      continue;
    }
    if (!in_body && out.purpose.empty() && line.starts_with("# ")) out.purpose = line;
    in_body = in_body || (!line.empty() && !line.starts_with("#"));
    if (in_body) out.body += line + "\n";
  }
  while (out.body.ends_with("\n\n")) out.body.pop_back();
  return out;
}

/// The options that a request puts over the template's, in the order of their weight.
void apply_layers(SbatchOptions& options, const std::string& stage, bool light, const ScriptRequest& request) {
  const std::string stage_key = "DIVERGEN_SBATCH_" + upper(stage);
  for (const std::string& key : {std::string("DIVERGEN_SBATCH"),
                                 std::string(light ? "DIVERGEN_SBATCH_CPU" : "DIVERGEN_SBATCH_GPU"), stage_key}) {
    const auto found = request.site.values.find(key);
    if (found == request.site.values.end()) continue;
    for (const std::string& word : words_of(found->second))
      options.add(word, cat("the site '", request.site.name, "', ", key));
  }
  for (const std::string& given : request.sbatch) {
    const std::size_t colon = given.find(":--");
    if (given.starts_with("--")) options.add(given, "--sbatch");
    else if (colon == std::string::npos)
      fail(ErrorKind::Usage, {"an option for sbatch cannot be read", given, "it does not begin with --",
                              "write --sbatch --time=2:00:00, or --sbatch train:--nodes=4"});
    else if (given.substr(0, colon) == stage) options.add(given.substr(colon + 1), "--sbatch");
  }
}

/// Unless somebody has chosen another warning than the template's.
void shorten_warning(SbatchOptions& options, const std::string& from_template) {
  const auto limit = time_limit_seconds(options.get("time"));
  if (!limit || from_template.empty() || options.get("signal") != from_template) return;
  const auto warning = static_cast<int>(std::min(kWarningSeconds, *limit * kWarningShare));
  options.set("signal", cat("B:USR2@", warning));
}

std::optional<std::int64_t> number(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

/// Exactly so many ranks: full nodes as the options have them, or one that is not full.
void set_ranks(SbatchOptions& options, std::int64_t ranks) {
  const std::int64_t most = std::max<std::int64_t>(1, number(options.get("ntasks-per-node")).value_or(ranks));
  const std::int64_t per_node = std::min(most, ranks);
  options.set("nodes", std::to_string((ranks + per_node - 1) / per_node));
  options.set("ntasks", std::to_string(ranks));
  options.set("ntasks-per-node", std::to_string(per_node));
}

std::string preamble(const SlurmJob& job, const ScriptRequest& request) {
  std::string out = "\n";
  const auto set = [&](const char* name, const std::string& value) {
    out += cat("export ", name, "=", shell_quoted(value), "\n");
  };
  set("DIVERGEN_RUN", request.run.string());
  set("DIVERGEN_CONFIG", request.config.string());
  set("DIVERGEN_SLURM", (request.run / "slurm").string());
  set("DIVERGEN_BIN", request.programs.string());
  set("DIVERGEN_SUBMISSION", request.submission);
  set("DIVERGEN_REQUEUE", request.requeue ? "yes" : "no");
  if (!request.hook.empty()) set("DIVERGEN_HOOK", request.hook);
  if (job.stage == "library") {
    std::string stages;
    for (const std::string& stage : request.library_stages) stages += (stages.empty() ? "" : " ") + stage;
    if (stages != kStagedLibrary) set("DIVERGEN_LIBRARY_STAGES", stages);
  }
  if (job.is_array) {
    out += "divergen_trainings=(";
    for (std::size_t i = 0; i < job.trainings.size(); ++i) out += (i > 0 ? " " : "") + shell_quoted(job.trainings[i]);
    out += ")\nexport DIVERGEN_TRAINING=\"${divergen_trainings[$SLURM_ARRAY_TASK_ID]}\"\n";
  } else if (!job.trainings.empty()) {
    set("DIVERGEN_TRAINING", job.trainings.front());
  }
  if (!job.arguments.empty()) {
    out += "set --";
    for (const std::string& argument : job.arguments) out += " " + shell_quoted(argument);
    out += '\n';
  }
  if (!request.site.text.empty())
    out += cat("\n# ---- sites/", request.site.name, ".env\n", request.site.text, "# ---- end of it\n");
  return out + "\n";
}

}  // namespace

std::vector<SlurmJob> slurm_jobs(const config::RunConfig& config, bool as_array, bool heterogeneous) {
  std::vector<SlurmJob> jobs;
  std::string library;  // label of the job after which the library is there
  if (needs_library(config)) {
    if (heterogeneous) {
      jobs.push_back({"library", "library", {}, {}});
    } else {
      for (const std::string& stage : library_stages(config))
        jobs.push_back({stage, stage, {}, library.empty() ? std::vector<std::string>{} : std::vector{library}}),
            library = stage;
    }
    library = jobs.back().label;
  }
  const auto after_library = [&](bool use_pool) {
    return use_pool && !library.empty() ? std::vector{library} : std::vector<std::string>{};
  };
  std::vector<std::string> ends;
  if (as_array && !config.trainings.empty()) {
    SlurmJob train{"train", "train", {}, {}, true};
    bool use_pool = false;
    for (const auto& t : config.trainings) {
      train.trainings.push_back(t.name);
      use_pool = use_pool || t.use_pool;
    }
    train.after = after_library(use_pool);
    jobs.push_back(train);
    jobs.push_back({"evaluate", "evaluate", train.trainings, {"train"}, true});
    ends = {"evaluate"};
  } else {
    for (const auto& t : config.trainings) {
      jobs.push_back({"train." + t.name, "train", {t.name}, after_library(t.use_pool)});
      jobs.push_back({"evaluate." + t.name, "evaluate", {t.name}, {"train." + t.name}});
      ends.push_back("evaluate." + t.name);
    }
  }
  if (ends.empty() && !library.empty()) ends = {library};
  jobs.push_back({"report", "report", {}, ends});
  return jobs;
}

config::RunConfig with_seeds(const config::RunConfig& config, const std::vector<std::int64_t>& seeds) {
  const auto found = config.table.find("trainings");
  if (found == config.table.end() || config.trainings.empty())
    fail(ErrorKind::Usage, {"there is nothing to train with several seeds", "--array seeds=...",
                            "the configuration has no [[trainings]]", "add one"});
  config::Array trainings;
  for (const config::Value& training : std::get<config::Array>(found->second.data))
    for (const std::int64_t seed : seeds) {
      config::Table one = std::get<config::Table>(training.data);
      const auto name = std::get<std::string>(one.at("name").data);
      one["name"] = {cat(name, "-seed", seed), "--array"};
      one["seed"] = {seed, "--array"};
      trainings.push_back({one, training.origin});
    }
  config::Table table = config.table;
  table["trainings"].data = trainings;
  return config::run_config_of(table);
}

void SbatchOptions::add(const std::string& word, const std::string& origin) {
  if (!word.starts_with("--") || word.size() < 3)
    fail(ErrorKind::Usage, {"an option for sbatch cannot be read", word, cat(origin, " holds it"),
                            "write long options with their values attached, as in --nodes=2"});
  const std::size_t equal = word.find('=');
  set(word.substr(2, equal == std::string::npos ? equal : equal - 2),
      equal == std::string::npos ? "" : word.substr(equal + 1));
}

void SbatchOptions::set(const std::string& name, const std::string& value) {
  for (auto& [known, held] : entries_)
    if (known == name) {
      held = value;
      return;
    }
  entries_.emplace_back(name, value);
}

void SbatchOptions::remove(const std::string& name) {
  std::erase_if(entries_, [&](const auto& entry) { return entry.first == name; });
}

std::string SbatchOptions::get(const std::string& name) const {
  for (const auto& [known, value] : entries_)
    if (known == name) return value;
  return "";
}

bool SbatchOptions::has(const std::string& name) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.first == name; });
}

std::vector<std::string> SbatchOptions::words() const {
  std::vector<std::string> out;
  for (const auto& [name, value] : entries_) out.push_back(value.empty() ? "--" + name : "--" + name + "=" + value);
  return out;
}

Site read_site(const Path& folder, const std::string& name) {
  const Path file = folder / (name + ".env");
  if (!std::filesystem::exists(file)) {
    std::vector<std::string> names;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
      if (entry.path().extension() == ".env") names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
    std::string list;
    for (const auto& one : names) list += (list.empty() ? "" : ", ") + one;
    fail(ErrorKind::Usage, {"there is no such site", name, cat("no file ", file.string()),
                            cat("use one of: ", list, "; or copy one of them and edit it")});
  }
  Site site{name, read_file(file), {}};
  int line_number = 0;
  for (std::string line : split(site.text, '\n')) {
    ++line_number;
    if (line.empty() || line.starts_with("#")) continue;
    if (line.starts_with("export ")) line = line.substr(7);
    const std::size_t equal = line.find('=');
    std::string value = equal == std::string::npos ? "" : line.substr(equal + 1);
    const bool is_quoted = value.size() >= 2 && value.front() == '"' && value.find('"', 1) == value.size() - 1;
    if (is_quoted) value = value.substr(1, value.size() - 2);
    const bool is_name = equal != std::string::npos && equal > 0 &&
                         std::all_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(equal),
                                     [](unsigned char c) { return std::isalnum(c) || c == '_'; });
    if (!is_name || value.find_first_of("\"'`;") != std::string::npos || (!is_quoted && value.find(' ') < value.size()))
      fail(ErrorKind::Config, {"a line of a site's file cannot be read", cat(file.string(), ":", line_number),
                               "it is not NAME=\"value\", export NAME=\"value\" or a comment", "write it so"});
    site.values[line.substr(0, equal)] = value;
  }
  if (!site.text.ends_with("\n")) site.text += '\n';
  return site;
}

std::int64_t ranks_of(const SbatchOptions& options) {
  if (const auto tasks = number(options.get("ntasks"))) return *tasks;
  const auto nodes = number(options.get("nodes")), per_node = number(options.get("ntasks-per-node"));
  return nodes && per_node ? *nodes * *per_node : 0;
}

Path slurm_folder() {
  std::vector<Path> places{program_folder() / "../share/divergen/slurm", program_folder() / "../../../slurm"};
  if (const char* named = std::getenv("DIVERGEN_SLURM_DIR")) places.insert(places.begin(), named);
  for (const Path& place : places)
    if (std::filesystem::exists(place / "lib.sh")) return std::filesystem::weakly_canonical(place);
  fail(ErrorKind::Io, {"the batch scripts are missing", "slurm/lib.sh", "there is none beside the programs",
                       "set DIVERGEN_SLURM_DIR to the folder slurm of the source tree"});
}

std::string submit_one(const std::vector<std::string>& command) {
  const Captured said = capture(command, true);
  const std::string id = said.out.substr(0, said.out.find_first_of(";\n"));
  const bool is_number =
      !id.empty() && std::all_of(id.begin(), id.end(), [](unsigned char c) { return std::isdigit(c); });
  if (said.code == 0 && is_number) return id;
  fail(ErrorKind::Io, {"sbatch has not taken a job", command.back(),
                       said.code == 127 ? "there is no sbatch on this machine" : cat("its exit code is ", said.code),
                       said.code == 127 ? "submit from a login node of the cluster, or use divergen run"
                                        : "its own message is above; options come from slurm/*.sbatch, the site and "
                                          "--sbatch. Nothing is left in the queue"});
}

Script make_script(const SlurmJob& job, const ScriptRequest& request) {
  Template read = read_template(request.templates / (job.stage + ".sbatch"));
  for (std::size_t i = 0; i < read.components.size(); ++i) {
    SbatchOptions& options = read.components[i];
    const std::string warning = options.get("signal");
    apply_layers(options, job.stage, read.components.size() > 1 ? i > 0 : is_light(job.stage), request);
    if (i > 0) continue;
    const std::string name = file_name(job.label);
    options.set("job-name", "divergen-" + name);
    options.set("chdir", request.work.string());
    options.set("output", (request.run / "logs" / cat(name, job.is_array ? "-%A_%a.out" : "-%j.out")).string());
    if (job.is_array) options.set("array", cat("0-", job.trainings.size() - 1));
    if (!request.requeue) {
      options.remove("requeue");
      options.set("no-requeue", "");
    }
    if (!request.mail.empty()) {
      options.set("mail-user", request.mail);
      options.set("mail-type", "END,FAIL,TIME_LIMIT_80");
    }
    if (job.ranks > 0) set_ranks(options, job.ranks);
    shorten_warning(options, warning);
  }
  if (!job.body.empty()) {
    const Template other = read_template(request.templates / (job.body + ".sbatch"));
    read.body = other.body;
    read.purpose = other.purpose;
  }
  Script script{file_name(job.label) + ".sbatch", "#!/bin/bash\n", read.components.front()};
  script.text += cat(read.purpose, "\n# Written by `divergen submit`, which writes it anew each time.\n");
  for (std::size_t i = 0; i < read.components.size(); ++i) {
    if (i > 0) script.text += "#SBATCH hetjob\n";
    for (const std::string& word : read.components[i].words()) script.text += cat(kDirective, directive(word), "\n");
  }
  script.text += preamble(job, request) + read.body;
  return script;
}

}  // namespace divergen::driver
