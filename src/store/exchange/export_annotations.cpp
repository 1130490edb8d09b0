// COCO and LVIS: pictures, each of one instance, and one JSON of annotations.

#include <algorithm>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "image/geometry.hpp"
#include "mask/rle.hpp"
#include "store/exchange/export_parts.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

/// The list "annotations" is longer than memory may hold: it is written beside the list of pictures, and put behind it
/// at the end.
class TwoLists {
 public:
  TwoLists(const Path& pictures, const Path& annotations) : pictures_(pictures), annotations_(annotations) {}
  void add(const json& picture, const json& annotation) {
    const char* separator = count_++ == 0 ? "\n" : ",\n";
    pictures_.write(separator + picture.dump());
    annotations_.write(separator + annotation.dump());
  }
  FileStream& pictures() { return pictures_; }
  FileStream& annotations() { return annotations_; }

 private:
  FileStream pictures_, annotations_;
  std::int64_t count_ = 0;
};

json segmentation_of(const image::Image& mask, const mask::Rle& rle, const std::string& kind) {
  if (kind == "rle") return {{"size", {rle.height, rle.width}}, {"counts", mask::to_text(rle)}};
  json parts = json::array();
  for (const auto& contour : image::trace_contours(mask))
    if (contour.size() >= 6) parts.push_back(contour);  // COCO's readers refuse fewer than three points
  if (parts.empty()) {                                  // an object of a line of pixels: its box
    const auto box = mask::bounding_box(rle);
    parts.push_back(
        {box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3], box[0], box[1] + box[3]});
  }
  return parts;
}

json categories_of(const LibraryTables& tables, const std::map<std::int32_t, std::int64_t>& counts, bool is_lvis) {
  json out = json::array();
  for (const LibraryCategory& category : tables.categories) {
    json one{{"id", category.id}, {"name", category.name}, {"supercategory", category.is_extra ? "extra" : "object"}};
    if (is_lvis) {
      const auto count = counts.find(category.id);
      const std::int64_t number = count == counts.end() ? 0 : count->second;
      one["frequency"] = category.frequency;
      one["synonyms"] = {category.name};
      one["synset"] = "";
      one["def"] = "";
      one["image_count"] = one["instance_count"] = number;
    }
    out.push_back(one);
  }
  return out;
}

}  // namespace

void export_annotations(Export& work, bool is_lvis) {
  const bool is_rgba = work.options.pictures == "rgba";
  const Path json_part = work.folder.part() / "annotations.json", second_part = work.folder.part() / ".annotations";
  std::map<std::int32_t, std::int64_t> counts;
  ExportedSet pictures{"pictures", "images/*/*.png", "image/png", 0, 0};
  TwoLists lists(json_part, second_part);
  lists.pictures().write("{\"info\": " +
                         json{{"description", work.options.name},
                              {"version", "1"},
                              {"library_hash", work.library.hash()},
                              {"software", work.library.tables().software}}
                             .dump() +
                         ",\n\"licenses\": [],\n\"images\": [");
  std::int64_t id = 0;
  std::int32_t current = -1;
  for (const std::size_t i : work.entries) {
    const Instance instance = work.library.read(i);
    auto decoded = image::decode(instance.png, image::Channels::Rgba);
    if (!decoded.image)
      fail(ErrorKind::Data, {"a picture of the library cannot be decoded", cat("item ", to_hex(instance.item_id)),
                             decoded.problem, "run `divergen verify` on the library"});
    if (instance.category_id != current)
      make_folder(work.folder.part() / "images" / std::to_string(instance.category_id));
    current = instance.category_id;
    image::Image mask(decoded.image->height, decoded.image->width, 1);
    for (std::size_t p = 0; p < mask.pixels.size(); ++p)
      mask.pixels[p] = decoded.image->pixels[4 * p + 3] > work.options.alpha_threshold ? 255 : 0;
    const mask::Rle rle = mask::encode(mask.pixels, mask.height, mask.width);
    const std::string file = cat("images/", instance.category_id, "/", to_hex(instance.item_id), ".png");
    const std::string png = is_rgba ? instance.png : image::encode_png(image::to_rgb(*decoded.image));
    work.folder.write(file, png);
    ++id;
    json picture{{"id", id}, {"file_name", file}, {"width", mask.width}, {"height", mask.height}};
    if (is_lvis) {
      // Its readers find a picture by the last two parts of coco_url under the folder of pictures.
      picture["coco_url"] = file;
      picture["neg_category_ids"] = json::array();
      picture["not_exhaustive_category_ids"] = json::array();
    }
    lists.add(picture, {{"id", id},
                        {"image_id", id},
                        {"category_id", instance.category_id},
                        {"segmentation", segmentation_of(mask, rle, work.options.segmentation)},
                        {"bbox", mask::bounding_box(rle)},
                        {"area", mask::area(rle)},
                        {"iscrowd", 0}});
    work.note(instance, file);
    ++counts[instance.category_id];
    ++pictures.count;
    pictures.size += png.size();
  }
  lists.annotations().close();
  FileStream& out = lists.pictures();
  out.write("\n],\n\"annotations\": [");
  out.write(read_file(second_part));
  out.write("\n],\n\"categories\": " + categories_of(work.library.tables(), counts, is_lvis).dump() + "}\n");
  std::filesystem::remove(second_part);
  work.files.push_back({"annotations.json", "application/json", out.close(), out.size()});
  work.sets.push_back(pictures);
}

}  // namespace divergen::store
