// divergen convert: weights of any format to safetensors, in another type, under other names, in shards.

#include <memory>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "weights/convert.hpp"
#include "weights/detectron2.hpp"
#include "weights/key_maps.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string in, out, dtype, map, prefix, to = "safetensors";
  std::uint64_t shard_bytes = 0;
  bool keep_not_finite = false;
};

std::optional<weights::DType> dtype_of(const std::string& name) {
  if (name.empty()) return std::nullopt;
  return name == "fp32" ? weights::DType::F32 : name == "fp16" ? weights::DType::F16 : weights::DType::BF16;
}

/// The layout that detectron2 loads back: a run's model.safetensors, or any other weights with its names.
int to_detectron2(const Options& o) {
  std::unique_ptr<weights::WeightSource> source = weights::open_weights(o.in);
  if (!o.prefix.empty()) source = weights::select_prefix(std::move(source), o.prefix);
  if (!o.map.empty()) source = weights::map_keys(std::move(source), o.map);
  weights::write_detectron2(o.out, *source, dtype_of(o.dtype));
  log::info(with_thousands(static_cast<std::int64_t>(source->tensors().size())), " tensors in ", o.out);
  return 0;
}

int to_safetensors(const Options& o) {
  std::unique_ptr<weights::WeightSource> source = weights::open_weights(o.in);
  weights::ConvertOptions options{
      .dtype = dtype_of(o.dtype), .shard_bytes = o.shard_bytes, .refuse_not_finite = !o.keep_not_finite};
  options.metadata["source"] = source->files().front().filename().string();
  options.metadata["source_hash"] = weights::content_hash(*source);
  if (!o.prefix.empty()) source = weights::select_prefix(std::move(source), o.prefix);
  if (!o.map.empty()) {
    source = weights::map_keys(std::move(source), o.map);
    options.metadata["key_map"] = o.map;
  }
  const weights::ConvertReport report = weights::convert_weights(*source, o.out, options);
  log::info(with_thousands(static_cast<std::int64_t>(report.tensors)), " tensors, ", human_bytes(report.bytes), ", in ",
            report.files.size(), report.files.size() == 1 ? " file: " : " files: ", report.files.back().string());
  return 0;
}

}  // namespace

void add_convert_command(CLI::App& app, Action& action) {
  auto o = std::make_shared<Options>();
  auto* convert = app.add_subcommand(
      "convert",
      "reads weights of any format as data, never executing them, and writes safetensors\n\n"
      "Example: divergen convert ViT-L-14.pt clip/model.safetensors --map clip-openai-to-hf --dtype fp16\n"
      "         divergen convert model_final.pth detector.safetensors --prefix model_ema.module.\n"
      "         divergen convert runs/study/train/divergen/model.safetensors model.pth --to detectron2");
  convert->add_option("in", o->in, "weight file, index of shards, or the folder that holds them")->required();
  convert
      ->add_option("out", o->out, "*.safetensors (--to detectron2: *.pth or *.pkl); replaced as a whole or not at all")
      ->required();
  convert->add_option("--to", o->to, "layout: safetensors, or a checkpoint that detectron2 loads")
      ->check(CLI::IsMember({"safetensors", "detectron2"}));
  convert->add_option("--dtype", o->dtype, "type of floating tensors: fp32, fp16, bf16 (default: as they are)")
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  std::string maps = "other names and layouts:";
  std::vector<std::string> names;
  for (const auto& map : weights::key_maps()) {
    maps += cat("\n", map.name, ": ", map.description);
    names.push_back(map.name);
  }
  convert->add_option("--map", o->map, maps)->check(CLI::IsMember(names));
  convert->add_option("--prefix", o->prefix, "only names that begin so, without it (as inspect shows them)");
  convert->add_option("--shard-size", o->shard_bytes, "largest file, as 5GB; more is written in shards with an index")
      ->transform(CLI::AsSizeValue(true));
  convert->add_flag("--keep-not-finite", o->keep_not_finite, "take NaN and infinity as they are, instead of refusing");
  convert->callback(
      [o, &action] { action = [o] { return o->to == "detectron2" ? to_detectron2(*o) : to_safetensors(*o); }; });
}

}  // namespace divergen::driver
