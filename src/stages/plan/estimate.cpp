#include "stages/plan/estimate.hpp"

#include <algorithm>
#include <cstdio>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::stages {
namespace {

constexpr double kHour = 3600;

/// A full-size model's published figures (reference/generation.md §10 and §11).
struct Published {
  double seconds;            // a picture, at `steps` and `side`
  double steps, side;        // px
  double fixed_gb, item_gb;  // weights in half precision and what runs beside them; each picture of a batch
  const char* basis;
};
// Stable Diffusion v1.5: 26.7 s for 32 pictures of 512 px at 50 steps, fp16, A100.
constexpr Published kStableDiffusion{0.85, 50, 512, 3.0, 0.8, "Stable Diffusion v1.5 in fp16 on an A100, published"};
// IF: 100 steps at 20.2 a second and 50 at 13.8, batch 1; T5, I-XL and II-L in fp16.
constexpr Published kDeepFloyd{8.5, 100, 256, 21.0, 1.5, "DeepFloyd-IF I-XL and II-L in fp16 on an A100, published"};
// SAM ViT-H: 0.12 to 0.15 s a picture; CLIP ViT-L/14: 1,000 to 1,500 pictures a second.
constexpr Published kSam{0.15, 1, 1024, 7.0, 0, "SAM ViT-H on an A100, known"};
constexpr Published kClip{0.001, 1, 224, 1.6, 0.02, "CLIP ViT-L/14 on an A100, known"};

// Sizes of PNGs as this project writes them; assumptions, replaced by what a run has measured.
constexpr double kPictureBytesPerPixel = 1.1;  // single object before a plain ground
constexpr double kMaskBytesPerPixel = 0.02;
constexpr double kCutOutBytesPerPixel = 0.6;  // of the whole picture: the crop is about half of it, with alpha
constexpr double kRowBytes = 128;             // a row of scores or verdicts

struct Measured {
  double seconds_per_item, bytes_per_item;
};

/// From the record that a finished stage of this run directory left; nothing when it left none.
std::optional<Measured> measured(const RunDirectory& dir, const std::string& stage) {
  const auto record = read_record(dir, stage);
  if (!record || record->items == 0) return std::nullopt;
  double busy = 0;
  std::int64_t items = 0;
  for (const RankShare& share : record->ranks) busy += share.busy_seconds, items += share.items;
  const auto bytes = record->figures.find("bytes");
  if (items == 0) return std::nullopt;
  return Measured{busy / static_cast<double>(items),
                  bytes == record->figures.end() ? 0 : bytes->second / static_cast<double>(record->items)};
}

double side_of(const config::GeneratorSettings& generator, const Published& published) {
  return generator.size > 0 ? static_cast<double>(generator.size) : published.side;
}

std::int64_t shards_of(const Plan& plan, std::size_t generator) {
  std::int64_t count = 0;
  for (std::size_t s = 0; s < plan.shards(); ++s)
    count += plan.generator[plan.shard(s).first] == static_cast<std::int32_t>(generator) ? 1 : 0;
  return count;
}

StageEstimate generate_estimate(const config::GeneratorSettings& settings, const Plan& plan, std::size_t g) {
  const Published& p = settings.kind == "deepfloyd_if" ? kDeepFloyd : kStableDiffusion;
  const double side = side_of(settings, p);
  StageEstimate out;
  out.stage = "generate." + settings.name;
  out.items = std::count(plan.generator.begin(), plan.generator.end(), static_cast<std::int32_t>(g));
  out.files = shards_of(plan, g);
  out.bytes = static_cast<double>(out.items) * side * side * kPictureBytesPerPixel;
  out.device_hours = static_cast<double>(out.items) * p.seconds * static_cast<double>(settings.steps) / p.steps *
                     (side / p.side) * (side / p.side) / kHour;
  out.device_gigabytes = p.fixed_gb + p.item_gb * static_cast<double>(settings.batch);
  out.basis = p.basis;
  return out;
}

StageEstimate later_stage(const char* stage, const Published& p, const Plan& plan, double bytes_per_item,
                          double batch) {
  StageEstimate out;
  out.stage = stage;
  out.items = static_cast<std::int64_t>(plan.size());
  out.files = static_cast<std::int64_t>(plan.shards());
  out.bytes = static_cast<double>(out.items) * bytes_per_item;
  out.device_hours = static_cast<double>(out.items) * p.seconds / kHour;
  out.device_gigabytes = p.fixed_gb + p.item_gb * batch;
  out.basis = p.basis;
  return out;
}

std::string group_of(const PlanCategory& category) {
  if (category.is_extra) return "extra";
  if (category.frequency == "r") return "rare";
  if (category.frequency == "c") return "common";
  return category.frequency == "f" ? "frequent" : "other";
}

void count_groups(PlanEstimate& out, const Plan& plan) {
  std::vector<std::int64_t> of_category(plan.categories.size());
  for (const std::int32_t category : plan.category) ++of_category[static_cast<std::size_t>(category)];
  for (std::size_t c = 0; c < of_category.size(); ++c) {
    out.items_of_group[group_of(plan.categories[c])] += of_category[c];
    out.categories_without_items += of_category[c] == 0 ? 1 : 0;
  }
}

void take_measured(StageEstimate& estimate, const RunDirectory& dir, const std::string& stage) {
  const auto figures = measured(dir, stage);
  if (!figures) return;
  estimate.device_hours = static_cast<double>(estimate.items) * figures->seconds_per_item / kHour;
  estimate.device_gigabytes = 0;
  if (figures->bytes_per_item > 0) estimate.bytes = static_cast<double>(estimate.items) * figures->bytes_per_item;
  estimate.basis = "measured in this run directory (hours of one rank)";
}

}  // namespace

