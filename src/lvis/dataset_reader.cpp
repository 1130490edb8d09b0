// Reading of annotation files. Several threads read a list at once (array_reader.hpp), each into columns of its own,
// which are appended in the order of the file.

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.hpp"
#include "lvis/array_reader.hpp"
#include "lvis/dataset.hpp"

namespace divergen::lvis {
namespace {

[[noreturn]] void refuse(const Path& file, const std::string& where, const std::string& why) {
  fail(ErrorKind::Data, {"an annotation file is malformed", cat(file.string(), where), why,
                         "mend the file, or name an LVIS v1 or COCO file"});
}

std::string in_field(std::string_view field) { return field.empty() ? "" : cat(", field '", field, "'"); }

std::string last_two(const std::string& url) {
  const auto last = url.rfind('/');
  if (last == std::string::npos || last == 0) return url;
  const auto before = url.rfind('/', last - 1);
  return before == std::string::npos ? url : url.substr(before + 1);
}

/// Fields that an object must have, as bits.
template <std::size_t N>
void require(const Scanner& scanner, unsigned seen, const std::array<const char*, N>& names, std::string_view& field) {
  for (std::size_t i = 0; i < N; ++i)
    if ((seen >> i & 1) == 0) {
      field = names[i];
      scanner.refuse("it is missing");
    }
}

std::int32_t side(Scanner& scanner) {
  const std::int64_t value = scanner.integer();
  if (value < 1) scanner.refuse("the picture has no pixels");
  if (value > 1 << 20) scanner.refuse(cat(value, " px are more than a picture can have"));
  return static_cast<std::int32_t>(value);
}

bool read_ids(Scanner& scanner, std::vector<std::int64_t>& out) {
  out.clear();
  if (!scanner.take('[')) {
    scanner.skip_value();
    return false;
  }
  for (bool first = true; scanner.next_element(first);) {
    if (!scanner.is_number()) scanner.refuse("it holds something that is not an id");
    out.push_back(scanner.integer());
    if (out.back() < INT32_MIN || out.back() > INT32_MAX)
      scanner.refuse(cat("category id ", out.back(), " is too large"));
  }
  return true;
}

class ImagePiece {
 public:
  Images images;
  std::size_t size() const { return images.size(); }
  std::string where() const { return cat(has_id_ ? cat(", image ", record_.id) : "", in_field(field_)); }

  void element(Scanner& scanner) {
    record_ = {};
    has_id_ = false;
    field_ = {};
    bool first = true, negative = false, partial = false;
    unsigned seen = 0;
    std::string name, url;
    scanner.expect('{', "it is not an object");
    while (scanner.next_member(first, field_)) {
      if (field_ == "id") record_.id = scanner.integer(), has_id_ = true, seen |= 1;
      else if (field_ == "height") record_.height = side(scanner), seen |= 2;
      else if (field_ == "width") record_.width = side(scanner), seen |= 4;
      else if (field_ == "coco_url" && scanner.peek() == '"') url = scanner.string();
      else if (field_ == "file_name" && scanner.peek() == '"') name = scanner.string();
      else if (field_ == "neg_category_ids") negative = read_ids(scanner, record_.negative);
      else if (field_ == "not_exhaustive_category_ids") partial = read_ids(scanner, record_.not_exhaustive);
      else scanner.skip_value();
    }
    require(scanner, seen, std::array{"id", "height", "width"}, field_);
    record_.file = url.empty() ? name : last_two(url);
    record_.has_federated = negative && partial;
    images.push_back(record_);
  }

 private:
  ImageRecord record_;
  bool has_id_ = false;
  std::string_view field_;
};

class AnnotationPiece {
 public:
  explicit AnnotationPiece(bool has_shapes) : has_shapes_(has_shapes) {}

  Annotations annotations;
  std::size_t size() const { return annotations.columns().id.size(); }
  std::string where() const {
    return cat((seen_ & 1) != 0 ? cat(", annotation ", id_) : "", (seen_ & 2) != 0 ? cat(", image ", image_) : "",
               (seen_ & 4) != 0 ? cat(", category ", category_) : "", in_field(field_));
  }

