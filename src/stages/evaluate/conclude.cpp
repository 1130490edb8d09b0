#include "stages/evaluate/conclude.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "lvis/parallel.hpp"
#include "stages/evaluate/parts.hpp"
#include "stages/evaluate/results.hpp"

namespace divergen::stages {
namespace {

using lvis::IouType;
using nlohmann::json;

// Rank 0 holds two files of each of them open; more would not be quicker than the file system.
constexpr int kMostReaders = 64;

constexpr std::array<IouType, 2> kTypes{IouType::Box, IouType::Mask};

/// Which image is taken from which part: the same on all ranks.
struct Division {
  std::vector<std::string> files;
  std::vector<std::vector<std::int64_t>> images;  // of each file, ids, in its order
  std::map<std::string, std::int64_t> rejected;   // reason -> images
};

/// Rank 0.
Division divide(const ConcludeInput& input) {
  Division out;
  std::set<std::int64_t> seen;
  for (const Path& file : part_files(input.parts)) {
    const PartImages part = read_part_images(file, input.fingerprint);
    std::set<std::int64_t> fresh;
    for (const std::int64_t id : part.images)
      if (seen.insert(id).second) fresh.insert(id);
    out.files.push_back(file.string());
    out.images.push_back({fresh.begin(), fresh.end()});
    for (const auto& [reason, ids] : part.rejected)
      if (const auto n = std::count_if(ids.begin(), ids.end(), [&](std::int64_t id) { return fresh.contains(id); }))
        out.rejected[reason] += n;
  }
  for (const lvis::ImageRecord& image : input.dataset.images)
    if (!seen.contains(image.id))
      fail(ErrorKind::Data, {"an evaluation is not complete", cat(input.parts.string(), ", image ", image.id),
                             "no part holds its detections", "start it again: it is detected then"});
  return out;
}

Division shared_division(comm::World& world, const ConcludeInput& input) {
  json text;
  world.together([&] {
    if (!world.is_root()) return;
    const Division mine = divide(input);
    text = {{"files", mine.files}, {"images", mine.images}, {"rejected", mine.rejected}};
  });
  text = json::parse(world.broadcast_text(text.dump()));
  return {text.at("files").get<std::vector<std::string>>(),
          text.at("images").get<std::vector<std::vector<std::int64_t>>>(),
          text.at("rejected").get<std::map<std::string, std::int64_t>>()};
}

/// Where the text of an image stands in its reader's files, for boxes and for masks.
struct TextPlace {
  std::uint64_t image = 0;  // index into the data set
  std::array<std::uint64_t, kTypes.size()> offset{}, length{};
};

/// One rank's share of the parts.
class Reader {
 public:
  Reader(const ConcludeInput& input, int rank, unsigned threads) : input_(input) {
    for (std::size_t t = 0; t < kTypes.size(); ++t) {
      evaluators_[t] = std::make_unique<lvis::Evaluator>(
          input.dataset, lvis::EvaluationOptions{kTypes[t], lvis::Protocol::Lvis, threads});
      texts_[t] = std::make_unique<GrowingFile>(input.parts / cat("text-", rank, "-", t));
    }
  }

  void take(const Path& file, const std::vector<std::int64_t>& images) {
    std::vector<lvis::Detection> detections = read_part(file, input_.dataset, input_.fingerprint).detections;
    const std::set<std::int64_t> wanted(images.begin(), images.end());
    std::erase_if(detections, [&](const lvis::Detection& d) { return !wanted.contains(d.image_id); });
    // A part holds an image's detections one after another; the sort makes sure of it.
    std::stable_sort(detections.begin(), detections.end(),
                     [](const auto& a, const auto& b) { return a.image_id < b.image_id; });
    auto first = detections.begin();
    for (const std::int64_t id : wanted) {
      const auto end = std::find_if(first, detections.end(), [&](const auto& d) { return d.image_id != id; });
      write(id, std::span(first, end));
      first = end;
    }
    for (std::size_t t = 0; t < kTypes.size(); ++t) {
      for (lvis::Detection& d : detections)  // by the rule of each kind of results (lvis-evaluation.md §1, rule 2)
        d.area = kTypes[t] == IouType::Box ? d.box[2] * d.box[3] : static_cast<double>(mask::area(d.rle));
      lvis::collect(*evaluators_[t], detections);
      evaluators_[t]->judge(columns_[t]);
    }
  }

