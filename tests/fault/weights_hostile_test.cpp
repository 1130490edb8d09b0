// Files made to harm: each is refused as bad data, quickly, in little memory, by a message that says where and why.
// Ids safetensors_hostile and pickle_refused of the reliability notes.

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "fault/hostile_pickles.hpp"
#include "support/child.hpp"
#include "support/fixtures.hpp"
#include "support/weight_files.hpp"
#include "weights/weights.hpp"

namespace divergen::weights {
namespace {

using test::FileTensor;
using test::HostileFile;

std::string read_all(const Path& path) {
  const auto source = open_weights(path);
  for (const Weight& weight : source->tensors()) stream(*source, weight, weight.dtype, [](auto) {});
  return "accepted";
}

class Hostile : public testing::TestWithParam<HostileFile> {};

/// Writes the file, opens and reads it in a watched child.
test::ChildOutcome outcome_of(const HostileFile& file, const test::TemporaryFolder& folder) {
  const Path honest = folder / "honest.safetensors", path = folder / file.name;
  write_file_atomic(honest, test::safetensors({test::float_tensor("w", {4, 4})}));
  write_file_atomic(path, file.make());
  return test::in_child([&] { return read_all(path); }, true, [&] { read_all(honest); });
}

std::string name_of(const testing::TestParamInfo<HostileFile>& info) { return info.param.id; }

TEST_P(Hostile, IsRefused) {
  const HostileFile& file = GetParam();
  const test::TemporaryFolder folder;

  const test::ChildOutcome outcome = outcome_of(file, folder);

  EXPECT_EQ(outcome.signal, 0) << "it died, or asked the system for something forbidden";
  EXPECT_NE(outcome.text.find(file.name), std::string::npos) << "the file is not named: " << outcome.text;
  EXPECT_NE(outcome.text.find(file.expected), std::string::npos) << outcome.text;
  EXPECT_LT(outcome.seconds, 1.0);
  if (test::kMeasuresMemory) {
    EXPECT_LT(outcome.grown, file.memory);
  }
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 2u) << "something was written";
}

INSTANTIATE_TEST_SUITE_P(Pickle, Hostile, testing::ValuesIn(test::hostile_pickles()), name_of);

// ---- safetensors ---------------------------------------------------------------------------------------------------

constexpr std::uint64_t kHeaderMemory = 256u << 20;  // figure of the reliability notes, pages of the file included

HostileFile of_header(const std::string& id, const std::string& expected, std::function<std::string()> make) {
  return {id, "w.safetensors", expected, std::move(make), kHeaderMemory};
}
HostileFile of_entry(const std::string& id, const std::string& expected, const std::string& entry, std::size_t bytes) {
  return of_header(id, expected,
                   [=] { return test::safetensors_file("{\"w\":" + entry + "}", std::string(bytes, 'x')); });
}

std::vector<HostileFile> hostile_safetensors() {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  std::vector<HostileFile> out;
  out.push_back(of_header("Empty", "empty", [] { return std::string(); }));
  out.push_back(of_header("SevenBytes", "fewer than the 8", [] { return std::string("1234567"); }));
  out.push_back(of_header("HeaderOverLimit", "more than the limit of 100000000", [] {
    return test::little<std::uint64_t>(100'000'001) + "{}" + std::string(100'000'001, ' ');
  }));
  out.push_back(of_header("HeaderOfAllOnes", "more than the limit", [] { return std::string(64, '\xff'); }));
  out.push_back(of_header("HeaderBeyondFile", "truncated", [] { return test::little<std::uint64_t>(5000) + "{}"; }));
  out.push_back(of_header("HeaderOf100MbOfSpace", "more text follows",
                          [] { return test::safetensors_file("{" + std::string(99'999'000, ' ') + "} x", ""); }));
  out.push_back(of_header("NameOf90Mb", "longer than 4096",
                          [] { return test::safetensors_file("{\"" + std::string(90'000'000, 'n') + "\":1}", ""); }));
  out.push_back(of_header("MillionKeys", "more than 100000 tensors", [] {
    std::string header = "{";
    for (int i = 0; i < 1'000'000; ++i)
      header += cat(i == 0 ? "" : ",", "\"t", i, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
    return test::safetensors_file(header + "}", "");
  }));
  out.push_back(of_header("MetadataOf90Mb", "longer than", [] {
    return test::safetensors_file(R"({"__metadata__":{"a":")" + std::string(90'000'000, 'm') + "\"}}", "");
  }));
  out.push_back(of_header("DeepLists", "not an object",
                          [] { return test::safetensors_file("{\"a\":" + std::string(5'000'000, '[') + "}", ""); }));
  out.push_back(of_header("DeepObjects", "beside dtype", [] {
    std::string header;
    for (int i = 0; i < 1'000'000; ++i) header += "{\"a\":";
    return test::safetensors_file(header, "");
  }));
  out.push_back(of_header("DeepShape", "nested", [] {
    return test::safetensors_file("{\"a\":{\"dtype\":\"U8\",\"shape\":" + std::string(1'000'000, '[') + "}}", "");
  }));
  out.push_back(of_header("NotUtf8", "not UTF-8", [] { return test::safetensors_file("{\"\xff\":{}}", ""); }));
  out.push_back(of_header("HalfSurrogate", "surrogate", [] { return test::safetensors_file("{\"\\ud800\":{}}", ""); }));
  out.push_back(of_header("List", "not a JSON object", [] { return test::safetensors_file("[]", ""); }));
  out.push_back(of_header("NoJson", "not a JSON object", [] { return test::safetensors_file("import os", ""); }));
  out.push_back(of_header("Unfinished", "not a JSON object", [] { return test::safetensors_file("{\"a", ""); }));
  out.push_back(of_header("DuplicateName", "stands twice",
                          [=] { return test::safetensors_file("{" + a + "," + a + "}", "1234"); }));
  out.push_back(of_header("DuplicateNameByEscape", "stands twice", [=] {
    return test::safetensors_file("{" + a + R"(,"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})", "1234");
  }));
  out.push_back(of_header("Overlap", "overlap", [=] {
    return test::safetensors_file("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", "123456");
  }));
  out.push_back(of_header("Hole", "belong to no tensor", [=] {
    return test::safetensors_file("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})", "1234567890");
  }));
  out.push_back(of_header("BytesAtTheEnd", "belong to no tensor",
                          [=] { return test::safetensors_file("{" + a + "}", "12345"); }));
  out.push_back(of_header("Truncated", "truncated", [=] { return test::safetensors_file("{" + a + "}", "123"); }));
  out.push_back(of_header("Pickle", "", [] { return test::torch_zip({test::float_tensor("w", {2})}); }));
  const std::string type = R"({"dtype":"F32",)";
  out.push_back(
      of_entry("WrapToZero", "overflows", type + R"("shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0));
  out.push_back(
      of_entry("WrapByType", "overflows", R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})", 0));
  out.push_back(of_entry("NegativeSide", "holds -2", type + R"("shape":[-2],"data_offsets":[0,8]})", 8));
  out.push_back(of_entry("RealSide", "holds 2.0", type + R"("shape":[2.0],"data_offsets":[0,8]})", 8));
  out.push_back(
      of_entry("SideBeyond64", "not a size", type + R"("shape":[99999999999999999999],"data_offsets":[0,8]})", 8));
  out.push_back(of_entry("OffsetsReversed", "span -8", type + R"("shape":[2],"data_offsets":[8,0]})", 8));
  out.push_back(
      of_entry("OffsetsBeyond", "truncated", type + R"("shape":[1000000000000],"data_offsets":[0,4000000000000]})", 8));
  out.push_back(of_entry("SizeAgainstOffsets", "takes 12", type + R"("shape":[3],"data_offsets":[0,8]})", 8));
  out.push_back(of_entry("UnknownType", "'Q4'", R"({"dtype":"Q4","shape":[2],"data_offsets":[0,8]})", 8));
  out.push_back(of_entry("NoType", "lacks", R"({"shape":[2],"data_offsets":[0,8]})", 8));
  out.push_back(of_entry("TwoShapes", "stands twice", type + R"("shape":[2],"shape":[2],"data_offsets":[0,8]})", 8));
  out.push_back(of_entry(
      "TooManySides", "more than 32",
      type + R"("shape":[)" + "1" +
          [] {
            std::string s;
            for (int i = 0; i < 40; ++i) s += ",1";
            return s;
          }() +
          R"(],"data_offsets":[0,4]})",
      4));
  return out;
}

