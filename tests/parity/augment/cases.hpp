#pragma once
// The fixtures of the augmentation: arrays by name, and the reference's recorded draws, replayed.

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "stages/augment/draws.hpp"
#include "stages/augment/types.hpp"
#include "support/fixtures.hpp"
#include "weights/safetensors.hpp"

namespace divergen::stages::test {

using divergen::test::fixture_json;
using divergen::test::fixtures;

/// One part of the fixtures: <part>.safetensors and <part>.json.
class Part {
 public:
  explicit Part(const std::string& name)
      : arrays_(fixtures("augment") / (name + ".safetensors")),
        json(fixture_json(fixtures("augment") / (name + ".json"))) {}

  bool has(const std::string& name) const { return arrays_.find(name) != nullptr; }
  const std::vector<std::int64_t>& shape(const std::string& name) const { return tensor(name).shape; }
  template <class T>
  std::vector<T> values(const std::string& name) const {
    const auto bytes = arrays_.bytes(tensor(name));
    std::vector<T> out(bytes.size() / sizeof(T));
    std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
    return out;
  }
  std::string text(const std::string& name) const {
    const auto bytes = values<char>(name);
    return {bytes.begin(), bytes.end()};
  }
  /// uint8 of shape H, W or H, W, C.
  image::Image picture(const std::string& name) const {
    const auto& s = shape(name);
    image::Image out(static_cast<int>(s[0]), static_cast<int>(s[1]), s.size() == 3 ? static_cast<int>(s[2]) : 1);
    out.pixels = values<std::uint8_t>(name);
    return out;
  }
  /// <prefix>.image, .boxes, .labels, .masks (bits, first pixel lowest), .source where there is one.
  Sample sample(const std::string& prefix) const {
    Sample out;
    out.rgb = picture(prefix + ".image");
    const auto boxes = values<float>(prefix + ".boxes");
    const auto labels = values<std::int64_t>(prefix + ".labels");
    const auto bits = values<std::uint8_t>(prefix + ".masks");
    const auto source = has(prefix + ".source") ? values<std::int64_t>(prefix + ".source")
                                                : std::vector<std::int64_t>(labels.size(), 0);
    const std::size_t pixels = out.rgb.pixels.size() / 3, stride = (pixels + 7) / 8;
    for (std::size_t i = 0; i < labels.size(); ++i) {
      SampleObject object;
      std::copy_n(boxes.begin() + static_cast<std::ptrdiff_t>(4 * i), 4, object.box.begin());
      object.cls = labels[i];
      object.source = static_cast<std::int32_t>(source[i]);
      image::Image mask(out.rgb.height, out.rgb.width, 1);
      for (std::size_t p = 0; p < pixels; ++p) mask.pixels[p] = bits[i * stride + p / 8] >> (p % 8) & 1;
      object.mask = box_mask(mask);
      out.objects.push_back(std::move(object));
    }
    return out;
  }

 private:
  const weights::TensorInfo& tensor(const std::string& name) const {
    const auto* found = arrays_.find(name);
    if (found == nullptr) throw std::runtime_error("the fixtures have no array '" + name + "'");
    return *found;
  }
  weights::SafetensorsFile arrays_;

 public:
  const nlohmann::json json;
};

/// Hands out recorded draws in order; a draw of another name, kind or range than the recorded one fails the test.
class Replay : public Draws {
 public:
  explicit Replay(const nlohmann::json& draws) : draws_(draws) {}
  ~Replay() override { EXPECT_EQ(next_, draws_.size()) << "draws are left over"; }