  void element(Scanner& scanner) {
    seen_ = 0;
    flags_ = 0;
    field_ = {};
    bool first = true;
    scanner.expect('{', "it is not an object");
    while (scanner.next_member(first, field_)) member(scanner);
    require(scanner, seen_, std::array{"id", "image_id", "category_id", "bbox", "area"}, field_);
    Annotations::Columns& c = annotations.columns();
    c.shapes.finish();
    c.image_id.push_back(image_);
    c.category_id.push_back(category_);
    c.box.push_back(box_);
    c.area.push_back(area_);
    c.flags.push_back(flags_);
    c.id.push_back(id_);
  }

 private:
  void member(Scanner& scanner) {
    if (field_ == "segmentation") {
      Shapes& shapes = annotations.columns().shapes;
      const std::size_t parts = shapes.size() == 0 ? 0 : shapes.part_end.back();
      if (shapes.kind.size() != parts) drop_parts(parts);
      segmentation(scanner);
    } else if (field_ == "id") id_ = scanner.integer(), seen_ |= 1;
    else if (field_ == "image_id") image_ = scanner.integer(), seen_ |= 2;
    else if (field_ == "category_id") category_ = scanner.integer(), seen_ |= 4;
    else if (field_ == "bbox") read_box(scanner, box_), seen_ |= 8;
    else if (field_ == "area") area_ = scanner.number(), seen_ |= 16;
    else if (field_ == "iscrowd") flag(scanner, Annotations::kCrowd);
    else if (field_ == "ignore") flag(scanner, Annotations::kIgnore);
    else scanner.skip_value();
  }

  void flag(Scanner& scanner, std::uint8_t bit) {
    flags_ = static_cast<std::uint8_t>(scanner.truth() ? flags_ | bit : flags_ & ~bit);
  }

  void segmentation(Scanner& scanner) {
    if (scanner.peek() == '[') polygons(scanner);
    else if (scanner.peek() == '{') run_lengths(scanner);
    else scanner.refuse("it is neither polygons nor a run-length mask");
  }

  void polygons(Scanner& scanner) {
    scanner.expect('[', "");
    for (bool first = true; scanner.next_element(first);) {
      if (!scanner.take('[')) scanner.refuse("a part is not a list of numbers");
      polygon(scanner);
    }
  }

  /// Coordinates go to the pool as whole numbers while they can.
  void polygon(Scanner& scanner) {
    Shapes& shapes = annotations.columns().shapes;
    const std::size_t old = shapes.words.size();
    std::size_t count = 0;
    int decimals = -1;       // of all so far; -1: none yet
    bool is_uniform = true;  // all have as many
    numbers_.clear();        // once they are not, or do not fit: all as doubles
    for (bool first = true; scanner.next_element(first); ++count) {
      const Decimal d = scanner.decimal();
      if (is_uniform) {
        const bool fits = d.is_exact && d.decimals < 10 && d.mantissa < INT32_MAX && d.mantissa > -INT32_MAX;
        if (decimals < 0) decimals = d.decimals;
        if (fits && d.decimals == decimals) {
          shapes.words.push_back(static_cast<std::uint32_t>(static_cast<std::int32_t>(d.mantissa)));
          continue;
        }
        if (fits && d.decimals < decimals) {
          const std::int64_t scaled = d.mantissa * kWhole[static_cast<std::size_t>(decimals - d.decimals)];
          if (std::abs(scaled) < INT32_MAX) {
            shapes.words.push_back(static_cast<std::uint32_t>(static_cast<std::int32_t>(scaled)));
            continue;
          }
        }
        if (fits && rescale(shapes.words, old, d.decimals - decimals)) {
          decimals = d.decimals;
          shapes.words.push_back(static_cast<std::uint32_t>(static_cast<std::int32_t>(d.mantissa)));
          continue;
        }
        is_uniform = false;
        for (std::size_t i = old; i < shapes.words.size(); ++i)
          numbers_.push_back(static_cast<std::int32_t>(shapes.words[i]) /
                             static_cast<double>(kWhole[static_cast<std::size_t>(decimals)]));
        shapes.words.resize(old);
      }
      numbers_.push_back(d.is_exact ? value(d) : d.value);
    }
    if (count < 6 || count % 2 != 0)
      scanner.refuse(cat("a polygon has ", count, " numbers; it takes an even count of at least 6"));
    check_coordinates(scanner, shapes.words.span().subspan(old), is_uniform ? decimals : 0);
    if (!has_shapes_) {
      shapes.words.resize(old);
    } else if (is_uniform) {
      shapes.kind.push_back(static_cast<std::int8_t>(decimals));
      shapes.word_end.push_back(shapes.words.size());
    } else {
      shapes.add_polygon(numbers_);
    }
  }

