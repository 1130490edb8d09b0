#include "lvis/dataset.hpp"

#include <algorithm>

#include <simdjson.h>
#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::lvis {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

/// Where in the file we are, for messages.
struct Place {
  const Path& file;
  std::string what;
  [[noreturn]] void refuse(const std::string& field, const std::string& why) const {
    fail(ErrorKind::Data,
         {"an annotation file is malformed",
          cat(file.string(), ", ", what, field.empty() ? "" : ", field '", field, field.empty() ? "" : "'"), why,
          "mend the file, or name an LVIS v1 file"});
  }
};

double number(const element& value, const Place& place, const char* field) {
  double out = 0;
  if (value.get_double().get(out) != simdjson::SUCCESS) {
    std::int64_t integer = 0;
    if (value.get_int64().get(integer) != simdjson::SUCCESS) place.refuse(field, "it is not a number");
    out = static_cast<double>(integer);
  }
  return out;
}

std::int64_t integer(const object& from, const char* field, const Place& place) {
  element value;
  if (from.at_key(field).get(value) != simdjson::SUCCESS) place.refuse(field, "it is missing");
  std::int64_t out = 0;
  if (value.get_int64().get(out) == simdjson::SUCCESS) return out;
  double real = 0;
  if (value.get_double().get(real) == simdjson::SUCCESS && real == static_cast<double>(static_cast<std::int64_t>(real)))
    return static_cast<std::int64_t>(real);
  place.refuse(field, "it is not an integer");
}

std::string text_or_empty(const object& from, const char* field) {
  std::string_view value;
  return from.at_key(field).get_string().get(value) == simdjson::SUCCESS ? std::string(value) : "";
}

bool integers(const object& from, const char* field, const Place& place, std::vector<std::int64_t>& out) {
  array values;
  if (from.at_key(field).get_array().get(values) != simdjson::SUCCESS) return false;
  for (const element value : values) {
    std::int64_t id = 0;
    if (value.get_int64().get(id) != simdjson::SUCCESS) place.refuse(field, "it holds something that is not an id");
    out.push_back(id);
  }
  return true;
}

std::string last_two(const std::string& url) {
  const auto last = url.rfind('/');
  if (last == std::string::npos || last == 0) return url;
  const auto before = url.rfind('/', last - 1);
  return before == std::string::npos ? url : url.substr(before + 1);
}

ImageRecord read_image(const object& from, const Place& place) {
  ImageRecord image;
  image.id = integer(from, "id", place);
  image.height = static_cast<std::int32_t>(integer(from, "height", place));
  image.width = static_cast<std::int32_t>(integer(from, "width", place));
  if (image.height < 1 || image.width < 1) place.refuse("height", "the picture has no pixels");
  const std::string url = text_or_empty(from, "coco_url");
  image.file = url.empty() ? text_or_empty(from, "file_name") : last_two(url);
  const bool negative = integers(from, "neg_category_ids", place, image.negative);
  const bool partial = integers(from, "not_exhaustive_category_ids", place, image.not_exhaustive);
  image.has_federated = negative && partial;
  return image;
}

void read_segmentation(const element& value, const Dataset& dataset, const Place& place, Annotation& out) {
  const auto found = dataset.image_index.find(out.image_id);
  if (found == dataset.image_index.end()) place.refuse("image_id", cat("there is no image ", out.image_id));
  array parts;
  if (value.get_array().get(parts) == simdjson::SUCCESS) {
    for (const element part : parts) {
      array numbers;
      if (part.get_array().get(numbers) != simdjson::SUCCESS)
        place.refuse("segmentation", "a part is not a list of numbers");
      std::vector<double> polygon;
      for (const element n : numbers) polygon.push_back(number(n, place, "segmentation"));
      if (polygon.size() < 6 || polygon.size() % 2 != 0)
        place.refuse("segmentation",
                     cat("a polygon has ", polygon.size(), " numbers; it takes an even count of at least 6"));
      out.polygons.push_back(std::move(polygon));
    }
    return;
  }
  object rle;
  if (value.get_object().get(rle) != simdjson::SUCCESS)
    place.refuse("segmentation", "it is neither polygons nor a run-length mask");
  array size, runs;
  std::string_view text;
  if (rle.at_key("size").get_array().get(size) != simdjson::SUCCESS || size.size() != 2)
    place.refuse("segmentation", "its run-length mask has no size");
  const auto height = static_cast<std::int64_t>(number(size.at(0).value(), place, "segmentation")),
             width = static_cast<std::int64_t>(number(size.at(1).value(), place, "segmentation"));
  if (rle.at_key("counts").get_string().get(text) == simdjson::SUCCESS) {
    out.rle = mask::from_text(text, height, width);
  } else if (rle.at_key("counts").get_array().get(runs) == simdjson::SUCCESS) {
    std::vector<std::uint32_t> counts;
    for (const element n : runs) {
      const double run = number(n, place, "segmentation");
      if (run < 0 || run > 4294967295.0) place.refuse("segmentation", "a run is negative or huge");
      counts.push_back(static_cast<std::uint32_t>(run));
    }
    out.rle = mask::from_counts(std::move(counts), height, width);
  } else {
    place.refuse("segmentation", "its run-length mask has no counts");
  }
}

