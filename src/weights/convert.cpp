#include "weights/convert.hpp"

#include <cstdio>

#include "base/error.hpp"
#include "base/text.hpp"
#include "weights/safetensors_writer.hpp"

namespace divergen::weights {
namespace {

/// Tensors of one output file.
struct Shard {
  std::vector<const Weight*> weights;
  std::uint64_t bytes = 0;
};

DType target_type(const WeightSource& source, const Weight& weight, const ConvertOptions& options) {
  const bool is_float8 = weight.dtype == DType::F8_E4M3 || weight.dtype == DType::F8_E5M2;
  if (options.dtype && is_float8)
    fail(ErrorKind::Data, {"a tensor cannot be converted", cat(source.name(), " [", shown(weight.name), "]"),
                           cat("expected F64, F32, F16 or BF16, found ", to_string(weight.dtype)),
                           "convert without --dtype, which keeps types"});
  return options.dtype && is_floating(weight.dtype) ? *options.dtype : weight.dtype;
}

std::vector<Shard> divide(const WeightSource& source, const ConvertOptions& options) {
  std::vector<Shard> shards(1);
  for (const Weight& weight : source.tensors()) {
    const std::uint64_t bytes = weight.elements() * size_of(target_type(source, weight, options));
    if (options.shard_bytes > 0 && !shards.back().weights.empty() && shards.back().bytes + bytes > options.shard_bytes)
      shards.emplace_back();
    shards.back().weights.push_back(&weight);
    shards.back().bytes += bytes;
  }
  return shards;
}

void write_shard(const WeightSource& source, const Shard& shard, const Path& path, const ConvertOptions& options,
                 const std::map<std::string, std::string>& metadata) {
  std::vector<TensorPlan> plan;
  for (const Weight* weight : shard.weights)
    plan.push_back({weight->name, target_type(source, *weight, options), weight->shape});
  SafetensorsWriter writer(path, plan, metadata);
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const Weight& weight = *shard.weights[i];
    std::uint64_t written = 0;
    const auto append = [&](std::span<const std::byte> piece) {
      // A finite number may be beyond the range of the narrower type.
      const auto bad = options.refuse_not_finite ? first_not_finite(plan[i].dtype, piece) : std::nullopt;
      if (bad)
        fail(ErrorKind::Data, {"a value does not fit the new type", cat(source.name(), " [", shown(weight.name), "]"),
                               cat("element ", written + *bad, " is beyond the range of ", to_string(plan[i].dtype)),
                               "convert to bf16, which has the range of fp32"});
      written += piece.size() / size_of(plan[i].dtype);
      writer.append(piece);
    };
    stream(source, weight, plan[i].dtype, append, {.refuse_not_finite = options.refuse_not_finite});
  }
  writer.commit();
}

std::string shard_name(const std::string& stem, std::size_t i, std::size_t count) {
  char numbers[48];
  std::snprintf(numbers, sizeof numbers, "-%05zu-of-%05zu.safetensors", i + 1, count);
  return stem + numbers;
}

void check_room(const Path& out, std::uint64_t bytes) {
  const Path folder = out.has_parent_path() ? out.parent_path() : Path(".");
  const std::uint64_t free = free_bytes(folder);
  if (free < bytes)
    fail(ErrorKind::NoSpace, {"there is no room for the converted weights", folder.string(),
                              cat("they take ", human_bytes(bytes), ", ", human_bytes(free), " are free"),
                              "make room, or name another folder"});
}

}  // namespace

ConvertReport convert_weights(const WeightSource& source, const Path& out, const ConvertOptions& options) {
  if (out.extension() != ".safetensors")
    fail(ErrorKind::Usage, {"weights are written as safetensors only", out.string(),
                            cat("its extension is '", out.extension().string(), "'"), "name a file *.safetensors"});
  const std::vector<Shard> shards = divide(source, options);
  ConvertReport report;
  report.tensors = source.tensors().size();
  for (const Shard& shard : shards) report.bytes += shard.bytes;
  check_room(out, report.bytes);
  std::map<std::string, std::string> metadata = options.metadata;
  metadata.emplace("format", "pt");  // transformers refuses files that do not say for which framework they are
  if (shards.size() == 1) {
    write_shard(source, shards[0], out, options, metadata);
    report.files = {out};
    return report;
  }
  if (std::filesystem::exists(out))
    fail(ErrorKind::Usage, {"shards would stand beside an older whole file", out.string(),
                            "readers take the whole file first", "remove it, or name another file"});
  nlohmann::ordered_json index{{"metadata", {{"total_size", report.bytes}}}};
  auto& map = index["weight_map"] = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const Path file = out.parent_path() / shard_name(out.stem().string(), i, shards.size());
    write_shard(source, shards[i], file, options, metadata);
    report.files.push_back(file);
    for (const Weight* weight : shards[i].weights)
      map.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(weight->name, file.filename().string());
  }
  report.files.push_back(Path(out.string() + ".index.json"));
  write_file_atomic(report.files.back(), index.dump(2) + "\n");
  return report;
}

nlohmann::json weight_facts(const WeightSource& source, bool keys) {
  nlohmann::json files = nlohmann::json::array(), dtypes = nlohmann::json::object(), list = nlohmann::json::array();
  std::map<std::string, std::int64_t> groups;
  std::uint64_t bytes = 0, parameters = 0;
  for (const Path& file : source.files()) files.push_back(file.string());
  for (const Weight& weight : source.tensors()) {
    auto& type = dtypes[std::string(to_string(weight.dtype))];
    if (type.is_null()) type = {{"tensors", 0}, {"elements", 0}, {"bytes", 0}};
    type["tensors"] = type["tensors"].get<std::int64_t>() + 1;
    type["elements"] = type["elements"].get<std::uint64_t>() + weight.elements();
    type["bytes"] = type["bytes"].get<std::uint64_t>() + weight.bytes();
    bytes += weight.bytes();
    if (is_floating(weight.dtype)) parameters += weight.elements();
    ++groups[weight.name.substr(0, weight.name.find('.'))];
    if (keys) list.push_back({{"name", weight.name}, {"dtype", to_string(weight.dtype)}, {"shape", weight.shape}});
  }
  nlohmann::json out{{"file", source.name()},
                     {"format", source.format()},
                     {"files", files},
                     {"tensors", source.tensors().size()},
                     {"parameters", parameters},
                     {"bytes", bytes},
                     {"dtypes", dtypes},
                     {"groups", groups},
                     {"metadata", source.metadata()},
                     {"hash", content_hash(source)}};
  if (keys) out["keys"] = std::move(list);
  return out;
}

}  // namespace divergen::weights
