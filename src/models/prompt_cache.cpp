#include "models/prompt_cache.hpp"

#include <ATen/ATen.h>

namespace divergen::models {
namespace {

std::size_t bytes_of(const at::Tensor& tensor) { return static_cast<std::size_t>(tensor.storage().nbytes()); }

}  // namespace

at::Tensor PromptCache::get(const std::string& prompt, const std::function<at::Tensor(const std::string&)>& encode) {
  if (const auto found = index_.find(prompt); found != index_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front().states;
  }
  at::Tensor states = encode(prompt);
  ++encoded_;
  // A slice would keep the whole batch that it is of.
  if (bytes_of(states) > static_cast<std::size_t>(states.nbytes())) states = states.clone();
  if (bytes_of(states) > max_bytes_) return states;
  while (bytes_of(states) > max_bytes_ - bytes_) drop_oldest();
  bytes_ += bytes_of(states);
  entries_.push_front({prompt, states});
  index_.emplace(entries_.front().prompt, entries_.begin());
  return states;
}

void PromptCache::drop_oldest() {
  bytes_ -= bytes_of(entries_.back().states);
  index_.erase(entries_.back().prompt);
  entries_.pop_back();
}

}  // namespace divergen::models
