// Reading of results files, straight into an evaluation: a detection is judged against the ground truth where it is
// read, so that no more of it is kept than detections.hpp says.

#include <array>
#include <cmath>
#include <optional>

#include "base/error.hpp"
#include "base/log.hpp"
#include "lvis/array_reader.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::lvis {
namespace {

[[noreturn]] void refuse(const Path& file, const std::string& where, const std::string& why) {
  fail(ErrorKind::Data,
       {"a results file is malformed", cat(file.string(), where), why, "write the results again in COCO's format"});
}

/// Rule 2: the first entry decides for all.
struct Format {
  bool has_boxes = false;
};

/// A mask as it stands in the text.
struct Segmentation {
  enum Kind { None, Text, Runs, Polygons } kind = None;
  std::int64_t height = 0, width = 0;
  std::string_view text;     // Text: the compressed runs, as in the file
  bool is_escaped = false;   // and whether they hold backslashes
  const char* at = nullptr;  // Runs, Polygons: where the list stands
};

class ResultsPiece {
 public:
  ResultsPiece(const Evaluator& evaluator, Format format, Protocol protocol)
      : evaluator_(evaluator), collector_(evaluator.truth()), format_(format), protocol_(protocol) {}

  Batch batch;
  bool keeps_all = false;  // as detections, instead of judging them
  std::vector<Detection> detections;
  std::int64_t without_score = 0;  // that have none and need none
  std::size_t size() const { return keeps_all ? detections.size() : batch.entries.size(); }
  std::string where() const {
    return cat((seen_ & kImage) != 0 ? cat(", image ", image_) : "",
               (seen_ & kCategory) != 0 ? cat(", category ", category_) : "",
               field_.empty() ? "" : cat(", field '", field_, "'"));
  }

  void element(Scanner& scanner) {
    seen_ = 0;
    field_ = {};
    mask_.kind = Segmentation::None;
    scanner.expect('{', "the entry is not an object");
    for (bool first = true; scanner.next_member(first, field_);) member(scanner);
    need(scanner, kImage, "image_id");
    need(scanner, kCategory, "category_id");
    if (image_ != known_id_ || size() == 0) {  // entries of an image mostly follow each other
      const auto* image = evaluator_.truth().dataset().image_index.find(image_);
      if (image == nullptr) {
        field_ = "image_id";
        scanner.refuse("the ground truth has no such image");
      }
      known_id_ = image_;
      known_image_ = image->second;
    }
    add(scanner, known_image_);
  }

 private:
  enum Seen : unsigned { kImage = 1, kCategory = 2, kScore = 4, kBox = 8 };

  void member(Scanner& scanner) {
    if (field_ == "image_id") image_ = scanner.integer(), seen_ |= kImage;
    else if (field_ == "category_id") category_ = scanner.integer(), seen_ |= kCategory;
    else if (field_ == "score") score(scanner);
    else if (field_ == "bbox" && format_.has_boxes) read_box(scanner, box_), seen_ |= kBox;
    else if (field_ == "segmentation" && needs_masks()) segmentation(scanner);
    else scanner.skip_value();
  }

  bool needs_masks() const { return evaluator_.truth().type() == IouType::Mask || !format_.has_boxes; }

  void need(Scanner& scanner, unsigned bit, const char* field) {
    if ((seen_ & bit) != 0) return;
    field_ = field;
    scanner.refuse("it is missing");
  }

  void score(Scanner& scanner) {
    seen_ &= ~static_cast<unsigned>(kScore);
    const char c = scanner.peek();
    if (c == 'N' || c == 'I' || (c == '-' && scanner.position()[1] == 'I'))
      scanner.refuse("it is not finite; NaN and Infinity are no JSON, and a detector that writes them is broken");
    if (!scanner.is_number()) return scanner.skip_value();  // whether that matters is seen later
    score_ = scanner.number();
    seen_ |= kScore;
  }

  void segmentation(Scanner& scanner) {
    mask_ = {};
    if (scanner.peek() == '[') {
      mask_.kind = Segmentation::Polygons;
      mask_.at = scanner.position();
      return scanner.skip_value();
    }
    if (!scanner.take('{')) scanner.refuse("it is neither a mask nor polygons");
    std::string_view key;
    bool has_size = false;
    for (bool first = true; scanner.next_member(first, key);) {
      if (key == "counts" && scanner.peek() == '"') {
        mask_.kind = Segmentation::Text;
        mask_.is_escaped = false;
        mask_.text = scanner.raw_string(mask_.is_escaped);
      } else if (key == "counts") {
        if (scanner.peek() != '[') scanner.refuse("its counts are neither text nor a list");
        mask_.kind = Segmentation::Runs;
        mask_.at = scanner.position();
        scanner.skip_value();
      } else if (key == "size") {
        has_size = size(scanner);
      } else {
        scanner.skip_value();
      }
    }
    if (!has_size) scanner.refuse("its run-length mask has no size of two numbers");
    if (mask_.kind == Segmentation::None) scanner.refuse("its run-length mask has no counts");
  }

