#pragma once
// The stage "generate": pictures of the planned items.
//
// Shards "generate/shard-000000.h5", format "divergen-pictures", one row an item of the plan, in its order:
//   item_id u64, category i32 (the data set's id), generator i32, prompt i32 (indices of the plan), sample i32,
//   seed u64, width i32, height i32 (px); heap: the picture as RGB PNG
//   attributes generator, weights_hash, sampler, steps, guidance, batch, libtorch (its version): what the pictures were
//   made with

#include "config/settings.hpp"
#include "models/generator.hpp"
#include "stages/common/context.hpp"
#include "stages/plan/plan.hpp"
#include "store/table.hpp"

namespace divergen::stages {

inline constexpr const char* kPicturesFormat = "divergen-pictures";
inline constexpr int kPicturesVersion = 1;

/// Pictures of rows [range.first, range.last) of the plan, `batch` at a time, the last batch padded with its last item:
/// a picture's bits depend on its item and `batch` alone (design §3.1). All rows are of the model's generator.
store::Table make_pictures(const Plan& plan, Plan::Range range, models::TextToImage& model, std::int64_t batch);

/// Settings of the generator with this index in the plan. Throws Error(Config) when the configuration has none of its
/// name.
const config::GeneratorSettings& generator_settings(const config::RunConfig& config, const Plan& plan,
                                                    std::int32_t generator);

/// Collective. Throws Error(Config | Io | Data) before work starts when weights are missing; Error(Stopped).
void run_generate(const RunContext& context);

}  // namespace divergen::stages