Annotation read_annotation(const object& from, const Dataset& dataset, const Place& place) {
  Annotation out;
  out.id = integer(from, "id", place);
  out.image_id = integer(from, "image_id", place);
  out.category_id = integer(from, "category_id", place);
  array box;
  if (from.at_key("bbox").get_array().get(box) != simdjson::SUCCESS || box.size() != 4)
    place.refuse("bbox", "it is not four numbers");
  std::size_t i = 0;
  for (const element side : box) out.box[i++] = number(side, place, "bbox");
  element value;
  if (from.at_key("area").get(value) != simdjson::SUCCESS) place.refuse("area", "it is missing");
  out.area = number(value, place, "area");
  std::int64_t flag = 0;
  out.is_crowd = from.at_key("iscrowd").get_int64().get(flag) == simdjson::SUCCESS && flag != 0;
  flag = 0;
  out.ignore = from.at_key("ignore").get_int64().get(flag) == simdjson::SUCCESS && flag != 0;
  if (from.at_key("segmentation").get(value) == simdjson::SUCCESS) read_segmentation(value, dataset, place, out);
  return out;
}

template <class Each>
void for_each(const object& root, const char* name, const Path& file, const Each& each) {
  array entries;
  if (root.at_key(name).get_array().get(entries) != simdjson::SUCCESS)
    Place{file, name}.refuse("", "there is no such list");
  std::size_t n = 0;
  for (const element entry : entries) {
    const Place place{file, cat(name, "[", n++, "]")};
    object fields;
    if (entry.get_object().get(fields) != simdjson::SUCCESS) place.refuse("", "it is not an object");
    each(fields, place);
  }
}

}  // namespace

void Dataset::rebuild_indices() {
  image_index.clear();
  category_index.clear();
  for (std::size_t i = 0; i < images.size(); ++i) image_index[images[i].id] = i;
  for (std::size_t i = 0; i < categories.size(); ++i) category_index[categories[i].id] = i;
}

mask::Rle Dataset::mask_of(const Annotation& annotation) const {
  if (!annotation.rle.counts.empty()) return annotation.rle;
  const ImageRecord& image = images[image_index.at(annotation.image_id)];
  return mask::from_polygons(annotation.polygons, image.height, image.width);
}

Dataset read_dataset(const Path& file) {
  if (!std::filesystem::is_regular_file(file))
    fail(ErrorKind::Io, {"an annotation file is missing", file.string(), "there is no such file",
                         "check the path in the configuration"});
  simdjson::dom::parser parser;
  element document;
  if (const auto error = parser.load(file.string()).get(document); error != simdjson::SUCCESS)
    fail(ErrorKind::Data, {"an annotation file cannot be read", file.string(), simdjson::error_message(error),
                           "it must be JSON; restore the file"});
  object root;
  if (document.get_object().get(root) != simdjson::SUCCESS) Place{file, "the whole"}.refuse("", "it is not an object");
  Dataset out;
  for_each(root, "categories", file, [&](const object& from, const Place& place) {
    Category category{integer(from, "id", place), text_or_empty(from, "name"), text_or_empty(from, "frequency"), 0};
    std::int64_t count = 0;
    if (from.at_key("image_count").get_int64().get(count) == simdjson::SUCCESS) category.image_count = count;
    out.categories.push_back(std::move(category));
  });
  std::sort(out.categories.begin(), out.categories.end(),
            [](const Category& a, const Category& b) { return a.id < b.id; });
  for_each(root, "images", file,
           [&](const object& from, const Place& place) { out.images.push_back(read_image(from, place)); });
  out.rebuild_indices();
  if (out.categories.empty()) Place{file, "categories"}.refuse("", "the list is empty");
  if (out.image_index.size() != out.images.size()) Place{file, "images"}.refuse("id", "two images share an id");
  for_each(root, "annotations", file, [&](const object& from, const Place& place) {
    out.annotations.push_back(read_annotation(from, out, place));
  });
  return out;
}

void write_dataset(const Dataset& dataset, const Path& file) {
  using nlohmann::json;
  json root{{"info", {{"description", "made by divergen"}}}, {"licenses", json::array()}};
  for (auto& list : {"images", "annotations", "categories"}) root[list] = json::array();
  for (const ImageRecord& image : dataset.images)
    root["images"].push_back({{"id", image.id},
                              {"height", image.height},
                              {"width", image.width},
                              {"coco_url", cat("divergen/", image.file)},
                              {"neg_category_ids", image.negative},
                              {"not_exhaustive_category_ids", image.not_exhaustive}});
  for (const Annotation& a : dataset.annotations) {
    json segmentation = a.polygons;
    if (!a.rle.counts.empty()) segmentation = {{"size", {a.rle.height, a.rle.width}}, {"counts", mask::to_text(a.rle)}};
    root["annotations"].push_back({{"id", a.id},
                                   {"image_id", a.image_id},
                                   {"category_id", a.category_id},
                                   {"bbox", a.box},
                                   {"area", a.area},
                                   {"segmentation", segmentation}});
  }
  for (const Category& c : dataset.categories)
    root["categories"].push_back(
        {{"id", c.id}, {"name", c.name}, {"frequency", c.frequency}, {"image_count", c.image_count}});
  write_file_atomic(file, root.dump() + "\n");
}

}  // namespace divergen::lvis