  /// The raster refuses coordinates beyond this, too (mask/polygon.cpp); here the annotation can be named.
  void check_coordinates(const Scanner& scanner, std::span<const std::uint32_t> words, int decimals) const {
    constexpr double kLimit = 1e7;  // px
    const double scale = static_cast<double>(kWhole[static_cast<std::size_t>(decimals)]);
    const auto check = [&](double value) {
      if (!(std::abs(value) < kLimit)) scanner.refuse(cat("a polygon has the coordinate ", value));
    };
    if (scale * kLimit <= INT32_MAX)  // else no word can be too large
      for (const std::uint32_t word : words) check(static_cast<std::int32_t>(word) / scale);
    for (const double value : numbers_) check(value);
  }

  /// Multiplies the words from `first` on by 10^steps; false (and nothing is changed) when one would not fit.
  static bool rescale(Column<std::uint32_t>& words, std::size_t first, int steps) {
    if (steps < 1) return false;
    const std::int64_t factor = kWhole[static_cast<std::size_t>(steps)];
    for (std::size_t i = first; i < words.size(); ++i)
      if (std::abs(static_cast<std::int32_t>(words[i]) * factor) >= INT32_MAX) return false;
    for (std::size_t i = first; i < words.size(); ++i)
      words[i] = static_cast<std::uint32_t>(static_cast<std::int32_t>(static_cast<std::int32_t>(words[i]) * factor));
    return true;
  }

  static double value(const Decimal& d) {
    // Rounded twice where the digits take more than 53 bits; such numbers are rare and go the exact way.
    if (std::abs(d.mantissa) <= std::int64_t{1} << 53)
      return static_cast<double>(d.mantissa) / std::pow(10.0, d.decimals);
    return std::strtod(cat(d.mantissa, "e-", d.decimals).c_str(), nullptr);
  }

  void run_lengths(Scanner& scanner) {
    std::array<std::int64_t, 2> size{-1, -1};
    std::string text;
    std::vector<std::uint32_t> runs;
    bool has_text = false, has_runs = false, escaped = false;
    std::string_view key;
    scanner.expect('{', "");
    for (bool first = true; scanner.next_member(first, key);) {
      if (key == "size") {
        std::size_t n = 0;
        if (!scanner.take('[')) scanner.refuse("its run-length mask has no size");
        for (bool start = true; scanner.next_element(start); ++n) {
          if (n == 2) scanner.refuse("its run-length mask has no size");
          size[n] = scanner.integer();
        }
      } else if (key == "counts" && scanner.peek() == '"') {
        const auto raw = scanner.raw_string(escaped);
        text = escaped ? unescape(raw) : std::string(raw);
        has_text = true;
      } else if (key == "counts" && scanner.take('[')) {
        has_runs = true;
        for (bool start = true; scanner.next_element(start);) {
          const std::int64_t run = scanner.integer();
          if (run < 0 || run > UINT32_MAX) scanner.refuse("a run is negative or huge");
          runs.push_back(static_cast<std::uint32_t>(run));
        }
      } else {
        scanner.skip_value();
      }
    }
    if (size[1] < 0) scanner.refuse("its run-length mask has no size");
    if (!has_text && !has_runs) scanner.refuse("its run-length mask has no counts");
    try {
      const mask::Rle rle =
          has_text ? mask::from_text(text, size[0], size[1]) : mask::from_counts(std::move(runs), size[0], size[1]);
      if (has_shapes_) annotations.columns().shapes.add_rle(rle);
    } catch (const Error& error) {
      scanner.refuse(error.text().why);
    }
  }

