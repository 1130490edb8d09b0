#include "unit/report/synthetic_run.hpp"

#include <cmath>

#include <nlohmann/json.hpp>

#include "base/rng.hpp"
#include "base/text.hpp"
#include "image/draw.hpp"
#include "miniworld/pictures.hpp"
#include "miniworld/scenes.hpp"
#include "stages/plan/plan.hpp"
#include "stages/plan/prompts.hpp"
#include "store/library.hpp"
#include "store/table.hpp"

namespace divergen::stages::testing {
namespace {

using nlohmann::json;
namespace world = miniworld;

constexpr double kStart = 1'760'000'000;  // seconds since the epoch, of the first claim

const world::World& mini_world() {
  static const world::World instance(Path(DIVERGEN_SOURCE_DIR) / "data/mini");
  return instance;
}

/// Four rare, four common, three frequent, one extra.
std::vector<const world::Category*> chosen_categories() {
  std::map<std::string, int> wanted{{"r", 4}, {"c", 4}, {"f", 3}, {"x", 1}};
  std::vector<const world::Category*> out;
  for (const auto& category : mini_world().categories())
    if (wanted[category.is_extra ? "x" : category.frequency]-- > 0) out.push_back(&category);
  return out;
}

void write_config(const Path& file, const Path& folder) {
  write_file_atomic(file,
                    cat("seed = 7\ntitle = \"Do <generated> instances help?\"\n[run]\ndir = \"", folder.string(),
                        "\"\n[data]\ncategories = \"", (folder / "categories.json").string(),
                        "\"\n[prompts.manual]\nkind = \"template\"\n[generators.sd]\nweights = \"models/sd\"\n"
                        "prompts = [\"manual\"]\n[filter]\nsimilarity = 0.5\n[[trainings]]\nname = \"baseline\"\n"
                        "use_pool = false\niterations = 400\n[[trainings]]\nname = \"divergen\"\niterations = 400\n"));
}

void write_categories(const Path& file) {
  json list = json::array();
  for (const auto* c : chosen_categories())
    list.push_back({{"id", c->id},
                    {"name", c->name},
                    {"def", c->definition},
                    {"frequency", c->frequency},
                    {"image_count", 10},
                    {"role", c->is_extra ? "extra" : "eval"}});
  write_file_atomic(file, list.dump());
}

Plan make_synthetic_plan() {
  PlanInput input;
  input.seed = 7;
  for (const auto* c : chosen_categories()) {
    PlanCategory category{c->id, c->name, c->frequency, c->is_extra, {}};
    category.prompts = {{"manual", {expand_prompt(kManualTemplate, c->name, c->definition)}}};
    input.categories.push_back(category);
  }
  input.generators = {{"sd", kPicturesEach, {"manual"}}};
  input.shard_items = kShardItems;
  return make_plan(input);
}

struct Item {
  image::Image rgb, mask;
  int number = 0;  // of its category
  float similarity() const { return static_cast<float>(number == 6 ? 0.31 : 0.9 - 0.04 * number); }
  int reason() const { return number == 6 ? 1 : number == 7 ? 2 : 0; }
};

Item draw_item(const Plan& plan, std::size_t row) {
  Rng rng(plan.seed[row]);
  const auto* category = chosen_categories()[static_cast<std::size_t>(plan.category[row])];
  auto picture = world::make_picture(mini_world(), category->sprites.front(), world::random_description(rng), 64, rng);
  return {std::move(picture.rgb), std::move(picture.mask), plan.sample[row]};
}

class Writer {
 public:
  Writer(const RunDirectory& dir, const Parts& parts) : dir_(dir), parts_(parts), plan_(make_synthetic_plan()) {}

  void write_generated() {
    write_plan(plan_, dir_.plan());
    tables_.generators = {{"sd", "stable_diffusion", "dpmpp", "0123456789abcdef0123456789abcdef", 15, 3.0}};
    tables_.prompts = plan_.prompts;
    for (const auto& c : plan_.categories) tables_.categories.push_back({c.id, c.name, c.frequency, c.is_extra});
    tables_.annotator_hash = "aaaa";
    tables_.clip_hash = "cccc";
    tables_.software = "divergen test";
    for (const char* stage : {"generate", "annotate", "filter", "pool"}) make_folder(dir_.root() / stage);
    for (std::size_t s = 0; s < plan_.shards(); ++s) write_shard(s);
    if (!parts_.pooled) return;
    store::write_library_shard(dir_.shard("pool", 0), instances_, tables_);
    store::write_library_index(dir_.library());
  }

