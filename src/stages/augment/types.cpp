#include "stages/augment/types.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(const char* what, const Path& file, std::string why) {
  fail(ErrorKind::Data, {cat(what, " cannot be used"), file.string(), std::move(why),
                         "restore the file, or name another one in the section [data]"});
}

json parse(const char* what, const Path& file) {
  const std::string bytes = read_file(file);
  json document = json::parse(bytes, nullptr, false);
  if (document.is_discarded()) refuse(what, file, "it is not JSON");
  return document;
}

struct CategoryEntry {
  std::int64_t id = 0;
  std::string name, frequency;
  double image_count = 0;
  bool is_extra = false;
};

CategoryEntry read_category(const json& from, std::size_t index, const Path& file) {
  constexpr const char* kWhat = "a categories file";
  const std::string place = cat("entry ", index);
  if (!from.is_object()) refuse(kWhat, file, cat(place, " is not an object"));
  const auto field = [&](const char* name) { return from.contains(name) ? from.at(name) : json(); };
  CategoryEntry out;
  if (!field("id").is_number_integer()) refuse(kWhat, file, cat(place, " has no integer 'id'"));
  if (!field("name").is_string()) refuse(kWhat, file, cat(place, " has no text 'name'"));
  out.id = field("id").get<std::int64_t>();
  out.name = field("name").get<std::string>();
  if (field("frequency").is_string()) out.frequency = field("frequency").get<std::string>();
  if (field("image_count").is_number()) out.image_count = field("image_count").get<double>();
  const json role = field("role");
  out.is_extra = role == "extra";
  if (!role.is_null() && role != "eval" && role != "extra")
    refuse(kWhat, file, cat(place, " (", out.name, ") has the role ", role.dump(), "; it is \"eval\" or \"extra\""));
  return out;
}

/// The part of `bits` that is left when empty rows and columns at its edges go.
void tighten(BoxMask& mask) {
  const image::Image& bits = mask.bits;
  int x0 = bits.width, x1 = -1, y0 = bits.height, y1 = -1;
  for (int y = 0; y < bits.height; ++y) {
    const std::uint8_t* row = bits.at(y, 0);
    const auto* first = static_cast<const std::uint8_t*>(std::memchr(row, 1, static_cast<std::size_t>(bits.width)));
    if (first == nullptr) continue;
    y0 = std::min(y0, y);
    y1 = y;
    x0 = std::min(x0, static_cast<int>(first - row));
    int last = bits.width - 1;
    while (row[last] == 0) --last;
    x1 = std::max(x1, last);
  }
  if (x1 < 0) {
    mask = {};
    return;
  }
  if (x1 - x0 + 1 == bits.width && y1 - y0 + 1 == bits.height) return;
  mask.bits = image::crop(bits, x0, y0, x1 - x0 + 1, y1 - y0 + 1);
  mask.x += x0;
  mask.y += y0;
}

}  // namespace

ClassMap read_class_map(const Path& categories_json) {
  constexpr const char* kWhat = "a categories file";
  const json document = parse(kWhat, categories_json);
  if (!document.is_array()) refuse(kWhat, categories_json, "it is not a list of categories");
  std::vector<CategoryEntry> entries;
  for (std::size_t i = 0; i < document.size(); ++i) entries.push_back(read_category(document[i], i, categories_json));
  std::sort(entries.begin(), entries.end(), [](const CategoryEntry& a, const CategoryEntry& b) {
    return std::pair(a.is_extra, a.id) < std::pair(b.is_extra, b.id);
  });
  ClassMap out;
  for (CategoryEntry& entry : entries) {
    if (!out.class_of.emplace(entry.id, static_cast<std::int64_t>(out.category_of.size())).second)
      refuse(kWhat, categories_json, cat("two categories have the id ", entry.id));
    out.category_of.push_back(entry.id);
    out.names.push_back(std::move(entry.name));
    out.frequencies.push_back(std::move(entry.frequency));
    out.image_counts.push_back(entry.image_count);
    if (!entry.is_extra) ++out.evaluated;
  }
  if (out.evaluated == 0) refuse(kWhat, categories_json, "it holds no category to evaluate");
  return out;
}

AreaStatistics read_area_statistics(const Path& json_file) {
  constexpr const char* kWhat = "a file of area statistics";
  const json document = parse(kWhat, json_file);
  if (!document.is_object()) refuse(kWhat, json_file, "it is not an object {\"<category id>\": [mean, deviation]}");
  AreaStatistics out;
  for (const auto& [key, value] : document.items()) {
    std::int64_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size())
      refuse(kWhat, json_file, cat("'", key, "' is not a category id"));
    if (!value.is_array() || value.size() < 2 || !value[0].is_number() || !value[1].is_number())
      refuse(kWhat, json_file, cat("category ", id, " has no pair [mean, deviation]"));
    const auto mean = value[0].get<double>(), deviation = value[1].get<double>();
    if (!(mean > 0) || !(deviation >= 0) || !std::isfinite(mean) || !std::isfinite(deviation))
      refuse(kWhat, json_file, cat("category ", id, " has the mean ", mean, " and the deviation ", deviation));
    out[id] = {mean, deviation};
  }
  return out;
}

std::array<float, 4> BoxMask::box() const {
  if (empty()) return {};
  return {static_cast<float>(x), static_cast<float>(y), static_cast<float>(x + bits.width),
          static_cast<float>(y + bits.height)};
}

std::int64_t BoxMask::area() const {
  std::int64_t sum = 0;
  for (const std::uint8_t bit : bits.pixels) sum += bit;
  return sum;
}

image::Image BoxMask::on_canvas(int height, int width) const {
  image::Image out(height, width, 1);
  const int left = std::max(x, 0), right = std::min(x + bits.width, width);
  if (left >= right) return out;
  for (int row = std::max(y, 0); row < std::min(y + bits.height, height); ++row)
    std::memcpy(out.at(row, left), bits.at(row - y, left - x), static_cast<std::size_t>(right - left));
  return out;
}

BoxMask box_mask(image::Image bitmap, int x, int y) {
  DIVERGEN_CHECK(bitmap.channels == 1 || bitmap.empty());
  BoxMask out{x, y, std::move(bitmap)};
  for (std::uint8_t& bit : out.bits.pixels) bit = bit != 0;
  tighten(out);
  return out;
}

BoxMask box_mask(const mask::Rle& rle) {
  const auto [x, y, width, height] = mask::bounding_box(rle);
  if (width == 0 || height == 0) return {};
  BoxMask out{static_cast<int>(x), static_cast<int>(y),
              image::Image(static_cast<int>(height), static_cast<int>(width), 1)};
  const auto stride = static_cast<std::size_t>(out.bits.width);
  std::int64_t at = 0;  // runs go down the columns
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    const std::int64_t end = at + rle.counts[i];
    while ((i & 1) != 0 && at < end) {  // the run's part in one column
      const std::int64_t column = at / rle.height, stop = std::min(end, (column + 1) * rle.height);
      const auto first = static_cast<int>(at - column * rle.height);
      std::uint8_t* to = out.bits.at(first - out.y, static_cast<int>(column) - out.x);
      for (std::int64_t left = stop - at; left > 0; --left, to += stride) *to = 1;
      at = stop;
    }
    at = end;
  }
  return out;
}

}  // namespace divergen::stages
