// Text states are computed once a prompt, and the least recently used ones go first.

#include "models/prompt_cache.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace divergen::models {
namespace {

/// 40 bytes that tell the prompt's length.
at::Tensor encode(const std::string& prompt) { return at::full({10}, static_cast<double>(prompt.size())); }

}  // namespace

TEST(prompt_cache, EncodesEachPromptOnce) {
  PromptCache cache;
  for (int round = 0; round < 3; ++round)
    for (const char* prompt : {"", "a dog", "a cat on a mat"}) {
      const at::Tensor states = cache.get(prompt, encode);
      EXPECT_EQ(states[0].item<double>(), static_cast<double>(std::string(prompt).size()));
    }
  EXPECT_EQ(cache.encoded(), 3U);
  EXPECT_EQ(cache.size(), 3U);
  EXPECT_EQ(cache.bytes(), 120U);
}

TEST(prompt_cache, DropsTheLeastRecentlyUsed) {
  PromptCache cache(100);  // two entries
  cache.get("a", encode);
  cache.get("bb", encode);
  cache.get("a", encode);
  cache.get("ccc", encode);
  EXPECT_TRUE(cache.contains("a"));
  EXPECT_FALSE(cache.contains("bb"));
  EXPECT_TRUE(cache.contains("ccc"));
  EXPECT_LE(cache.bytes(), 100U);
  EXPECT_EQ(cache.get("bb", encode)[0].item<double>(), 2);
  EXPECT_EQ(cache.encoded(), 4U);
}

TEST(prompt_cache, ReturnsWhatIsTooLargeToKeep) {
  PromptCache cache(100);
  cache.get("a", encode);
  EXPECT_EQ(cache.get("large", [](const std::string&) { return at::ones({1000}); }).numel(), 1000);
  EXPECT_EQ(cache.size(), 1U);
  EXPECT_TRUE(cache.contains("a"));
}

TEST(prompt_cache, KeepsASliceWithoutItsBatch) {
  PromptCache cache;
  cache.get("a", [](const std::string&) { return at::ones({100, 10}).narrow(0, 3, 1); });
  EXPECT_EQ(cache.bytes(), 40U);
}

TEST(prompt_cache, StaysAsItWasWhenEncodingFails) {
  PromptCache cache(100);
  cache.get("a", encode);
  EXPECT_THROW(cache.get("b", [](const std::string&) -> at::Tensor { throw std::runtime_error("no"); }),
               std::runtime_error);
  EXPECT_EQ(cache.size(), 1U);
  EXPECT_FALSE(cache.contains("b"));
}

}  // namespace divergen::models
