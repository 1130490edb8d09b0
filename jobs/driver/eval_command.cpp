// divergen lvis-eval: the evaluator alone, in place of lvis-api and of pycocotools.

#include <cstdio>
#include <iostream>
#include <memory>

#include "base/error.hpp"
#include "driver/commands.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string truth, results, type = "bbox", protocol = "lvis", out, per_category;
  unsigned threads = 0;
};

int evaluate(const Options& o) {
  lvis::EvaluationOptions options;
  options.type = o.type == "bbox" ? lvis::IouType::Box : lvis::IouType::Mask;
  options.protocol = o.protocol == "lvis" ? lvis::Protocol::Lvis : lvis::Protocol::Coco;
  options.threads = o.threads;
  lvis::ReadOptions reading;
  reading.threads = o.threads;
  reading.has_shapes = options.type == lvis::IouType::Mask;
  const lvis::Dataset truth = lvis::read_dataset(o.truth, reading);
  const lvis::Evaluation result = lvis::evaluate_file(truth, o.results, options);
  std::fputs(lvis::summary_table(result).c_str(), stderr);
  if (!o.per_category.empty()) write_file_atomic(o.per_category, lvis::to_csv(result, truth));
  const std::string json = lvis::to_json(result, options.type);
  if (o.out.empty()) std::cout << json;
  else write_file_atomic(o.out, json);
  return 0;
}

}  // namespace

void add_eval_command(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "lvis-eval",
      "Average precision of a results file, equal to lvis-api to the last bit (or to pycocotools)\n\n"
      "Example: divergen lvis-eval --gt lvis_v1_val.json --dt results.json --iou-type segm --out metrics.json");
  auto o = std::make_shared<Options>();
  command->add_option("--gt", o->truth, "LVIS v1 or COCO annotations")->required();
  command->add_option("--dt", o->results, "detections, as lvis-api and pycocotools read them")->required();
  command->add_option("--iou-type", o->type, "bbox or segm")->check(CLI::IsMember({"bbox", "segm"}));
  command
      ->add_option("--protocol", o->protocol,
                   "lvis: federated, 300 detections an image; coco: 1, 10, 100 detections a category and image")
      ->check(CLI::IsMember({"lvis", "coco"}));
  command->add_option("--out", o->out, "file for the numbers (JSON); without it they go to stdout");
  command->add_option("--per-category", o->per_category, "file for a line about each category (CSV)");
  command->add_option("--threads", o->threads, "threads (default: as many as there are processors)");
  command->callback([o, &action] { action = [o] { return evaluate(*o); }; });
}

}  // namespace divergen::driver