  double uniform(std::string_view meaning, double low, double high) override {
    const auto& draw = take(meaning, "uniform");
    EXPECT_EQ(draw.at("args").at(0).get<double>(), low) << meaning;
    EXPECT_EQ(draw.at("args").at(1).get<double>(), high) << meaning;
    return draw.at("value").get<double>();
  }
  double normal(std::string_view meaning) override { return take(meaning, "randn").at("value").get<double>(); }
  std::int64_t integer(std::string_view meaning, double low, double high) override {
    const auto& draw = take(meaning, "randint");
    EXPECT_EQ(draw.at("args").at(0).get<double>(), low) << meaning;
    EXPECT_EQ(draw.at("args").at(1).get<double>(), high) << meaning;
    return draw.at("value").get<std::int64_t>();
  }
  std::vector<std::size_t> choose(std::string_view meaning, std::size_t from, std::size_t count) override {
    const auto& draw = take(meaning, "choice");
    EXPECT_EQ(draw.at("args").at(0).get<std::size_t>(), from) << meaning;
    auto out = draw.at("value").get<std::vector<std::size_t>>();
    EXPECT_EQ(out.size(), count) << meaning;
    return out;
  }
  std::size_t pick(std::string_view meaning, std::span<const std::string> options) override {
    const auto& draw = take(meaning, "sample");
    EXPECT_EQ(draw.at("args").at(0).get<std::vector<std::string>>(), std::vector(options.begin(), options.end()));
    const auto found = std::find(options.begin(), options.end(), draw.at("value").at(0).get<std::string>());
    if (found == options.end()) throw std::runtime_error("the recorded choice is not among the options");
    return static_cast<std::size_t>(found - options.begin());
  }

 private:
  const nlohmann::json& take(std::string_view meaning, std::string_view kind) {
    if (next_ == draws_.size()) throw std::runtime_error("a surplus draw: " + std::string(meaning));
    const auto& draw = draws_.at(next_++);
    EXPECT_EQ(draw.at("meaning").get<std::string>(), meaning) << "draw " << next_ - 1;
    EXPECT_EQ(draw.at("fn").get<std::string>(), kind) << "draw " << next_ - 1;
    return draw;
  }
  nlohmann::json draws_;
  std::size_t next_ = 0;
};

/// Bytes that differ, and the largest difference.
struct Difference {
  std::size_t count = 0;
  int largest = 0;
};
inline Difference difference(const image::Image& a, const image::Image& b) {
  Difference out;
  EXPECT_EQ(a.height, b.height);
  EXPECT_EQ(a.width, b.width);
  EXPECT_EQ(a.pixels.size(), b.pixels.size());
  for (std::size_t i = 0; i < std::min(a.pixels.size(), b.pixels.size()); ++i) {
    const int d = std::abs(a.pixels[i] - b.pixels[i]);
    out.count += d != 0;
    out.largest = std::max(out.largest, d);
  }
  return out;
}

inline void expect_same_objects(const Sample& ours, const Sample& expected) {
  ASSERT_EQ(ours.objects.size(), expected.objects.size());
  for (std::size_t i = 0; i < ours.objects.size(); ++i) {
    const SampleObject &a = ours.objects[i], &b = expected.objects[i];
    EXPECT_EQ(a.box, b.box) << "object " << i;
    EXPECT_EQ(a.cls, b.cls) << "object " << i;
    EXPECT_EQ(a.source, b.source) << "object " << i;
    EXPECT_TRUE(a.mask == b.mask) << "mask of object " << i;
  }
}

/// Names of the cases of a part, for parametrised tests; empty where the fixtures are not there (then a test says so).
inline std::vector<std::string> case_names(const std::string& part) {
  std::vector<std::string> out;
  const Path file = fixtures("augment") / (part + ".json");
  if (!std::filesystem::is_regular_file(file)) return out;
  const nlohmann::json json = fixture_json(file);
  for (const auto& one : json.at("cases")) out.push_back(one.at("name").get<std::string>());
  return out;
}
inline const nlohmann::json& case_of(const Part& part, const std::string& name) {
  for (const auto& one : part.json.at("cases"))
    if (one.at("name") == name) return one;
  throw std::runtime_error("the fixtures have no case '" + name + "'");
}

}  // namespace divergen::stages::test
