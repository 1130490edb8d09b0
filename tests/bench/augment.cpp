// Training samples per second of one thread on LVIS-like pictures, for augment.py, which makes the inputs and runs the
// reference's arithmetic beside it. Prints one JSON object.
//
//   bench_augment FOLDER [samples] [paste: 0 | 1] [caches: 0 | 1] [blend]
//
// FOLDER: lvis.json, coco/<train2017/...>.jpg, pool.json {class: ["*<file>"]} with RGBA pictures, area_mean_std2.json.

#include <sys/resource.h>

#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "stages/augment/sample_maker.hpp"

namespace divergen::stages {
namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * t.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// The LVIS categories are evaluated, classes of the pool beyond them extra.
ClassMap classes_of(const lvis::Dataset& dataset, const nlohmann::json& pool) {
  ClassMap out;
  const auto add = [&](std::int64_t category, const std::string& name) {
    out.class_of[category] = static_cast<std::int64_t>(out.category_of.size());
    out.category_of.push_back(category);
    out.names.push_back(name);
    out.frequencies.emplace_back("f");
    out.image_counts.push_back(1);
  };
  for (const auto& category : dataset.categories) add(category.id, category.name);
  out.evaluated = static_cast<std::int64_t>(out.category_of.size());
  std::set<std::int64_t> extra;
  for (const auto& entry : pool.items()) extra.insert(std::stoll(entry.key()) + 1);
  for (const std::int64_t category : extra)
    if (!out.class_of.contains(category)) add(category, cat("extra ", category));
  return out;
}

std::shared_ptr<const store::Library> make_library(const Path& folder, const nlohmann::json& pool,
                                                   const ClassMap& classes) {
  store::LibraryTables tables;
  for (std::size_t i = 0; i < classes.category_of.size(); ++i)
    tables.categories.push_back({static_cast<std::int32_t>(classes.category_of[i]), classes.names[i], "f",
                                 static_cast<std::int64_t>(i) >= classes.evaluated});
  tables.generators = {{"any", "stable_diffusion", "dpmpp", "none", 1, 1}};
  tables.prompts = {"an object"};
  std::vector<store::Instance> instances;
  for (const auto& [cls, files] : pool.items())
    for (const auto& file : files) {
      store::Instance one;
      one.item_id = instances.size() + 1;
      one.category_id = static_cast<std::int32_t>(std::stoll(cls) + 1);
      one.png = read_file(folder / file.get<std::string>().substr(1));
      const auto decoded = image::decode(one.png, image::Channels::Rgba);
      DIVERGEN_CHECK(decoded.image.has_value(), decoded.problem);
      one.width = one.source_width = decoded.image->width;
      one.height = one.source_height = decoded.image->height;
      one.area = 1;
      instances.push_back(std::move(one));
    }
  const Path library = folder / "library";
  std::filesystem::remove_all(library);
  make_folder(library);
  store::write_library_shard(library / "shard-000000.h5", instances, tables);
  store::write_library_index(library);
  return std::make_shared<const store::Library>(library);
}

int measure(const Path& folder, std::uint64_t samples, bool paste, bool caches, const std::string& way) {
  const lvis::Dataset dataset = lvis::read_dataset(folder / "lvis.json");
  const auto pool_json = nlohmann::json::parse(read_file(folder / "pool.json"));
  const ClassMap classes = classes_of(dataset, pool_json);
  config::AugmentSettings settings;
  settings.blend = {way};
  if (!caches) settings.image_cache_mb = settings.instance_cache_mb = 0;
  std::shared_ptr<const InstancePool> pool;
  if (paste)
    pool = std::make_shared<const InstancePool>(make_library(folder, pool_json, classes), config::TrainSettings{},
                                                classes);
  const SampleMaker maker(dataset, folder / "coco", classes, read_area_statistics(folder / "area_mean_std2.json"),
                          settings, pool, 42);
  for (std::uint64_t position = 0; position < 10; ++position) maker.make(position);
  std::size_t objects = 0, pasted = 0, pixels = 0;
  const double start = epoch_seconds(), cpu = cpu_seconds();
  for (std::uint64_t position = 10; position < 10 + samples; ++position) {
    const Sample sample = maker.make(position);
    objects += sample.objects.size();
    for (const SampleObject& object : sample.objects) pasted += object.source == 1;
    pixels += sample.rgb.pixels.size() / 3;
  }
  const double seconds = epoch_seconds() - start, n = static_cast<double>(samples);
  const nlohmann::json out{{"samples", samples},
                           {"seconds", seconds},
                           {"cpu_seconds", cpu_seconds() - cpu},
                           {"objects", static_cast<double>(objects) / n},
                           {"pasted", static_cast<double>(pasted) / n},
                           {"megapixels", static_cast<double>(pixels) / n * 1e-6}};
  std::puts(out.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace divergen::stages

int main(int argc, char** argv) {
  using divergen::stages::measure;
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.empty()) {
    std::fputs("usage: bench_augment FOLDER [samples] [paste: 0 | 1] [caches: 0 | 1] [blend]\n", stderr);
    return 64;
  }
  try {
    return measure(args[0], args.size() > 1 ? std::stoull(args[1]) : 200, args.size() < 3 || args[2] == "1",
                   args.size() > 3 && args[3] == "1", args.size() > 4 ? args[4] : "basic");
  } catch (const divergen::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 65;
  }
}
