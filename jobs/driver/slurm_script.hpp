#pragma once
// The effective batch scripts of a study: slurm/<stage>.sbatch, a site's values over it, the command line's over those.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/fs.hpp"
#include "config/settings.hpp"

namespace divergen::driver {

/// One batch script, submitted once (or as the links of a chain).
struct SlurmJob {
  std::string label;                   // "generate", "train.baseline"; "train" for an array, "library" for --het
  std::string stage;                   // name of the template
  std::vector<std::string> trainings;  // of train and evaluate
  std::vector<std::string> after;      // labels of the jobs that must have succeeded
  bool is_array = false;               // one task a training; a task of evaluate waits for the same one of train
  // Of a job whose body is not that of its stage (`divergen scaling` measures a stage with the options that it has):
  std::string body;                    // name of the template whose body it has; empty: the stage's
  std::vector<std::string> arguments;  // of that body
  std::int64_t ranks = 0;  // exactly so many, on as few nodes as ntasks-per-node allows; 0: as the options say
};

/// The chain, in an order in which every job comes after those that it waits for. A training that pastes nothing waits
/// for nothing.
std::vector<SlurmJob> slurm_jobs(const config::RunConfig& config, bool as_array, bool heterogeneous);

/// The configuration with each training once a seed: "baseline" becomes "baseline-seed1", ... Throws Error(Usage |
/// Config).
config::RunConfig with_seeds(const config::RunConfig& config, const std::vector<std::int64_t>& seeds);

/// "--name=value" and "--name" in their order; a later one of the same name replaces the earlier.
class SbatchOptions {
 public:
  /// Throws Error(Usage), naming `origin`, for a word that is no long option with its value attached.
  void add(const std::string& word, const std::string& origin);
  void set(const std::string& name, const std::string& value);  // without dashes; value "": a flag
  void remove(const std::string& name);
  /// "" when it is not there or is a flag.
  std::string get(const std::string& name) const;
  bool has(const std::string& name) const;
  std::vector<std::string> words() const;  // "--nodes=2"

 private:
  std::vector<std::pair<std::string, std::string>> entries_;
};

/// A file of slurm/sites: plain lines NAME="value" or export NAME="value", and comments.
struct Site {
  std::string name, text;
  std::map<std::string, std::string> values;
};
/// Throws Error(Usage) when there is no such site (naming those that are there), Error(Config) for a line of another
/// form.
Site read_site(const Path& folder, const std::string& name);

/// Where slurm/ lies: DIVERGEN_SLURM_DIR, beside the installed programs, or in the source tree around the build.
/// Throws Error(Io) when it is nowhere.
Path slurm_folder();
/// Submits one script; the job's id. Throws Error(Io) when sbatch does not take it.
std::string submit_one(const std::vector<std::string>& command);

struct ScriptRequest {
  Path templates;                    // folder with the .sbatch files
  Site site;                         // may be empty
  std::vector<std::string> sbatch;   // "--time=1:00:00" for all jobs, "train:--nodes=4" for some
  Path run, config, programs, work;  // absolute
  std::string submission, hook, mail;
  std::vector<std::string> library_stages;  // of a heterogeneous job, in their order
  bool requeue = true;
};

struct Script {
  std::string name;  // file name: "train.baseline.sbatch"
  std::string text;
  SbatchOptions options;  // of the first component
};

/// Throws Error(Usage | Config | Io).
Script make_script(const SlurmJob& job, const ScriptRequest& request);

/// Number of ranks that the options ask for; 0 when they do not say.
std::int64_t ranks_of(const SbatchOptions& options);

}  // namespace divergen::driver
