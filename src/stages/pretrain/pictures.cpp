#include "stages/pretrain/pictures.hpp"

#include <ATen/ATen.h>

#include <cstring>

namespace divergen::stages {

at::Tensor to_unit_range(const std::vector<const image::Image*>& images) {
  DIVERGEN_CHECK(!images.empty());
  const int height = images.front()->height, width = images.front()->width;
  at::Tensor bytes = at::empty({static_cast<std::int64_t>(images.size()), height, width, 3}, at::kByte);
  for (std::size_t i = 0; i < images.size(); ++i) {
    DIVERGEN_CHECK(images[i]->height == height && images[i]->width == width && images[i]->channels == 3);
    std::memcpy(bytes[static_cast<std::int64_t>(i)].data_ptr(), images[i]->pixels.data(), images[i]->pixels.size());
  }
  return bytes.permute({0, 3, 1, 2}).to(at::kFloat).div_(127.5).sub_(1).contiguous();
}

std::vector<image::Image> to_images(const at::Tensor& images) {
  const at::Tensor bytes = (images.detach() * 0.5 + 0.5)
                               .clamp(0, 1)
                               .to(at::kFloat)
                               .mul(255)
                               .round()
                               .to(at::kByte)
                               .permute({0, 2, 3, 1})
                               .contiguous()
                               .cpu();
  std::vector<image::Image> out;
  for (std::int64_t i = 0; i < bytes.size(0); ++i) {
    image::Image image(static_cast<int>(bytes.size(1)), static_cast<int>(bytes.size(2)), 3);
    std::memcpy(image.pixels.data(), bytes[i].const_data_ptr(), image.pixels.size());
    out.push_back(std::move(image));
  }
  return out;
}

image::Image mosaic(const std::vector<image::Image>& images, int columns) {
  DIVERGEN_CHECK(!images.empty() && columns > 0);
  const int height = images.front().height, width = images.front().width, channels = images.front().channels;
  const int rows = (static_cast<int>(images.size()) + columns - 1) / columns;
  image::Image out(rows * height, columns * width, channels, 255);
  for (std::size_t i = 0; i < images.size(); ++i) {
    const int row = static_cast<int>(i) / columns, column = static_cast<int>(i) % columns;
    for (int y = 0; y < height; ++y)
      std::memcpy(out.at(row * height + y, column * width), images[i].at(y, 0),
                  static_cast<std::size_t>(width * channels));
  }
  return out;
}

std::vector<std::size_t> named_sprites(const miniworld::World& world) {
  std::vector<std::size_t> out = world.sprites_of(miniworld::Role::Eval);
  const auto extra = world.sprites_of(miniworld::Role::Extra);
  out.insert(out.end(), extra.begin(), extra.end());
  return out;
}

}  // namespace divergen::stages
