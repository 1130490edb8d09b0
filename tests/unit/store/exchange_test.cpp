#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "mask/rle.hpp"
#include "store/exchange/export.hpp"
#include "store/exchange/import.hpp"
#include "store/inspect.hpp"
#include "support/fixtures.hpp"
#include "support/library_cases.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

class Exchange : public testing::Test {
 protected:
  Exchange() { make("lib", all, test::tables()); }

  void make(const std::string& name, const std::vector<Instance>& instances, const LibraryTables& tables) const {
    make_folder(folder / name);
    write_library_shard(folder / name / "shard-000000.h5", instances, tables);
    write_library_index(folder / name);
  }
  ExportSummary out(const std::string& format, const std::string& name, const ExportOptions& with = {}) const {
    ExportOptions options = with;
    options.format = format;
    return export_library(Library(folder / "lib"), folder / name, options);
  }
  json read_json(const std::string& name) const { return json::parse(read_file(folder / name)); }

  test::TemporaryFolder folder;
  const std::vector<Instance> all = test::instances(12);
};

}  // namespace

TEST_F(Exchange, APoolComesBackWithTheSameHash) {
  EXPECT_EQ(out("png", "pool").instances, 12);

  const json pool = read_json("pool/LVIS_instance_pools.json");
  EXPECT_EQ(pool.size(), 3u);
  EXPECT_EQ(pool.at("2").size(), 4u) << "class of category 3, counted from 0";
  const std::string first = pool.at("2").at(0);
  EXPECT_EQ(first, "*" + (folder / "pool" / "images" / "2" / "0.png").string());

  const ImportSummary in = import_pool(folder / "pool", folder / "back", {});
  EXPECT_EQ(in.instances, 12);
  EXPECT_TRUE(in.rejected.empty());
  EXPECT_EQ(in.hash, Library(folder / "lib").hash()) << "records and pictures";
  EXPECT_TRUE(diff_libraries(Library(folder / "lib"), Library(folder / "back")).is_equal());
  EXPECT_TRUE(verify_run(folder / "back").problems.empty());
}

