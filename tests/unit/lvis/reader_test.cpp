// Annotation files: what is read is what simdjson's tree holds, in any number of pieces; what is wrong is named.

#include <gtest/gtest.h>

#include <bit>
#include <cstdio>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "lvis/dataset.hpp"
#include "plain_reader.hpp"
#include "support/fixtures.hpp"

namespace divergen::lvis {
namespace {

std::string number_text(Rng& rng) {
  char text[40];
  const double value = (rng.uniform() - 0.1) * 700;
  switch (rng.below(8)) {
    case 0:
      std::snprintf(text, sizeof text, "%d", static_cast<int>(value));
      break;
    case 1:
      std::snprintf(text, sizeof text, "%.1f", value);
      break;
    case 2:
      std::snprintf(text, sizeof text, "%.17g", value);
      break;
    case 3:
      std::snprintf(text, sizeof text, "%.3e", value);
      break;
    case 4:
      std::snprintf(text, sizeof text, "%.13f", value);
      break;
    default:
      std::snprintf(text, sizeof text, "%.2f", value);
  }
  return text;
}

std::string numbers(Rng& rng, std::uint64_t count) {
  std::string out = "[";
  for (std::uint64_t i = 0; i < count; ++i) out += (i > 0 ? rng.chance(0.5) ? ", " : "," : "") + number_text(rng);
  return out + "]";
}

/// Files as different tools write them: lists in any order, fields in any order, other fields that hold "},{", spaces.
std::string draw_file(Rng& rng) {
  std::string images, annotations;
  const auto n = 1 + rng.below(40);
  for (std::uint64_t i = 0; i < n; ++i) {
    images += cat(i > 0 ? rng.chance(0.3) ? " ,\n " : "," : "", "{\"id\": ", 7 * i + 3, ", \"note\": \"},{\\\"\", ",
                  "\"height\":20,\"width\":30,");
    images += rng.chance(0.5) ? cat("\"coco_url\":\"http://a/val/", i, "\\u00e9.jpg\"")
                              : cat("\"file_name\":\"", i, ".png\"");
    if (rng.chance(0.7)) images += ",\"neg_category_ids\":[1,2],\"not_exhaustive_category_ids\":[]";
    images += "}";
  }
  const auto count = rng.below(400);
  for (std::uint64_t i = 0; i < count; ++i) {
    annotations += cat(i > 0 ? "," : "", "{", rng.chance(0.2) ? "\"extra\":[{\"a\":1},{\"b\":[{},{}]}]," : "",
                       "\"id\":", i, ",\"image_id\":", 7 * rng.below(n) + 3, ",\"category_id\":", 1 + rng.below(3),
                       ",\"bbox\":", numbers(rng, 4), ",\"area\":", number_text(rng));
    if (rng.chance(0.2)) annotations += cat(",\"iscrowd\":", rng.below(2));
    const auto kind = rng.below(6);
    if (kind == 0) annotations += ",\"segmentation\":{\"size\":[20,30],\"counts\":[100,50,450]}";
    else if (kind == 1) annotations += ",\"segmentation\":{\"counts\":\"T3b1R>\",\"size\":[20,30]}";
    else {
      annotations += ",\"segmentation\":[";
      const auto parts = rng.below(3);
      for (std::uint64_t p = 0; p < parts; ++p) annotations += (p > 0 ? "," : "") + numbers(rng, 6 + 2 * rng.below(5));
      annotations += "]";
    }
    annotations += "}";
  }
  std::vector<std::string> lists{
      cat("\"images\": [", images, "]"), cat("\"annotations\":[", annotations, rng.chance(0.3) ? "\n]" : "]"),
      R"("categories":[{"id":3,"name":"\u00e9\"b","frequency":"r","image_count":4},{"id":1,"name":"a"},{"id":2}])",
      R"("info":{"x":[1,2,{"y":null}]})"};
  rng.shuffle(lists);
  std::string out = "{";
  for (std::size_t i = 0; i < lists.size(); ++i) out += (i > 0 ? "," : "") + lists[i];
  return out + "}\n";
}