  void close() {
    for (auto& text : texts_) text->close();
  }
  void remove_texts() {
    for (auto& text : texts_) text.reset();
  }

  const std::vector<TextPlace>& places() const { return places_; }
  /// The names of its files, as a JSON list.
  std::string texts() const { return json{texts_[0]->temporary().string(), texts_[1]->temporary().string()}.dump(); }
  lvis::JudgedColumns take_columns(std::size_t t) { return std::move(columns_[t]); }
  const lvis::Evaluator& evaluator(std::size_t t) const { return *evaluators_[t]; }

 private:
  void write(std::int64_t image, std::span<const lvis::Detection> detections) {
    TextPlace place;
    place.image = input_.dataset.image_index.at(image);
    for (std::size_t t = 0; t < kTypes.size(); ++t) {
      const std::string text = results_text(detections, kTypes[t]);
      place.offset[t] = texts_[t]->size();
      place.length[t] = text.size();
      texts_[t]->write(text);
    }
    places_.push_back(place);
  }

  const ConcludeInput& input_;
  std::array<std::unique_ptr<lvis::Evaluator>, kTypes.size()> evaluators_;
  std::array<std::unique_ptr<GrowingFile>, kTypes.size()> texts_;
  std::array<lvis::JudgedColumns, kTypes.size()> columns_;
  std::vector<TextPlace> places_;
};

/// Values of a plain type as they lie in memory: the ranks of a job are one program on one kind of machine.
template <class T>
std::string bytes_of(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}
template <class T>
void append(std::vector<T>& to, std::string_view bytes) {
  if (bytes.empty()) return;
  const std::size_t old = to.size();
  to.resize(old + bytes.size() / sizeof(T));
  std::memcpy(to.data() + old, bytes.data(), bytes.size());
}

/// Another rank's text.
class TextReader {
 public:
  explicit TextReader(Path file) : file_(std::move(file)), fd_(::open(file_.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail_errno("cannot open", file_.string(), errno);
  }
  TextReader(TextReader&& other) noexcept : file_(std::move(other.file_)), fd_(std::exchange(other.fd_, -1)) {}
  TextReader& operator=(TextReader&&) = delete;
  ~TextReader() {
    if (fd_ >= 0) ::close(fd_);
  }
  void read(std::uint64_t offset, std::uint64_t length, std::string& to) const {
    to.resize(length);
    for (std::size_t at = 0; at < length;) {
      const ssize_t n = ::pread(fd_, to.data() + at, length - at, static_cast<off_t>(offset + at));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno("cannot read", file_.string(), errno);
      if (n == 0)
        fail(ErrorKind::Io, {"cannot read", file_.string(), "it is shorter than its writer said",
                             "check the file system; start again: the evaluation goes on from its parts"});
      at += static_cast<std::size_t>(n);
    }
  }

 private:
  Path file_;
  int fd_;
};

/// Rank 0: texts in the order of the data set.
void join_texts(const ConcludeInput& input, std::size_t t, const std::vector<std::string>& files,
                const std::vector<std::string>& places) {
  struct Source {
    std::size_t rank = 0;
    std::uint64_t offset = 0, length = 0;
  };
  std::vector<Source> sources(input.dataset.images.size());
  std::vector<TextReader> readers;
  for (std::size_t r = 0; r < files.size(); ++r) {
    std::vector<TextPlace> of_rank;
    append(of_rank, places[r]);
    for (const TextPlace& place : of_rank) sources[place.image] = {readers.size(), place.offset[t], place.length[t]};
    if (!of_rank.empty()) readers.emplace_back(json::parse(files[r]).at(t).get<std::string>());
  }
  GrowingFile out(input.folder / (kTypes[t] == IouType::Box ? "results.bbox.json" : "results.segm.json"));
  out.write(kBeforeResults);
  std::string text;
  bool is_first = true;
  for (const Source& source : sources) {
    if (source.length == 0) continue;
    readers[source.rank].read(source.offset, source.length, text);
    if (!std::exchange(is_first, false)) out.write(kBetweenResults);
    out.write(text);
  }
  out.write(kAfterResults);
  out.commit();
}

/// Collective: the evaluation at rank 0, of which no more than `bytes` are on the way at a time. `evaluator` is needed
/// there alone.
lvis::Evaluation gather(comm::World& world, const lvis::Evaluator* evaluator, lvis::JudgedColumns columns,
                        std::size_t categories, std::size_t bytes) {
  columns.of_category.resize(categories);  // of a rank without parts
  columns.kept.resize(categories);
  std::vector<std::int64_t> counts;  // judged of each category; kept of each category; all
  for (const auto& column : columns.of_category) counts.push_back(static_cast<std::int64_t>(column.size()));
  counts.insert(counts.end(), columns.kept.begin(), columns.kept.end());
  counts.push_back(columns.detections);
  world.sum(std::span(counts));

  std::optional<lvis::Accumulator> accumulator;
  if (world.is_root()) accumulator.emplace(evaluator->truth());
  for (std::size_t first = 0, end = 0; first < categories; first = end) {
    std::size_t total = 0;
    for (; end < categories; ++end) {
      const std::size_t more = static_cast<std::size_t>(counts[end]) * sizeof(lvis::Judged);
      if (end > first && total + more > bytes) break;
      total += more;
    }
    std::string mine;
    std::vector<std::uint64_t> sizes;
    for (std::size_t k = first; k < end; ++k) {
      sizes.push_back(columns.of_category[k].size());
      mine += bytes_of(columns.of_category[k].span());
      columns.of_category[k].drop();
    }
    const auto all_sizes = world.gather_texts(bytes_of(std::span<const std::uint64_t>(sizes)));
    const auto all = world.gather_texts(mine);
    std::vector<std::size_t> at(all.size());
    std::vector<lvis::Judged> judged;
    for (std::size_t k = first; world.is_root() && k < end; ++k) {
      judged.clear();
      for (std::size_t r = 0; r < all.size(); ++r) {
        std::uint64_t count = 0;
        std::memcpy(&count, all_sizes[r].data() + (k - first) * sizeof count, sizeof count);
        append(judged, std::string_view(all[r]).substr(at[r], count * sizeof(lvis::Judged)));
        at[r] += count * sizeof(lvis::Judged);
      }
      accumulator->add(k, judged);
    }
  }
  if (!world.is_root()) return {};
  return accumulator->finish(std::span(counts).subspan(categories, categories), counts.back(), evaluator->threads());
}

}  // namespace

std::vector<Path> part_files(const Path& folder) {
  std::vector<Path> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().extension() == ".h5") out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

Conclusion conclude(comm::World& world, const ConcludeInput& input) {
  const Division division = shared_division(world, input);
  const int readers = std::min(world.size(), kMostReaders);
  const unsigned threads = std::max(1U, lvis::usable_threads() / static_cast<unsigned>(world.local_size()));
  std::unique_ptr<Reader> mine;
  world.together([&] {
    if (world.rank() >= readers) return;
    mine = std::make_unique<Reader>(input, world.rank(), threads);
    for (auto f = static_cast<std::size_t>(world.rank()); f < division.files.size();
         f += static_cast<std::size_t>(readers))
      mine->take(division.files[f], division.images[f]);
    mine->close();
  });
  const auto files = world.gather_texts(mine ? mine->texts() : "");
  const auto places = world.gather_texts(mine ? bytes_of(std::span(mine->places())) : "");
  world.together([&] {  // the texts go when they have been read
    for (std::size_t t = 0; world.is_root() && t < kTypes.size(); ++t) join_texts(input, t, files, places);
  });
  if (mine) mine->remove_texts();
  Conclusion out;
  out.rejected = division.rejected;
  for (std::size_t t = 0; t < kTypes.size(); ++t)
    (t == 0 ? out.box : out.mask) =
        gather(world, mine ? &mine->evaluator(t) : nullptr, mine ? mine->take_columns(t) : lvis::JudgedColumns{},
               input.dataset.categories.size(), input.gather_bytes);
  return out;
}

std::vector<lvis::Detection> detections_of(const Path& parts, const lvis::Dataset& dataset,
                                           const std::string& fingerprint, const std::vector<std::int64_t>& images) {
  std::vector<lvis::Detection> out;
  std::set<std::int64_t> left(images.begin(), images.end());
  for (const Path& file : part_files(parts)) {
    std::set<std::int64_t> here;
    for (const std::int64_t id : read_part_images(file, fingerprint).images)
      if (left.erase(id) > 0) here.insert(id);
    if (here.empty()) continue;
    for (lvis::Detection& d : read_part(file, dataset, fingerprint).detections)
      if (here.contains(d.image_id)) out.push_back(std::move(d));
  }
  return out;
}

}  // namespace divergen::stages