 private:
  void write_shard(std::size_t index) {
    const auto range = plan_.shard(index);
    std::vector<std::uint64_t> ids;
    std::vector<std::int32_t> categories, prompts, reasons;
    std::vector<std::int64_t> areas;
    std::vector<float> similarity, clip_score, area_share;
    std::vector<std::uint8_t> kept;
    std::vector<std::string> pictures, masks;
    for (std::size_t row = range.first; row < range.last; ++row) {
      const Item item = draw_item(plan_, row);
      ids.push_back(plan_.item_id[row]);
      categories.push_back(plan_.categories[static_cast<std::size_t>(plan_.category[row])].id);
      prompts.push_back(plan_.prompt[row]);
      reasons.push_back(item.reason());
      kept.push_back(item.reason() == 0);
      similarity.push_back(item.similarity());
      clip_score.push_back(24);
      areas.push_back(std::count_if(item.mask.pixels.begin(), item.mask.pixels.end(), [](int v) { return v > 128; }));
      area_share.push_back(static_cast<float>(areas.back()) / (64 * 64));
      pictures.push_back(image::encode_png(item.rgb));
      masks.push_back(image::encode_png(item.mask));
      if (item.reason() == 0) add_instance(row, item);
    }
    store::Table generated("divergen-pictures", 1);
    generated.add("item_id", ids);
    generated.add("category", categories);
    generated.add("prompt", prompts);
    generated.attributes = {{"generator", "sd"},
                            {"weights_hash", "0123456789abcdef0123456789abcdef"},
                            {"sampler", "dpmpp"},
                            {"steps", "15"},
                            {"guidance", "3"}};
    generated.set_heap(pictures);
    store::write_table(generated, dir_.shard("generate", index));
    if (parts_.annotated) {
      store::Table annotated("divergen-masks", 1);
      annotated.add("item_id", ids);
      annotated.add("area", areas);
      annotated.set_heap(masks);
      store::write_table(annotated, dir_.shard("annotate", index));
    }
    if (parts_.filtered) {
      store::Table verdicts("divergen-verdicts", 1);
      verdicts.add("item_id", ids);
      verdicts.add("similarity", similarity);
      verdicts.add("clip_score", clip_score);
      verdicts.add("area_share", area_share);
      verdicts.add("kept", kept);
      verdicts.add("reason", reasons);
      verdicts.documents["reasons"] = R"(["kept","unlike_real_crops","mask_too_small"])";
      store::write_table(verdicts, dir_.shard("filter", index));
    }
  }

  void add_instance(std::size_t row, const Item& item) {
    store::Instance instance;
    instance.item_id = plan_.item_id[row];
    instance.seed = plan_.seed[row];
    instance.category_id = plan_.categories[static_cast<std::size_t>(plan_.category[row])].id;
    instance.prompt = plan_.prompt[row];
    instance.sample = plan_.sample[row];
    instance.width = instance.height = instance.source_width = instance.source_height = 64;
    instance.area = 1000;
    instance.similarity = item.similarity();
    image::Image rgba(64, 64, 4, 255);
    for (std::size_t i = 0; i < 64 * 64; ++i) {
      for (std::size_t k = 0; k < 3; ++k) rgba.pixels[4 * i + k] = item.rgb.pixels[3 * i + k];
      rgba.pixels[4 * i + 3] = item.mask.pixels[i];
    }
    instance.png = image::encode_png(rgba);
    instances_.push_back(std::move(instance));
  }

