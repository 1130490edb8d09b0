// A configuration of a stranger: read, or refused as a configuration. What is read can be printed and read back as the
// same.

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/error.hpp"
#include "base/fs.hpp"
#include "config/settings.hpp"

namespace {

using namespace divergen;

const Path& folder() {
  static const Path one = [] {
    std::string name = "/dev/shm/divergen-fuzz-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      name = "/tmp/divergen-fuzz-XXXXXX";
      if (::mkdtemp(name.data()) == nullptr) std::abort();
    }
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(folder(), ignored);
    });
    return Path(name);
  }();
  return one;
}

config::Table load(const std::string& name, std::string_view text) {
  const Path file = folder() / name;
  std::FILE* out = std::fopen(file.c_str(), "wb");
  if (out == nullptr || std::fwrite(text.data(), 1, text.size(), out) != text.size() || std::fclose(out) != 0)
    std::abort();
  return config::load_layers(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  config::Table table;
  try {
    table = load("study.toml", {reinterpret_cast<const char*>(data), size});
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Config) throw;
    return 0;
  }
  for (const bool with_origins : {false, true}) {
    const std::string text = config::to_toml(table, with_origins);
    if (config::to_toml(load("again.toml", text), false) != config::to_toml(table, false)) {
      std::fprintf(stderr, "printed as\n%s\n", text.c_str());
      std::abort();
    }
  }
  try {
    config::run_config_of(table);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Config) throw;
  }
  return 0;
}
