#include "stages/pretrain/sam_task.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include <cstring>

#include "nn/tensor_io.hpp"

namespace divergen::stages {
namespace {

constexpr int kPoints = 4;

struct Point {
  int x = 0, y = 0;
};

/// Points on pixels where `mask` is at least half covered; empty when there is hardly any.
std::vector<Point> points_on(const image::Image& mask, Rng& rng) {
  std::vector<Point> inside, out;
  for (int y = 0; y < mask.height; ++y)
    for (int x = 0; x < mask.width; ++x)
      if (*mask.at(y, x) > 200) inside.push_back({x, y});
  if (inside.size() < 60) return out;
  for (int i = 0; i < kPoints; ++i) out.push_back(inside[rng.below(inside.size())]);
  return out;
}

struct Scene {
  image::Image rgb, target;
  std::vector<Point> points;
};

/// One to three objects on a picture's background; the prompt lies on the topmost object or on what is left.
Scene compose(const miniworld::World& world, int size, double background_share, Rng& rng) {
  const auto any = [&] { return rng.below(world.sprites().size()); };
  auto base = miniworld::make_picture(world, any(), miniworld::random_description(rng), size, rng);
  Scene scene{std::move(base.rgb), std::move(base.mask), {}};
  image::Image covered = scene.target;
  const auto more = rng.below(3) == 0 ? rng.below(3) : 0;
  for (std::uint64_t i = 0; i < more; ++i) {
    miniworld::Look look;
    look.size = size * rng.uniform(0.25, 0.6);
    look.centre_x = rng.uniform(0.2, 0.8) * size;
    look.centre_y = rng.uniform(0.2, 0.8) * size;
    look.angle = rng.uniform(-40, 40);
    const image::Image object = miniworld::draw(world.sprites()[any()].picture, look, size, size);
    miniworld::blend_over(scene.rgb, object);
    for (std::size_t p = 0; p < covered.pixels.size(); ++p) {
      const std::uint8_t a = object.pixels[4 * p + 3];
      scene.target.pixels[p] = a;
      covered.pixels[p] = std::max(covered.pixels[p], a);
    }
  }
  const int last = size - 1;
  const Point corners[] = {{0, 0}, {0, last}, {last, 0}, {last, last}};
  bool corners_free = true;
  for (const Point& p : corners) corners_free = corners_free && *covered.at(p.y, p.x) < 20;
  if (!rng.chance(background_share)) scene.points = points_on(scene.target, rng);
  if (scene.points.empty()) {
    for (std::size_t p = 0; p < covered.pixels.size(); ++p)
      scene.target.pixels[p] = static_cast<std::uint8_t>(255 - covered.pixels[p]);
    if (corners_free) scene.points.assign(std::begin(corners), std::end(corners));
    else scene.points = points_on(scene.target, rng);
  }
  return scene;
}

}  // namespace

SamTask::SamTask(const miniworld::World& world, SamTaskOptions options)
    : world_(world), options_(std::move(options)), model_(options_.model) {}

void SamTask::initialise(std::uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  models::init_sam(model_, generator);
}

SamTask::Batch SamTask::scenes(Rng rng, std::int64_t size) const {
  const int side = static_cast<int>(options_.model.img_size);
  Batch batch;
  std::vector<at::Tensor> pixels, targets;
  batch.points = at::empty({size, kPoints, 2}, at::kFloat);
  auto points = batch.points.accessor<float, 3>();
  while (static_cast<std::int64_t>(pixels.size()) < size) {
    Scene scene = compose(world_, side, options_.background_share, rng);
    if (scene.points.empty()) continue;
    const auto n = static_cast<std::int64_t>(pixels.size());
    for (int i = 0; i < kPoints; ++i) {
      points[n][i][0] = static_cast<float>(scene.points[static_cast<std::size_t>(i)].x);
      points[n][i][1] = static_cast<float>(scene.points[static_cast<std::size_t>(i)].y);
    }
    pixels.push_back(models::prepare_for_sam(scene.rgb, side).pixels);
    at::Tensor mask = at::empty({1, 1, side, side}, at::kByte);
    std::memcpy(mask.data_ptr(), scene.target.pixels.data(), scene.target.pixels.size());
    targets.push_back(mask);
    batch.pictures.push_back(std::move(scene.rgb));
  }
  batch.pixels = at::cat(pixels);
  const std::int64_t shrink = side / (4 * options_.model.grid());
  at::Tensor target = at::cat(targets).to(at::kFloat) / 255;
  if (shrink > 1) target = at::avg_pool2d(target, {shrink, shrink});
  batch.targets = target;
  return batch;
}

std::any SamTask::make_batch(Rng rng, std::int64_t size) const { return scenes(rng, size); }

models::SamMaskDecoder::Output SamTask::forward(const Batch& b) const {
  const at::Tensor sparse = model_.prompt_encoder.points(b.points, at::ones({b.points.size(0), kPoints}, at::kLong));
  return model_.mask_decoder.forward(model_.image_encoder.forward(b.pixels),
                                     model_.prompt_encoder.pe_layer.grid(options_.model.grid()), sparse,
                                     model_.prompt_encoder.no_mask());
}

at::Tensor SamTask::loss(const std::any& batch, std::uint64_t, std::map<std::string, at::Tensor>& terms) {
  const auto& b = std::any_cast<const Batch&>(batch);
  const auto out = forward(b);
  const at::Tensor target = b.targets.expand_as(out.masks);
  const at::Tensor bce = at::binary_cross_entropy_with_logits(out.masks, target);
  const at::Tensor p = out.masks.sigmoid();
  const at::Tensor dice = (1 - (2 * (p * target).sum({2, 3}) + 1) / (p.sum({2, 3}) + target.sum({2, 3}) + 1)).mean();
  const at::Tensor hit = out.masks.detach().gt(0), wanted = target.gt(0.5);
  const at::Tensor iou =
      hit.logical_and(wanted).sum({2, 3}).to(at::kFloat) / hit.logical_or(wanted).sum({2, 3}).clamp_min(1);
  const at::Tensor iou_error = (out.iou - iou).pow(2).mean();
  terms["iou"] = iou.select(1, 3).mean();
  terms["bce"] = bce.detach();
  return bce + dice + 0.1 * iou_error;
}

void SamTask::sample(const Path& folder, std::int64_t iteration) {
  constexpr std::uint64_t kSampleSeed = 13;
  const Batch b = scenes(Rng(kSampleSeed), 32);
  const auto out = forward(b);
  const auto side = options_.model.img_size;
  const at::Tensor logits = at::upsample_bilinear2d(out.masks.narrow(1, 3, 1), {side, side}, false);
  std::vector<image::Image> all;
  for (std::size_t i = 0; i < b.pictures.size(); ++i) {
    const at::Tensor inside = logits[static_cast<std::int64_t>(i)][0].gt(0).contiguous();
    const bool* mask = inside.const_data_ptr<bool>();
    image::Image shown = b.pictures[i];
    for (std::size_t p = 0; p < shown.pixels.size() / 3; ++p)
      if (!mask[p])
        for (std::size_t k = 0; k < 3; ++k)
          shown.pixels[3 * p + k] = static_cast<std::uint8_t>(shown.pixels[3 * p + k] / 4);
    all.push_back(b.pictures[i]);
    all.push_back(std::move(shown));
  }
  write_file_atomic(folder / cat("sample-", iteration, ".png"), image::encode_png(mosaic(all, 8)));
}

void SamTask::write(const Path& folder) {
  make_folder(folder);
  nn::save_module(model_, folder / "model.safetensors", at::kHalf, {{"format", "pt"}});
  write_file_atomic(folder / "config.json", options_.model.to_json().dump(2) + "\n");
}

}  // namespace divergen::stages
