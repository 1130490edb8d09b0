// Several libraries as one, and what two have in common.

#include <algorithm>
#include <unordered_map>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "store/exchange/import.hpp"
#include "store/exchange/shard_writer.hpp"

namespace divergen::store {
namespace {

/// The tables of all libraries together, and where those of each are in them.
class MergedTables {
 public:
  struct Places {
    std::vector<std::int32_t> generator, prompt;  // of the library's index in the merged tables
  };

  void add(const Path& folder, const LibraryTables& tables) {
    for (const LibraryCategory& category : tables.categories) {
      const auto [found, is_new] = categories_.emplace(category.id, category);
      if (is_new || found->second.name == category.name) continue;
      fail(ErrorKind::Data, {"the libraries do not fit together", folder.string(),
                             cat("category ", category.id, " is '", category.name, "' in it and '", found->second.name,
                                 "' in one before"),
                             "merge libraries of one data set only"});
    }
    Places places;
    for (const LibraryGenerator& generator : tables.generators) places.generator.push_back(place_of(generator));
    for (const std::string& prompt : tables.prompts) {
      const auto [found, is_new] = prompt_.emplace(prompt, static_cast<std::int32_t>(merged_.prompts.size()));
      if (is_new) merged_.prompts.push_back(prompt);
      places.prompt.push_back(found->second);
    }
    places_.push_back(std::move(places));
  }
  const Places& of(std::size_t library) const { return places_[library]; }

  /// With the provenance of one source.
  LibraryTables with(const LibraryTables& source) const {
    LibraryTables out = merged_;
    for (const auto& [id, category] : categories_) out.categories.push_back(category);
    out.annotator_hash = source.annotator_hash;
    out.clip_hash = source.clip_hash;
    out.config_hash = source.config_hash;
    out.software = source.software;
    return out;
  }

 private:
  std::int32_t place_of(const LibraryGenerator& wanted) {
    auto& list = merged_.generators;
    const auto found = std::find(list.begin(), list.end(), wanted);
    if (found != list.end()) return static_cast<std::int32_t>(found - list.begin());
    list.push_back(wanted);
    return static_cast<std::int32_t>(list.size()) - 1;
  }

  LibraryTables merged_;  // but for the categories
  std::map<std::int32_t, LibraryCategory> categories_;
  std::unordered_map<std::string, std::int32_t> prompt_;
  std::vector<Places> places_;
};

}  // namespace

MergeSummary merge_libraries(const std::vector<Path>& from, const Path& out, bool keep_first) {
  if (from.empty())
    fail(ErrorKind::Usage, {"there is nothing to merge", out.string(), "", "name two libraries or more"});
  MergedTables tables;
  for (const Path& folder : from) tables.add(folder, Library(folder).tables());
  ShardWriter writer(out);
  std::unordered_map<std::uint64_t, std::uint64_t> record_of;  // item -> record
  MergeSummary summary;
  for (std::size_t n = 0; n < from.size(); ++n) {
    const Library library(from[n]);
    const MergedTables::Places& places = tables.of(n);
    writer.use(tables.with(library.tables()));
    for (const Path& shard : library.shards()) {
      LibraryTables own;
      for (Instance& instance : read_library_shard(shard, &own)) {
        const std::uint64_t record = record_hash(instance, own);
        const auto [seen, is_new] = record_of.emplace(instance.item_id, record);
        if (!is_new && seen->second == record) {
          ++summary.duplicates;
          continue;
        }
        if (!is_new && keep_first) {
          ++summary.conflicts;
          continue;
        }
        if (!is_new)
          fail(ErrorKind::Data,
               {"two libraries have different records of one item",
                cat("item ", to_hex(instance.item_id), " of ", shard.string()),
                "they were made with other settings, weights or versions",
                "see `divergen diff`; --keep-first takes the record of the library that is named first"});
        instance.generator = places.generator.at(static_cast<std::size_t>(instance.generator));
        instance.prompt = places.prompt.at(static_cast<std::size_t>(instance.prompt));
        writer.add(std::move(instance));
      }
    }
  }
  summary.hash = writer.finish();
  summary.instances = writer.instances();
  return summary;
}

// ---- difference ----------------------------------------------------------------------------------------------------

namespace {

struct Place {
  std::uint64_t item = 0, record = 0;
  std::size_t entry = 0;
};

std::vector<Place> places_of(const Library& library) {
  std::vector<Place> out;
  out.reserve(library.size());
  for (std::size_t i = 0; i < library.size(); ++i) {
    const Library::Entry entry = library.entry(i);
    out.push_back({entry.item_id, entry.record_hash, i});
  }
  std::sort(out.begin(), out.end(), [](const Place& a, const Place& b) { return a.item < b.item; });
  return out;
}

std::vector<std::string> differing_fields(const Library& a, std::size_t i, const Library& b, std::size_t j) {
  const Instance x = a.read(i), y = b.read(j);
  std::vector<std::string> out;
  const auto compare = [&](const char* name, const auto& one, const auto& other) {
    if (one != other) out.emplace_back(name);
  };
  compare("picture", x.png, y.png);
  compare("seed", x.seed, y.seed);
  compare("category", x.category_id, y.category_id);
  compare("sample", x.sample, y.sample);
  compare("size", std::pair(x.width, x.height), std::pair(y.width, y.height));
  compare("box", std::pair(x.box_x, x.box_y), std::pair(y.box_x, y.box_y));
  compare("source_size", std::pair(x.source_width, x.source_height), std::pair(y.source_width, y.source_height));
  compare("area", x.area, y.area);
  compare("similarity", x.similarity, y.similarity);
  compare("clip_score", x.clip_score, y.clip_score);
  compare("flags", x.flags, y.flags);
  const auto& g = a.tables().generators.at(static_cast<std::size_t>(x.generator));
  const auto& h = b.tables().generators.at(static_cast<std::size_t>(y.generator));
  compare("generator", std::pair(g.name, g.kind), std::pair(h.name, h.kind));
  compare("weights_hash", g.weights_hash, h.weights_hash);
  compare("sampler", g.sampler, h.sampler);
  compare("steps", g.steps, h.steps);
  compare("guidance", g.guidance, h.guidance);
  compare("prompt", a.tables().prompts.at(static_cast<std::size_t>(x.prompt)),
          b.tables().prompts.at(static_cast<std::size_t>(y.prompt)));
  if (out.empty()) out.emplace_back("category name");  // the only thing left that a record's hash covers
  return out;
}

}  // namespace

LibraryDiff diff_libraries(const Library& a, const Library& b) {
  const std::vector<Place> left = places_of(a), right = places_of(b);
  LibraryDiff diff;
  std::size_t i = 0, j = 0;
  while (i < left.size() || j < right.size()) {
    if (j == right.size() || (i < left.size() && left[i].item < right[j].item)) {
      diff.only_a.push_back(left[i++].item);
    } else if (i == left.size() || right[j].item < left[i].item) {
      diff.only_b.push_back(right[j++].item);
    } else {
      if (left[i].record == right[j].record) {
        ++diff.equal;
      } else {
        diff.changed.push_back({left[i].item, differing_fields(a, left[i].entry, b, right[j].entry)});
      }
      ++i;
      ++j;
    }
  }
  return diff;
}

}  // namespace divergen::store
