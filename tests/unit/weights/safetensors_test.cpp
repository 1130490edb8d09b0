#include "weights/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.hpp"
#include "support/fixtures.hpp"

namespace divergen::weights {
namespace {

std::string file_of(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  return bytes + header + data;
}

/// The message of the refusal, or "accepted".
std::string outcome(const std::string& bytes) {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "w.safetensors", bytes);
  try {
    SafetensorsFile file(folder / "w.safetensors");
    return "accepted";
  } catch (const Error& error) {
    return error.kind() == ErrorKind::Data ? error.what() : "another kind of error";
  }
}

}  // namespace

TEST(Safetensors, ReadsBackWhatWasWritten) {
  const test::TemporaryFolder folder;
  const float values[] = {1, 2, 3, 4, 5, 6};
  const std::uint8_t flags[] = {7};

  write_safetensors(folder / "w.safetensors",
                    {{"b.weight", DType::F32, {2, 3}, std::as_bytes(std::span(values))},
                     {"a", DType::U8, {}, std::as_bytes(std::span(flags))},
                     {"empty", DType::F16, {0, 4}, {}}},
                    {{"step", "12"}});
  const SafetensorsFile file(folder / "w.safetensors");

  ASSERT_EQ(file.tensors().size(), 3u);
  const TensorInfo* found = file.find("b.weight");
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(file.bytes(*found).data(), values, sizeof values), 0);
  EXPECT_EQ(file.metadata().at("step"), "12");
  EXPECT_EQ(file.find("nothing"), nullptr);
}

TEST(Safetensors, RefusesHostileFilesAndSaysWhy) {
  const auto one = [](const std::string& shape, const std::string& offsets, std::size_t bytes) {
    return outcome(file_of(R"({"w":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
                           std::string(bytes, 'x')));
  };

  EXPECT_EQ(one("[2]", "[0,8]", 8), "accepted");
  EXPECT_NE(one("[3]", "[0,8]", 8).find("takes 12"), std::string::npos);
  EXPECT_NE(one("[2]", "[0,8]", 4).find("truncated"), std::string::npos);
  EXPECT_NE(one("[2]", "[0,8]", 12).find("belong to no tensor"), std::string::npos);
  EXPECT_NE(one("[2]", "[4,12]", 12).find("belong to no tensor"), std::string::npos);
  EXPECT_NE(one("[-2]", "[0,8]", 8).find("not a size"), std::string::npos);
  EXPECT_NE(one("[4294967296,4294967296]", "[0,0]", 0).find("overflows"), std::string::npos);
  EXPECT_NE(one("[2]", "[8,0]", 8).find("data_offsets"), std::string::npos);
  EXPECT_NE(outcome("").find("empty"), std::string::npos);
  EXPECT_NE(outcome("1234").find("fewer than the 8"), std::string::npos);
  EXPECT_NE(outcome(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8)).find("more than the limit"), std::string::npos);
  EXPECT_NE(outcome(file_of("[]", "")).find("not a JSON object"), std::string::npos);
  EXPECT_NE(outcome(file_of("{\"\xff\":1}", "")).find("not a JSON object"), std::string::npos);
  EXPECT_NE(
      outcome(file_of("{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}", "")).find("not an object"),
      std::string::npos);
}

TEST(Safetensors, RefusesOverlapAndDuplicateNames) {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string b = R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]})";

  EXPECT_NE(outcome(file_of("{" + a + "," + b + "}", "123456")).find("overlap"), std::string::npos);
  EXPECT_NE(outcome(file_of("{" + a + "," + a + "}", "1234")).find("stands twice"), std::string::npos);
}

}  // namespace divergen::weights
