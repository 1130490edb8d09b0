// The end of an evaluation on several ranks: the files and numbers of one process with all detections in memory, in
// less memory than that.

#include "stages/evaluate/conclude.hpp"

#include <gtest/gtest.h>
#include <malloc.h>

#include <fstream>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "mpi/mpi_main.hpp"
#include "stages/evaluate/parts.hpp"
#include "stages/evaluate/results.hpp"
#include "support/fixtures.hpp"
#include "support/full.hpp"

namespace divergen::stages {
namespace {

using test::world;

constexpr int kSide = 60;
constexpr std::int64_t kFirstId = 900;

/// Objects of seven categories in images with ids that do not ascend; some categories were not looked for, some not
/// exhaustively, and one (10) has no object.
lvis::Dataset make_truth(std::int64_t images, std::int64_t objects) {
  lvis::Dataset out;
  Rng rng(5);
  for (std::int64_t k = 0; k < 8; ++k)
    out.categories.push_back({3 + k, cat("c", k), k < 3 ? "r" : k < 5 ? "c" : "f", 9});
  for (std::int64_t i = 0; i < images; ++i) {
    lvis::ImageRecord record{kFirstId + (i * 7) % images, kSide, kSide, "x.png", true, {}, {}};
    for (std::int64_t k = 0; k < 8; ++k)
      if (rng.chance(0.6)) record.negative.push_back(3 + k);
    record.not_exhaustive = {3 + rng.range(0, 6)};
    for (std::int64_t n = 0; n < objects; ++n) {
      const double x = static_cast<double>(rng.range(0, 40)), y = static_cast<double>(rng.range(0, 40));
      const double w = static_cast<double>(rng.range(4, 19)), h = static_cast<double>(rng.range(4, 19));
      lvis::Annotation a;
      a.id = static_cast<std::int64_t>(out.annotations.size()) + 1;
      a.image_id = record.id;
      a.category_id = 3 + rng.range(0, 6);
      a.box = {x, y, w, h};
      a.area = w * h * (rng.chance(0.2) ? 30 : 1);  // of all ranges
      a.polygons = {{x, y, x + w, y, x + w, y + h, x, y + h}};
      out.annotations.push_back(a);
    }
    out.images.push_back(record);
  }
  out.rebuild_indices();
  return out;
}

/// Detections of one image, by descending score with many that are equal; some of no size.
std::vector<lvis::Detection> detect(std::int64_t image, std::int64_t count, Rng& rng) {
  std::vector<lvis::Detection> out;
  std::vector<std::uint8_t> bitmap(kSide * kSide);
  for (std::int64_t n = 0; n < count; ++n) {
    const auto x = rng.range(0, 40), y = rng.range(0, 40), w = rng.range(0, 19), h = rng.range(4, 19);
    std::fill(bitmap.begin(), bitmap.end(), 0);
    for (auto v = y; v < y + h; ++v)
      for (auto u = x; u < x + w; ++u) bitmap[static_cast<std::size_t>(v * kSide + u)] = rng.chance(0.9) ? 1 : 0;
    lvis::Detection d;
    d.image_id = image;
    d.category_id = 3 + rng.range(0, 7);
    d.score = 1 - static_cast<double>(n * 20 / count) * 0.04;
    d.box = {static_cast<double>(x), static_cast<double>(y), static_cast<double>(w), static_cast<double>(h)};
    d.rle = mask::encode(bitmap, kSide, kSide);
    d.area = static_cast<double>(mask::area(d.rle));
    out.push_back(std::move(d));
  }
  return out;
}

/// All detections of a data set in its order, and parts that hold them in another one.
struct Work {
  lvis::Dataset dataset;
  std::vector<lvis::Detection> all;
  std::vector<DetectionPart> parts;
};

Work make_work() {
  Work out;
  out.dataset = make_truth(41, 5);
  out.parts.resize(5);
  Rng rng(8);
  for (std::size_t i = 0; i < out.dataset.images.size(); ++i) {
    const std::int64_t id = out.dataset.images[i].id;
    DetectionPart& part = out.parts[rng.below(4)];  // the last one gets none of its own
    part.images.push_back(id);
    if (i % 10 == 3) part.rejected["unreadable_image"].push_back(id);
    if (i % 10 >= 2 && i % 10 <= 4) continue;
    // Above the limit of 300 an image, which cuts through equal scores.
    for (lvis::Detection& d : detect(id, i % 10 == 0 ? 350 : rng.range(1, 60), rng)) {
      out.all.push_back(d);
      part.detections.push_back(std::move(d));
    }
  }
  // As a rank of a lost node would, which comes back after its images were given to another: theirs count once.
  DetectionPart& late = out.parts.back();
  late.images = {out.parts[0].images.at(0), out.parts[2].images.at(1)};
  late.rejected["unreadable_image"] = {late.images[0]};
  late.detections = detect(late.images[1], 9, rng);
  return out;
}

struct Folder {
  Folder() : path(world().broadcast_text(own.path().string())) {
    if (world().is_root()) make_folder(path / "parts");
    world().barrier();
  }
  ~Folder() { world().barrier(); }
  test::TemporaryFolder own;
  Path path;
};

void write_parts(const Work& work, const Path& folder) {
  if (world().is_root())
    for (std::size_t p = 0; p < work.parts.size(); ++p)
      write_part(folder / cat("part-0000000", p, ".h5"), work.parts[p], work.dataset, "mine");
  world().barrier();
}

/// As the rules of each kind of results have it.
lvis::Evaluation plainly(const Work& work, lvis::IouType type) {
  auto all = work.all;
  if (type == lvis::IouType::Box)
    for (lvis::Detection& d : all) d.area = d.box[2] * d.box[3];
  return lvis::evaluate(work.dataset, all, type);
}

void expect_equal(const lvis::Evaluation& a, const lvis::Evaluation& b) {
  EXPECT_EQ(a.summary.values, b.summary.values);
  EXPECT_TRUE(a.precision() == b.precision() && a.recall() == b.recall());
  EXPECT_EQ(a.category_ap, b.category_ap);
  EXPECT_EQ(a.detections, b.detections);
  EXPECT_EQ(a.kept, b.kept);
  for (std::size_t k = 0; k < a.categories.size(); ++k) {
    EXPECT_EQ(a.categories[k].values, b.categories[k].values);
    EXPECT_EQ(a.categories[k].detections, b.categories[k].detections);
    EXPECT_EQ(a.categories[k].truths, b.categories[k].truths);
  }
}

/// Bytes of /proc/self/status.
std::size_t status_bytes(const std::string& name) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1)) * 1024;
  return 0;
}

}  // namespace