  bool size(Scanner& scanner) {
    std::array<std::int64_t, 2> sides{};
    std::size_t n = 0;
    if (!scanner.take('[')) scanner.refuse("its run-length mask has no size of two numbers");
    for (bool first = true; scanner.next_element(first); ++n) {
      if (n == 2) scanner.refuse("its run-length mask has no size of two numbers");
      sides[n] = scanner.integer();
    }
    mask_.height = sides[0], mask_.width = sides[1];
    return n == 2;
  }

  void add(Scanner& scanner, std::size_t image) {
    if (keeps_all) return keep(scanner, image);
    const Collector::Place place = collector_.place(image, category_);
    if (format_.has_boxes) need(scanner, kBox, "bbox");
    else if (mask_.kind == Segmentation::None) field_ = "segmentation", scanner.refuse("it is missing");
    const bool is_sized = !format_.has_boxes || protocol_ == Protocol::Coco || box_[2] * box_[3] > 0;
    if ((seen_ & kScore) == 0) {
      // lvis-api reads no score of a detection that its rules leave out, so neither may we insist on one.
      if (place.counts && is_sized) field_ = "score", scanner.refuse("it is missing, or not a number");
      ++without_score;
      score_ = std::numeric_limits<double>::quiet_NaN();
    }
    if (!place.counts) {
      collector_.drop(batch, place, score_);
    } else if (evaluator_.truth().type() == IouType::Mask) {
      field_ = "segmentation";
      make_mask(scanner, image);
      collector_.add(batch, place, score_, format_.has_boxes ? box_[2] * box_[3] : static_cast<double>(spans_.area),
                     spans_);
    } else {
      if (!format_.has_boxes) {
        field_ = "segmentation";
        make_mask(scanner, image);
        box_ = spans_.box();
      }
      collector_.add(batch, place, score_, format_.has_boxes ? box_[2] * box_[3] : static_cast<double>(spans_.area),
                     box_);
    }
  }

  void keep(Scanner& scanner, std::size_t image) {
    need(scanner, kScore, "score");
    if (format_.has_boxes) need(scanner, kBox, "bbox");
    else if (mask_.kind == Segmentation::None) field_ = "segmentation", scanner.refuse("it is missing");
    Detection d{image_, category_, score_, box_, box_[2] * box_[3], {}};
    field_ = "segmentation";
    if (needs_masks()) make_mask(scanner, image);
    if (!format_.has_boxes) d.area = static_cast<double>(spans_.area), d.box = spans_.box();
    if (evaluator_.truth().type() == IouType::Mask) d.rle = to_rle(spans_);
    detections.push_back(std::move(d));
  }

