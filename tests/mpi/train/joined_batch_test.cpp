// Data-parallel training is training on the joined batch: R ranks with B/R samples each get the gradients that one rank
// gets for all B of them, given the same normalisers. On the whole detector, in two ways:
//   * with the draws and normalisers that ranks have in a training, against one process that computes every rank's
//     share itself;
//   * against one plain pass over the joined batch. The reference divides the ROI losses by counts of each rank's own
//     RoIs: here the ranks weigh them with their counts, which gives the joined batch's normalisers. (CenterNet's are
//     means over ranks anyway.) The sizes are such that sampling takes every proposal and every category: what is drawn
//     depends on the ranks, by the reference's definition.

#include <ATen/CPUGeneratorImpl.h>

#include "models/detector/backbone.hpp"
#include "models/detector/centernet2.hpp"
#include "models/detector/roi_heads.hpp"
#include "mpi/train/toy.hpp"
#include "nn/ddp.hpp"

namespace divergen::test {
namespace {

using models::CenterNet2;
using models::DetectorSample;
using Losses = std::map<std::string, at::Tensor>;

constexpr std::int64_t kBatch = 6, kClasses = 4, kSide = 64;

config::DetectorSettings settings() {
  config::DetectorSettings d;
  d.depths = {1, 1, 1, 1};
  d.stem_channels = 8;
  d.base_width = 4;
  d.fpn_channels = 16;
  d.tower_convs = 1;
  d.group_norm_groups = 4;
  d.box_fc = 16;
  d.mask_channels = 8;
  d.mask_convs = 1;
  d.pre_nms_train = 60;
  d.post_nms_train = 30;
  d.roi_batch = 24;
  d.fed_categories = 3;
  return d;
}

/// Noise with one to three bright boxes.
std::vector<DetectorSample> make_batch() {
  Rng rng(31);
  std::vector<DetectorSample> out(kBatch);
  for (DetectorSample& sample : out) {
    sample.image = at::empty({3, kSide, kSide}, at::kByte);
    for (std::int64_t i = 0; i < sample.image.numel(); ++i)
      sample.image.mutable_data_ptr<std::uint8_t>()[i] = static_cast<std::uint8_t>(rng.below(120));
    const auto n = static_cast<std::int64_t>(1 + rng.below(3));
    sample.truth.boxes = at::empty({n, 4});
    sample.truth.classes = at::empty({n}, at::kLong);
    sample.truth.masks = at::zeros({n, kSide, kSide}, at::kByte);
    for (std::int64_t k = 0; k < n; ++k) {
      const auto w = rng.range(14, 40), h = rng.range(14, 40);
      const auto x = rng.range(0, kSide - w), y = rng.range(0, kSide - h);
      const auto cls = static_cast<std::int64_t>(rng.below(kClasses));
      sample.image[cls % 3].narrow(0, y, h).narrow(1, x, w).fill_(250);
      sample.truth.masks[k].narrow(0, y, h).narrow(1, x, w).fill_(1);
      sample.truth.boxes[k].copy_(at::tensor({x, y, x + w, y + h}, at::kFloat));
      sample.truth.classes[k].fill_(cls);
    }
  }
  return out;
}

std::unique_ptr<CenterNet2> make_detector(const config::DetectorSettings& d) {
  auto out = std::make_unique<CenterNet2>(d, std::vector<double>{10, 20, 5, 7});
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(3);
  models::init_detector(*out, d, generator);
  out->requires_grad(true);
  return out;
}

at::Generator generator_of(std::int64_t share) {
  return at::make_generator<at::CPUGeneratorImpl>(derive_seed(8, "share", {static_cast<std::uint64_t>(share)}));
}

std::span<const DetectorSample> share_of(const std::vector<DetectorSample>& batch, std::int64_t share) {
  const auto size = batch.size() / static_cast<std::size_t>(world().size());
  return std::span(batch).subspan(static_cast<std::size_t>(share) * size, size);
}

void mean_over_ranks(at::Tensor& values) {
  at::Tensor copy = values.detach().clone();
  world().sum(std::span<float>(copy.mutable_data_ptr<float>(), static_cast<std::size_t>(copy.numel())));
  values.copy_(copy / world().size());
}

at::Tensor sum_of(const Losses& losses) {
  at::Tensor total;
  for (const auto& [name, term] : losses) total = total.defined() ? total + term : term;
  return total;
}

/// What CenterNet2::losses() computes, and what each of the ROI losses is divided by.
struct Counted {
  Losses losses;
  std::map<std::string, double> divisors;
};
Counted counted_losses(const CenterNet2& detector, std::span<const DetectorSample> batch, at::Generator generator,
                       const models::MeanOverRanks& mean) {
  std::vector<at::Tensor> images, boxes;
  std::vector<models::ImageSize> sizes;
  std::vector<models::DetectorTruth> truths;
  for (const DetectorSample& sample : batch) {
    images.push_back(sample.image);
    boxes.push_back(sample.truth.boxes);
    sizes.push_back({kSide, kSide});
    truths.push_back(sample.truth);
  }
  const auto features = detector.backbone().forward(detector.prepare(images));
  const auto output = detector.proposal_head().forward(features);
  const models::CenterNetGrid grid = models::grid_of(output);
  const auto [heat, regression] = models::flatten_cells(output);
  Counted out;
  out.losses = models::centernet_losses(heat, regression, models::centernet_targets(boxes, grid), mean);
  std::vector<at::Tensor> probability, distances;
  for (std::size_t l = 0; l < output.heat.size(); ++l) {
    probability.push_back(output.heat[l].detach().sigmoid());
    distances.push_back(output.regression[l].detach());
  }
  const auto proposals = models::propose(probability, distances, grid, detector.training_limits());
  const models::TruthList truth(truths, kClasses, features.front().options());
  const models::RoiSet rois = detector.roi_heads().sample(proposals, truth, generator);
  models::RoiTrace trace;
  out.losses.merge(detector.roi_heads().losses(features, rois, truths, truth, sizes, generator, &trace));
  for (std::size_t k = 0; k < trace.stages.size(); ++k) {
    const at::Tensor& classes = trace.stages[k].rois.classes;
    out.divisors[cat("loss_cls_stage", k)] = static_cast<double>(classes.numel());
    out.divisors[cat("loss_box_reg_stage", k)] = classes.ne(kClasses).sum().item<double>();
  }
  out.divisors["loss_mask"] = static_cast<double>(trace.mask_rois.size(0));
  return out;
}

void backward_in_parallel(CenterNet2& detector, const at::Tensor& total) {
  nn::DataParallel replicas(detector, world(), {});
  replicas.prepare_for_backward({total});
  total.backward();
  replicas.finish_backward();
}

/// Within `tolerance` of the whole gradient's length; of a single parameter's, ten times that: sums of many RoIs that
/// nearly cancel are rounded by more.
void expect_same_gradients(const CenterNet2& got, const CenterNet2& expected, double tolerance) {
  const auto mine = got.named_parameters(), theirs = expected.named_parameters();
  double worst = 0, off = 0, size = 0;
  int compared = 0;
  for (std::size_t i = 0; i < mine.size(); ++i) {
    const at::Tensor a = mine[i].tensor.grad(), b = theirs[i].tensor.grad();
    ASSERT_EQ(a.defined(), b.defined()) << mine[i].name;
    if (!a.defined()) continue;
    const double difference = (a - b).to(at::kDouble).norm().item<double>(),
                 length = b.to(at::kDouble).norm().item<double>();
    if (length == 0) {
      EXPECT_EQ(difference, 0) << mine[i].name;
      continue;
    }
    ++compared;
    off += difference * difference;
    size += length * length;
    worst = std::max(worst, difference / length);
    EXPECT_LT(difference, 10 * tolerance * length) << mine[i].name << ", of length " << length;
  }
  EXPECT_GT(compared, 40);
  EXPECT_LT(std::sqrt(off), tolerance * std::sqrt(size));
  if (world().is_root())
    std::printf("gradients of %d parameters: apart by %.1e of their length in all, %.1e in the worst one\n", compared,
                std::sqrt(off / size), worst);
}

}  // namespace

TEST(JoinedBatch, RanksGetTheMeanOfTheirShares) {
  const auto batch = make_batch();
  const auto replica = make_detector(settings()), alone = make_detector(settings());
  const int ranks = world().size(), me = world().rank();
  at::Generator own = generator_of(me);
  backward_in_parallel(*replica, sum_of(replica->losses(share_of(batch, me), own, mean_over_ranks)));

  // One process: the counts of all shares first, then their losses by the mean counts.
  at::Tensor counts;
  for (int r = 0; r < ranks; ++r) {
    const at::Tensor of_share = alone->proposal_counts(share_of(batch, r));
    counts = counts.defined() ? counts + of_share : of_share;
  }
  counts = counts / ranks;
  at::Tensor total;
  for (int r = 0; r < ranks; ++r) {
    at::Generator generator = generator_of(r);
    const at::Tensor loss =
        sum_of(alone->losses(share_of(batch, r), generator, [&](at::Tensor& values) { values.copy_(counts); }));
    total = total.defined() ? total + loss / ranks : loss / ranks;
  }
  total.backward();

  expect_same_gradients(*replica, *alone, 1e-6);
}

TEST(JoinedBatch, IsTheBatchOfOneRankGivenItsNormalisers) {
  config::DetectorSettings everything = settings();
  everything.roi_batch = 4096;
  everything.roi_foreground = 1;
  everything.fed_categories = kClasses + 1;
  const auto batch = make_batch();
  const auto replica = make_detector(everything), alone = make_detector(everything);
  const int ranks = world().size();
  Counted mine =
      counted_losses(*replica, share_of(batch, world().rank()), generator_of(world().rank()), mean_over_ranks);
  std::vector<double> sums;
  for (const auto& [name, divisor] : mine.divisors) sums.push_back(divisor);
  world().sum(std::span<double>(sums));
  std::size_t k = 0;
  for (const auto& [name, divisor] : mine.divisors) {
    ASSERT_GT(divisor, 0) << name;
    mine.losses.at(name) = mine.losses.at(name) * (divisor * ranks / sums[k++]);
  }
  backward_in_parallel(*replica, sum_of(mine.losses));

  at::Generator generator = generator_of(0);
  const Losses joined = alone->losses(batch, generator, [](at::Tensor&) {});
  sum_of(joined).backward();

  for (const auto& [name, term] : joined) {
    double mean[1] = {mine.losses.at(name).item<double>() / ranks};
    world().sum(std::span<double>(mean));
    const double expected = term.item<double>();
    EXPECT_NEAR(mean[0], expected, 1e-6 * std::abs(expected)) << name;
  }
  expect_same_gradients(*replica, *alone, 1e-6);
}

}  // namespace divergen::test

DIVERGEN_MPI_MAIN()