  /// A second segmentation of an annotation takes the place of the first.
  void drop_parts(std::size_t parts) {
    Shapes& shapes = annotations.columns().shapes;
    shapes.kind.resize(parts);
    shapes.word_end.resize(parts);
    shapes.words.resize(parts == 0 ? 0 : shapes.word_end.back());
  }

  static constexpr std::array<std::int64_t, 10> kWhole = {1,      10,      100,      1000,      10000,
                                                          100000, 1000000, 10000000, 100000000, 1000000000};
  bool has_shapes_;
  std::int64_t id_ = 0, image_ = 0, category_ = 0;
  std::array<double, 4> box_{};
  double area_ = 0;
  std::uint8_t flags_ = 0;
  unsigned seen_ = 0;
  std::string_view field_;
  std::vector<double> numbers_;
};

void append(Images& to, const Images& from) {
  Images::Columns& t = to.columns();
  const Images::Columns& f = from.columns();
  t.id.append(f.id.span());
  t.height.append(f.height.span());
  t.width.append(f.width.span());
  t.has_federated.append(f.has_federated.span());
  const auto shift = [](Column<std::uint64_t>& ends, const Column<std::uint64_t>& others, std::uint64_t by) {
    for (const std::uint64_t end : others.span()) ends.push_back(by + end);
  };
  shift(t.name_end, f.name_end, t.names.size());
  shift(t.negative_end, f.negative_end, t.negative.size());
  shift(t.not_exhaustive_end, f.not_exhaustive_end, t.not_exhaustive.size());
  t.names.append(f.names.span());
  t.negative.append(f.negative.span());
  t.not_exhaustive.append(f.not_exhaustive.span());
}

void append(Annotations& to, const Annotations& from) {
  Annotations::Columns& t = to.columns();
  const Annotations::Columns& f = from.columns();
  t.id.append(f.id.span());
  t.image_id.append(f.image_id.span());
  t.category_id.append(f.category_id.span());
  t.box.append(f.box.span());
  t.area.append(f.area.span());
  t.flags.append(f.flags.span());
  t.shapes.append(f.shapes);
}

class Reader {
 public:
  Reader(const Text& text, const Path& file, const ReadOptions& options)
      : text_(text),
        file_(file),
        options_(options),
        threads_(options.threads > 0 ? options.threads : usable_threads()) {}

  Dataset read() {
    Scanner scanner(text_.begin(), text_.end());
    try {
      scanner.expect('{', "the whole is not an object");
      std::string_view key;
      for (bool first = true; scanner.next_member(first, key);) scanner = section(scanner, key);
      if (scanner.peek() != 0 || scanner.position() < text_.end()) scanner.refuse("something follows after its end");
    } catch (const Malformed& malformed) {
      refuse(file_, cat(", byte ", malformed.at - text_.begin()), malformed.why);
    }
    finish();
    return std::move(out_);
  }

 private:
  Scanner section(Scanner scanner, std::string_view key) {
    static constexpr std::array<std::string_view, 3> kLists = {"categories", "images", "annotations"};
    const auto which = static_cast<std::size_t>(std::find(kLists.begin(), kLists.end(), key) - kLists.begin());
    if (which == kLists.size()) {
      scanner.skip_value();
      return scanner;
    }
    if ((seen_ >> which & 1) != 0) refuse(file_, cat(", ", key), "the list stands twice in the file");
    seen_ |= 1U << which;
    if (!scanner.take('[')) refuse(file_, cat(", ", key), "it is not a list");
    try {
      const char* after = which == 0 ? categories(scanner) : which == 1 ? images(scanner) : annotations(scanner);
      return {after, text_.end()};
    } catch (const BadElement& bad) {
      refuse(file_, cat(", ", key, "[", bad.index, "]", bad.where), bad.why);
    }
  }