PlanEstimate estimate_plan(const config::RunConfig& config, const Plan& plan) {
  PlanEstimate out;
  out.items = static_cast<std::int64_t>(plan.size());
  out.shards = static_cast<std::int64_t>(plan.shards());
  out.categories = static_cast<std::int64_t>(plan.categories.size());
  out.prompts = static_cast<std::int64_t>(plan.prompts.size());
  count_groups(out, plan);
  const RunDirectory dir(config.run.dir);
  double pixels = 0;  // of all pictures
  for (std::size_t g = 0; g < config.generators.size(); ++g) {
    out.stages.push_back(generate_estimate(config.generators[g], plan, g));
    pixels += out.stages.back().bytes / kPictureBytesPerPixel;
    take_measured(out.stages.back(), dir, "generate");
  }
  const double mean_pixels = pixels / std::max(1.0, static_cast<double>(out.items));
  out.stages.push_back(later_stage("annotate", kSam, plan, mean_pixels * kMaskBytesPerPixel, 1));
  out.stages.push_back(later_stage("filter", kClip, plan, 2 * kRowBytes, static_cast<double>(config.filter.batch)));
  out.stages.back().files *= 2;  // scores, and the verdicts of them
  StageEstimate pool = later_stage("pool", kClip, plan, mean_pixels * kCutOutBytesPerPixel, 1);
  pool.device_hours = pool.device_gigabytes = 0;
  pool.files = (out.items + config.pool.shard_rows - 1) / config.pool.shard_rows + 1;
  pool.basis = "upper bound: nothing is rejected";
  for (const char* stage : {"annotate", "filter"})
    for (StageEstimate& estimate : out.stages)
      if (estimate.stage == stage) take_measured(estimate, dir, stage);
  if (config.run.fused) {
    // Pictures and masks stay in memory; what is kept of them until all scores are there is their cut-outs.
    for (StageEstimate& estimate : out.stages)
      if (estimate.stage != "filter") estimate.bytes = 0, estimate.files = 0;
      else estimate.files /= 2;
    StageEstimate kept = pool;
    kept.stage = "fused";
    kept.files = static_cast<std::int64_t>(plan.shards());
    kept.basis = "cut-outs and scores of all items; its hours are those above";
    out.stages.push_back(std::move(kept));
  }
  out.stages.push_back(std::move(pool));
  return out;
}

std::string to_text(const PlanEstimate& e) {
  std::string out = cat(with_thousands(e.items), " items of ", with_thousands(e.categories), " categories (");
  const char* separator = "";
  for (const auto& [group, items] : e.items_of_group) {
    out += cat(separator, group, ' ', with_thousands(items));
    separator = ", ";
  }
  out += cat(") and ", with_thousands(e.prompts), " prompts, in ", with_thousands(e.shards), " shards\n");
  if (e.categories_without_items > 0)
    out += cat(with_thousands(e.categories_without_items), " categories have no item\n");
  char line[256];
  std::snprintf(line, sizeof line, "%-18s %12s %8s %10s %12s %10s  %s\n", "stage", "items", "files", "bytes",
                "device hours", "device GB", "basis of the estimate");
  out += line;
  double hours = 0, bytes = 0;
  std::int64_t files = 0;
  for (const StageEstimate& s : e.stages) {
    std::snprintf(line, sizeof line, "%-18s %12s %8s %10s %12s %10s  %s\n", s.stage.c_str(),
                  with_thousands(s.items).c_str(), with_thousands(s.files).c_str(),
                  human_bytes(static_cast<std::uint64_t>(s.bytes)).c_str(),
                  s.device_hours > 0 ? fixed(s.device_hours, s.device_hours < 10 ? 2 : 0).c_str() : "-",
                  s.device_gigabytes > 0 ? fixed(s.device_gigabytes, 1).c_str() : "-", s.basis.c_str());
    out += line;
    hours += s.device_hours;
    bytes += s.bytes;
    files += s.files;
  }
  std::snprintf(line, sizeof line, "%-18s %12s %8s %10s %12s\n", "in all", "", with_thousands(files).c_str(),
                human_bytes(static_cast<std::uint64_t>(bytes)).c_str(), fixed(hours, hours < 10 ? 2 : 0).c_str());
  return out + line;
}

std::string to_json(const PlanEstimate& e) {
  nlohmann::json stages = nlohmann::json::array();
  for (const StageEstimate& s : e.stages)
    stages.push_back({{"stage", s.stage},
                      {"items", s.items},
                      {"files", s.files},
                      {"bytes", s.bytes},
                      {"device_hours", s.device_hours},
                      {"device_gigabytes", s.device_gigabytes},
                      {"basis", s.basis}});
  return nlohmann::json{{"items", e.items},           {"shards", e.shards},
                        {"categories", e.categories}, {"categories_without_items", e.categories_without_items},
                        {"prompts", e.prompts},       {"items_of_group", e.items_of_group},
                        {"stages", std::move(stages)}}
      .dump(1);
}

}  // namespace divergen::stages