bool same_bits(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

void expect_same(const Dataset& a, const Dataset& b) {
  ASSERT_EQ(a.categories.size(), b.categories.size());
  for (std::size_t i = 0; i < a.categories.size(); ++i) {
    EXPECT_EQ(a.categories[i].id, b.categories[i].id);
    EXPECT_EQ(a.categories[i].name, b.categories[i].name);
    EXPECT_EQ(a.categories[i].frequency, b.categories[i].frequency);
    EXPECT_EQ(a.categories[i].image_count, b.categories[i].image_count);
  }
  ASSERT_EQ(a.images.size(), b.images.size());
  for (std::size_t i = 0; i < a.images.size(); ++i) {
    const ImageRecord x = a.images[i], y = b.images[i];
    EXPECT_TRUE(x.id == y.id && x.height == y.height && x.width == y.width && x.has_federated == y.has_federated &&
                x.negative == y.negative && x.not_exhaustive == y.not_exhaustive);
    EXPECT_EQ(x.file, y.file);
  }
  ASSERT_EQ(a.annotations.size(), b.annotations.size());
  for (std::size_t i = 0; i < a.annotations.size(); ++i) {
    const Annotation x = a.annotations[i], y = b.annotations[i];
    ASSERT_TRUE(x.id == y.id && x.image_id == y.image_id && x.category_id == y.category_id && x.is_crowd == y.is_crowd);
    ASSERT_TRUE(same_bits(x.area, y.area)) << x.area << " " << y.area;
    for (std::size_t k = 0; k < 4; ++k) ASSERT_TRUE(same_bits(x.box[k], y.box[k]));
    ASSERT_EQ(x.rle, y.rle);
    ASSERT_EQ(x.polygons.size(), y.polygons.size());
    for (std::size_t p = 0; p < x.polygons.size(); ++p) {
      const auto one = x.polygons[p], two = y.polygons[p];
      ASSERT_EQ(one.size(), two.size());
      for (std::size_t k = 0; k < one.size(); ++k) ASSERT_TRUE(same_bits(one[k], two[k])) << one[k] << " " << two[k];
    }
  }
}

std::string file_with(const std::string& annotation) {
  return cat(
      R"({"categories":[{"id":1}],"images":[{"id":5,"height":4,"width":6}],"annotations":[{"id":9,"image_id":5,)",
      R"("category_id":1,"bbox":[0,0,1,1],"area":1,"segmentation":[]},)", annotation, "]}");
}

void expect_refusal(const std::string& json, const std::vector<std::string>& words) {
  for (const unsigned threads : {1U, 3U}) {
    try {
      parse_dataset(json, "some.json", {threads});
      ADD_FAILURE() << "taken: " << json;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Data);
      EXPECT_NE(error.text().object.find("some.json"), std::string::npos);
      for (const std::string& word : words)
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what() << "\n lacks: " << word;
    }
  }
}

}  // namespace

TEST(reader, ReadsWhatSimdjsonsTreeHolds) {
  Rng rng(1);
  for (int trial = 0; trial < 120; ++trial) {
    const std::string json = draw_file(rng);
    const Dataset expected = plain::read(json);
    for (const unsigned threads : {1U, 2U, 7U}) expect_same(parse_dataset(json, "x.json", {threads}), expected);
  }
}

