#pragma once
// A small plan with pictures, masks and verdicts that the tests of the pool stage can predict.

#include <map>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "image/image.hpp"
#include "stages/pool/pool.hpp"
#include "store/table.hpp"

namespace divergen::test {

/// Two generators, three categories, 30 items in shards of 4. By its row in the plan an item is
///   row % 6 == 4   rejected by the filter ("unlike_real_crops")
///   row % 10 == 5  kept, with an empty mask
///   row % 10 == 7  kept, with a mask of one pixel's height
///   row == 2       kept, with a picture that cannot be decoded
///   else           kept, with a rectangle as its mask
class PoolWorld {
 public:
  static constexpr int kSize = 48;
  struct Box {
    int x = 0, y = 0, width = 0, height = 0;
  };

  stages::Plan plan = stages::make_plan(input());

  static Box box_of(std::size_t row) {
    const int r = static_cast<int>(row);
    return {3 + r % 5, 4 + r % 7, 8 + r % 11, 6 + r % 13};
  }
  static image::Image picture_of(std::size_t row) {
    image::Image out(kSize, kSize, 3);
    for (std::size_t i = 0; i < out.pixels.size(); ++i)
      out.pixels[i] = static_cast<std::uint8_t>((i * 7 + row * 31) % 251);
    return out;
  }
  static std::string fate_of(std::size_t row) {
    if (row % 6 == 4) return "unlike_real_crops";
    if (row == 2) return "unreadable";
    if (row % 10 == 5) return "empty";
    if (row % 10 == 7) return "thin";
    return "kept";
  }

  std::size_t row_of(std::uint64_t item) const {
    for (std::size_t row = 0; row < plan.size(); ++row)
      if (plan.item_id[row] == item) return row;
    throw std::runtime_error("no such item");
  }
  std::map<std::string, std::int64_t> expected_rejected() const {
    std::map<std::string, std::int64_t> out;
    for (std::size_t row = 0; row < plan.size(); ++row)
      if (fate_of(row) != "kept") ++out[fate_of(row)];
    return out;
  }

  stages::FilteredShard shard(std::size_t index, bool keep_nothing = false) const {
    const auto range = plan.shard(index);
    std::vector<std::uint64_t> item, seed;
    std::vector<std::int32_t> category, generator, prompt, sample, size, reason;
    std::vector<std::int64_t> area;
    std::vector<float> similarity, score, share;
    std::vector<std::uint8_t> kept;
    std::vector<std::string> pictures, masks;
    for (std::size_t row = range.first; row < range.last; ++row) {
      const std::string fate = fate_of(row);
      item.push_back(plan.item_id[row]);
      seed.push_back(plan.seed[row]);
      category.push_back(plan.categories[static_cast<std::size_t>(plan.category[row])].id);
      generator.push_back(plan.generator[row]);
      prompt.push_back(plan.prompt[row]);
      sample.push_back(plan.sample[row]);
      size.push_back(kSize);
      area.push_back(1);
      similarity.push_back(0.7F);
      score.push_back(20);
      share.push_back(0.1F);
      kept.push_back(fate != "unlike_real_crops" && !keep_nothing);
      reason.push_back(kept.back() != 0 ? 0 : 1);
      pictures.push_back(fate == "unreadable" ? "no picture" : image::encode_png(picture_of(row)));
      masks.push_back(image::encode_png(mask_of(row)));
    }
    stages::FilteredShard out{store::Table("divergen-pictures", 1), store::Table("divergen-masks", 1),
                              store::Table("divergen-verdicts", 1)};
    for (store::Table* table : {&out.pictures, &out.masks, &out.verdicts}) table->add("item_id", item);
    out.pictures.add("seed", seed);
    out.pictures.add("category", category);
    out.pictures.add("generator", generator);
    out.pictures.add("prompt", prompt);
    out.pictures.add("sample", sample);
    out.pictures.add("width", size);
    out.pictures.add("height", size);
    out.pictures.set_heap(pictures);
    out.masks.add("area", area);
    out.masks.set_heap(masks);
    out.verdicts.add("similarity", similarity);
    out.verdicts.add("clip_score", score);
    out.verdicts.add("area_share", share);
    out.verdicts.add("kept", kept);
    out.verdicts.add("reason", reason);
    out.verdicts.documents["reasons"] = R"(["kept", "unlike_real_crops"])";
    return out;
  }

  /// Plan, shards and records of the stages before the pool, as those stages write them.
  void write(const stages::RunDirectory& dir, bool keep_nothing = false) const {
    make_folder(dir.root());
    stages::write_plan(plan, dir.plan());
    for (std::size_t s = 0; s < plan.shards(); ++s) {
      auto [pictures, masks, verdicts] = shard(s, keep_nothing);
      pictures.attributes["weights_hash"] = cat("weights of generator ", plan.generator[plan.shard(s).first]);
      for (const char* stage : {"generate", "annotate", "filter"}) make_folder(dir.shard(stage, s).parent_path());
      store::write_table(pictures, dir.shard("generate", s));
      store::write_table(masks, dir.shard("annotate", s));
      store::write_table(verdicts, dir.shard("filter", s));
    }
    stages::StageRecord record;
    record.stage = "filter";
    record.fingerprint = keep_nothing ? "filter that keeps nothing" : "filter";
    stages::write_record(dir, record);
  }

 private:
  static stages::PlanInput input() {
    stages::PlanInput input;
    input.seed = 11;
    input.categories = {{3, "aardvark", "r", false, {{"manual", {"an aardvark", "one aardvark"}}}},
                        {7, "banjo", "c", false, {{"manual", {"a banjo"}}}},
                        {1300, "comet", "f", true, {{"manual", {"a comet", "the comet"}}}}};
    input.generators = {{"sd", 4, {"manual"}}, {"if", 2, {"manual"}}};
    input.shard_items = 4;
    return input;
  }
  static image::Image mask_of(std::size_t row) {
    image::Image out(kSize, kSize, 1);
    const std::string fate = fate_of(row);
    if (fate == "empty") return out;
    const Box box = box_of(row);
    for (int y = box.y; y < box.y + (fate == "thin" ? 1 : box.height); ++y)
      for (int x = box.x; x < box.x + box.width; ++x) *out.at(y, x) = 200;
    return out;
  }
};

}  // namespace divergen::test
