// How long a training step (forward, backward, update) and inference of the detector take: the small models of the
// fixtures, batch 2, on the CPU with 2 threads. The peer's times are detectron2 + CenterNet2's for the same models and
// sizes. Cores may be shared: next to the time on the clock stands the processors' time, which the others do not move.
//
//   bench_detector_step [swin|r50|all] [repetitions]
//   bench_detector_step swinL [side]    full-size Swin-L, one forward and backward with checkpointed blocks

#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "base/allocator.hpp"
#include "base/machine.hpp"
#include "models/detector/backbone.hpp"
#include "nn/adamw.hpp"
#include "parity/detector/detector_case.hpp"

namespace divergen::models {
namespace {

using Clock = std::chrono::steady_clock;

struct Peer {  // ms
  const char* model;
  std::int64_t side;
  double train, infer;
};
constexpr Peer kPeers[] = {
    {"swin", 256, 235, 110}, {"swin", 512, 447, 181}, {"r50", 256, 230, 111}, {"r50", 512, 510, 242}};

double peak_gigabytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

struct Times {
  double clock = 0, processors = 0;  // ms, medians
};

Times measure(int repetitions, const std::function<void()>& action) {
  std::vector<double> clock, processors;
  for (int i = 0; i < repetitions + 2; ++i) {
    const auto start = Clock::now();
    const double cpu = processor_seconds();
    action();
    if (i < 2) continue;  // warming up
    clock.push_back(1e3 * std::chrono::duration<double>(Clock::now() - start).count());
    processors.push_back(1e3 * (processor_seconds() - cpu));
  }
  const auto median = [](std::vector<double>& v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
  };
  return {median(clock), median(processors)};
}

/// Noise with objects of several sizes and masks that fill half their boxes.
std::vector<DetectorSample> scenes(std::int64_t count, std::int64_t side, std::int64_t classes) {
  at::Generator generator = seeded(1);
  constexpr std::int64_t kObjects = 8;
  std::vector<DetectorSample> batch;
  for (std::int64_t i = 0; i < count; ++i) {
    DetectorSample s;
    s.image = at::randint(256, {3, side, side}, generator, at::kByte);
    const at::Tensor extent = (at::rand({kObjects, 2}, generator) * 0.45 + 0.05) * static_cast<double>(side);
    const at::Tensor low = at::rand({kObjects, 2}, generator) * (static_cast<double>(side) - extent);
    s.truth.boxes = at::cat({low, low + extent}, 1);
    s.truth.classes = at::randint(classes, {kObjects}, generator, at::kLong);
    s.truth.masks = at::zeros({kObjects, side, side}, at::kByte);
    for (std::int64_t k = 0; k < kObjects; ++k) {
      const auto edge = [&](int j) { return s.truth.boxes[k][j].item<std::int64_t>(); };
      s.truth.masks[k].slice(0, edge(1), edge(3)).slice(1, edge(0), (edge(0) + edge(2)) / 2).fill_(1);
    }
    batch.push_back(std::move(s));
  }
  return batch;
}

void print(const std::string& name, const Times& ours, double peer) {
  std::printf(
      "{\"name\": \"%s\", \"ours\": %.1f, \"peer\": %.1f, \"ratio\": %.2f, \"processors_ms\": %.1f, \"threads\": %d}\n",
      name.c_str(), ours.clock, peer, peer / ours.clock, ours.processors, at::get_num_threads());
  std::fflush(stdout);
}

void small(const std::string& model, int repetitions) {
  const DetectorCase c(model);
  CenterNet2& detector = *c.detector;
  // The layout that is the faster one of the backbone.
  detector.backbone().set_compute({.channels_last = model == "r50"});
  detector.requires_grad(true);
  nn::AdamW optimizer(detector.named_parameters(), {.clip_value = 1.0});
  for (const Peer& peer : kPeers) {
    if (model != peer.model) continue;
    const auto batch = scenes(2, peer.side, detector.num_classes());
    std::vector<at::Tensor> images;
    for (const DetectorSample& s : batch) images.push_back(s.image);
    at::Generator generator = seeded(2);
    detector.train();
    const Times train = measure(repetitions, [&] {
      const auto losses = detector.losses(batch, generator, {});
      at::Tensor total;
      for (const auto& [name, loss] : losses) total = total.defined() ? total + loss : loss;
      optimizer.zero_grad();
      total.backward();
      optimizer.step(1e-7);  // the same work each time
    });
    print(cat("detector_step.train.", model, ".", peer.side), train, peer.train);
    detector.eval();
    const std::vector<ImageSize> sizes(images.size(), ImageSize{peer.side, peer.side});
    print(cat("detector_step.infer.", model, ".", peer.side),
          measure(repetitions, [&] { detector.detect(images, sizes); }), peer.infer);
  }
}

/// DiverGen's own model with random weights.
void full(std::int64_t side) {
  config::DetectorSettings settings;
  settings.backbone = "swin";
  settings.depths = {2, 2, 18, 2};
  CenterNet2 detector(settings, std::vector<double>(1453, 100.0));
  at::Generator generator = seeded(3);
  init_detector(detector, settings, generator);
  detector.backbone().set_compute({.checkpointing = true});
  detector.requires_grad(true);
  detector.train();
  const auto batch = scenes(1, side, detector.num_classes());
  const auto start = Clock::now();
  const double cpu = processor_seconds();
  at::Tensor total;
  for (const auto& [name, loss] : detector.losses(batch, generator, {})) total = total.defined() ? total + loss : loss;
  total.backward();
  constexpr double kAllowed = 20;  // GB
  const double gigabytes = peak_gigabytes();
  std::printf(
      "{\"name\": \"detector_step.swinL.%lld.gigabytes\", \"ours\": %.2f, \"peer\": %.1f, \"ratio\": %.2f, "
      "\"seconds\": %.1f, \"processors_s\": %.1f, \"loss\": %.4f}\n",
      static_cast<long long>(side), gigabytes, kAllowed, kAllowed / gigabytes,
      std::chrono::duration<double>(Clock::now() - start).count(), processor_seconds() - cpu, total.item<double>());
}

}  // namespace
}  // namespace divergen::models

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all";
  constexpr int kThreads = 2;  // as the peer was measured
  at::set_num_threads(kThreads);
  divergen::keep_freed_memory();  // as the stages do
  if (what == "swinL") {
    divergen::models::full(argc > 2 ? std::atoll(argv[2]) : 896);
    return 0;
  }
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 10;
  for (const char* model : {"swin", "r50"})
    if (what == "all" || what == model) divergen::models::small(model, repetitions);
  return 0;
}