TEST(reader, PiecesThatCutTextsAndNestedListsAreReadAgain) {
  // Far more bytes than a piece has, full of false beginnings.
  std::string images, annotations;
  for (int i = 0; i < 3000; ++i) {
    images += cat(i > 0 ? "," : "", "{\"id\":", i, ",\"height\":4,\"width\":4,\"x\":\"},{\\\"},{ },\\n{\"}");
    annotations += cat(i > 0 ? "," : "", "{\"id\":", i, ",\"nested\":[{\"id\":1},{\"id\":2},{}],\"image_id\":", i,
                       ",\"category_id\":1,\"bbox\":[0,0,1,1],\"area\":", i, ",\"long\":\"",
                       std::string(i == 50 ? 300000 : 3, '}'), "\",\"segmentation\":[[0,0,1,0,1,1.5]]}");
  }
  const std::string json =
      cat("{\"annotations\":[", annotations, "],\"images\":[", images, "],\"categories\":[{\"id\":1}]}");
  ASSERT_GT(json.size(), 700000U);
  const Dataset expected = plain::read(json);
  for (const unsigned threads : {1U, 2U, 5U}) expect_same(parse_dataset(json, "x.json", {threads}), expected);
}

TEST(reader, WrittenFilesComeBack) {
  Rng rng(2);
  const test::TemporaryFolder folder;
  Dataset dataset = parse_dataset(draw_file(rng), "x.json");
  write_dataset(dataset, folder / "a.json");
  const Dataset again = read_dataset(folder / "a.json");
  ASSERT_EQ(again.annotations.size(), dataset.annotations.size());
  for (std::size_t i = 0; i < again.annotations.size(); ++i) EXPECT_EQ(again.mask_of(i), dataset.mask_of(i));
}

TEST(reader, NamesWhatIsWrong) {
  expect_refusal(file_with(R"({"id":7,"image_id":5,"category_id":1,"bbox":[1,2,3],"area":1})"),
                 {"annotations[1]", "annotation 7", "image 5", "category 1", "'bbox'", "four numbers"});
  expect_refusal(file_with(R"({"id":7,"image_id":5,"bbox":[1,2,3,4],"area":1})"), {"'category_id'", "missing"});
  expect_refusal(file_with(R"({"id":7,"image_id":6,"category_id":1,"bbox":[1,2,3,4],"area":1})"),
                 {"annotation 7", "there is no image 6"});
  expect_refusal(file_with(R"({"id":7.5,"image_id":5,"category_id":1,"bbox":[1,2,3,4],"area":1})"),
                 {"'id'", "not an integer"});
  expect_refusal(file_with(R"({"id":7,"image_id":5,"category_id":1,"bbox":[1,2,3,4],"area":NaN})"),
                 {"'area'", "not a number"});
  expect_refusal(file_with(R"({"id":7,"image_id":5,"category_id":1,"bbox":[1,2,3,1e999],"area":1})"),
                 {"'bbox'", "too large"});
  const std::string start = R"({"id":7,"image_id":5,"category_id":1,"bbox":[1,2,3,4],"area":1,"segmentation":)";
  expect_refusal(file_with(start + "[[1,2,3,4]]}"), {"'segmentation'", "a polygon has 4 numbers"});
  expect_refusal(file_with(start + "[[1,2,3,4,5,\"6\"]]}"), {"'segmentation'", "not a number"});
  expect_refusal(file_with(start + "5}"), {"'segmentation'", "neither polygons nor"});
  expect_refusal(file_with(start + R"({"size":[4,6],"counts":[10,10]}})"), {"'segmentation'", "sum to 20"});
  expect_refusal(file_with(start + R"({"size":[-4,6],"counts":"0"}})"), {"'segmentation'", "its size is -4 x 6"});
  expect_refusal(file_with(start + R"({"size":[4,6],"counts":[-1,25]}})"), {"negative"});
  expect_refusal(file_with(start + R"({"size":[1000000000,1000000000],"counts":"0"}})"), {"its size is"});
  expect_refusal(file_with(start + R"({"size":[6,4],"counts":[24]}})"), {"annotation 7", "6 x 4", "4 x 6"});
  expect_refusal(file_with(start + R"({"size":[4,6],"counts":[4294967296]}})"), {"annotation 7", "negative or huge"});
  expect_refusal(file_with(start + R"({"size":[4,6],"counts":[4294967295,4294967295]}})"), {"annotation 7", "sum to"});
  expect_refusal(file_with(start + R"({"size":[4,6],"counts":"oooooooooooooooooooo"}})"),
                 {"annotation 7", "'segmentation'"});
  expect_refusal(file_with(start + R"({"size":[4,6]}})"), {"annotation 7", "no counts"});
  expect_refusal(file_with(start + R"({"counts":[24]}})"), {"annotation 7", "no size"});
  for (const char* coordinate : {"1e7", "-10000000", "10000000.5", "1e200", "123456789012345678901234567890"})
    expect_refusal(file_with(cat(start, "[[1,2,3,", coordinate, ",5,6]]}")),
                   {"annotation 7", "image 5", "category 1", "'segmentation'", "coordinate"});
  parse_dataset(file_with(start + "[[1,2,3,9999999.99,5,-9999999]]}"), "some.json");  // still a polygon
}

