#include "stages/report/sheets.hpp"

#include <algorithm>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/rng.hpp"
#include "image/geometry.hpp"
#include "stages/plan/retries.hpp"
#include "stages/report/pictures.hpp"
#include "store/table.hpp"

namespace divergen::stages::report {
namespace {

using image::Image;

constexpr int kTile = 88;  // px of a tile's side: 64 px shown, sharp on screens of higher density
constexpr int kJpegQuality = 80;
constexpr int kMaskThreshold = 128;  // of the annotate stage: above it is the object
constexpr const char* kFused = "fused";

/// A square tile; the picture keeps its shape if it is square, as generated ones are.
Image tile_of(const Image& picture) {
  return picture.width > kTile ? image::resize_area(picture, kTile, kTile)
                               : image::resize_linear(picture, kTile, kTile);
}

/// The object on a grey chequered ground, as viewers of transparent pictures show it.
Image cut_out(const Image& picture, const Image& mask) {
  Image out = picture;
  for (int y = 0; y < out.height; ++y)
    for (int x = 0; x < out.width; ++x) {
      const int alpha = *mask.at(y, x);
      const int ground = (x / 8 + y / 8) % 2 == 0 ? 214 : 190;
      for (int k = 0; k < 3; ++k)
        out.at(y, x)[k] = static_cast<std::uint8_t>((out.at(y, x)[k] * alpha + ground * (255 - alpha)) / 255);
    }
  return out;
}

std::string draw_tile(const Image& picture, const std::optional<Image>& mask) {
  const Image small = tile_of(picture);
  if (!mask) return jpeg_uri(small, kJpegQuality);
  const Image cut = cut_out(small, tile_of(*mask));
  Image both(2 * kTile, kTile, 3);
  std::copy(small.pixels.begin(), small.pixels.end(), both.pixels.begin());
  std::copy(cut.pixels.begin(), cut.pixels.end(),
            both.pixels.begin() + static_cast<std::ptrdiff_t>(small.pixels.size()));
  return jpeg_uri(both, kJpegQuality);
}

/// A cut-out of a fused run in a square frame of its own: its colours, and what is opaque of them.
std::optional<std::pair<Image, Image>> framed(const image::Decoded& cut) {
  if (!cut.image || cut.image->channels != 4) return std::nullopt;
  const Image& rgba = *cut.image;
  const int side = std::max(rgba.width, rgba.height), left = (side - rgba.width) / 2, top = (side - rgba.height) / 2;
  std::pair<Image, Image> out{Image(side, side, 3), Image(side, side, 1)};
  for (int y = 0; y < rgba.height; ++y)
    for (int x = 0; x < rgba.width; ++x) {
      std::copy_n(rgba.at(y, x), 3, out.first.at(top + y, left + x));
      *out.second.at(top + y, left + x) = rgba.at(y, x)[3] > kMaskThreshold ? 255 : 0;
    }
  return out;
}

/// The best so many by key, smallest first.
struct Chosen {
  std::vector<std::pair<std::uint64_t, Tile>> tiles;
  bool wants(std::uint64_t key, std::size_t limit) const {
    return limit > 0 && (tiles.size() < limit || key < tiles.back().first);
  }
  void add(std::uint64_t key, Tile tile, std::size_t limit) {
    const auto at = std::find_if(tiles.begin(), tiles.end(), [&](const auto& t) { return key < t.first; });
    tiles.insert(at, {key, std::move(tile)});
    if (tiles.size() > limit) tiles.pop_back();
  }
};

struct CategoryTiles {
  std::int64_t seen = 0, kept = 0;
  Chosen kept_tiles, rejected_tiles;
};

/// The tables of one shard; masks and verdicts where they are made already.
struct Shard {
  store::Table pictures;  // of a fused run its cut-outs
  std::optional<store::Table> masks, verdicts;
  std::vector<std::string> reasons;
  bool is_cut = false;
};

std::optional<store::Table> read_if_there(const Path& file, const std::vector<std::uint64_t>& ids) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  store::Table table = store::read_table(file);
  if (table.get<std::uint64_t>("item_id") != ids)
    fail(ErrorKind::Data, {"two stages' shards do not belong together", file.string(),
                           "its items are not those of the pictures", "run the stage again"});
  return table;
}

Shard read_whole(const RunDirectory& dir, const std::string& stage, std::size_t index) {
  Shard shard;
  shard.is_cut = stage == kFused;
  shard.pictures = store::read_table(dir.shard(stage, index));
  const auto& ids = shard.pictures.get<std::uint64_t>("item_id");
  if (!shard.is_cut) shard.masks = read_if_there(dir.shard("annotate", index), ids);
  shard.verdicts = read_if_there(dir.shard("filter", index), ids);
  if (shard.verdicts) {
    const auto document = shard.verdicts->documents.find("reasons");
    if (document != shard.verdicts->documents.end())
      shard.reasons = nlohmann::json::parse(document->second).get<std::vector<std::string>>();
  }
  return shard;
}

class Collector {
 public:
  Collector(std::optional<Plan> plan, const SheetLimits& limits) : plan_(std::move(plan)), limits_(limits) {}

