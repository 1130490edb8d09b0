#pragma once
// The stage "generate": pictures of the planned items.
//
// Shards "generate/shard-000000.h5", format "divergen-pictures", one row an item of the plan, in its order:
//   item_id u64, category i32 (the data set's id), generator i32, prompt i32 (indices of the plan), sample i32,
//   seed u64, width i32, height i32 (px; 0 where the picture could not be made); heap: the picture as RGB PNG, empty
//   where it could not be made
//   attributes generator, weights_hash, sampler, steps, guidance, batch, libtorch (its version): what the pictures were
//   made with

#include "config/settings.hpp"
#include "models/generator.hpp"
#include "stages/common/context.hpp"
#include "stages/common/sharded.hpp"
#include "stages/plan/retries.hpp"
#include "stages/plan/rounds.hpp"
#include "store/table.hpp"

namespace divergen::stages {

inline constexpr const char* kPicturesFormat = "divergen-pictures";
inline constexpr int kPicturesVersion = 1;

/// Pictures of rows [range.first, range.last) of the plan, `batch` at a time, the last batch padded with its last item:
/// a picture's bits depend on its item, its place and `batch` alone (design §3.1). All rows are of the model's
/// generator. Rows that `request` leaves out are empty; those that fail in isolation too, and are counted under
/// kFailed.
store::Table make_pictures(const Plan& plan, Plan::Range range, models::TextToImage& model, std::int64_t batch,
                           const ShardRequest& request = {});

/// Settings of the generator with this index in the plan. Throws Error(Config) when the configuration has none of its
/// name.
const config::GeneratorSettings& generator_settings(const config::RunConfig& config, const Plan& plan,
                                                    std::int32_t generator);

/// All that the pictures depend on besides their rows of the plan, for fingerprints: generators' settings and weights.
/// Collective: rank 0 hashes the weights, which finds out what is missing before any rank starts to work.
std::string generators_text(const RunContext& context, const Plan& plan);
/// Fingerprint of the pictures of a plan of this hash.
std::string pictures_fingerprint(std::uint64_t plan_hash, const std::string& generators);

/// The one model that a rank holds: shards come sorted by generator, so that it is seldom exchanged.
class CurrentModel {
 public:
  CurrentModel(const RunContext& context, const Plan& plan);

  models::TextToImage& of(std::int32_t generator);
  /// Pictures of a shard of the plan with the attributes that say what made them.
  store::Table pictures(std::size_t shard, const ShardRequest& request = {});
  /// One item of the shard's generator, alone: the first that the plan has of it. `generators`: generators_text().
  Canary canary(std::size_t shard, const std::string& generators);
  /// "cpu", or the GPU's name and number.
  const std::string& device_name() const { return device_name_; }

 private:
  const config::RunConfig& config_;
  const comm::World& world_;
  const Plan& plan_;
  std::string device_name_;
  std::unique_ptr<models::TextToImage> model_;
  std::int32_t loaded_ = -1;
};

/// Collective. Throws Error(Config | Io | Data) before work starts when weights are missing; Error(Stopped).
void run_generate(const RunContext& context);

}  // namespace divergen::stages