TEST(reader, RefusesIdsThatAreNone) {
  const auto with = [](const std::string& ids) {
    return cat(R"({"categories":[{"id":1}],"images":[{"id":3,"height":4,"width":6,"neg_category_ids":)", ids,
               R"(,"not_exhaustive_category_ids":[]}],"annotations":[]})");
  };
  expect_refusal(with(R"(["1"])"), {"images[0]", "image 3", "'neg_category_ids'", "not an id"});
  expect_refusal(with("[1,NaN]"), {"image 3", "'neg_category_ids'"});
  expect_refusal(with("[99999999999]"), {"image 3", "'neg_category_ids'", "too large"});
  for (const char* id : {"1e30", "0.5", "true", "null", "99999999999999999999999", "-"})
    expect_refusal(file_with(cat(R"({"image_id":5,"category_id":1,"bbox":[1,2,3,4],"area":1,"id":)", id, "}")),
                   {"annotations[1]", "'id'"});
  expect_refusal(R"({"images":[{"id":1,"height":2,"width":1e9}],"annotations":[],"categories":[{"id":1}]})",
                 {"image 1", "'width'", "more than a picture can have"});
  expect_refusal(R"({"images":[{"id":1,"height":-2,"width":3}],"annotations":[],"categories":[{"id":1}]})",
                 {"image 1", "'height'", "no pixels"});
}

TEST(reader, RefusesBrokenFiles) {
  expect_refusal("", {"not an object"});
  expect_refusal("[]", {"not an object"});
  expect_refusal(R"({"images":[],"annotations":[]})", {"categories", "no such list"});
  expect_refusal(R"({"images":3,"annotations":[],"categories":[]})", {"images", "not a list"});
  expect_refusal(R"({"images":[],"annotations":[],"categories":[]})", {"categories", "empty"});
  expect_refusal(R"({"images":[],"images":[],"annotations":[],"categories":[{"id":1}]})", {"images", "twice"});
  expect_refusal(R"({"images":[],"annotations":[],"categories":[{"id":1}]} x)", {"something follows"});
  expect_refusal(R"({"images":[{"id":1,"height":0,"width":3}],"annotations":[],"categories":[{"id":1}]})",
                 {"images[0]", "image 1", "'height'", "no pixels"});
  expect_refusal(
      R"({"images":[{"id":1,"height":2,"width":3},{"id":1,"height":2,"width":3}],"annotations":[],"categories":[{"id":1}]})",
      {"image 1", "share the id"});
  expect_refusal(R"({"images":[],"annotations":[],"categories":[{"id":1},{"id":1}]})", {"category 1", "share the id"});
  const std::string whole = file_with(R"({"id":7,"image_id":5,"category_id":1,"bbox":[1,2,3,4],"area":1})");
  for (std::size_t cut = 1; cut < whole.size(); ++cut)
    EXPECT_THROW(parse_dataset(whole.substr(0, cut), "cut"), Error) << cut;
  EXPECT_THROW(read_dataset("/nonexistent/file.json"), Error);
  std::string deep = R"({"x":)" + std::string(100000, '[');
  expect_refusal(deep, {"nested too deep"});
}

}  // namespace divergen::lvis