TEST_F(Exchange, AForeignPoolHasItsPicturesAndCategories) {
  out("png", "pool");
  // What X-Paste's and DiverGen's scripts make: no records, other working directory, names elsewhere; and what goes
  // wrong.
  for (const char* name : {"instances.jsonl", "tables.json"}) std::filesystem::remove(folder / "pool" / name);
  json pool = read_json("pool/LVIS_instance_pools.json");
  for (auto& [cls, list] : pool.items())
    for (json& path : list) {
      const std::string text = path;
      path = "*/elsewhere/pools" + text.substr(text.find("/images/"));
    }
  pool["5"] = json::array();  // all its candidates failed
  pool["2"].push_back("*images/2/absent.png");
  pool["2"].push_back("images/2/0.png");
  pool["2"].push_back(pool["2"][0]);
  write_file_atomic(folder / "pool" / "images" / "2" / "grey.png", image::encode_png(image::Image(5, 5, 1, 9)));
  write_file_atomic(folder / "pool" / "images" / "2" / "clear.png", image::encode_png(image::Image(5, 5, 4, 9)));
  pool["2"].push_back("*images/2/grey.png");
  pool["2"].push_back("*images/2/clear.png");
  write_file_atomic(folder / "pool" / "LVIS_instance_pools.json", pool.dump());
  write_file_atomic(
      folder / "names.json",
      R"([{"id": 3, "name": "aardvark", "frequency": "r"}, {"id": 7, "name": "banjo", "frequency": "c"}])");
  ImportOptions options;
  options.categories = folder / "names.json";

  const ImportSummary in = import_pool(folder / "pool", folder / "back", options);

  EXPECT_EQ(in.instances, 12);
  std::int64_t rejected = 0;
  for (const auto& [reason, count] : in.rejected) rejected += count;
  EXPECT_EQ(rejected, 5);
  EXPECT_EQ(in.rejected.size(), 5u) << "each for its own reason";
  const Library back(folder / "back");
  std::multiset<std::pair<std::int32_t, std::string>> expected, found;
  for (const Instance& one : all) expected.insert({one.category_id, one.png});
  for (std::size_t i = 0; i < back.size(); ++i) {
    const Instance one = back.read(i);
    found.insert({one.category_id, one.png});
    EXPECT_EQ(one.similarity, -1);
    EXPECT_GT(one.area, 0);
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(back.tables().categories[0].name, "aardvark");
  EXPECT_EQ(back.tables().categories.back().name, "category_1300");
}

TEST_F(Exchange, AnnotationsFitThePictures) {
  for (const char* format : {"coco", "lvis"}) {
    out(format, format);
    const json file = read_json(cat(format, "/annotations.json"));
    ASSERT_EQ(file.at("images").size(), 12u);
    ASSERT_EQ(file.at("annotations").size(), 12u);
    EXPECT_EQ(file.at("categories").size(), 3u);
    for (std::size_t i = 0; i < 12; ++i) {
      const json& picture = file["images"][i];
      const json& annotation = file["annotations"][i];
      EXPECT_EQ(annotation.at("image_id"), picture.at("id"));
      const auto decoded = image::decode(read_file(folder / format / picture.at("file_name").get<std::string>()),
                                         image::Channels::AsStored);
      ASSERT_TRUE(decoded.image);
      EXPECT_EQ(decoded.image->channels, 3);
      EXPECT_EQ(decoded.image->width, picture.at("width"));
      const auto& segmentation = annotation.at("segmentation");
      const mask::Rle rle = mask::from_text(segmentation.at("counts").get<std::string>(), segmentation.at("size").at(0),
                                            segmentation.at("size").at(1));
      EXPECT_EQ(mask::area(rle), annotation.at("area").get<std::uint64_t>());
      // The mask is the alpha of the instance that has this picture.
      const std::string name = Path(picture.at("file_name").get<std::string>()).stem().string();
      for (const Instance& one : all) {
        if (to_hex(one.item_id) != name) continue;
        const auto rgba = *image::decode(one.png, image::Channels::Rgba).image;
        const auto bitmap = mask::decode(rle);
        for (std::size_t p = 0; p < bitmap.size(); ++p) {
          ASSERT_EQ(bitmap[p] != 0, rgba.pixels[4 * p + 3] > 128);
          ASSERT_EQ(decoded.image->pixels[3 * p], rgba.pixels[4 * p]);
        }
        EXPECT_EQ(annotation.at("category_id"), one.category_id);
      }
      EXPECT_EQ(picture.contains("neg_category_ids"), std::string(format) == "lvis");
    }
  }
  ExportOptions polygons;
  polygons.segmentation = "polygon";
  polygons.pictures = "rgba";
  out("coco", "polygons", polygons);
  const json file = read_json("polygons/annotations.json");
  EXPECT_TRUE(file["annotations"][0]["segmentation"].is_array());
  EXPECT_EQ(image::decode(read_file(folder / "polygons" / file["images"][0]["file_name"].get<std::string>()),
                          image::Channels::AsStored)
                .image->channels,
            4);
}

TEST_F(Exchange, TarsHoldPictureAndRecordOfEachKey) {
  out("webdataset", "tars");
  const std::string tar = read_file(folder / "tars" / "shard-000000.tar");
  ASSERT_EQ(tar.size() % 512, 0u);
  std::map<std::string, std::string> members;
  for (std::size_t at = 0; tar[at] != '\0';) {
    EXPECT_EQ(tar.substr(at + 257, 5), "ustar");
    const std::size_t size = std::stoull(tar.substr(at + 124, 11), nullptr, 8);
    members[tar.c_str() + at] = tar.substr(at + 512, size);
    at += 512 + (size + 511) / 512 * 512;
  }
  EXPECT_EQ(members.size(), 24u);
  for (const Instance& one : all) {
    const std::string key = to_hex(one.item_id);
    EXPECT_EQ(members.at(key + ".png"), one.png);
    EXPECT_EQ(json::parse(members.at(key + ".json")).at("category_id"), one.category_id);
  }
}

TEST_F(Exchange, SelectsByCategoryGeneratorSimilarityAndNumber) {
  ExportOptions options;
  options.selection.categories = {"banjo", "1300"};
  EXPECT_EQ(out("png", "a", options).instances, 8);
  options.selection.generators = {"if"};
  options.selection.min_similarity = 0.605F;
  const ExportSummary some = out("png", "b", options);
  std::int64_t expected = 0;
  for (const Instance& one : all) expected += one.category_id != 3 && one.generator == 1 && one.similarity >= 0.605F;
  EXPECT_EQ(some.instances, expected);
  ExportOptions few;
  few.selection.limit = 3;
  EXPECT_EQ(out("webdataset", "c", few).instances, 3);
  const std::string lines = read_file(folder / "c" / "instances.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);
  options.selection.categories = {"bajno"};
  try {
    out("png", "d", options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("banjo"), std::string::npos) << error.what();
  }
  EXPECT_THROW(out("png", "a"), Error) << "the folder is there already";
}

TEST_F(Exchange, DescriptionsHaveWhatCroissantWants) {
  out("coco", "coco");
  const json about = read_json("coco/croissant.json");
  for (const char* key : {"@context", "@type", "conformsTo", "name", "description", "license", "url", "creator",
                          "datePublished", "distribution", "recordSet"})
    EXPECT_TRUE(about.contains(key)) << key;
  EXPECT_EQ(about["conformsTo"], "http://mlcommons.org/croissant/1.0");
  std::set<std::string> ids;
  for (const json& one : about["distribution"]) {
    ids.insert(one.at("@id"));
    EXPECT_TRUE(one.contains("encodingFormat"));
    if (one.at("@type") == "cr:FileObject") {
      EXPECT_EQ(one.at("sha256").get<std::string>().size(), 64u);
      EXPECT_TRUE(std::filesystem::exists(folder / "coco" / one.at("contentUrl").get<std::string>()));
    } else {
      EXPECT_TRUE(one.contains("includes"));
    }
  }
  const json line = json::parse(read_file(folder / "coco" / "instances.jsonl")
                                    .substr(0, read_file(folder / "coco" / "instances.jsonl").find('\n')));
  for (const json& field : about["recordSet"][0]["field"]) {
    EXPECT_EQ(ids.count(field.at("source").at("fileObject").at("@id")), 1u);
    EXPECT_TRUE(line.contains(field.at("source").at("extract").at("column").get<std::string>()));
  }
  const std::string sheet = read_file(folder / "coco" / "datasheet.md");
  for (const char* part : {"## Motivation", "## Composition", "## Collection", "## Processing", "## Uses",
                           "## Distribution", "aardvark", "ab12"})
    EXPECT_NE(sheet.find(part), std::string::npos) << part;
}

TEST_F(Exchange, MergesWhatStandsInTwoOnce) {
  // The second has the first's last six under other indices, and six of its own.
  LibraryTables other = test::tables();
  std::swap(other.prompts[0], other.prompts[3]);
  std::swap(other.generators[0], other.generators[1]);
  std::vector<Instance> second = test::instances(18);
  second.erase(second.begin(), second.begin() + 6);
  for (Instance& one : second) {
    one.prompt = one.prompt == 0 ? 3 : one.prompt == 3 ? 0 : one.prompt;
    one.generator = 1 - one.generator;
  }
  make("other", second, other);
  make("union", test::instances(18), test::tables());

  const MergeSummary merged = merge_libraries({folder / "lib", folder / "other"}, folder / "merged", false);

  EXPECT_EQ(merged.instances, 18);
  EXPECT_EQ(merged.duplicates, 6);
  EXPECT_EQ(merged.hash, Library(folder / "union").hash());
  EXPECT_TRUE(diff_libraries(Library(folder / "merged"), Library(folder / "union")).is_equal());
  EXPECT_TRUE(verify_run(folder / "merged").problems.empty());
  EXPECT_EQ(merge_libraries({folder / "other", folder / "lib"}, folder / "reversed", false).hash, merged.hash);
}

TEST_F(Exchange, RefusesToMergeTwoRecordsOfOneItemUnlessTold) {
  std::vector<Instance> changed = all;
  changed[4].similarity = 0.9F;
  make("changed", changed, test::tables());

  EXPECT_THROW(merge_libraries({folder / "lib", folder / "changed"}, folder / "no", false), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "no"));
  const MergeSummary merged = merge_libraries({folder / "lib", folder / "changed"}, folder / "yes", true);
  EXPECT_EQ(merged.conflicts, 1);
  EXPECT_EQ(merged.hash, Library(folder / "lib").hash());

  LibraryTables renamed = test::tables();
  renamed.categories[1].name = "bassoon";
  make("renamed", all, renamed);
  EXPECT_THROW(merge_libraries({folder / "lib", folder / "renamed"}, folder / "no", false), Error);
}

TEST_F(Exchange, DiffNamesWhatIsDifferent) {
  std::vector<Instance> other = all;
  const std::uint64_t gone = other[0].item_id, changed = other[5].item_id;
  other.erase(other.begin());
  other[4].clip_score += 1;
  other[4].png = all[0].png;
  Instance added = test::instances(13).back();
  other.push_back(added);
  make("other", other, test::tables());

  const LibraryDiff diff = diff_libraries(Library(folder / "lib"), Library(folder / "other"));

  EXPECT_FALSE(diff.is_equal());
  EXPECT_EQ(diff.equal, 10);
  EXPECT_EQ(diff.only_a, std::vector<std::uint64_t>{gone});
  EXPECT_EQ(diff.only_b, std::vector<std::uint64_t>{added.item_id});
  ASSERT_EQ(diff.changed.size(), 1u);
  EXPECT_EQ(diff.changed[0].item, changed);
  EXPECT_EQ(diff.changed[0].fields, (std::vector<std::string>{"picture", "clip_score"}));
}

}  // namespace divergen::store
