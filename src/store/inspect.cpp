// Facts of a library and its contact sheet.

#include "store/inspect.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "image/draw.hpp"
#include "image/geometry.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

template <class T>
json spread(std::vector<T> values) {
  if (values.empty()) return nullptr;
  std::sort(values.begin(), values.end());
  double sum = 0;
  for (const T value : values) sum += static_cast<double>(value);
  return {{"min", values.front()},
          {"median", values[values.size() / 2]},
          {"max", values.back()},
          {"mean", sum / static_cast<double>(values.size())}};
}

json category_facts(const Library& library) {
  json out = json::array();
  for (const LibraryCategory& category : library.tables().categories) {
    const auto count = library.per_category().find(category.id);
    out.push_back({{"id", category.id},
                   {"name", category.name},
                   {"frequency", category.frequency},
                   {"is_extra", category.is_extra},
                   {"instances", count == library.per_category().end() ? 0 : count->second}});
  }
  return out;
}

json generator_facts(const Library& library) {
  std::vector<std::int64_t> counts(library.tables().generators.size(), 0);
  for (const auto& entry : library.entries())
    if (entry.generator >= 0 && static_cast<std::size_t>(entry.generator) < counts.size())
      ++counts[static_cast<std::size_t>(entry.generator)];
  json out = json::array();
  for (std::size_t g = 0; g < counts.size(); ++g) {
    const LibraryGenerator& generator = library.tables().generators[g];
    out.push_back({{"name", generator.name},
                   {"kind", generator.kind},
                   {"sampler", generator.sampler},
                   {"steps", generator.steps},
                   {"guidance", generator.guidance},
                   {"weights_hash", generator.weights_hash},
                   {"instances", counts[g]}});
  }
  return out;
}

}  // namespace

json inspect_library(const Path& folder) {
  const Library library(folder);
  std::vector<std::int32_t> widths, heights;
  std::vector<float> similarities;
  for (const auto& entry : library.entries()) {
    widths.push_back(entry.width);
    heights.push_back(entry.height);
    similarities.push_back(entry.similarity);
  }
  std::uintmax_t bytes = 0;
  for (const Path& shard : library.shards()) {
    std::error_code absent;
    const auto size = std::filesystem::file_size(shard, absent);
    if (!absent) bytes += size;
  }
  const LibraryTables& tables = library.tables();
  const auto used =
      std::count_if(tables.prompts.begin(), tables.prompts.end(), [](const auto& p) { return !p.empty(); });
  return {{"format", kLibraryFormat},
          {"version", kLibraryVersion},
          {"instances", library.size()},
          {"hash", library.hash()},
          {"shards", library.shards().size()},
          {"bytes", bytes},
          {"categories_with_instances", library.per_category().size()},
          {"categories", category_facts(library)},
          {"generators", generator_facts(library)},
          {"prompts", used},
          {"width", spread(std::move(widths))},
          {"height", spread(std::move(heights))},
          {"similarity", spread(std::move(similarities))},
          {"annotator_hash", tables.annotator_hash},
          {"clip_hash", tables.clip_hash},
          {"config_hash", tables.config_hash},
          {"software", tables.software}};
}

// ---- contact sheet -------------------------------------------------------------------------------------------------

namespace {

constexpr int kGap = 4, kLabel = 18;  // px
constexpr int kChecker = 8;
constexpr std::uint8_t kLight = 255, kDark = 214;

std::uint8_t checker(int y, int x) { return (y / kChecker + x / kChecker) % 2 == 0 ? kLight : kDark; }

/// Puts the cut-out, shrunk to the cell, onto the checkered ground.
void put_thumbnail(image::Image& sheet, image::Image rgba, int top, int left, int cell) {
  // Colours under transparent pixels must not bleed in when pixels are averaged.
  for (std::size_t i = 0; i < rgba.pixels.size(); i += 4)
    for (std::size_t c = 0; c < 3; ++c)
      rgba.pixels[i + c] = static_cast<std::uint8_t>((rgba.pixels[i + c] * rgba.pixels[i + 3] + 127) / 255);
  const double scale = std::min(1.0, static_cast<double>(cell) / std::max(rgba.width, rgba.height));
  const int width = std::max(1, static_cast<int>(rgba.width * scale));
  const int height = std::max(1, static_cast<int>(rgba.height * scale));
  if (scale < 1) rgba = image::resize_area(rgba, height, width);
  const int y0 = top + (cell - height) / 2, x0 = left + (cell - width) / 2;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const std::uint8_t* from = rgba.at(y, x);
      std::uint8_t* to = sheet.at(y0 + y, x0 + x);
      for (int c = 0; c < 3; ++c)
        to[c] = static_cast<std::uint8_t>(std::min(255, from[c] + (to[c] * (255 - from[3]) + 127) / 255));
    }
}

void put_cell(image::Image& sheet, const Library& library, std::size_t entry, int top, int left, int cell) {
  for (int y = 0; y < cell; ++y)
    for (int x = 0; x < cell; ++x) std::fill_n(sheet.at(top + y, left + x), 3, checker(y, x));
  image::Decoded decoded;
  try {
    decoded = image::decode(library.read_png(entry), image::Channels::Rgba);
  } catch (const Error& error) {
    decoded.problem = error.what();
  }
  if (decoded.image) {
    put_thumbnail(sheet, *decoded.image, top, left, cell);
    return;
  }
  for (int y = 0; y < cell; ++y)
    for (int x = 0; x < cell; ++x) {
      std::uint8_t* to = sheet.at(top + y, left + x);
      to[0] = 200;
      to[1] = to[2] = 30;
    }
}

/// `count` positions spread evenly over 0 .. size-1 (all of them when there are not more).
std::vector<std::size_t> spread_over(std::size_t size, std::size_t count) {
  std::vector<std::size_t> out;
  const std::size_t n = std::min(size, count);
  for (std::size_t i = 0; i < n; ++i) out.push_back(i * size / n);
  return out;
}

}  // namespace

image::Image contact_sheet(const Library& library, const ContactSheetOptions& options) {
  DIVERGEN_CHECK(options.columns > 0 && options.rows > 0 && options.cell >= 8, options.columns, " ", options.rows);
  if (library.size() == 0)
    fail(ErrorKind::Data, {"there is nothing to show", "an instance library", "it holds no instance",
                           "run `divergen pool` on a run with kept instances"});
  // Entries are sorted by category: each has one run of them.
  std::vector<std::size_t> first{0};
  for (std::size_t i = 1; i < library.size(); ++i)
    if (library.entries()[i].category_id != library.entries()[i - 1].category_id) first.push_back(i);
  std::map<std::int32_t, std::string> names;
  for (const auto& category : library.tables().categories) names[category.id] = category.name;

  const auto rows = spread_over(first.size(), static_cast<std::size_t>(options.rows));
  const int step = options.cell + kGap, height = kLabel + options.cell + kGap;
  image::Image sheet(static_cast<int>(rows.size()) * height + kGap, options.columns * step + kGap, 3, 255);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::size_t begin = first[rows[r]];
    const std::size_t end = rows[r] + 1 < first.size() ? first[rows[r] + 1] : library.size();
    const int top = kGap + static_cast<int>(r) * height;
    int left = kGap;
    for (const std::size_t i : spread_over(end - begin, static_cast<std::size_t>(options.columns))) {
      put_cell(sheet, library, begin + i, top + kLabel, left, options.cell);
      left += step;
    }
    image::draw_text(sheet, cat(names[library.entries()[begin].category_id], " (", end - begin, ")"), kGap,
                     top + kLabel, {255, 255, 255});
  }
  return sheet;
}

}  // namespace divergen::store