  void make_mask(Scanner& scanner, std::size_t image) {
    const Images::Columns& images = evaluator_.truth().dataset().images.columns();
    const std::int64_t height = images.height[image], width = images.width[image];
    try {
      switch (mask_.kind) {
        case Segmentation::Text:
          check_size(scanner, height, width);
          if (mask_.is_escaped) unescaped_ = unescape(mask_.text), mask_.text = unescaped_;
          return to_spans(mask_.text, height, width, spans_);
        case Segmentation::Runs:
          check_size(scanner, height, width);
          return to_spans(mask::from_counts(runs(scanner), height, width), spans_);
        case Segmentation::Polygons:
          return to_spans(mask::from_polygons(polygons(scanner), height, width), spans_);
        case Segmentation::None: {  // a box stands for a polygon of its four corners
          const double x1 = box_[0], x2 = box_[0] + box_[2], y1 = box_[1], y2 = box_[1] + box_[3];
          return to_spans(mask::from_polygon(std::array<double, 8>{x1, y1, x1, y2, x2, y2, x2, y1}, height, width),
                          spans_);
        }
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      scanner.refuse(error.text().why);
    }
  }

  void check_size(const Scanner& scanner, std::int64_t height, std::int64_t width) const {
    if (mask_.height != height || mask_.width != width)
      scanner.refuse(cat("its mask has ", mask_.height, " x ", mask_.width, " px, the image ", height, " x ", width));
  }

  std::vector<std::uint32_t> runs(const Scanner& from) const {
    Scanner scanner(mask_.at, from.end());
    std::vector<std::uint32_t> out;
    scanner.take('[');
    for (bool first = true; scanner.next_element(first);) {
      const std::int64_t run = scanner.integer();
      if (run < 0 || run > UINT32_MAX) scanner.refuse("a run is negative or huge");
      out.push_back(static_cast<std::uint32_t>(run));
    }
    return out;
  }

  std::vector<std::vector<double>> polygons(const Scanner& from) const {
    Scanner scanner(mask_.at, from.end());
    std::vector<std::vector<double>> out;
    scanner.take('[');
    for (bool first = true; scanner.next_element(first);) {
      if (!scanner.take('[')) scanner.refuse("a part is not a list of numbers");
      out.emplace_back();
      for (bool start = true; scanner.next_element(start);) out.back().push_back(scanner.number());
      if (out.back().size() < 6 || out.back().size() % 2 != 0)
        scanner.refuse(cat("a polygon has ", out.back().size(), " numbers; it takes an even count of at least 6"));
    }
    if (out.empty()) scanner.refuse("it is a list of no polygons");  // an IndexError of pycocotools
    return out;
  }

  const Evaluator& evaluator_;
  Collector collector_;
  Format format_;
  Protocol protocol_;
  unsigned seen_ = 0;
  std::int64_t image_ = 0, category_ = 0, known_id_ = 0;
  std::size_t known_image_ = 0;
  double score_ = 0;
  std::array<double, 4> box_{};
  Segmentation mask_;
  mask::Spans spans_;
  std::string unescaped_;
  std::string_view field_;
};

/// Whether the first entry has boxes; the scanner stands before it. pycocotools takes an empty list for none.
Format format_of(Scanner scanner, Protocol protocol) {
  Format out;
  if (!scanner.take('{')) return out;
  std::string_view key;
  for (bool first = true; scanner.next_member(first, key);) {
    if (key == "bbox") {
      Scanner inside = scanner;
      out.has_boxes = protocol == Protocol::Lvis || !(inside.take('[') && inside.take(']'));
    }
    scanner.skip_value();
  }
  return out;
}

/// Reads a whole file in pieces; `accept` gets them in order.
template <class Accept>
void read_pieces(const Evaluator& evaluator, const Text& text, const Path& file, bool keeps_all, const Accept& accept) {
  const Protocol protocol = evaluator.truth().protocol();
  Scanner scanner(text.begin(), text.end());
  if (!scanner.take('[')) refuse(file, "", "it is not a list; it must be a JSON list of detections");
  if (Scanner(scanner).take(']'))
    fail(ErrorKind::Data, {"a results file holds no detection", file.string(), "",
                           "lvis-api cannot evaluate nothing either; check the detector"});
  Format format;
  try {
    format = format_of(scanner, protocol);
  } catch (const Malformed&) {  // the reader comes to the same place and says where it is
  }
  const auto make = [&] {
    auto piece = std::make_unique<ResultsPiece>(evaluator, format, protocol);
    piece->keeps_all = keeps_all;
    return piece;
  };
  try {
    scanner =
        Scanner(read_array<ResultsPiece>(text, scanner.position(), evaluator.threads(), make, accept), text.end());
  } catch (const BadElement& bad) {
    refuse(file, cat(", entry ", bad.index, bad.where), bad.why);
  }
  if (scanner.peek() != 0 || scanner.position() < text.end()) refuse(file, "", "something follows after the list");
}

Evaluation evaluate_results(const Dataset& truth, const Text& text, const Path& file,
                            const EvaluationOptions& options) {
  Evaluator evaluator(truth, options);
  std::int64_t without_score = 0;
  read_pieces(evaluator, text, file, false, [&](ResultsPiece piece) {
    evaluator.add(std::move(piece.batch));
    without_score += piece.without_score;
  });
  if (without_score > 0)
    log::warn(file.string(), ": ", without_score,
              " detections have no score; lvis-api leaves them out before it would read one, and so do we");
  return evaluator.finish();
}

}  // namespace

Evaluation evaluate_file(const Dataset& truth, const Path& results, const EvaluationOptions& options) {
  const Text text = Text::map(results);
  return evaluate_results(truth, text, results, options);
}

std::vector<Detection> read_results(const Path& file, const Dataset& truth, IouType type) {
  const Evaluator evaluator(truth, {type});
  std::vector<Detection> out;
  read_pieces(evaluator, Text::map(file), file, true, [&](ResultsPiece piece) {
    std::move(piece.detections.begin(), piece.detections.end(), std::back_inserter(out));
  });
  return out;
}

Evaluation evaluate_text(const Dataset& truth, std::string_view json, const Path& name,
                         const EvaluationOptions& options) {
  return evaluate_results(truth, Text::copy(json), name, options);
}

}  // namespace divergen::lvis
