// Hostile configurations (reference/reliability.md §6, config_hostile): every one is read, or refused with file, line
// and column; none crashes.

#include <gtest/gtest.h>

#include <ctime>
#include <functional>
#include <iostream>
#include <regex>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "config/settings.hpp"
#include "support/fixtures.hpp"
#include "support/full.hpp"
#include "support/memory_folder.hpp"

namespace divergen::config {
namespace {

Path mini() { return Path(DIVERGEN_SOURCE_DIR) / "configs" / "mini.toml"; }

class ConfigHostile : public testing::Test {
 protected:
  /// "" when the text is taken; else the message. Anything but Error(Config) fails the test.
  std::string refusal(const std::string& text) {
    write_file_atomic(file, text);
    try {
      read_run_config(file);
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Config) << error.what();
      return error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << "not an error of ours: " << error.what() << "\n" << text.substr(0, 500);
      return error.what();
    }
  }
  /// Refused, with the place in this file.
  void expect_place(const std::string& text, const std::string& words = "") {
    const std::string message = refusal(text);
    static const std::regex kPlace("study\\.toml:[0-9]+:[0-9]+");
    EXPECT_TRUE(std::regex_search(message, kPlace)) << message.substr(0, 500) << "\nof\n" << text.substr(0, 300);
    EXPECT_NE(message.find(words), std::string::npos) << message.substr(0, 500);
  }

  test::MemoryFolder folder;  // thousands of files
  const Path file = folder / "study.toml";
};

}  // namespace

TEST_F(ConfigHostile, EveryKeyWithEveryWrongType) {
  const RunConfig known = read_run_config(mini());
  const std::string base = cat("base = \"", mini().string(), "\"\n");
  struct Bad {
    const char* value;
    std::string fits;  // types that take it
  };
  const Bad values[] = {{"true", "true/false"},
                        {"7", "integer number"},
                        {"1.5", "number"},
                        {"\"words\"", "text path"},
                        {"[true]", ""},
                        {"[[1], [\"a\"]]", ""},
                        {"{a = 1}", ""},
                        {"nan", ""},
                        {"-inf", ""},
                        {"1e400", ""},
                        {"9223372036854775808", ""},
                        {"-9223372036854775808", "integer number"},
                        {"0x7fffffffffffffff", "integer number"},
                        {"1979-05-27", ""},
                        {"\"\"", "text path"}};
  int refused = 0, taken = 0;
  for (const KeyInfo& key : known.keys) {
    if (key.path.starts_with("trainings.")) continue;  // a list of tables; its keys are those of [train]
    const auto dot = key.path.rfind('.');
    const std::string head = dot == std::string::npos ? "" : cat("[", key.path.substr(0, dot), "]\n");
    const std::string name = key.path.substr(dot == std::string::npos ? 0 : dot + 1);
    const std::string type = key.type.substr(0, key.type.find(':'));
    for (const Bad& bad : values) {
      const std::string text = cat(base, head, name, " = ", bad.value, "\n");
      const bool fits = (" " + bad.fits + " ").find(" " + type + " ") != std::string::npos;
      if (fits) {
        const std::string message = refusal(text);  // by its bounds or not at all
        ++(message.empty() ? taken : refused);
        continue;
      }
      const bool is_syntax =
          std::string_view(bad.value) == "9223372036854775808" || std::string_view(bad.value) == "1e400";
      expect_place(text, is_syntax ? "" : name);  // toml++ refuses these before it knows whose they are
      ++refused;
      ASSERT_FALSE(HasFailure());
    }
  }
  EXPECT_GT(refused, 1000);
  std::cout << "config_hostile: " << known.keys.size() << " keys, " << refused << " values refused, " << taken
            << " taken\n";
}

TEST_F(ConfigHostile, UnknownKeysEverywhere) {
  const std::string base = cat("base = \"", mini().string(), "\"\n");
  for (const char* section : {"", "[run]\n", "[generators.sd]\n", "[detector]\n", "[[trainings]]\nname = \"x\"\n"})
    for (const std::string& name : {std::string("stpes"), std::string("\"\""), std::string("\"a.b\""),
                                    std::string("\"\\u0000\""), std::string("\"\\n[run]\""), std::string(1 << 20, 'k')})
      expect_place(cat(base, section, name, " = 1\n"), "unknown");
}

