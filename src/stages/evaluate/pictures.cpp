#include "stages/evaluate/pictures.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/text.hpp"
#include "image/draw.hpp"

namespace divergen::stages {
namespace {

/// Colours that neighbours in the class order do not share.
image::Colour colour_of(std::int64_t cls) {
  static constexpr image::Colour kPalette[] = {{255, 64, 64},  {64, 220, 64},  {80, 140, 255}, {255, 200, 0},
                                               {255, 90, 230}, {0, 220, 220},  {255, 140, 40}, {170, 110, 255},
                                               {170, 230, 60}, {240, 240, 240}};
  return kPalette[static_cast<std::size_t>(cls) % std::size(kPalette)];
}

struct Mark {
  std::int64_t cls = 0;
  std::string text;
  std::array<double, 4> box{};  // x, y, width, height
  const mask::Rle* rle = nullptr;
};

image::Image marked(const image::Image& original, const std::vector<Mark>& marks) {
  constexpr int kLeastSide = 384;  // px; smaller pictures are enlarged, so that names do not hide objects
  const int factor = std::max(1, kLeastSide / std::max(original.width, original.height));
  const auto px = [&](double value) { return static_cast<int>(std::lround(value * factor)); };
  image::Image picture = image::enlarge(original, factor);
  for (const Mark& mark : marks) {
    const BoxMask mask = box_mask(*mark.rle);
    image::draw_outline(picture, image::enlarge(mask.bits, factor), mask.x * factor, mask.y * factor,
                        colour_of(mark.cls));
    image::draw_box(picture, px(mark.box[0]), px(mark.box[1]), px(mark.box[0] + mark.box[2]) - 1,
                    px(mark.box[1] + mark.box[3]) - 1, colour_of(mark.cls));
  }
  for (const Mark& mark : marks)
    image::draw_text(picture, mark.text, px(mark.box[0]), px(mark.box[1]), colour_of(mark.cls));
  return picture;
}

/// `count` of the indices, evenly spread.
std::vector<std::size_t> spread(const std::vector<std::size_t>& indices, std::size_t count) {
  count = std::min(count, indices.size());
  std::vector<std::size_t> out;
  for (std::size_t k = 0; k < count; ++k) out.push_back(indices[k * indices.size() / count]);
  return out;
}

}  // namespace

std::vector<std::size_t> choose_pictures(const lvis::Dataset& dataset, std::size_t count) {
  std::set<std::size_t> annotated, with_rare;
  for (const lvis::Annotation& annotation : dataset.annotations) {
    const auto image = dataset.image_index.find(annotation.image_id);
    const auto category = dataset.category_index.find(annotation.category_id);
    if (image == dataset.image_index.end()) continue;
    annotated.insert(image->second);
    if (category != dataset.category_index.end() && dataset.categories[category->second].frequency == "r")
      with_rare.insert(image->second);
  }
  std::vector<std::size_t> out = spread({with_rare.begin(), with_rare.end()}, count / 2);
  for (const std::size_t i : out) annotated.erase(i);
  for (const std::size_t i : spread({annotated.begin(), annotated.end()}, count - out.size())) out.push_back(i);
  std::sort(out.begin(), out.end());
  return out;
}

void write_evaluation_pictures(const lvis::Dataset& dataset, const Path& images, const ClassMap& classes,
                               const std::vector<lvis::Detection>& detections, const std::vector<std::size_t>& chosen,
                               double least_score, const Path& folder, EventFile& events, std::int64_t step) {
  make_folder(folder);
  const auto class_of = [&](std::int64_t category) {
    const auto found = classes.class_of.find(category);
    return found == classes.class_of.end() ? 0 : found->second;
  };
  const auto name_of = [&](std::int64_t category) {
    const auto found = classes.class_of.find(category);
    return found == classes.class_of.end() ? cat("category ", category)
                                           : classes.names[static_cast<std::size_t>(found->second)];
  };
  std::map<std::int64_t, std::vector<Mark>> truth, found;  // by image id
  std::vector<mask::Rle> masks;
  for (const std::size_t i : chosen) truth[dataset.images[i].id];
  std::size_t count = 0;
  for (const auto& annotation : dataset.annotations) count += truth.contains(annotation.image_id) ? 1 : 0;
  masks.reserve(count);  // marks point into it
  for (const auto& annotation : dataset.annotations) {
    const auto image = truth.find(annotation.image_id);
    if (image == truth.end()) continue;
    masks.push_back(dataset.mask_of(annotation));
    image->second.push_back(
        {class_of(annotation.category_id), name_of(annotation.category_id), annotation.box, &masks.back()});
  }
  for (const lvis::Detection& d : detections)
    if (d.score >= least_score && truth.contains(d.image_id))
      found[d.image_id].push_back(
          {class_of(d.category_id), cat(name_of(d.category_id), " ", fixed(d.score, 2)), d.box, &d.rle});

  for (const std::size_t i : chosen) {
    const lvis::ImageRecord& record = dataset.images[i];
    image::Decoded decoded;
    try {
      decoded = image::decode(read_file(images / record.file), image::Channels::Rgb, /*apply_exif=*/true);
    } catch (const Error&) {
      continue;  // it has been counted and logged when it was to be detected
    }
    if (!decoded.image || decoded.image->height != record.height || decoded.image->width != record.width) continue;
    const image::Image both =
        image::beside(marked(*decoded.image, truth[record.id]), marked(*decoded.image, found[record.id]), 8);
    const std::string png = image::encode_png(both);
    write_file_atomic(folder / cat("val-", record.id, ".png"), png);
    events.add_picture(step, cat("detections/", record.id), png, both.height, both.width);
  }
}

}  // namespace divergen::stages
