#include "stages/evaluate/runner.hpp"

#include <ATen/ATen.h>

#include <cstdio>
#include <exception>
#include <future>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "base/time_use.hpp"
#include "base/walltime.hpp"
#include "comm/work_queue.hpp"
#include "image/pil_resize.hpp"
#include "models/detector/checkpoint.hpp"
#include "stages/evaluate/batches.hpp"

namespace divergen::stages {
namespace {

// A killed rank loses at most so much, and parts stay few enough for any file system.
constexpr double kCommitSeconds = 60;
constexpr std::size_t kCommitRows = 100'000;
constexpr double kProgressSeconds = 10;

struct LoadedBatch {
  std::vector<std::size_t> images;
  std::vector<LoadedImage> loaded;
};

/// One rank's way through the queue: the next batch is claimed and decoded in a thread while this one is computed.
class Runner {
 public:
  Runner(const RunContext& context, const models::CenterNet2& detector, at::Device device, const RunnerInput& input)
      : context_(context),
        detector_(detector),
        device_(device),
        input_(input),
        queue_(context.world, static_cast<std::int64_t>(input.batches.size()),
               {.may_return = false}) {  // the next batch is claimed before this one is through
    share_.rank = context.world.rank();
    share_.host = context.world.host();
    committed_ = progress_ = epoch_seconds();
    share_.start = share_.end = committed_;
  }

  RunnerShare run() {
    bool stopped = false;
    std::exception_ptr problem;
    try {
      stopped = go();
      commit();
    } catch (...) {
      problem = std::current_exception();
      queue_.close();
    }
    if (next_.valid()) next_.wait();
    queue_.finish();
    context_.world.together([&] {
      if (problem) std::rethrow_exception(problem);
    });
    if (context_.world.any(stopped))
      fail(ErrorKind::Stopped, {"the evaluation stopped on request", input_.name, "what was detected is saved",
                                "run the same command again to go on"});
    RunnerShare out{share_, {}};
    take_phases(out.phases, before_);
    out.phases.start = share_.start;
    out.phases.end = share_.end;
    out.phases.steady = share_.busy_seconds;
    return out;
  }

 private:
  /// True when it was asked to stop.
  bool go() {
    prefetch();
    while (next_.valid()) {
      const double asked = epoch_seconds();
      const LoadedBatch batch = next_.get();
      time_use().add(TimeUse::Input, epoch_seconds() - asked);
      const bool stop = context_.stop_requested();
      if (stop) queue_.close();
      else prefetch();
      detect(batch);
      const double now = epoch_seconds();
      if (now - committed_ > kCommitSeconds || part_.detections.size() > kCommitRows) commit();
      if (stop) return true;
    }
    return false;
  }

  void prefetch() {
    const auto claim = queue_.claim();
    if (claim.count == 0) return;
    DIVERGEN_CHECK(claim.count == 1);
    report(claim.first);
    next_ = std::async(std::launch::async, [this, &batch = input_.batches[static_cast<std::size_t>(claim.first)]] {
      LoadedBatch out{batch, {}};
      for (const std::size_t i : batch)
        out.loaded.push_back(
            load_image(input_.dataset.images[i], context_.config.data.val_images, context_.config.evaluate));
      return out;
    });
  }

  /// The queue gives batches in order (on several nodes nearly so), so that rank 0 sees from its own claims how far all
  /// are.
  void report(std::int64_t claimed) {
    const double now = epoch_seconds();
    if (!context_.world.is_root() || now - progress_ < kProgressSeconds) return;
    progress_ = now;
    const auto all = static_cast<std::int64_t>(input_.batches.size());
    const double elapsed = now - share_.start;
    comm::ProgressView view;
    view.stage = input_.name;
    view.done = claimed;
    view.total = all;
    view.rate = static_cast<double>(claimed) / std::max(elapsed, 1e-9);
    view.seconds = elapsed;
    context_.report_progress(view);
    log::info(input_.name, ": ", claimed, " of ", all, " batches; left ",
              human_seconds(elapsed * static_cast<double>(all - claimed) /
                            static_cast<double>(std::max<std::int64_t>(claimed, 1))));
  }

