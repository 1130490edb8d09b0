// A whole zip checkpoint: directory, tree and storages.

#include "fuzz/weights_fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return divergen::test::fuzz_weights(data, size, "input.pth");
}
