#pragma once
// Text states of the prompts that a generator has seen: a run repeats each prompt many times, and the empty one in
// every batch, so each is encoded once.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <limits>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>

namespace divergen::models {

/// Least recently used states go first when the bytes are over the limit. Not thread-safe.
class PromptCache {
 public:
  static constexpr std::size_t kUnbounded = std::numeric_limits<std::size_t>::max();
  /// 1 GiB holds some 1,700 prompts of T5-v1.1-XXL in half precision, 4,500 of Stable Diffusion in float32.
  static constexpr std::size_t kDefaultBytes = std::size_t{1} << 30;

  explicit PromptCache(std::size_t max_bytes = kDefaultBytes) : max_bytes_(max_bytes) {}

  /// The states of `prompt`; `encode` is called when they are not here. States that alone are over the limit are
  /// returned and not kept. What `encode` throws goes through and leaves the cache as it was.
  at::Tensor get(const std::string& prompt, const std::function<at::Tensor(const std::string&)>& encode);

  bool contains(const std::string& prompt) const { return index_.contains(prompt); }
  std::size_t size() const { return entries_.size(); }
  std::size_t bytes() const { return bytes_; }
  std::size_t encoded() const { return encoded_; }  // calls of `encode`

 private:
  struct Entry {
    std::string prompt;
    at::Tensor states;
  };
  void drop_oldest();

  std::size_t max_bytes_, bytes_ = 0, encoded_ = 0;
  std::list<Entry> entries_;                                                // most recently used first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> index_;  // keys point into entries_
};

}  // namespace divergen::models
