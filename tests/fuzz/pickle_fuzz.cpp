// Pickles: the first byte chooses how they are read, as the tree of a zip file (PyTorch, TorchScript), as a NumPy
// pickle, or as a legacy checkpoint with its storages.

#include "fuzz/weights_fuzz.hpp"
#include "weights/pickle.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::uint8_t how = data[0] % 3;
  if (how == 2) return divergen::test::fuzz_weights(data + 1, size - 1, "input.pkl");
  try {
    divergen::weights::Pickle(std::as_bytes(std::span(data + 1, size - 1)), "input",
                              {.torch = true, .torch_script = how == 1, .numpy = false});
  } catch (const divergen::Error& error) {
    if (error.kind() != divergen::ErrorKind::Data) __builtin_trap();
  }
  return 0;
}
