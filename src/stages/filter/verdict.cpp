#include "stages/filter/verdict.hpp"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

/// A row of a table of scores.
Score score_of(const store::Table& scores, std::size_t row) {
  return {scores.get<std::uint8_t>("readable")[row] != 0, scores.get<std::int32_t>("crops")[row],
          scores.get<float>("similarity")[row], scores.get<float>("clip_score")[row],
          scores.get<float>("area_share")[row]};
}

}  // namespace

const std::vector<std::string>& reason_names() {
  static const std::vector<std::string> names{"kept",           "unlike_real_crops", "mask_too_small",
                                              "mask_too_large", "low_clip_score",    "unreadable"};
  return names;
}

double clip_score_bar(float best, const config::FilterSettings& settings) {
  return std::min(settings.min_clip_score, static_cast<double>(best) - settings.tolerance);
}

Reason judge(const Score& score, double bar, const config::FilterSettings& settings) {
  if (!score.is_readable) return Reason::Unreadable;
  // In float, as the share is stored: a bound of 0.1 must not reject a share of exactly one tenth.
  const bool is_large_enough = score.area_share > 0 && score.area_share >= static_cast<float>(settings.min_area);
  if (!is_large_enough) return Reason::MaskTooSmall;
  if (score.area_share > static_cast<float>(settings.max_area)) return Reason::MaskTooLarge;
  if (!(static_cast<double>(score.clip_score) >= bar)) return Reason::LowClipScore;
  if (score.crops > 0 && !(static_cast<double>(score.similarity) >= settings.similarity))
    return Reason::UnlikeRealCrops;
  return Reason::Kept;
}

void add_best_scores(const store::Table& scores, std::map<std::int32_t, float>& best) {
  const auto& categories = scores.get<std::int32_t>("category");
  for (std::size_t row = 0; row < scores.rows(); ++row) {
    const Score score = score_of(scores, row);
    if (!score.is_readable || std::isnan(score.clip_score)) continue;
    const auto [entry, is_new] = best.emplace(categories[row], score.clip_score);
    if (!is_new) entry->second = std::max(entry->second, score.clip_score);
  }
}

store::Table make_verdicts(const store::Table& scores, const std::map<std::int32_t, float>& best,
                           const config::FilterSettings& settings) {
  const auto& categories = scores.get<std::int32_t>("category");
  std::vector<std::uint8_t> kept;
  std::vector<std::int32_t> reasons;
  std::map<std::string, std::int64_t> rejected;
  for (std::size_t row = 0; row < scores.rows(); ++row) {
    const auto found = best.find(categories[row]);  // absent: no readable item, so that no bar is asked for
    const double bar = found == best.end() ? settings.min_clip_score : clip_score_bar(found->second, settings);
    const Reason reason = judge(score_of(scores, row), bar, settings);
    kept.push_back(reason == Reason::Kept ? 1 : 0);
    reasons.push_back(static_cast<std::int32_t>(reason));
    if (reason != Reason::Kept) ++rejected[reason_names()[static_cast<std::size_t>(reason)]];
  }
  store::Table table(kVerdictsFormat, kVerdictsVersion);
  table.add("item_id", scores.get<std::uint64_t>("item_id"));
  table.add("similarity", scores.get<float>("similarity"));
  table.add("clip_score", scores.get<float>("clip_score"));
  table.add("area_share", scores.get<float>("area_share"));
  table.add("kept", std::move(kept));
  table.add("reason", std::move(reasons));
  table.documents["reasons"] = nlohmann::json(reason_names()).dump();
  table.attributes["rejected"] = nlohmann::json(rejected).dump();
  return table;
}

std::map<std::string, std::int64_t> count_reasons(const store::Table& verdicts) {
  const auto damaged = [](const std::string& why) {
    fail(ErrorKind::Data, {"a table of verdicts is damaged", "reasons", why, "run `divergen filter` again"});
  };
  const auto document = verdicts.documents.find("reasons");
  if (document == verdicts.documents.end()) damaged("the document is missing");
  const auto names = nlohmann::json::parse(document->second, nullptr, /*allow_exceptions=*/false);
  if (!names.is_array()) damaged("it is not a JSON list");
  std::map<std::string, std::int64_t> counts;
  for (const std::int32_t reason : verdicts.get<std::int32_t>("reason")) {
    if (reason < 0 || static_cast<std::size_t>(reason) >= names.size() ||
        !names[static_cast<std::size_t>(reason)].is_string())
      damaged(cat("there is no reason ", reason));
    ++counts[names[static_cast<std::size_t>(reason)].get<std::string>()];
  }
  return counts;
}

}  // namespace divergen::stages