INSTANTIATE_TEST_SUITE_P(Safetensors, Hostile, testing::ValuesIn(hostile_safetensors()), name_of);

// ---- the watch itself, and files that are honest --------------------------------------------------------------------

TEST(HostileWatch, SeesProcessesAndFiles) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(test::in_child([] { return cat(::fork()); }, true).signal, SIGSYS);
  EXPECT_EQ(test::in_child([] { return cat(std::system("true")); }, true).signal, SIGSYS);
  EXPECT_EQ(test::in_child([&] { return write_file_atomic(folder / "x", "y"), std::string(); }, true).signal, SIGSYS);
  EXPECT_GT(test::in_child([] { return std::string(100u << 20, 'x').substr(0, 1); }).grown, 90u << 20);
}

TEST(HostileWatch, LetsHonestFilesThrough) {
  const test::TemporaryFolder folder;
  const std::vector<FileTensor> tensors{test::float_tensor("a.w", {3, 4}), test::float_tensor("a.b", {3})};
  const std::vector<std::pair<std::string, std::string>> files{{"w.safetensors", test::safetensors(tensors)},
                                                               {"w.pth", test::torch_zip(tensors)},
                                                               {"s.pt", test::torch_script(tensors)},
                                                               {"l.pth", test::torch_legacy(tensors)},
                                                               {"n.pkl", test::numpy_pickle(tensors)}};
  for (const auto& [name, bytes] : files) {
    write_file_atomic(folder / name, bytes);
    EXPECT_EQ(test::in_child([&] { return read_all(folder / name); }, true).text, "accepted") << name;
  }
}

}  // namespace
}  // namespace divergen::weights
