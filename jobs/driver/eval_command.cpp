// divergen lvis-eval: the evaluator alone, in place of lvis-api.

#include <cstdio>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "driver/commands.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string truth, results, type = "bbox", out;
};

int evaluate(const Options& o) {
  const lvis::IouType type = o.type == "bbox" ? lvis::IouType::Box : lvis::IouType::Mask;
  const lvis::Dataset truth = lvis::read_dataset(o.truth);
  const lvis::Evaluation result = lvis::evaluate(truth, lvis::read_results(o.results, truth, type), type);
  nlohmann::json json{{"iou_type", o.type}};
  for (std::size_t i = 0; i < lvis::Summary::kNames.size(); ++i) {
    const double value = result.summary.values[i];
    json[lvis::Summary::kNames[i]] = value;
    std::fprintf(stderr, "%-8s %8.4f\n", lvis::Summary::kNames[i], value);
  }
  for (const auto& [category, ap] : result.category_ap) json["per_category"][std::to_string(category)] = ap;
  if (o.out.empty()) std::cout << json.dump(2) << '\n';
  else write_file_atomic(o.out, json.dump(2) + "\n");
  return 0;
}

}  // namespace

void add_eval_command(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "lvis-eval",
      "LVIS average precision of a results file, equal to lvis-api\n\n"
      "Example: divergen lvis-eval --gt lvis_v1_val.json --dt results.json --iou-type segm --out metrics.json");
  auto o = std::make_shared<Options>();
  command->add_option("--gt", o->truth, "LVIS v1 annotations")->required();
  command->add_option("--dt", o->results, "detections, as lvis-api reads them")->required();
  command->add_option("--iou-type", o->type, "bbox or segm")->check(CLI::IsMember({"bbox", "segm"}));
  command->add_option("--out", o->out, "file for the numbers (JSON); without it they go to stdout");
  command->callback([o, &action] { action = [o] { return evaluate(*o); }; });
}

}  // namespace divergen::driver
