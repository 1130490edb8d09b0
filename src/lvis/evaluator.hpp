#pragma once
// Average precision with the exact semantics of lvis-api (reference/lvis-evaluation.md §1; its numbered rules are cited
// in the code), and of pycocotools' COCOeval.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lvis/dataset.hpp"
#include "lvis/detections.hpp"
#include "lvis/truth_table.hpp"

namespace divergen::lvis {

struct Detection {
  std::int64_t image_id = 0, category_id = 0;
  double score = 0;
  std::array<double, 4> box{};  // x, y, width, height
  double area = 0;              // by the rule of the results' format: of the box, or of the mask
  mask::Rle rle;                // for IouType::Mask
};

/// Summaries as fractions, -1 where there is nothing to average: thirteen by LVIS's rules, twelve by COCO's.
struct Summary {
  static constexpr std::array<const char*, 13> kNames{"AP",  "AP50", "AP75",   "APs",     "APm",     "APl",    "APr",
                                                      "APc", "APf",  "AR@300", "ARs@300", "ARm@300", "ARl@300"};
  static constexpr std::array<const char*, 12> kCocoNames{"AP",   "AP50",  "AP75",   "APs",     "APm",     "APl",
                                                          "AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"};
  Protocol protocol = Protocol::Lvis;
  std::array<double, 13> values{};
  std::size_t size() const { return protocol == Protocol::Lvis ? kNames.size() : kCocoNames.size(); }
  const char* name(std::size_t i) const { return protocol == Protocol::Lvis ? kNames[i] : kCocoNames[i]; }
  double operator[](std::string_view name) const;
};

/// Means over the cells of one category that are not -1; -1 where there is none.
struct CategoryScores {
  static constexpr std::array<const char*, 7> kNames{"AP", "AP50", "AP75", "APs", "APm", "APl", "AR"};
  std::int64_t id = 0;
  std::array<double, 7> values{};
  std::int64_t truths = 0, detections = 0;  // that took part
};

/// Precision and recall where there is ground truth; elsewhere they are -1.
class Curves;

struct Evaluation {
  Summary summary;
  std::vector<CategoryScores> categories;      // by category id
  std::map<std::int64_t, double> category_ap;  // category id -> AP
  std::int64_t detections = 0, kept = 0;       // that came in, and that took part
  std::shared_ptr<const Curves> curves;

  /// Dense arrays as the reference packages have them, C order. LVIS: precision [threshold 10][recall 101][category]
  /// [area 4], recall [threshold][category][area]; COCO has one more axis, detections [1, 10, 100].
  std::vector<double> precision() const;
  std::vector<double> recall() const;
};

struct EvaluationOptions {
  IouType type = IouType::Box;
  Protocol protocol = Protocol::Lvis;
  unsigned threads = 0;  // 0: as many as this process may use
};

/// An evaluation into which detections are put piece by piece. Detections of one image that do not differ in score are
/// told apart by the order of their batches.
class Evaluator {
 public:
  static constexpr std::size_t kMostPerImage = 300;  // LVIS, rule 1

  /// Throws Error(Data) for ground truth without federated lists or frequencies (LVIS). The data set must outlive it.
  Evaluator(const Dataset& truth, const EvaluationOptions& options);
  const TruthTable& truth() const { return truth_; }
  unsigned threads() const { return threads_; }

  /// One call at a time.
  void add(Batch batch);
  /// Rule 1's cut, matching, curves, summaries. Call once; the detections are gone afterwards.
  Evaluation finish();
  /// The cut and the matching alone: puts what was added since the last call behind what `to` holds, and forgets it and
  /// the masks that were drawn. All detections of an image must have been added for the same call, images may come in
  /// any order.
  void judge(JudgedColumns& to);

 private:
  void cut_to_limit();
  template <class Each>
  void match(const Each& each);

  TruthTable truth_;
  unsigned threads_;
  std::vector<Batch> batches_;
};

/// The other half of an evaluation: curves and summaries of detections that were judged, here or elsewhere.
class Accumulator {
 public:
  /// The table must outlive it.
  explicit Accumulator(const TruthTable& truth);
  /// All detections of a category, from all images, in any order (they are sorted here). Once for each category that
  /// has any; for different categories from different threads.
  void add(std::size_t category, std::span<Judged> judged);
  /// `kept`: by category, as in JudgedColumns.
  Evaluation finish(std::span<const std::int64_t> kept, std::int64_t detections, unsigned threads);

 private:
  const TruthTable& truth_;
  std::shared_ptr<Curves> curves_;
};

/// Puts detections from memory into an evaluator, in their order. Throws Error(Data) for those of unknown images.
void collect(Evaluator& evaluator, std::span<const Detection> detections);

/// Of detections in memory; rules 1-3 (the cut to 300 an image) are applied here. Throws Error(Data) for detections of
/// unknown images and ground truth without federated lists or frequencies.
Evaluation evaluate(const Dataset& truth, const std::vector<Detection>& detections, const EvaluationOptions& options);
inline Evaluation evaluate(const Dataset& truth, const std::vector<Detection>& detections, IouType type) {
  return evaluate(truth, detections, EvaluationOptions{type});
}

/// Of a results file, which is never in memory as a whole. Throws Error(Data) naming file, entry, image, category and
/// field.
Evaluation evaluate_file(const Dataset& truth, const Path& results, const EvaluationOptions& options);
/// The same from memory; `name` stands for the file in messages.
Evaluation evaluate_text(const Dataset& truth, std::string_view json, const Path& name,
                         const EvaluationOptions& options);

/// All detections of a results file, in its order, for those who need them as such. Throws like evaluate_file.
std::vector<Detection> read_results(const Path& file, const Dataset& truth, IouType type);

/// The lines that lvis-api and pycocotools print.
std::string summary_table(const Evaluation& evaluation);
/// {"protocol", "iou_type", summaries, "per_category": {id: AP}, "detections", "kept"}.
std::string to_json(const Evaluation& evaluation, IouType type);
/// id,name,frequency,AP,AP50,AP75,APs,APm,APl,AR,truths,detections: a line for each category.
std::string to_csv(const Evaluation& evaluation, const Dataset& truth);

}  // namespace divergen::lvis