  const RunDirectory& dir_;
  Parts parts_;
  Plan plan_;
  store::LibraryTables tables_;
  std::vector<store::Instance> instances_;
};

void write_stage(const RunDirectory& dir, const std::string& stage, std::int64_t items, double begin, double length,
                 std::map<std::string, std::int64_t> rejected = {}) {
  StageRecord record;
  record.stage = stage;
  record.fingerprint = "f";
  record.seconds = length;
  record.items = items;
  record.rejected = std::move(rejected);
  record.figures["bytes"] = 1e6 + 1000 * length;
  for (int r = 0; r < 2; ++r) {
    const double end = begin + length * (r == 0 ? 1 : 0.94);
    record.ranks.push_back({r, cat("node", r + 1), items / 2, 0.95 * (end - begin), kStart + begin, kStart + end});
  }
  write_record(dir, record);
}

image::Image random_scene(std::uint64_t seed) {
  Rng rng(seed);
  std::vector<std::int32_t> wanted;
  for (int k = 0; k < 3; ++k) wanted.push_back(chosen_categories()[rng.below(11)]->id);
  return world::compose_scene(mini_world(), wanted, 128, rng).rgb;
}

void write_training(const RunDirectory& dir, const std::string& name, double gain, double begin) {
  make_folder(dir.training(name) / "samples");
  std::string journal;
  Rng rng(3);
  for (int i = 10; i <= 400; i += 10) {
    const double falling = std::exp(-i / 150.0) + 0.02 * rng.normal();
    journal += json{{"iteration", i},
                    {"lr", 1e-3 * std::min(1.0, i / 40.0)},
                    {"seconds", 0.4 * i},
                    {"loss_total", 0.9 + 2 * falling - gain},
                    {"loss_cls_stage0", 0.3 + falling},
                    {"loss_mask", 0.4 + 0.6 * falling},
                    {"loss_centernet_pos", 0.2 + 0.4 * falling},
                    {"data_wait", 0.02},
                    {"images_per_second", 19.5},
                    {"memory_mb", 900}}
                   .dump() +
               "\n";
  }
  write_file_atomic(dir.training(name) / "log.jsonl", journal + "{\"iteration\": 41");  // as a killed run leaves it
  for (int i = 0; i < 6; ++i)
    write_file_atomic(dir.training(name) / "samples" / cat("sample-000", i, ".png"),
                      image::encode_png(random_scene(static_cast<std::uint64_t>(100 + i))));
  write_stage(dir, "train." + name, 400, begin, 160);
}

void write_evaluation(const RunDirectory& dir, const std::string& name, double gain, double begin) {
  make_folder(dir.evaluation(name) / "pictures");
  const auto summary = [&](double level) {
    return json{{"AP", level + gain},
                {"AP50", level + 0.2 + gain},
                {"AP75", level - 0.02 + gain},
                {"APs", level - 0.05 + gain},
                {"APm", level + 0.1 + gain},
                {"APl", -1.0},
                {"APr", level - 0.08 + 2 * gain},
                {"APc", level + gain},
                {"APf", level + 0.07 + gain / 4},
                {"AR@300", 0.4},
                {"ARs@300", 0.3},
                {"ARm@300", 0.5},
                {"ARl@300", -1.0}};
  };
  json per_category = json::object();
  int n = 0;
  for (const auto* c : chosen_categories())
    if (!c->is_extra) per_category[std::to_string(c->id)] = 0.2 + 0.01 * n + gain * (n % 4 - 0.6), ++n;
  const json metrics{{"bbox", summary(0.21)},
                     {"segm", summary(0.19)},
                     {"per_category", {{"bbox", per_category}, {"segm", per_category}}}};
  write_file_atomic(dir.evaluation(name) / "metrics.json", metrics.dump());
  for (int i = 0; i < 4; ++i) {
    const image::Image scene = random_scene(static_cast<std::uint64_t>(200 + i));
    image::Image detected = scene;
    image::draw_box(detected, 20, 20, 70, 80, {255, 64, 64});
    write_file_atomic(dir.evaluation(name) / "pictures" / cat("000", i, ".png"),
                      image::encode_png(image::beside(scene, detected, 4)));
  }
  write_stage(dir, "evaluate." + name, 500, begin, 21);
}

}  // namespace

SyntheticRun make_synthetic_run(const Path& folder, const Parts& parts) {
  std::filesystem::remove_all(folder);
  make_folder(folder);
  const RunDirectory dir(folder);
  write_config(dir.config(), folder);
  write_categories(folder / "categories.json");
  const std::int64_t items = kCategories * kPicturesEach;
  if (parts.generated) {
    Writer(dir, parts).write_generated();
    write_stage(dir, "plan", items, 0, 0.4);
    write_stage(dir, "generate", items, 1, 96);
    if (parts.annotated) write_stage(dir, "annotate", items, 98, 25);
    if (parts.filtered)
      write_stage(dir, "filter", items, 124, 12, {{"unlike_real_crops", kCategories}, {"mask_too_small", kCategories}});
    if (parts.pooled) write_stage(dir, "pool", items - 2 * kCategories, 137, 2);
  }
  if (parts.baseline) {
    write_training(dir, "baseline", 0, 140);
    write_evaluation(dir, "baseline", 0, 301);
  }
  if (parts.divergen) {
    write_training(dir, "divergen", 0.1, 3600);  // after a pause, as a requeued job
    write_evaluation(dir, "divergen", 0.031, 3765);
  }
  return {dir, config::read_run_config(dir.config())};
}

}  // namespace divergen::stages::testing
