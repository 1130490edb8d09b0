#include "driver/slurm_queue.hpp"

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"
#include "driver/process.hpp"

namespace divergen::driver {
namespace {

using nlohmann::json;

Path jobs_file(const stages::RunDirectory& dir) { return dir.root() / "slurm" / "jobs.json"; }

}  // namespace

void write_submission(const stages::RunDirectory& dir, const Submission& submission) {
  json jobs = json::array();
  for (const SubmittedJob& job : submission.jobs)
    jobs.push_back({{"label", job.label}, {"job", job.id}, {"script", job.script}, {"link", job.link}});
  const json out{
      {"submission", submission.id}, {"config", submission.config}, {"site", submission.site}, {"jobs", jobs}};
  write_file_atomic(jobs_file(dir), out.dump(1) + "\n");
}

std::optional<Submission> read_submission(const stages::RunDirectory& dir) {
  if (!std::filesystem::exists(jobs_file(dir))) return std::nullopt;
  try {
    const json from = json::parse(read_file(jobs_file(dir)));
    Submission out{from.at("submission"), from.at("config"), from.at("site"), {}};
    for (const json& job : from.at("jobs"))
      out.jobs.push_back({job.at("label"), job.at("job"), job.at("script"), job.at("link")});
    return out;
  } catch (const json::exception& problem) {
    fail(ErrorKind::Data, {"the list of submitted jobs is damaged", jobs_file(dir).string(), problem.what(),
                           "remove it after a look at squeue; the run itself does not need it"});
  }
}

std::optional<std::multimap<std::string, QueuedJob>> ask_queue(const Submission& submission) {
  std::multimap<std::string, QueuedJob> out;
  if (submission.jobs.empty()) return out;
  std::map<std::string, std::string> label_of;
  std::string ids;
  for (const SubmittedJob& job : submission.jobs) {
    label_of[job.id] = job.label;
    ids += (ids.empty() ? "" : ",") + job.id;
  }
  const Captured said = capture({"timeout", "20", "squeue", "-h", "-j", ids, "-o", "%i|%T|%r|%M|%L|%N"}, true);
  // 1 besides an answer: none of the ids is known any more, so all have ended.
  if (said.code != 0 && said.code != 1) return std::nullopt;
  for (const std::string& line : split(said.out, '\n')) {
    const auto fields = split(line, '|');
    if (fields.size() != 6) continue;
    const auto label = label_of.find(fields[0].substr(0, fields[0].find_first_of("_+")));
    if (label == label_of.end()) continue;
    out.emplace(label->second, QueuedJob{fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]});
  }
  return out;
}

}  // namespace divergen::driver
