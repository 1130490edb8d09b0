#include "stages/reproduce/reproduce.hpp"

#include <algorithm>
#include <iostream>
#include <map>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "models/annotator.hpp"
#include "models/generator.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/generate/generate.hpp"
#include "stages/plan/retries.hpp"
#include "stages/pool/cut_out.hpp"
#include "store/library.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

std::uint64_t item_of(const std::string& text) {
  std::size_t used = 0;
  try {
    const std::uint64_t id = std::stoull(text, &used, 16);
    if (used == text.size()) return id;
  } catch (const std::exception&) {  // no number, or too large a one
  }
  fail(ErrorKind::Usage,
       {"this is no instance", text, "ids are 16 hex digits", "`divergen export` lists them in instances.jsonl"});
}

/// Entries of the library, in the order in which they were asked for.
std::vector<std::size_t> wanted(const store::Library& library, const ReproduceOptions& options) {
  std::vector<std::size_t> out;
  if (options.items.empty()) {
    const std::size_t count =
        std::min<std::size_t>(library.size(), static_cast<std::size_t>(std::max<std::int64_t>(1, options.count)));
    for (std::size_t n = 0; n < count; ++n) out.push_back(n * library.size() / count);
    return out;
  }
  std::map<std::uint64_t, std::size_t> entry_of;
  for (const std::string& text : options.items) entry_of[item_of(text)] = library.size();
  for (std::size_t i = 0; i < library.size(); ++i)
    if (const auto found = entry_of.find(library.entry(i).item_id); found != entry_of.end()) found->second = i;
  for (const std::string& text : options.items) {
    const std::size_t entry = entry_of.at(item_of(text));
    if (entry == library.size())
      fail(ErrorKind::Usage,
           {"the library has no such instance", text, "", "`divergen export` lists them in instances.jsonl"});
    out.push_back(entry);
  }
  return out;
}

[[noreturn]] void not_the_same(const std::string& what, const std::string& now, const std::string& then) {
  fail(ErrorKind::Data, {"an instance cannot be made again", what, cat("it is ", now, " now, and was ", then, " then"),
                         "use the weights and the configuration of the run (its config.toml)"});
}

/// Everything that is loaded once.
class Maker {
 public:
  explicit Maker(const RunContext& context)
      : context_(context), library_(context.dir.library()), plan_(read_plan(context.dir)) {
    for (std::size_t row = 0; row < plan_.size(); ++row) row_of_[plan_.item_id[row]] = row;
  }
  const store::Library& library() const { return library_; }

  Reproduction make(std::size_t entry) {
    const store::Instance kept = library_.read(entry);
    const std::size_t row = planned_row(kept);
    models::TextToImage& model = generator(kept);
    // Bits may depend on the place in a batch (matrix kernels treat their last rows in another way): the whole batches
    // that the item was in are made again, of the annotator and, for its pictures, of the generator.
    const Plan::Range shard = shard_of(row);
    const auto annotated = static_cast<std::size_t>(annotate_batch(plan_)), made = static_cast<std::size_t>(batch_);
    const std::size_t size = shard.last - shard.first, place = row - shard.first;
    // An annotator that looks at groups sees the whole shard's pictures of a category.
    const bool is_whole = annotator().group() > 0;
    const std::size_t group = is_whole ? 0 : place / annotated * annotated,
                      group_end = is_whole ? size : std::min(size, group + annotated);
    const std::size_t first = group / made * made, last = std::min(size, (group_end + made - 1) / made * made);
    const store::Table pictures = make_pictures(plan_, {shard.first + first, shard.first + last}, model, batch_);
    const store::Table masks = make_masks(rows_of(pictures, group - first, group_end - first), annotator(),
                                          static_cast<std::int64_t>(annotated), names_of(plan_));
    const auto picture = image::decode(pictures.heap(place - first), image::Channels::Rgb);
    const auto mask = image::decode(masks.heap(place - group), image::Channels::Grey);
    const auto old = image::decode(kept.png, image::Channels::Rgba);
    DIVERGEN_CHECK(picture.image && mask.image && old.image, picture.problem, mask.problem, old.problem);
    const CutOut cut = cut_out(*picture.image, *mask.image, static_cast<int>(context_.config.pool.alpha_threshold));
    Reproduction out;
    if (cut.problem == CutProblem::None) {
      out = compare_cut_outs(image::encode_png(cut.rgba), cut.rgba, kept.png, *old.image);
      if (out.note.empty() && (cut.x != kept.box_x || cut.y != kept.box_y)) {
        out.note = cat("it lies at ", cut.x, ",", cut.y, ", the library's at ", kept.box_x, ",", kept.box_y);
        out.same_bytes = out.same_pixels = false;
      }
    } else {
      out.note = "nothing can be cut out of the new picture";
    }
    out.item = kept.item_id;
    return out;
  }

 private:
  std::size_t planned_row(const store::Instance& kept) const {
    const auto found = row_of_.find(kept.item_id);
    if (found == row_of_.end())
      fail(ErrorKind::Data, {"an instance cannot be made again", cat("item ", to_hex(kept.item_id)),
                             "the run's plan does not have it", "name the run that made the library"});
    const std::string& prompt = library_.tables().prompts.at(static_cast<std::size_t>(kept.prompt));
    const std::string& planned = plan_.prompts.at(static_cast<std::size_t>(plan_.prompt[found->second]));
    if (plan_.seed[found->second] != kept.seed)
      not_the_same("the seed", to_hex(plan_.seed[found->second]), to_hex(kept.seed));
    if (planned != prompt) not_the_same("the prompt", cat("'", planned, "'"), cat("'", prompt, "'"));
    return found->second;
  }

