#include "stages/train/pictures.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "base/error.hpp"
#include "image/draw.hpp"
#include "stages/train/tensorboard.hpp"

namespace divergen::stages {

void write_sample_pictures(const SampleMaker& maker, const ClassMap& classes, const Path& folder, const Path& board,
                           std::int64_t count) {
  constexpr image::Colour kReal{40, 220, 60}, kGenerated{255, 0, 220};
  constexpr int kLeastSide = 384;  // px; smaller pictures are enlarged, so that names do not hide objects
  make_folder(folder);
  std::optional<EventFile> events;
  for (std::int64_t i = 0; i < count; ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "sample-%04lld.png", static_cast<long long>(i));
    if (std::filesystem::exists(folder / name)) continue;
    const Sample sample = maker.make(static_cast<std::uint64_t>(i));
    const int factor = std::max(1, kLeastSide / std::max(sample.rgb.width, sample.rgb.height));
    image::Image picture = image::enlarge(sample.rgb, factor);
    const auto colour_of = [&](const SampleObject& object) { return object.source == 0 ? kReal : kGenerated; };
    const auto px = [&](float value) { return static_cast<int>(std::lround(value * static_cast<float>(factor))); };
    for (const SampleObject& object : sample.objects) {
      const BoxMask drawn = object.polygons.empty()
                                ? object.mask
                                : box_mask(mask::from_polygons(object.polygons, sample.rgb.height, sample.rgb.width));
      if (drawn.empty()) continue;
      image::draw_outline(picture, image::enlarge(drawn.bits, factor), drawn.x * factor, drawn.y * factor,
                          colour_of(object));
    }
    for (const SampleObject& object : sample.objects)
      image::draw_text(picture, classes.names.at(static_cast<std::size_t>(object.cls)), px(object.box[0]),
                       px(object.box[1]), colour_of(object));
    const std::string png = image::encode_png(picture);
    if (!events) events.emplace(board, 0);
    events->add_picture(0, cat("samples/", i), png, picture.height, picture.width);
    write_file_atomic(folder / name, png);
  }
}

}  // namespace divergen::stages