TEST_F(ConfigHostile, BadSyntaxNamesItsPlace) {
  const auto repeat = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  for (const std::string& text : {std::string("[run"),
                                  std::string("a ="),
                                  std::string("a = 1\na = 2"),
                                  std::string("[a]\n[a]"),
                                  std::string("a = \"unclosed"),
                                  std::string("a = 'x"),
                                  std::string("a = 1 2"),
                                  std::string("= 1"),
                                  std::string("\xff\xfe = 1"),
                                  std::string("a = \"\xc0\xaf\""),
                                  std::string("a\0b = 1", 7),
                                  std::string("a = 99999999999999999999"),
                                  std::string("a = 1_"),
                                  std::string("a = 0x"),
                                  std::string("a = \"\\u0xyz\""),
                                  std::string("a = 25:61:61"),
                                  cat("a = ", repeat("[", 100'000)),
                                  cat("a = ", repeat("{a=", 100'000)),
                                  cat(repeat("a.", 100'000), "a = 1"),
                                  cat("[", repeat("a.", 100'000), "a]"),
                                  cat("a = {", repeat("b.", 100'000), "b = 1}")})
    expect_place(text);
}

TEST_F(ConfigHostile, HugeFilesAreReadOrRefusedInSeconds) {
  const std::clock_t start = std::clock();  // of the processor: the machine may be busy
  std::string numbers = "[detector]\ndepths = [";
  for (int i = 0; i < 1'000'000; ++i) numbers += "3,";
  expect_place(numbers + "]\n", "depths");
  std::string texts = "[augment]\nblend = [";
  for (int i = 0; i < 200'000; ++i) texts += "\"x\",";
  expect_place(texts + "]\n", "blend");
  std::string tables;
  for (int i = 0; i < 50'000; ++i) tables += "[[trainings]]\n";
  EXPECT_NE(refusal(tables), "");
  std::string sections;
  for (int i = 0; i < 20'000; ++i) sections += cat("[s", i, "]\nk = 1\n");
  expect_place(sections, "unknown");
  EXPECT_NE(refusal(std::string(65 << 20, '#')), "") << "more than any configuration has";
  EXPECT_LT((std::clock() - start) / CLOCKS_PER_SEC, 20);
}

TEST_F(ConfigHostile, BasesThatCannotBe) {
  const auto with_base = [&](const std::string& name) { return refusal(cat("base = ", name, "\n")); };
  EXPECT_NE(with_base("\"study.toml\"").find("includes itself"), std::string::npos);
  EXPECT_NE(with_base("\"./../nowhere/../x/study.toml\""), "");
  EXPECT_NE(with_base("\"absent.toml\"").find("no such file"), std::string::npos);
  EXPECT_NE(with_base("\".\"").find("no such file"), std::string::npos) << "a folder";
  EXPECT_NE(with_base("\"/dev/zero\"").find("no such file"), std::string::npos);
  EXPECT_NE(with_base("\"\"").find("no such file"), std::string::npos);
  for (const char* value : {"1", "[\"mini.toml\"]", "{}", "true"})
    EXPECT_NE(with_base(value).find("study.toml:1:1"), std::string::npos) << value;
  std::filesystem::create_symlink("loop.toml", folder / "loop.toml");
  EXPECT_NE(with_base("\"loop.toml\""), "");
  std::filesystem::create_symlink("study.toml", folder / "other.toml");
  EXPECT_NE(with_base("\"other.toml\"").find("includes itself"), std::string::npos);
  constexpr int kLong = 40;
  for (int i = 0; i < kLong; ++i)
    write_file_atomic(folder / cat("layer", i, ".toml"), cat("base = \"layer", (i + 1) % kLong, ".toml\"\n"));
  EXPECT_NE(with_base("\"layer0.toml\"").find("includes itself"), std::string::npos);
}

TEST_F(ConfigHostile, MutationsOfAConfigurationAreReadOrRefused) {
  // In one file, so that a mutation reaches all of it.
  const std::string good = to_toml(load_layers(mini()), false);
  ASSERT_EQ(refusal(good), "");
  const std::string pieces[] = {"[",
                                "]",
                                "{",
                                "}",
                                "\"",
                                "'",
                                "=",
                                ".",
                                ",",
                                "\n",
                                "nan",
                                "1e400",
                                "-",
                                "\\u0000",
                                "[[trainings]]\n",
                                "base = \"study.toml\"\n",
                                "\xff",
                                "_",
                                "#",
                                "0"};
  Rng rng(3);
  const int rounds = test::times(1500, 20'000);
  int refused = 0;
  for (int n = 0; n < rounds; ++n) {
    std::string text = good;
    for (std::uint64_t change = 0; change <= rng.below(2); ++change) {
      const std::size_t at = rng.below(text.size());
      switch (rng.below(4)) {
        case 0:
          text[at] = static_cast<char>(rng.below(256));
          break;
        case 1:
          text.erase(at, 1 + rng.below(40));
          break;
        case 2:
          text.insert(at, pieces[rng.below(std::size(pieces))]);
          break;
        default:
          text.insert(at, text.substr(rng.below(text.size()), rng.below(60)));
      }
    }
    refused += !refusal(text).empty();
    ASSERT_FALSE(HasFailure()) << text;
  }
  EXPECT_GT(refused, rounds / 3);
  EXPECT_LT(refused, rounds - rounds / 50);
  std::cout << "config_hostile: " << refused << " of " << rounds
            << " mutations refused, the others are configurations\n";
}

}  // namespace divergen::config
