#pragma once
// One row of a shard on its way into the library: what the staged and the fused pool share. Private to this folder.

#include <cstdint>
#include <string>
#include <vector>

#include "stages/plan/plan.hpp"
#include "stages/pool/cut_out.hpp"
#include "stages/pool/cutouts.hpp"
#include "store/library.hpp"
#include "store/table.hpp"

namespace divergen::stages {

/// Throws Error(Data) when the table does not hold the items of these rows of the plan.
void check_rows(const Plan& plan, Plan::Range range, const store::Table& table);

/// A table of verdicts ("divergen-verdicts").
class Verdicts {
 public:
  /// Throws Error(Data) when its reasons cannot be read.
  explicit Verdicts(const store::Table& table);
  /// Why a row was rejected; null when it is kept. Throws Error(Data) when it has no reason.
  const std::string* rejected(std::size_t row) const;

 private:
  const store::Table& table_;
  std::vector<std::string> reasons_;
};

/// Whose mask a row has, where a table of masks or cut-outs says that several annotators were chosen from.
class AnnotatorChoice {
 public:
  /// Throws Error(Data) when the annotators' names cannot be read.
  explicit AnnotatorChoice(const store::Table& table);
  /// Sets the instance's annotator and annotator_scores; nothing where there was no choice.
  void tell(std::size_t row, store::Instance& out) const;

 private:
  const store::Table& table_;
  std::vector<std::string> names_;
};

struct CutRow {
  CutState state = CutState::Unreadable;
  CutOut cut;
};
/// The cut-out of a row of pictures and masks.
CutRow cut_row(const store::Table& pictures, const store::Table& masks, std::size_t row, int alpha_threshold);
/// "empty", "thin", "unreadable".
const char* reason_of(CutState state);
/// Bits of store::Instance::flags.
std::uint32_t flags_of(const CutOut& cut);

/// What the plan and its picture decide: item, seed, category, generator, prompt, sample, size of the picture.
store::Instance planned_part(const store::Table& pictures, std::size_t row);

}  // namespace divergen::stages