  const char* categories(Scanner scanner) {
    for (bool first = true; scanner.next_element(first);) {
      Category category;
      std::string_view field;
      bool has_id = false;
      try {
        scanner.expect('{', "it is not an object");
        for (bool start = true; scanner.next_member(start, field);) {
          if (field == "id") category.id = scanner.integer(), has_id = true;
          else if (field == "name" && scanner.peek() == '"') category.name = scanner.string();
          else if (field == "frequency" && scanner.peek() == '"') category.frequency = scanner.string();
          else if (field == "image_count" && scanner.is_number()) category.image_count = scanner.integer();
          else scanner.skip_value();
        }
        if (!has_id) field = "id", scanner.refuse("it is missing");
      } catch (const Malformed& malformed) {
        throw BadElement{out_.categories.size(), cat(has_id ? cat(", category ", category.id) : "", in_field(field)),
                         malformed.why};
      }
      out_.categories.push_back(std::move(category));
    }
    return scanner.position();
  }

  const char* images(const Scanner& scanner) {
    return read_array<ImagePiece>(
        text_, scanner.position(), threads_, [] { return std::make_unique<ImagePiece>(); },
        [&](ImagePiece piece) { append(out_.images, piece.images); });
  }

  const char* annotations(const Scanner& scanner) {
    return read_array<AnnotationPiece>(
        text_, scanner.position(), threads_, [&] { return std::make_unique<AnnotationPiece>(options_.has_shapes); },
        [&](AnnotationPiece piece) { append(out_.annotations, piece.annotations); });
  }

  void finish() {
    for (const std::size_t which : {0U, 1U, 2U})
      if ((seen_ >> which & 1) == 0)
        refuse(file_,
               cat(", ", which == 0   ? "categories"
                         : which == 1 ? "images"
                                      : "annotations"),
               "there is no such list");
    if (out_.categories.empty()) refuse(file_, ", categories", "the list is empty");
    std::sort(out_.categories.begin(), out_.categories.end(),
              [](const Category& a, const Category& b) { return a.id < b.id; });
    for (std::size_t i = 1; i < out_.categories.size(); ++i)
      if (out_.categories[i].id == out_.categories[i - 1].id)
        refuse(file_, cat(", categories, category ", out_.categories[i].id, ", field 'id'"),
               "two categories share the id");
    out_.rebuild_indices();
    if (out_.image_index.size() != out_.images.size()) refuse_shared_image_id();
    check_annotations();
  }

  [[noreturn]] void refuse_shared_image_id() const {
    const auto ids = out_.images.columns().id.span();
    std::size_t i = 0;
    while (out_.image_index.at(ids[i]) == i) ++i;
    refuse(file_, cat(", images[", i, "], image ", ids[i], ", field 'id'"), "two images share the id");
  }

  void check_annotations() const {
    const Annotations::Columns& c = out_.annotations.columns();
    const auto at = [&](std::size_t i) {
      return cat(", annotations[", i, "], annotation ", c.id[i], ", image ", c.image_id[i], ", category ",
                 c.category_id[i]);
    };
    for (std::size_t i = 0; i < c.id.size(); ++i) {
      const auto* image = out_.image_index.find(c.image_id[i]);
      if (image == nullptr) refuse(file_, cat(at(i), ", field 'image_id'"), cat("there is no image ", c.image_id[i]));
      if (!options_.has_shapes || !c.shapes.has_rle(i)) continue;
      const auto words = c.shapes.part_words(c.shapes.first_part(i));
      const std::int32_t height = out_.images.columns().height[image->second],
                         width = out_.images.columns().width[image->second];
      if (words[0] != static_cast<std::uint32_t>(height) || words[1] != static_cast<std::uint32_t>(width))
        refuse(file_, cat(at(i), ", field 'segmentation'"),
               cat("its mask has ", words[0], " x ", words[1], " px, the image ", height, " x ", width));
    }
  }

  const Text& text_;
  const Path& file_;
  ReadOptions options_;
  unsigned threads_, seen_ = 0;
  Dataset out_;
};

}  // namespace

Dataset read_dataset(const Path& file, const ReadOptions& options) {
  if (!std::filesystem::is_regular_file(file))
    fail(ErrorKind::Io, {"an annotation file is missing", file.string(), "there is no such file",
                         "check the path in the configuration"});
  const Text text = Text::map(file);
  return Reader(text, file, options).read();
}

Dataset parse_dataset(std::string_view json, const Path& name, const ReadOptions& options) {
  const Text text = Text::copy(json);
  return Reader(text, name, options).read();
}

}  // namespace divergen::lvis
