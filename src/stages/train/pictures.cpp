#include "stages/train/pictures.hpp"

#include <cmath>
#include <cstdio>

#include "image/draw.hpp"

namespace divergen::stages {

void write_sample_pictures(const SampleMaker& maker, const ClassMap& classes, const Path& folder, std::int64_t count) {
  constexpr image::Colour kReal{40, 220, 60}, kGenerated{255, 0, 220};
  make_folder(folder);
  for (std::int64_t i = 0; i < count; ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "sample-%04lld.png", static_cast<long long>(i));
    if (std::filesystem::exists(folder / name)) continue;
    const Sample sample = maker.make(static_cast<std::uint64_t>(i));
    image::Image picture = sample.rgb;
    for (const SampleObject& object : sample.objects)
      image::draw_outline(picture, object.mask.bits, object.mask.x, object.mask.y,
                          object.source == 0 ? kReal : kGenerated);
    for (const SampleObject& object : sample.objects)
      image::draw_text(picture, classes.names.at(static_cast<std::size_t>(object.cls)),
                       static_cast<int>(std::lround(object.box[0])), static_cast<int>(std::lround(object.box[1])),
                       object.source == 0 ? kReal : kGenerated);
    write_file_atomic(folder / name, image::encode_png(picture));
  }
}

}  // namespace divergen::stages
