#pragma once
// The plain twin of the reader: the file as simdjson's tree, one value after the other. No checks: for good files.

#include <string_view>

#include <simdjson.h>

#include "lvis/dataset.hpp"

namespace divergen::lvis::plain {

inline double number(simdjson::dom::element value) {
  return value.is_double() ? double(value.get_double()) : static_cast<double>(std::int64_t(value.get_int64()));
}

inline Dataset read(std::string_view json) {
  using simdjson::dom::element;
  simdjson::dom::parser parser;
  const element root = parser.parse(simdjson::padded_string(json));
  Dataset out;
  for (const element from : root["categories"].get_array()) {
    Category category{from["id"].get_int64(), "", "", 0};
    std::string_view text;
    if (from["name"].get(text) == simdjson::SUCCESS) category.name = text;
    if (from["frequency"].get(text) == simdjson::SUCCESS) category.frequency = text;
    if (from["image_count"].error() == simdjson::SUCCESS) category.image_count = from["image_count"].get_int64();
    out.categories.push_back(category);
  }
  std::sort(out.categories.begin(), out.categories.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  for (const element from : root["images"].get_array()) {
    ImageRecord image;
    image.id = from["id"].get_int64();
    image.height = static_cast<std::int32_t>(std::int64_t(from["height"].get_int64()));
    image.width = static_cast<std::int32_t>(std::int64_t(from["width"].get_int64()));
    std::string_view text;
    if (from["coco_url"].get(text) == simdjson::SUCCESS)
      image.file = text.substr(text.rfind('/', text.rfind('/') - 1) + 1);
    else if (from["file_name"].get(text) == simdjson::SUCCESS) image.file = text;
    simdjson::dom::array ids;
    image.has_federated = from["neg_category_ids"].get(ids) == simdjson::SUCCESS;
    if (image.has_federated)
      for (const element id : ids) image.negative.push_back(id.get_int64());
    if (from["not_exhaustive_category_ids"].get(ids) == simdjson::SUCCESS)
      for (const element id : ids) image.not_exhaustive.push_back(id.get_int64());
    out.images.push_back(image);
  }
  out.rebuild_indices();
  for (const element from : root["annotations"].get_array()) {
    Annotation a;
    a.id = from["id"].get_int64(), a.image_id = from["image_id"].get_int64();
    a.category_id = from["category_id"].get_int64();
    std::size_t i = 0;
    for (const element side : from["bbox"].get_array()) a.box[i++] = number(side);
    a.area = number(from["area"]);
    std::int64_t flag = 0;
    a.is_crowd = from["iscrowd"].get(flag) == simdjson::SUCCESS && flag != 0;
    const element shape = from["segmentation"];
    if (shape.is_array()) {
      std::vector<std::vector<double>> parts;
      for (const element part : shape.get_array()) {
        parts.emplace_back();
        for (const element n : part.get_array()) parts.back().push_back(number(n));
      }
      a.polygons = parts;
    } else {
      std::vector<std::int64_t> size;
      for (const element side : shape["size"].get_array()) size.push_back(side.get_int64());
      std::string_view text;
      if (shape["counts"].get(text) == simdjson::SUCCESS) {
        a.rle = mask::from_text(text, size[0], size[1]);
      } else {
        a.rle = {size[0], size[1], {}};
        for (const element run : shape["counts"].get_array())
          a.rle.counts.push_back(static_cast<std::uint32_t>(std::int64_t(run.get_int64())));
      }
    }
    out.annotations.push_back(a);
  }
  return out;
}

}  // namespace divergen::lvis::plain
