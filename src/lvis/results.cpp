// Reading of results files: rule 2 of reference/lvis-evaluation.md decides by the first entry what the format is.

#include <optional>

#include <simdjson.h>

#include "base/error.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::lvis {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

class Entry {
 public:
  Entry(const object& fields, const Path& file, std::size_t index) : fields_(fields), file_(file), index_(index) {}

  [[noreturn]] void refuse(const char* field, const std::string& why) const {
    std::int64_t image = 0, category = 0;
    const bool has_image = fields_.at_key("image_id").get_int64().get(image) == simdjson::SUCCESS;
    const bool has_category = fields_.at_key("category_id").get_int64().get(category) == simdjson::SUCCESS;
    fail(ErrorKind::Data, {"a results file is malformed",
                           cat(file_.string(), ", entry ", index_, has_image ? cat(", image ", image) : "",
                               has_category ? cat(", category ", category) : "", ", field '", field, "'"),
                           why, "write the results again in COCO's format"});
  }
  bool has(const char* field) const {
    element ignored;
    return fields_.at_key(field).get(ignored) == simdjson::SUCCESS;
  }
  double number(const char* field) const {
    element value;
    if (fields_.at_key(field).get(value) != simdjson::SUCCESS) refuse(field, "it is missing");
    return number(value, field);
  }
  double number(const element& value, const char* field) const {
    double out = 0;
    if (value.get_double().get(out) == simdjson::SUCCESS) return out;
    std::int64_t integer = 0;
    if (value.get_int64().get(integer) != simdjson::SUCCESS) refuse(field, "it is not a number");
    return static_cast<double>(integer);
  }
  std::int64_t id(const char* field) const {
    const double value = number(field);
    if (value != static_cast<double>(static_cast<std::int64_t>(value))) refuse(field, "it is not an integer");
    return static_cast<std::int64_t>(value);
  }
  std::array<double, 4> box() const {
    array sides;
    if (fields_.at_key("bbox").get_array().get(sides) != simdjson::SUCCESS || sides.size() != 4)
      refuse("bbox", "it is not four numbers");
    std::array<double, 4> out{};
    std::size_t i = 0;
    for (const element side : sides) out[i++] = number(side, "bbox");
    return out;
  }
  mask::Rle segmentation(const ImageRecord& image) const {
    element value;
    if (fields_.at_key("segmentation").get(value) != simdjson::SUCCESS) refuse("segmentation", "it is missing");
    object rle;
    if (value.get_object().get(rle) == simdjson::SUCCESS) {
      array size;
      std::string_view text;
      if (rle.at_key("size").get_array().get(size) != simdjson::SUCCESS || size.size() != 2 ||
          rle.at_key("counts").get_string().get(text) != simdjson::SUCCESS)
        refuse("segmentation", "it is not a compressed run-length mask");
      return mask::from_text(text, static_cast<std::int64_t>(number(size.at(0).value(), "segmentation")),
                             static_cast<std::int64_t>(number(size.at(1).value(), "segmentation")));
    }
    array parts;
    if (value.get_array().get(parts) != simdjson::SUCCESS) refuse("segmentation", "it is neither a mask nor polygons");
    std::vector<std::vector<double>> polygons;
    for (const element part : parts) {
      array numbers;
      if (part.get_array().get(numbers) != simdjson::SUCCESS) refuse("segmentation", "a part is not a list of numbers");
      polygons.emplace_back();
      for (const element n : numbers) polygons.back().push_back(number(n, "segmentation"));
    }
    return mask::from_polygons(polygons, image.height, image.width);
  }

 private:
  const object& fields_;
  const Path& file_;
  std::size_t index_;
};

/// Without a mask, a box stands for a polygon of its four corners.
mask::Rle mask_of_box(const std::array<double, 4>& b, const ImageRecord& image) {
  const double x1 = b[0], x2 = b[0] + b[2], y1 = b[1], y2 = b[1] + b[3];
  return mask::from_polygon(std::array<double, 8>{x1, y1, x1, y2, x2, y2, x2, y1}, image.height, image.width);
}

}  // namespace

std::vector<Detection> read_results(const Path& file, const Dataset& truth, IouType type) {
  simdjson::dom::parser parser;
  element document;
  if (const auto error = parser.load(file.string()).get(document); error != simdjson::SUCCESS)
    fail(ErrorKind::Data, {"a results file cannot be read", file.string(), simdjson::error_message(error),
                           "it must be a JSON list of detections"});
  array entries;
  if (document.get_array().get(entries) != simdjson::SUCCESS)
    fail(ErrorKind::Data,
         {"a results file is malformed", file.string(), "it is not a list", "it must be a JSON list of detections"});
  if (entries.size() == 0)
    fail(ErrorKind::Data, {"a results file holds no detection", file.string(), "",
                           "lvis-api cannot evaluate nothing either; check the detector"});
  std::vector<Detection> out;
  std::optional<bool> has_boxes;
  std::size_t index = 0;
  for (const element item : entries) {
    object fields;
    const bool is_object = item.get_object().get(fields) == simdjson::SUCCESS;
    const Entry entry(fields, file, index++);
    if (!is_object) entry.refuse("", "the entry is not an object");
    if (!has_boxes) has_boxes = entry.has("bbox");
    Detection d;
    d.image_id = entry.id("image_id");
    d.category_id = entry.id("category_id");
    d.score = entry.number("score");
    const auto image = truth.image_index.find(d.image_id);
    if (image == truth.image_index.end()) entry.refuse("image_id", "the ground truth has no such image");
    const ImageRecord& record = truth.images[image->second];
    if (*has_boxes) {
      d.box = entry.box();
      d.area = d.box[2] * d.box[3];
      if (type == IouType::Mask)
        d.rle = entry.has("segmentation") ? entry.segmentation(record) : mask_of_box(d.box, record);
    } else {
      d.rle = entry.segmentation(record);
      d.area = static_cast<double>(mask::area(d.rle));
      d.box = mask::bounding_box(d.rle);
      if (type == IouType::Box) d.rle = {};
    }
    out.push_back(std::move(d));
  }
  return out;
}

}  // namespace divergen::lvis