  void add(const Shard& shard, ContactSheets& sheets) {
    const auto& ids = shard.pictures.get<std::uint64_t>("item_id");
    const auto& categories = shard.pictures.get<std::int32_t>("category");
    for (std::size_t row = 0; row < ids.size(); ++row) {
      CategoryTiles& category = categories_[categories[row]];
      ++category.seen;
      Tile tile;
      bool kept = true;
      if (shard.verdicts) kept = judge(shard, row, tile, sheets);
      category.kept += kept;
      Chosen& chosen = kept ? category.kept_tiles : category.rejected_tiles;
      const std::size_t limit = kept ? limits_.kept : limits_.rejected;
      const std::uint64_t key = derive_seed(ids[row], "tile");
      if (!chosen.wants(key, limit)) continue;
      if (!draw(shard, row, tile)) continue;  // "unreadable", which the filter counted
      describe(shard, row, tile);
      chosen.add(key, std::move(tile), limit);
    }
  }

  std::vector<SheetRow> rows() {
    std::vector<SheetRow> rows;
    for (auto& [id, tiles] : categories_) {
      SheetRow row{id, tiles.seen, tiles.kept, {}, {}};
      for (auto& [key, tile] : tiles.kept_tiles.tiles) row.kept_tiles.push_back(std::move(tile));
      for (auto& [key, tile] : tiles.rejected_tiles.tiles) row.rejected_tiles.push_back(std::move(tile));
      rows.push_back(std::move(row));
    }
    return rows;
  }

 private:
  static bool judge(const Shard& shard, std::size_t row, Tile& tile, ContactSheets& sheets) {
    const store::Table& verdicts = *shard.verdicts;
    tile.similarity = verdicts.get<float>("similarity")[row];
    tile.clip_score = verdicts.get<float>("clip_score")[row];
    tile.area_share = verdicts.get<float>("area_share")[row];
    const bool kept = verdicts.get<std::uint8_t>("kept")[row] != 0;
    const auto reason = static_cast<std::size_t>(verdicts.get<std::int32_t>("reason")[row]);
    if (!kept) tile.reason = reason < shard.reasons.size() ? shard.reasons[reason] : cat("reason ", reason);
    ++sheets.reasons[kept ? "kept" : tile.reason];
    // -1 marks items that were compared with nothing.
    if (tile.similarity > -1) (kept ? sheets.kept_similarity : sheets.rejected_similarity).push_back(tile.similarity);
    return kept;
  }

  static bool draw(const Shard& shard, std::size_t row, Tile& tile) {
    const std::string_view bytes = shard.pictures.heap(row);
    if (shard.is_cut) {
      const auto both = framed(image::decode(bytes, image::Channels::Rgba));
      if (both) tile.uri = draw_tile(both->first, both->second);
      return both.has_value();
    }
    const image::Decoded picture = image::decode(bytes);
    if (picture.image) tile.uri = draw_tile(*picture.image, mask_of(shard, row));
    return picture.image.has_value();
  }

  static std::optional<Image> mask_of(const Shard& shard, std::size_t row) {
    if (!shard.masks || shard.masks->heap(row).empty()) return std::nullopt;
    image::Decoded mask = image::decode(shard.masks->heap(row), image::Channels::Grey);
    if (!mask.image) return std::nullopt;
    for (std::uint8_t& v : mask.image->pixels) v = v > kMaskThreshold ? 255 : 0;
    return std::move(mask.image);
  }

  void describe(const Shard& shard, std::size_t row, Tile& tile) const {
    const auto generator = shard.pictures.attributes.find("generator");
    if (generator != shard.pictures.attributes.end()) tile.generator = generator->second;
    if (!plan_) return;
    const auto prompt = static_cast<std::size_t>(shard.pictures.get<std::int32_t>("prompt")[row]);
    if (prompt < plan_->prompts.size()) tile.prompt = plan_->prompts[prompt];
  }

  std::optional<Plan> plan_;
  SheetLimits limits_;
  std::map<std::int64_t, CategoryTiles> categories_;
};

std::size_t count_shards(const Path& folder) {
  std::size_t shards = 0;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("shard-") || entry.path().extension() != ".h5") continue;
    shards = std::max<std::size_t>(shards, std::strtoull(name.c_str() + 6, nullptr, 10) + 1);
  }
  return shards;
}

}  // namespace

ContactSheets read_sheets(const RunDirectory& dir, const SheetLimits& limits) {
  ContactSheets sheets;
  sheets.shards = count_shards(dir.root() / "generate");
  const std::string stage = sheets.shards > 0 ? "generate" : kFused;
  if (sheets.shards == 0) sheets.shards = count_shards(dir.root() / kFused);
  std::optional<Plan> plan;
  const auto attempt = [&](const Path& file, const auto& read) {
    try {
      if (std::filesystem::exists(file)) read();
    } catch (const std::exception& error) {
      sheets.problems.push_back(error.what());
    }
  };
  attempt(dir.plan(), [&] { plan = read_plan(dir); });
  Collector collector(std::move(plan), limits);
  const std::size_t reads = std::min(limits.shards, sheets.shards);
  for (std::size_t k = 0; k < reads; ++k) {
    const std::size_t index = k * sheets.shards / reads;
    attempt(dir.shard(stage, index), [&] {
      const Shard shard = read_whole(dir, stage, index);
      sheets.judged = sheets.judged || shard.verdicts.has_value();
      collector.add(shard, sheets);
      ++sheets.shards_read;
    });
  }
  sheets.rows = collector.rows();
  return sheets;
}

}  // namespace divergen::stages::report
