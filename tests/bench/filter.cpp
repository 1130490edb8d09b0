// The filter's part of filter.py, which makes the data and runs the reference's way beside it. Each command prints one
// JSON object.
//
//   bench_filter crops ANNOTATIONS PICTURES PADDING [OUT]   all reference crops, as the stage "filter" makes them;
//                  pixels go to the file OUT, untimed
//   bench_filter features RAW ROWS SIZE OUT             float32 features -> OUT, a table as the stages keep them
//   bench_filter similarity TABLE GENERATED BAR         mean similarity of each generated one to all real ones; which
//                  are kept

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <set>

#include <nlohmann/json.hpp>

#include "base/allocator.hpp"
#include "base/error.hpp"
#include "base/machine.hpp"
#include "image/image.hpp"
#include "lvis/dataset.hpp"
#include "stages/filter/crop_maker.hpp"
#include "stages/filter/similarity.hpp"
#include "stages/filter/verdict.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

json crops(const Path& annotations, const Path& pictures, std::int64_t padding, const Path& out) {
  const lvis::Dataset dataset = lvis::read_dataset(annotations, {1, true});
  std::set<std::int32_t> ids;
  for (const auto& category : dataset.categories) ids.insert(static_cast<std::int32_t>(category.id));
  std::ofstream file;
  if (!out.empty()) file.open(out, std::ios::binary);
  std::int64_t count = 0, pixels = 0;
  double written = 0;
  const double start = now(), cpu_start = processor_seconds();
  config::FilterSettings settings;
  settings.crop_padding = padding;
  CropMaker maker(dataset, pictures, settings);
  std::map<std::string, std::int64_t> rejected;
  const auto places = plan_crops(dataset, ids, 0);
  for (std::size_t i = 0; i < places.size(); ++i) {
    const auto made = maker.make(places, i, rejected);
    if (!made) continue;
    const image::Image& crop = *made;
    ++count;
    pixels += std::int64_t{crop.width} * crop.height;
    if (file.is_open()) {
      const double before = processor_seconds();
      const std::int64_t head[3] = {dataset.annotations[places[i].annotation].id, crop.width, crop.height};
      file.write(reinterpret_cast<const char*>(head), sizeof head);
      file.write(reinterpret_cast<const char*>(crop.pixels.data()), static_cast<std::streamsize>(crop.pixels.size()));
      written += processor_seconds() - before;
    }
  }
  DIVERGEN_CHECK(rejected.empty() || rejected.begin()->first == kEmptyMask, "a picture was not read");
  return {{"crops", count},
          {"pixels", pixels},
          {"seconds", now() - start},
          {"cpu_seconds", processor_seconds() - cpu_start - written}};
}

json features(const Path& raw, std::size_t rows, std::size_t size, const Path& out) {
  const std::string bytes = read_file(raw);
  DIVERGEN_CHECK(bytes.size() == rows * size * sizeof(float), bytes.size());
  store::Table table("divergen-bench-features", 1);
  std::vector<std::uint64_t> id;
  std::vector<std::string> heap;
  for (std::size_t i = 0; i < rows; ++i) {
    id.push_back(i);
    heap.push_back(bytes.substr(i * size * sizeof(float), size * sizeof(float)));
  }
  table.add("item_id", std::move(id));
  table.set_heap(heap);
  store::write_table(table, out);
  return {{"bytes", std::filesystem::file_size(out)}};
}

/// From the table on disk to the list, in the order of the stage: unit features, their mean over the real crops, a
/// product for each generated picture, the verdict.
json similarity(const Path& file, std::size_t generated, double bar) {
  config::FilterSettings settings;
  settings.similarity = bar;
  std::vector<double> seconds, arithmetic;
  json kept;
  double cpu_seconds = 0;
  for (int round = 0; round < 6; ++round) {
    const double start = now(), cpu_start = processor_seconds();
    const store::Table table = store::read_table(file);
    const double loaded = processor_seconds();
    const auto unit = [&](std::size_t row) {
      std::vector<float> vector(table.heap(row).size() / sizeof(float));
      std::memcpy(vector.data(), table.heap(row).data(), table.heap(row).size());
      make_unit(vector);
      return vector;
    };
    FeatureSum sum;
    for (std::size_t row = generated; row < table.rows(); ++row) sum.add(unit(row));
    const std::vector<float> mean = sum.mean();
    kept = json::array();
    for (std::size_t row = 0; row < generated; ++row) {
      Score score;
      score.is_readable = true;
      score.crops = static_cast<std::int32_t>(sum.count());
      score.similarity = static_cast<float>(dot(unit(row), mean));
      score.area_share = 0.5F;
      if (judge(score, clip_score_bar(0, settings), settings) == Reason::Kept) kept.push_back(row);
    }
    if (round == 0) continue;
    seconds.push_back(now() - start);
    arithmetic.push_back(processor_seconds() - loaded);
    cpu_seconds += (processor_seconds() - cpu_start) / 5;
  }
  std::sort(seconds.begin(), seconds.end());
  std::sort(arithmetic.begin(), arithmetic.end());
  return {{"seconds", seconds[2]}, {"cpu_seconds", cpu_seconds}, {"arithmetic_seconds", arithmetic[2]}, {"kept", kept}};
}

}  // namespace
}  // namespace divergen::stages

int main(int argc, char** argv) {
  divergen::keep_freed_memory();  // as the stages do
  using namespace divergen;
  try {
    const std::string command = argc > 1 ? argv[1] : "";
    nlohmann::json out;
    if (command == "crops" && argc >= 5)
      out = stages::crops(argv[2], argv[3], std::stoll(argv[4]), argc > 5 ? Path(argv[5]) : Path());
    if (command == "features" && argc == 6)
      out = stages::features(argv[2], std::stoull(argv[3]), std::stoull(argv[4]), argv[5]);
    if (command == "similarity" && argc == 5)
      out = stages::similarity(argv[2], std::stoull(argv[3]), std::stod(argv[4]));
    if (out.is_null()) return 64;
    std::cout << out.dump() << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 70;
  }
}
