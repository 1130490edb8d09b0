#include "base/hash_stream.hpp"

#include <xxhash.h>

#include "base/error.hpp"

namespace divergen {

struct HashStream::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

HashStream::HashStream() : state_(std::make_unique<State>()) {
  DIVERGEN_CHECK(state_->xxh != nullptr);
  XXH3_128bits_reset(state_->xxh);
}
HashStream::~HashStream() = default;

void HashStream::add(std::string_view bytes) { XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size()); }

Hash128 HashStream::get() const {
  const XXH128_hash_t h = XXH3_128bits_digest(state_->xxh);
  return {h.low64, h.high64};
}

}  // namespace divergen
