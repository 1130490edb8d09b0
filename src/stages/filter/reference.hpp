#pragma once
// What generated pictures are compared with: the mean CLIP features of each evaluated category's real crops.
//
// "filter/reference.h5", format "divergen-reference", one row a category that has crops, by id:
//   category i32, crops i64; heap: the mean of the crops' unit features, little-endian float32
// It is put together from shards "filter.reference/shard-000000.h5" (format "divergen-reference-sums"; heap: sums of
// unit features in float64), which the ranks share out: a fixed number of crops each, so that the result does not
// depend on the number of ranks.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "stages/common/context.hpp"
#include "stages/filter/clip_scorer.hpp"
#include "stages/plan/plan.hpp"

namespace divergen::stages {

inline constexpr const char* kReferenceFormat = "divergen-reference";
inline constexpr int kReferenceVersion = 1;

struct Reference {
  struct Entry {
    std::int64_t crops = 0;
    std::vector<float> mean;
  };
  std::map<std::int32_t, Entry> categories;  // by category id; those without a crop are absent
  std::string fingerprint;                   // of what it was made of

  const Entry* find(std::int32_t category_id) const {
    const auto found = categories.find(category_id);
    return found == categories.end() ? nullptr : &found->second;
  }
};

/// Loads CLIP at its first call of a rank.
using LazyScorer = std::function<ClipScorer&()>;

/// Collective. Takes filter/reference.h5 if it was made of the same crops and weights, else makes it. Without an
/// evaluated category in the plan it is empty. Crops whose picture is missing or damaged are left out and counted in
/// the record of "filter.reference". Throws Error(Config | Io | Data) before work starts when the annotations or the
/// folder of pictures is missing, Error(Data) when no crop at all could be made, Error(Stopped).
Reference make_reference(const RunContext& context, const Plan& plan, const std::string& clip_hash,
                         const LazyScorer& scorer);

}  // namespace divergen::stages