  void detect(const LoadedBatch& batch) {
    const double start = epoch_seconds();
    std::vector<at::Tensor> images;
    std::vector<std::array<std::int64_t, 2>> sizes;
    std::vector<std::int64_t> ids;
    for (std::size_t k = 0; k < batch.images.size(); ++k) {
      const auto& record = input_.dataset.images[batch.images[k]];
      part_.images.push_back(record.id);
      if (!batch.loaded[k].reason.empty()) {
        part_.rejected[batch.loaded[k].reason].push_back(record.id);
        continue;
      }
      images.push_back(batch.loaded[k].pixels.to(device_));
      sizes.push_back({record.height, record.width});
      ids.push_back(record.id);
    }
    if (!images.empty()) {
      const auto found = detector_.detect(images, sizes);
      DIVERGEN_CHECK(found.size() == images.size());
      for (std::size_t k = 0; k < found.size(); ++k)
        for (lvis::Detection& d : to_lvis(found[k], ids[k], input_.classes)) part_.detections.push_back(std::move(d));
    }
    if (first_of_part_ < 0) first_of_part_ = static_cast<std::int64_t>(batch.images.front());
    share_.items += static_cast<std::int64_t>(batch.images.size());
    share_.end = epoch_seconds();
    share_.busy_seconds += share_.end - start;
  }

  /// Named after the first image, which is in no other part.
  void commit() {
    committed_ = epoch_seconds();
    if (part_.empty()) return;
    char name[32];
    const CommitTimer timer;
    std::snprintf(name, sizeof name, "part-%08lld.h5", static_cast<long long>(first_of_part_));
    write_part(input_.parts / name, part_, input_.dataset, input_.fingerprint);
    part_ = {};
    first_of_part_ = -1;
    share_.end = epoch_seconds();
    time_use().add(TimeUse::Commit, share_.end - committed_);
  }

  const RunContext& context_;
  const models::CenterNet2& detector_;
  at::Device device_;
  const RunnerInput& input_;
  comm::WorkQueue queue_;
  std::future<LoadedBatch> next_;
  DetectionPart part_;
  std::int64_t first_of_part_ = -1;
  RankShare share_;
  double committed_ = 0, progress_ = 0;
  const TimeUseClock::Seconds before_ = time_use().seconds();
};

}  // namespace

std::unique_ptr<models::CenterNet2> load_evaluated_detector(const config::DetectorSettings& settings,
                                                            const ClassMap& classes, const Path& model) {
  const auto all = static_cast<std::int64_t>(classes.category_of.size());
  const std::int64_t evaluated = classes.evaluated;
  const std::vector<double> counts(classes.image_counts.begin(), classes.image_counts.begin() + evaluated);
  auto detector = std::make_unique<models::CenterNet2>(settings, counts);
  const bool has_extra = models::classes_of(*models::open_network(model)) == all;
  models::load_detector(*detector, model, has_extra ? models::FileClasses::Cut : models::FileClasses::Same);
  detector->eval();
  return detector;
}

LoadedImage load_image(const lvis::ImageRecord& record, const Path& folder, const config::EvaluateSettings& settings) {
  const Path file = folder / record.file;
  std::string why;
  image::Decoded decoded;
  try {
    decoded = image::decode(read_file(file), image::Channels::Rgb, /*apply_exif=*/true);
    why = decoded.problem;
  } catch (const Error& error) {
    why = error.text().why;
  }
  if (!decoded.image) {
    log::warn("image ", record.id, " cannot be read and counts as without detections: ", file.string(), ": ", why);
    return {{}, "unreadable_image"};
  }
  if (decoded.image->height != record.height || decoded.image->width != record.width) {
    log::warn("image ", record.id, " counts as without detections: ", file.string(), " is ", decoded.image->width,
              " x ", decoded.image->height, ", its annotations are for ", record.width, " x ", record.height);
    return {{}, "wrong_size"};
  }
  const auto [h, w] = shortest_edge(record.height, record.width, settings.short_side, settings.long_side);
  const image::Image resized =
      image::pil_resize(*decoded.image, static_cast<int>(h), static_cast<int>(w), image::Filter::Bilinear);
  const at::Tensor view =
      at::from_blob(const_cast<std::uint8_t*>(resized.pixels.data()), {h, w, 3}, at::TensorOptions().dtype(at::kByte));
  return {view.permute({2, 0, 1}).contiguous(), ""};
}

RunnerShare run_detector(const RunContext& context, const models::CenterNet2& detector, at::Device device,
                         const RunnerInput& input) {
  return Runner(context, detector, device, input).run();
}

}  // namespace divergen::stages
