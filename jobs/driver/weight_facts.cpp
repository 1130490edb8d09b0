#include "driver/weight_facts.hpp"

#include <iomanip>
#include <iostream>

#include "base/error.hpp"
#include "base/text.hpp"
#include "weights/convert.hpp"

namespace divergen::driver {
namespace {

void line(const std::string& name, const std::string& value) {
  std::cout << std::left << std::setw(12) << name << value << '\n';
}

void print_facts(const nlohmann::json& facts) {
  line("file", facts["file"].get<std::string>());
  line("format", cat(facts["format"].get<std::string>(),
                     facts["files"].size() > 1 ? cat(", ", facts["files"].size() - 1, " shards") : std::string()));
  line("tensors", with_thousands(facts["tensors"].get<std::int64_t>()));
  line("parameters", with_thousands(facts["parameters"].get<std::int64_t>()));
  line("bytes", cat(with_thousands(facts["bytes"].get<std::int64_t>()), " (",
                    human_bytes(facts["bytes"].get<std::uint64_t>()), ")"));
  for (const auto& [type, of] : facts["dtypes"].items())
    line("  " + type, cat(with_thousands(of["tensors"].get<std::int64_t>()), " tensors, ",
                          human_bytes(of["bytes"].get<std::uint64_t>())));
  for (const auto& [group, count] : facts["groups"].items())
    if (facts["groups"].size() <= 24) line("names", cat(group, ".* ", with_thousands(count.get<std::int64_t>())));
  for (const auto& [key, value] : facts["metadata"].items())
    line("metadata", cat(key, " = ", value.get<std::string>()));
  line("hash", facts["hash"].get<std::string>());
}

}  // namespace

bool is_weights(const Path& path) {
  if (!std::filesystem::is_directory(path)) return true;
  const bool is_library = std::filesystem::exists(path / "index.h5") || std::filesystem::exists(path / "pool");
  return !is_library && !weights::find_weights(path).empty();
}

int inspect_weights(const Path& path, const std::string& prefix, bool keys, bool json) {
  std::unique_ptr<weights::WeightSource> source = weights::open_weights(path);
  if (!prefix.empty()) source = weights::select_prefix(std::move(source), prefix);
  const nlohmann::json facts = weights::weight_facts(*source, keys && json);
  if (json) {
    std::cout << facts.dump(2) << '\n';
    return 0;
  }
  print_facts(facts);
  if (keys)
    for (const weights::Weight& weight : source->tensors())
      std::cout << weights::to_string(weight.dtype) << '\t' << weights::shape_text(weight.shape) << '\t'
                << weights::shown(weight.name) << '\n';
  return 0;
}

}  // namespace divergen::driver
