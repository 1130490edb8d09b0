// data.pkl of a checkpoint: any bytes are either a tree of values or refused as bad data.

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.hpp"
#include "weights/torch_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    divergen::weights::parse_pickle(std::as_bytes(std::span(data, size)), "input");
  } catch (const divergen::Error& error) {
    if (error.kind() != divergen::ErrorKind::Data) __builtin_trap();
  }
  return 0;
}
