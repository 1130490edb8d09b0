// Categories, prompts and generators with hostile names (reference/reliability.md §6, names_hostile): paths come from
// numbers alone, names stay inside data and are escaped there.

#include <gtest/gtest.h>

#include <set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"
#include "store/exchange/export.hpp"
#include "store/exchange/import.hpp"
#include "store/inspect.hpp"
#include "support/fixtures.hpp"
#include "support/library_cases.hpp"

namespace divergen::store {
namespace {

std::vector<std::string> hostile_names() {
  return {"../../x",
          "/etc/passwd",
          std::string("nul\0inside", 10),
          "line\nbreak\r\n",
          "\xF0\x9F\x8D\x8C emoji",
          "\xE2\x80\xAE\xD7\xA9\xD7\x9C right to left",
          std::string(10'000, 'n'),
          "CON",
          "-rf",
          "%s%n{}",
          "<script>alert(1)</script>",
          "a|b`c`*d*",
          "quote\"back\\slash",
          " ",
          "."};
}

class Hostile : public testing::Test {
 protected:
  Hostile() {
    LibraryTables tables;
    const auto names = hostile_names();
    for (std::size_t i = 0; i < names.size(); ++i) {
      tables.categories.push_back({static_cast<std::int32_t>(i + 1), names[i], "r", false});
      tables.prompts.push_back("a photo of " + names[i]);
    }
    tables.generators = {{names[0], names[10], names[3], "hash", 5, 1}};
    all = test::instances(static_cast<int>(names.size()));
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i].category_id = static_cast<std::int32_t>(i + 1);
      all[i].prompt = static_cast<std::int32_t>(i);
      all[i].generator = 0;
    }
    make_folder(folder / "lib");
    write_library_shard(folder / "lib" / "shard-000000.h5", all, tables);
    write_library_index(folder / "lib");
  }
  /// Every file below a folder, relative.
  std::set<std::string> files(const std::string& name) const {
    std::set<std::string> out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / name))
      if (entry.is_regular_file()) out.insert(std::filesystem::relative(entry.path(), folder / name).string());
    return out;
  }
  test::TemporaryFolder folder;
  std::vector<Instance> all;
};

}  // namespace

TEST_F(Hostile, NamesComeBackAsTheyWere) {
  const Library library(folder / "lib");
  const auto names = hostile_names();
  for (std::size_t i = 0; i < names.size(); ++i) EXPECT_EQ(library.tables().categories[i].name, names[i]);
  EXPECT_NO_THROW(inspect_library(folder / "lib").dump());
  EXPECT_TRUE(verify_run(folder / "lib").problems.empty());
  EXPECT_NO_THROW(contact_sheet(library));
}

TEST_F(Hostile, ExportsTakePathsFromNumbersAlone) {
  const Library library(folder / "lib");
  for (const char* format : {"coco", "lvis", "png", "webdataset"}) {
    ExportOptions options;
    options.format = format;
    export_library(library, folder / format, options);
    for (const std::string& file : files(format))
      EXPECT_EQ(file.find_first_not_of("abcdefghijklmnopqrstuvwxyzLVIS_0123456789-./"), std::string::npos) << file;
    for (const char* name : {"croissant.json", "tables.json"})
      EXPECT_TRUE(nlohmann::json::accept(read_file(folder / format / name))) << name;
    const std::string sheet = read_file(folder / format / "datasheet.md");
    EXPECT_EQ(sheet.find("<script>"), std::string::npos);
    EXPECT_EQ(sheet.find("a|b"), std::string::npos) << "it would break the table";
  }
  // Nothing escaped from the exports' folders.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 5);
  EXPECT_EQ(html_escape("<script>"), "&lt;script&gt;");
}

TEST_F(Hostile, APoolOfHostilePathsIsRefusedItemByItem) {
  make_folder(folder / "pool");
  nlohmann::json pool;
  pool["0"] = {"*../../../etc/passwd", "*/etc/shadow",       "*", "", "*\n", "not cut out", 7, nullptr,
               "*/dev/null",           "*/proc/self/environ"};
  write_file_atomic(folder / "pool" / "pool.json", pool.dump());
  try {
    import_pool(folder / "pool", folder / "out", {});
    FAIL() << "there is no picture in it";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Data) << error.what();
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
  for (const char* bad : {"[]", "{", "{\"x\": []}", "{\"-1\": []}", "{\"1\": 5}", "{}"}) {
    write_file_atomic(folder / "pool" / "pool.json", bad);
    EXPECT_THROW(import_pool(folder / "pool" / "pool.json", folder / "out", {}), Error) << bad;
  }
}

}  // namespace divergen::store