TEST(Conclude, GivesWhatOneProcessGives) {
  const Work work = make_work();
  const Folder folder;
  write_parts(work, folder.path / "parts");
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{20000}, kGatherBytes}) {
    const Conclusion found = conclude(world(), {work.dataset, folder.path / "parts", folder.path, "mine", bytes});

    if (!world().is_root()) continue;
    const lvis::Evaluation box = plainly(work, lvis::IouType::Box), mask = plainly(work, lvis::IouType::Mask);
    ASSERT_GT(box.summary["APr"], 0);
    ASSERT_LT(box.kept, box.detections);
    expect_equal(found.box, box);
    expect_equal(found.mask, mask);
    EXPECT_EQ(found.rejected, (std::map<std::string, std::int64_t>{{"unreadable_image", 4}}));
    for (const auto type : {lvis::IouType::Box, lvis::IouType::Mask}) {
      const Path file = folder.path / (type == lvis::IouType::Box ? "results.bbox.json" : "results.segm.json");
      EXPECT_TRUE(read_file(file) == cat(kBeforeResults, results_text(work.all, type), kAfterResults)) << file;
      // What divergen lvis-eval would say of the file.
      expect_equal(lvis::evaluate_file(work.dataset, file, {type}), type == lvis::IouType::Box ? box : mask);
    }
    std::size_t files = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path / "parts")) ++files;
    EXPECT_EQ(files, work.parts.size()) << "texts were left behind";
  }
}

TEST(Conclude, NothingDetectedIsNoError) {
  Work work;
  work.dataset = make_truth(3, 2);
  work.parts.resize(1);
  for (const lvis::ImageRecord& image : work.dataset.images) work.parts[0].images.push_back(image.id);
  const Folder folder;
  write_parts(work, folder.path / "parts");

  const Conclusion found = conclude(world(), {work.dataset, folder.path / "parts", folder.path, "mine"});

  if (!world().is_root()) return;
  EXPECT_EQ(found.box.summary["AP"], 0);
  EXPECT_EQ(found.mask.detections, 0);
  EXPECT_EQ(read_file(folder.path / "results.bbox.json"), "[\n\n]\n");
}

