#include "stages/evaluate/detections.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "store/table.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "divergen-detections";
constexpr int kVersion = 1;

[[noreturn]] void refuse(const Path& file, const std::string& why) {
  fail(ErrorKind::Data, {"a part of an evaluation cannot be used", file.string(), why,
                         "remove it and start again: its images are detected anew"});
}

}  // namespace

mask::Rle encode_in_box(const std::uint8_t* bitmap, std::int64_t height, std::int64_t width, std::int64_t x0,
                        std::int64_t y0, std::int64_t x1, std::int64_t y1) {
  x0 = std::clamp<std::int64_t>(x0, 0, width), x1 = std::clamp<std::int64_t>(x1, x0, width);
  y0 = std::clamp<std::int64_t>(y0, 0, height), y1 = std::clamp<std::int64_t>(y1, y0, height);
  mask::Rle out{height, width, {}};
  std::int64_t start = 0;  // of the current run, in column order
  bool inside = false;
  const auto change = [&](std::int64_t at) {
    out.counts.push_back(static_cast<std::uint32_t>(at - start));
    start = at;
    inside = !inside;
  };
  const bool is_full_height = y0 == 0 && y1 == height;
  for (std::int64_t x = x0; x < x1; ++x) {
    for (std::int64_t y = y0; y < y1; ++y)
      if ((bitmap[y * width + x] != 0) != inside) change(x * height + y);
    if (inside && !is_full_height) change(x * height + y1);
  }
  if (inside && x1 < width) change(x1 * height);
  if (start < height * width || out.counts.empty())
    out.counts.push_back(static_cast<std::uint32_t>(height * width - start));
  return out;
}

std::vector<lvis::Detection> to_lvis(const models::Detections& detections, std::int64_t image_id,
                                     const ClassMap& classes) {
  const at::Tensor boxes = detections.boxes.cpu().to(at::kFloat).contiguous();
  const at::Tensor scores = detections.scores.cpu().to(at::kFloat).contiguous();
  const at::Tensor labels = detections.classes.cpu().to(at::kLong).contiguous();
  const at::Tensor masks = detections.masks.to(at::kByte).cpu().contiguous();
  const std::int64_t n = boxes.size(0), height = masks.size(1), width = masks.size(2);
  std::vector<lvis::Detection> out;
  for (std::int64_t i = 0; i < n; ++i) {
    const float* b = boxes.const_data_ptr<float>() + 4 * i;
    lvis::Detection d;
    d.image_id = image_id;
    d.category_id = classes.category_of.at(static_cast<std::size_t>(labels.const_data_ptr<std::int64_t>()[i]));
    d.score = scores.const_data_ptr<float>()[i];
    const float w = b[2] - b[0], h = b[3] - b[1];
    d.box = {b[0], b[1], w, h};
    // A pasted mask reaches 0.5 only inside its box; one pixel more is safe against rounding of the box's edges.
    d.rle =
        encode_in_box(masks.const_data_ptr<std::uint8_t>() + i * height * width, height, width,
                      static_cast<std::int64_t>(std::floor(b[0])) - 1, static_cast<std::int64_t>(std::floor(b[1])) - 1,
                      static_cast<std::int64_t>(std::ceil(b[2])) + 1, static_cast<std::int64_t>(std::ceil(b[3])) + 1);
    d.area = static_cast<double>(mask::area(d.rle));
    out.push_back(std::move(d));
  }
  return out;
}

void write_part(const Path& file, const DetectionPart& part, const lvis::Dataset& dataset,
                const std::string& fingerprint) {
  std::vector<std::int64_t> images, categories;
  std::array<std::vector<double>, 5> numbers;
  std::vector<std::string> masks;
  for (const lvis::Detection& d : part.detections) {
    images.push_back(d.image_id);
    categories.push_back(d.category_id);
    numbers[0].push_back(d.score);
    for (std::size_t k = 0; k < 4; ++k) numbers[k + 1].push_back(d.box[k]);
    masks.push_back(mask::to_text(d.rle));
    const auto& image = dataset.images[dataset.image_index.at(d.image_id)];
    DIVERGEN_CHECK(d.rle.height == image.height && d.rle.width == image.width);
  }
  store::Table table(kFormat, kVersion);
  table.add("image_id", std::move(images));
  table.add("category_id", std::move(categories));
  table.add("score", std::move(numbers[0]));
  table.add("x", std::move(numbers[1]));
  table.add("y", std::move(numbers[2]));
  table.add("width", std::move(numbers[3]));
  table.add("height", std::move(numbers[4]));
  table.set_heap(masks);
  table.attributes["fingerprint"] = fingerprint;
  table.documents["images"] = json{{"images", part.images}, {"rejected", part.rejected}}.dump();
  store::write_table(table, file);
}

DetectionPart read_part(const Path& file, const lvis::Dataset& dataset, const std::string& fingerprint) {
  const store::Table table = store::read_table(file);
  if (table.format() != kFormat || table.version() != kVersion) refuse(file, "it is of another format or version");
  const auto whose = table.attributes.find("fingerprint");
  if (whose == table.attributes.end() || whose->second != fingerprint)
    refuse(file, "it belongs to another model, data set or settings");
  DetectionPart part;
  try {
    const json document = json::parse(table.documents.at("images"));
    part.images = document.at("images").get<std::vector<std::int64_t>>();
    part.rejected = document.at("rejected").get<std::map<std::string, std::vector<std::int64_t>>>();
  } catch (const std::exception& error) {
    refuse(file, cat("its list of images cannot be read: ", error.what()));
  }
  const auto& images = table.get<std::int64_t>("image_id");
  const auto& categories = table.get<std::int64_t>("category_id");
  const auto& scores = table.get<double>("score");
  const auto &x = table.get<double>("x"), &y = table.get<double>("y");
  const auto &w = table.get<double>("width"), &h = table.get<double>("height");
  part.detections.resize(table.rows());
  for (std::size_t i = 0; i < table.rows(); ++i) {
    const auto image = dataset.image_index.find(images[i]);
    if (image == dataset.image_index.end()) refuse(file, cat("the data set has no image ", images[i]));
    const auto& record = dataset.images[image->second];
    lvis::Detection& d = part.detections[i];
    d.image_id = images[i];
    d.category_id = categories[i];
    d.score = scores[i];
    d.box = {x[i], y[i], w[i], h[i]};
    d.rle = mask::from_text(table.heap(i), record.height, record.width);
    d.area = static_cast<double>(mask::area(d.rle));
  }
  return part;
}

}  // namespace divergen::stages
