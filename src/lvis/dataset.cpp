#include "lvis/dataset.hpp"

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::lvis {

ImageRecord Images::operator[](std::size_t i) const {
  const auto name = part(columns_.names, columns_.name_end, i);
  const auto no = negative(i), partial = not_exhaustive(i);
  return {columns_.id[i],
          columns_.height[i],
          columns_.width[i],
          std::string(name.data(), name.size()),
          columns_.has_federated[i] != 0,
          {no.begin(), no.end()},
          {partial.begin(), partial.end()}};
}

void Images::push_back(const ImageRecord& image) {
  columns_.id.push_back(image.id);
  columns_.height.push_back(image.height);
  columns_.width.push_back(image.width);
  columns_.has_federated.push_back(image.has_federated ? 1 : 0);
  columns_.names.append(image.file);
  columns_.name_end.push_back(columns_.names.size());
  for (const std::int64_t id : image.negative) columns_.negative.push_back(static_cast<std::int32_t>(id));
  columns_.negative_end.push_back(columns_.negative.size());
  for (const std::int64_t id : image.not_exhaustive) columns_.not_exhaustive.push_back(static_cast<std::int32_t>(id));
  columns_.not_exhaustive_end.push_back(columns_.not_exhaustive.size());
}

Annotation Annotations::operator[](std::size_t i) const {
  Annotation out;
  out.id = columns_.id[i];
  out.image_id = columns_.image_id[i];
  out.category_id = columns_.category_id[i];
  out.box = columns_.box[i];
  out.area = columns_.area[i];
  out.is_crowd = (columns_.flags[i] & kCrowd) != 0;
  out.ignore = (columns_.flags[i] & kIgnore) != 0;
  if (columns_.shapes.has_rle(i)) out.rle = columns_.shapes.rle(i);
  else out.polygons = Polygons(columns_.shapes, i);
  return out;
}

void Annotations::push_back(const Annotation& annotation) {
  columns_.id.push_back(annotation.id);
  columns_.image_id.push_back(annotation.image_id);
  columns_.category_id.push_back(annotation.category_id);
  columns_.box.push_back(annotation.box);
  columns_.area.push_back(annotation.area);
  columns_.flags.push_back(
      static_cast<std::uint8_t>((annotation.is_crowd ? kCrowd : 0) | (annotation.ignore ? kIgnore : 0)));
  if (!annotation.rle.counts.empty()) columns_.shapes.add_rle(annotation.rle);
  else
    for (const auto& polygon : annotation.polygons) columns_.shapes.add_polygon(polygon);
  columns_.shapes.finish();
}

void Dataset::rebuild_indices() {
  image_index = IdIndex(images.columns().id.span());
  std::vector<std::int64_t> ids;
  for (const Category& category : categories) ids.push_back(category.id);
  category_index = IdIndex(ids);
}

mask::Rle Dataset::mask_of(const Annotation& annotation) const {
  if (!annotation.rle.counts.empty()) return annotation.rle;
  const std::size_t i = image_index.at(annotation.image_id);
  std::vector<std::vector<double>> parts;
  for (auto polygon : annotation.polygons) parts.push_back(std::move(polygon));
  return mask::from_polygons(parts, images.columns().height[i], images.columns().width[i]);
}

mask::Rle Dataset::mask_of(std::size_t annotation) const { return mask_of(annotations[annotation]); }

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
    json segmentation = json::array();
    for (auto polygon : a.polygons) segmentation.push_back(std::move(polygon));
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
