#pragma once
// The stage "filter": which of the generated instances are good enough.
//
// Three passes, each shared by the ranks and resumable on its own:
//   filter.reference   mean CLIP features of the real crops of each category   (reference.hpp)
//   filter.scores      similarity, CLIP score and area of each item            (scores.hpp)
//   filter             verdicts, "filter/shard-000000.h5"                      (verdict.hpp)
// Verdicts need the best CLIP score of a whole category, so they wait for all scores. Other bounds in the
// configuration make the verdicts again, not the scores. Of a run with run.fused the scores stand in the shards of
// "fused" (pool/cutouts.hpp), and only the verdicts are made here.

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "stages/common/context.hpp"
#include "stages/common/shard_request.hpp"
#include "stages/filter/clip_scorer.hpp"
#include "stages/filter/reference.hpp"
#include "stages/plan/plan.hpp"
#include "store/table.hpp"

namespace divergen::stages {

/// What scoring needs, loaded once for each rank.
class Scoring {
 public:
  /// Collective: hashes CLIP's files on rank 0, and makes or takes the reference features. Errors as run_filter().
  Scoring(const RunContext& context, const Plan& plan);

  /// All that the scores depend on besides pictures and masks, for fingerprints.
  const std::string& fingerprint() const { return fingerprint_; }
  /// Scores of a shard of pictures and their masks, with the attribute that names CLIP's weights.
  store::Table make(const store::Table& pictures, const store::Table& masks, const ShardRequest& request = {});

 private:
  LazyScorer scorer_;
  std::unique_ptr<ClipScorer> clip_;
  std::string clip_hash_, fingerprint_;
  Reference reference_;
  std::map<std::int32_t, std::string> names_;
};

/// Collective. Throws Error(Config | Io | Data) before work starts when CLIP, the training annotations or pictures are
/// missing or "annotate" is not complete; Error(Stopped).
void run_filter(const RunContext& context);

}  // namespace divergen::stages
