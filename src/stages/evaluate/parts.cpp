#include "stages/evaluate/parts.hpp"

#include <array>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "store/table.hpp"
#include "store/table_file.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "divergen-detections";
constexpr int kVersion = 1;

[[noreturn]] void refuse(const Path& file, const std::string& why) {
  fail(ErrorKind::Data, {"a part of an evaluation cannot be used", file.string(), why,
                         "remove it and start again: its images are detected anew"});
}

PartImages covered_images(const store::Table& table, const Path& file, const std::string& fingerprint) {
  if (table.format() != kFormat || table.version() != kVersion) refuse(file, "it is of another format or version");
  const auto whose = table.attributes.find("fingerprint");
  if (whose == table.attributes.end() || whose->second != fingerprint)
    refuse(file, "it belongs to another model, data set or settings");
  try {
    const json document = json::parse(table.documents.at("images"));
    return {document.at("images").get<std::vector<std::int64_t>>(),
            document.at("rejected").get<std::map<std::string, std::vector<std::int64_t>>>()};
  } catch (const std::exception& error) {
    refuse(file, cat("its list of images cannot be read: ", error.what()));
  }
}

}  // namespace

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

PartImages read_part_images(const Path& file, const std::string& fingerprint) {
  const store::TableFile part(file);
  return covered_images(part.columns(), file, fingerprint);
}

DetectionPart read_part(const Path& file, const lvis::Dataset& dataset, const std::string& fingerprint) {
  const store::Table table = store::read_table(file);
  DetectionPart part{covered_images(table, file, fingerprint), {}};
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
