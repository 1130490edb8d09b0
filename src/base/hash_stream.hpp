#pragma once
// XXH3 (128 bits) of bytes that come in pieces.

#include <memory>
#include <string_view>

#include "base/hash.hpp"

namespace divergen {

class HashStream {
 public:
  HashStream();
  ~HashStream();
  void add(std::string_view bytes);
  Hash128 get() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace divergen