TEST(Conclude, RefusesWhatIsNotWholeOnAllRanks) {
  Work work = make_work();
  const Folder folder;
  const std::int64_t missing = work.parts[1].images.back();
  std::erase(work.parts[1].images, missing);
  write_parts(work, folder.path / "parts");
  const auto refusal = [&] {
    try {
      conclude(world(), {work.dataset, folder.path / "parts", folder.path, "mine"});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Data);
      return std::string(error.what());
    }
    return std::string();
  };

  EXPECT_NE(refusal().find(cat("image ", missing)), std::string::npos);

  world().barrier();
  const Path damaged = folder.path / "parts" / "part-00000002.h5";
  if (world().is_root()) {
    std::string bytes = read_file(damaged);
    bytes[bytes.size() / 2] ^= 1;
    write_file_atomic(damaged, bytes);
    write_part(folder.path / "parts" / "part-00000007.h5", {{{missing}, {}}, {}}, work.dataset, "mine");
  }
  world().barrier();
  EXPECT_NE(refusal().find("part-00000002.h5"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder.path / "results.bbox.json"));
}

TEST(Conclude, ReadsTheDetectionsOfSomeImages) {
  const Work work = make_work();
  const Folder folder;
  write_parts(work, folder.path / "parts");
  const std::vector<std::int64_t> wanted{work.parts[2].images.at(1), work.parts[3].images.at(0)};

  const auto found = detections_of(folder.path / "parts", work.dataset, "mine", wanted);

  std::int64_t expected = 0;
  for (const auto& d : work.all) expected += std::count(wanted.begin(), wanted.end(), d.image_id);
  EXPECT_EQ(static_cast<std::int64_t>(found.size()), expected);
  for (const auto& d : found) EXPECT_EQ(std::count(wanted.begin(), wanted.end(), d.image_id), 1);
}

/// Of a ragged object: about as many runs as a detector's masks of LVIS have.
mask::Rle ragged_mask() {
  std::vector<std::uint8_t> bitmap(kSide * kSide);
  for (int y = 10; y < 30; ++y)
    for (int x = 10; x < 30; ++x) bitmap[static_cast<std::size_t>(y * kSide + x)] = (x + y) % 2 == 0 || y == 20 ? 1 : 0;
  return mask::encode(bitmap, kSide, kSide);
}

TEST(Conclude, MemoryIsBoundedByAPartAndAFewBytesADetection) {
  // LVIS's validation set with 300 detections an image has as many as 495 of these parts.
  const std::int64_t parts = test::times(16, 160), images = 60, each = 200;
  const lvis::Dataset dataset = make_truth(parts * images, 3);
  const mask::Rle mask = ragged_mask();
  const Folder folder;
  const std::size_t of_part =
      static_cast<std::size_t>(images * each) * (sizeof(lvis::Detection) + mask.counts.size() * sizeof mask.counts[0]);
  if (world().is_root()) {
    for (std::int64_t p = 0; p < parts; ++p) {
      DetectionPart part;
      for (std::int64_t i = 0; i < images; ++i) {
        part.images.push_back(dataset.images[static_cast<std::size_t>(p * images + i)].id);
        for (std::int64_t n = 0; n < each; ++n)
          part.detections.push_back({part.images.back(),
                                     3 + n % 7,
                                     1 - static_cast<double>(n) / 256,
                                     {10, 10, 20, 20},
                                     static_cast<double>(mask::area(mask)),
                                     mask});
      }
      write_part(folder.path / "parts" / cat("part-", 10000 + p, ".h5"), part, dataset, "mine");
    }
  }
  world().barrier();
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << 5;  // the high-water mark begins anew
  const std::size_t before = status_bytes("VmRSS");
  if (status_bytes("VmHWM") > before + (std::size_t{4} << 20)) GTEST_SKIP() << "this kernel cannot reset the mark";

  const Conclusion found = conclude(world(), {dataset, folder.path / "parts", folder.path, "mine"});

  if (!world().is_root()) return;
  const std::size_t grown = status_bytes("VmHWM") - std::min(before, status_bytes("VmHWM"));
  const auto all = static_cast<std::size_t>(found.box.detections),
             in_memory = static_cast<std::size_t>(parts) * of_part;
  ASSERT_EQ(all, static_cast<std::size_t>(parts * images * each));
  // A part comes as text, as columns and as detections; and there are the evaluators' tables, curves and buffers.
  const std::size_t bound = (std::size_t{24} << 20) + 3 * of_part + 64 * all;
  EXPECT_LT(grown, bound);
  EXPECT_LT(bound, in_memory / 2) << "the bound is no bound";
  std::printf("%zu detections: %zu MiB; in memory they take %zu MiB\n", all, grown >> 20, in_memory >> 20);
}

}  // namespace divergen::stages

DIVERGEN_MPI_MAIN()