  Plan::Range shard_of(std::size_t row) const {
    for (std::size_t s = 0; s < plan_.shards(); ++s)
      if (const Plan::Range range = plan_.shard(s); row >= range.first && row < range.last) return range;
    DIVERGEN_CHECK(false, row);
    return {};
  }

  /// What the annotator reads of some rows of a table of pictures.
  static store::Table rows_of(const store::Table& pictures, std::size_t first, std::size_t last) {
    store::Table out(pictures.format(), pictures.version());
    const auto part = [&](const auto& values) {
      return std::vector(values.begin() + static_cast<std::ptrdiff_t>(first),
                         values.begin() + static_cast<std::ptrdiff_t>(last));
    };
    out.add("item_id", part(pictures.get<std::uint64_t>("item_id")));
    out.add("category", part(pictures.get<std::int32_t>("category")));
    std::vector<std::string> heap;
    for (std::size_t i = first; i < last; ++i) heap.emplace_back(pictures.heap(i));
    out.set_heap(heap);
    return out;
  }

  /// The model that made it, after its weights and settings were found to be the same.
  models::TextToImage& generator(const store::Instance& kept) {
    if (kept.generator == loaded_) return *model_;
    const store::LibraryGenerator& then = library_.tables().generators.at(static_cast<std::size_t>(kept.generator));
    const auto& list = context_.config.generators;
    const auto settings = std::find_if(list.begin(), list.end(), [&](const auto& g) { return g.name == then.name; });
    if (settings == list.end()) not_the_same("the generator", "not in the configuration", cat("'", then.name, "'"));
    const std::string hash = models::hash_weights(*settings);
    if (hash != then.weights_hash) not_the_same(cat("the weights of ", then.name), hash, then.weights_hash);
    if (settings->sampler != then.sampler) not_the_same("the sampler", settings->sampler, then.sampler);
    if (settings->steps != then.steps) not_the_same("the steps", cat(settings->steps), cat(then.steps));
    if (settings->guidance != then.guidance) not_the_same("the guidance", cat(settings->guidance), cat(then.guidance));
    if (then.batch != 0 && settings->batch != then.batch)
      not_the_same("the batch", cat(settings->batch), cat(then.batch));
    model_.reset();  // before the next one is loaded: two may not fit
    model_ = models::make_generator(*settings);
    batch_ = settings->batch;
    loaded_ = kept.generator;
    return *model_;
  }

  models::Annotator& annotator() {
    if (annotator_) return *annotator_;
    annotator_ = models::make_annotator(context_.config, annotate_device(context_.world));
    if (annotator_->weights_hash() != library_.tables().annotator_hash)
      not_the_same("the weights of the annotator", annotator_->weights_hash(), library_.tables().annotator_hash);
    return *annotator_;
  }

  const RunContext& context_;
  store::Library library_;
  Plan plan_;
  std::map<std::uint64_t, std::size_t> row_of_;
  std::unique_ptr<models::TextToImage> model_;
  std::unique_ptr<models::Annotator> annotator_;
  std::int32_t loaded_ = -1;
  std::int64_t batch_ = 1;
};

json to_json(const Reproduction& one) {
  return {{"item", to_hex(one.item)},
          {"equal", one.same_bytes && one.same_pixels},
          {"same_pixels", one.same_pixels},
          {"same_bytes", one.same_bytes},
          {"pixels", one.pixels},
          {"differing", one.differing},
          {"largest_difference", one.largest},
          {"mean_difference", one.mean},
          {"note", one.note}};
}

}  // namespace

void run_reproduce(const RunContext& context, const ReproduceOptions& options) {
  comm::World& world = context.world;
  json own = json::array();
  world.together([&] {
    Maker maker(context);
    const std::vector<std::size_t> entries = wanted(maker.library(), options);
    for (auto n = static_cast<std::size_t>(world.rank()); n < entries.size();
         n += static_cast<std::size_t>(world.size()))
      own.push_back(to_json(maker.make(entries[n])));
  });
  json all = json::array();
  for (const std::string& text : world.gather_texts(own.dump()))
    for (const json& one : json::parse(text)) all.push_back(one);
  std::int64_t equal = 0;
  for (const json& one : all) equal += one.at("equal").get<bool>();
  const auto count = static_cast<std::int64_t>(all.size());
  world.together([&] {
    if (!world.is_root()) return;
    std::cout << json{{"instances", count}, {"equal", equal}, {"results", all}}.dump(2) << std::endl;
    log::info("reproduce: ", equal, " of ", count, " instances came out the same, byte for byte");
    if (equal == count) return;
    for (const json& one : all)
      if (!one.at("equal").get<bool>())
        log::warn("reproduce: item ", one.at("item").get<std::string>(), ": ", one.at("differing").get<std::int64_t>(),
                  " of ", one.at("pixels").get<std::int64_t>(), " pixels differ, by at most ",
                  one.at("largest_difference").get<int>(), " ", one.at("note").get<std::string>());
    fail(ErrorKind::Data,
         {"instances came out otherwise", cat(count - equal, " of ", count), "see above",
          "bits are promised on the same kind of device and version of LibTorch; small differences come from others"});
  });
}

}  // namespace divergen::stages
