// A results file of a stranger, under both protocols: evaluated or refused, and the same by one thread and by three.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.hpp"
#include "lvis/evaluator.hpp"

namespace {

using namespace divergen;

const lvis::Dataset& truth() {
  static const lvis::Dataset dataset = lvis::parse_dataset(
      R"({"categories":[{"id":2,"frequency":"r"},{"id":4,"frequency":"f"}],
          "images":[{"id":5,"height":10,"width":12,"neg_category_ids":[4],"not_exhaustive_category_ids":[]},
                    {"id":6,"height":9,"width":7,"neg_category_ids":[],"not_exhaustive_category_ids":[2]}],
          "annotations":[{"id":1,"image_id":5,"category_id":2,"bbox":[1,1,4,4],"area":16,"segmentation":[[1,1,5,1,5,5,1,5]]},
                         {"id":0,"image_id":6,"category_id":2,"bbox":[0,0,3,3],"area":9,"iscrowd":1,
                          "segmentation":{"size":[9,7],"counts":[0,3,6,3,6,3,42]}}]})",
      "gt.json");
  return dataset;
}

std::string outcome(std::string_view text, const lvis::EvaluationOptions& options) {
  try {
    return lvis::to_json(lvis::evaluate_text(truth(), text, "dt.json", options), options.type);
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  lvis::EvaluationOptions options;
  options.type = (data[0] & 1) != 0 ? lvis::IouType::Mask : lvis::IouType::Box;
  options.protocol = (data[0] & 2) != 0 ? lvis::Protocol::Coco : lvis::Protocol::Lvis;
  options.threads = 1;
  const std::string one = outcome(text, options);
  options.threads = 3;
  if (outcome(text, options) != one) std::abort();
  return 0;
}
