#include "nn/roi_align.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <vector>

#include "base/error.hpp"

namespace divergen::nn {
namespace {

struct Shape {
  std::int64_t images, channels, height, width;
  std::int64_t pixels() const { return height * width; }
};

struct Bins {
  std::array<std::int64_t, 2> pooled;
  double scale;
  std::int64_t sampling;
};

/// One coordinate of the sampling grid: between pixels `low` and `high`, `part` of the way.
template <class T>
struct AxisSample {
  std::int64_t low, high;
  T to_low, to_high;
};

/// The sampling grid of one RoI, a product of rows and columns. Bin b of an axis owns the samples [begin[b],
/// begin[b+1]); those outside the image are left out, and count among the `count` samples a bin is divided by.
template <class T>
struct Grid {
  std::int64_t image = 0;
  T count = 1;
  std::vector<AxisSample<T>> rows, columns;
  std::vector<std::size_t> row_begin, column_begin;
};

// The formulas of this function round as torchvision's do (float steps in this order), so that samples are the same
// bits.
template <class T>
void sample_axis(T start, T bin, std::int64_t per_bin, std::int64_t bins, std::int64_t size,
                 std::vector<AxisSample<T>>& samples, std::vector<std::size_t>& begin) {
  for (std::int64_t b = 0; b < bins; ++b) {
    begin.push_back(samples.size());
    for (std::int64_t i = 0; i < per_bin; ++i) {
      T x = start + static_cast<T>(b) * bin + (static_cast<T>(i) + static_cast<T>(0.5)) * bin / static_cast<T>(per_bin);
      if (x < -1 || x > static_cast<T>(size)) continue;
      x = std::max(x, T{0});
      auto low = static_cast<std::int64_t>(x);
      std::int64_t high = low + 1;
      if (low >= size - 1) {
        low = high = size - 1;
        x = static_cast<T>(low);
      }
      const T part = x - static_cast<T>(low);
      samples.push_back({low, high, T{1} - part, part});
    }
  }
  begin.push_back(samples.size());
}

template <class T>
Grid<T> make_grid(const T* roi, const Shape& shape, const Bins& bins) {
  Grid<T> grid;
  grid.image = static_cast<std::int64_t>(roi[0]);
  DIVERGEN_CHECK(grid.image >= 0 && grid.image < shape.images, "RoI of image ", roi[0], " of ", shape.images);
  const auto scale = static_cast<T>(bins.scale);
  const T half = static_cast<T>(0.5);  // aligned: pixel centres are at half coordinates
  const T x = roi[1] * scale - half, y = roi[2] * scale - half;
  const T width = (roi[3] * scale - half) - x, height = (roi[4] * scale - half) - y;
  std::array<std::int64_t, 2> per_bin{0, 0};
  if (std::isfinite(width) && std::isfinite(height)) {
    const auto adaptive = [&](T side, std::int64_t pooled) {
      return bins.sampling > 0 ? bins.sampling : static_cast<std::int64_t>(std::ceil(side / static_cast<T>(pooled)));
    };
    per_bin = {adaptive(height, bins.pooled[0]), adaptive(width, bins.pooled[1])};
  }
  grid.count = static_cast<T>(std::max<std::int64_t>(per_bin[0] * per_bin[1], 1));
  sample_axis(y, height / static_cast<T>(bins.pooled[0]), per_bin[0], bins.pooled[0], shape.height, grid.rows,
              grid.row_begin);
  sample_axis(x, width / static_cast<T>(bins.pooled[1]), per_bin[1], bins.pooled[1], shape.width, grid.columns,
              grid.column_begin);
  return grid;
}

// Channels go in blocks that lie side by side in memory, so that one sample of a block is one run of vector
// instructions (16 float32 are two AVX registers and one cache line). The trip count is a constant for the vectoriser.
constexpr std::int64_t kBlock = 16;

std::int64_t blocks_of(std::int64_t channels) { return (channels + kBlock - 1) / kBlock; }

/// [N, C, H·W] -> [N, blocks, H·W, kBlock], the last block filled up with zeros.
template <class T>
std::vector<T> to_blocks(const T* features, const Shape& shape) {
  const std::int64_t blocks = blocks_of(shape.channels), pixels = shape.pixels();
  std::vector<T> out(static_cast<std::size_t>(shape.images * blocks * pixels * kBlock));
  at::parallel_for(0, shape.images * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; ++at) {
      const std::int64_t image = at / blocks, first = at % blocks * kBlock;
      const std::int64_t filled = std::min(kBlock, shape.channels - first);
      const T* from = features + (image * shape.channels + first) * pixels;
      T* to = out.data() + at * pixels * kBlock;
      for (std::int64_t p = 0; p < pixels; ++p)
        for (std::int64_t c = 0; c < filled; ++c) to[p * kBlock + c] = from[c * pixels + p];
    }
  });
  return out;
}

template <class T>
void from_blocks(const std::vector<T>& blocked, const Shape& shape, T* features) {
  const std::int64_t blocks = blocks_of(shape.channels), pixels = shape.pixels();
  at::parallel_for(0, shape.images * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; ++at) {
      const std::int64_t image = at / blocks, first = at % blocks * kBlock;
      const std::int64_t filled = std::min(kBlock, shape.channels - first);
      T* to = features + (image * shape.channels + first) * pixels;
      const T* from = blocked.data() + at * pixels * kBlock;
      for (std::int64_t c = 0; c < filled; ++c)
        for (std::int64_t p = 0; p < pixels; ++p) to[c * pixels + p] = from[p * kBlock + c];
    }
  });
}

/// Calls f(bin, weights of the four corners, their pixels) for every sample of a RoI in torchvision's order.
template <class T, class Sample, class Bin>
void walk(const Grid<T>& grid, const Bins& bins, std::int64_t width, const Bin& bin, const Sample& sample) {
  for (std::int64_t p = 0; p < bins.pooled[0]; ++p) {
    for (std::int64_t q = 0; q < bins.pooled[1]; ++q) {
      bin(p * bins.pooled[1] + q);
      for (std::size_t i = grid.row_begin[static_cast<std::size_t>(p)];
           i < grid.row_begin[static_cast<std::size_t>(p) + 1]; ++i) {
        const AxisSample<T>& y = grid.rows[i];
        for (std::size_t j = grid.column_begin[static_cast<std::size_t>(q)];
             j < grid.column_begin[static_cast<std::size_t>(q) + 1]; ++j) {
          const AxisSample<T>& x = grid.columns[j];
          sample(
              std::array<T, 4>{y.to_low * x.to_low, y.to_low * x.to_high, y.to_high * x.to_low, y.to_high * x.to_high},
              std::array<std::int64_t, 4>{y.low * width + x.low, y.low * width + x.high, y.high * width + x.low,
                                          y.high * width + x.high});
        }
      }
    }
  }
}

/// One block of channels of one RoI. `out` is [filled, bins].
template <class T>
void pool_block(const Grid<T>& grid, const Bins& bins, std::int64_t width, const T* block, std::int64_t filled,
                T* out) {
  const std::int64_t count = bins.pooled[0] * bins.pooled[1];
  T sum[kBlock];
  std::int64_t current = -1;
  const auto write = [&] {
    if (current < 0) return;
    for (std::int64_t c = 0; c < kBlock; ++c) sum[c] /= grid.count;
    for (std::int64_t c = 0; c < filled; ++c) out[c * count + current] = sum[c];
  };
  walk(
      grid, bins, width,
      [&](std::int64_t bin) {
        write();
        current = bin;
        for (std::int64_t c = 0; c < kBlock; ++c) sum[c] = 0;
      },
      [&](const std::array<T, 4>& w, const std::array<std::int64_t, 4>& at) {
        const T *a = block + at[0] * kBlock, *b = block + at[1] * kBlock, *d = block + at[2] * kBlock,
                *e = block + at[3] * kBlock;
        for (std::int64_t c = 0; c < kBlock; ++c) sum[c] += w[0] * a[c] + w[1] * b[c] + w[2] * d[c] + w[3] * e[c];
      });
  write();
}

/// One channel of one RoI, read where it lies (masks: bytes).
template <class T, class In>
void pool_channel(const Grid<T>& grid, const Bins& bins, std::int64_t width, const In* in, T* out) {
  const std::int64_t count = bins.pooled[0] * bins.pooled[1];
  T* current = nullptr;
  walk(
      grid, bins, width,
      [&](std::int64_t bin) {
        current = out + bin;
        *current = 0;
      },
      [&](const std::array<T, 4>& w, const std::array<std::int64_t, 4>& at) {
        *current += w[0] * static_cast<T>(in[at[0]]) + w[1] * static_cast<T>(in[at[1]]) +
                    w[2] * static_cast<T>(in[at[2]]) + w[3] * static_cast<T>(in[at[3]]);
      });
  for (std::int64_t bin = 0; bin < count; ++bin) out[bin] /= grid.count;
}

template <class T>
std::vector<Grid<T>> make_grids(const at::Tensor& rois, const Shape& shape, const Bins& bins) {
  const at::Tensor table = rois.to(at::kCPU, c10::CppTypeToScalarType<T>::value).contiguous();
  std::vector<Grid<T>> grids;
  grids.reserve(static_cast<std::size_t>(table.size(0)));
  for (std::int64_t r = 0; r < table.size(0); ++r)
    grids.push_back(make_grid(table.const_data_ptr<T>() + r * 5, shape, bins));
  return grids;
}

Shape shape_of(const at::Tensor& features) {
  return {features.size(0), features.size(1), features.size(2), features.size(3)};
}

template <class T>
at::Tensor pool(const at::Tensor& features, const at::Tensor& rois, const Bins& bins) {
  const Shape shape = shape_of(features);
  const auto grids = make_grids<T>(rois, shape, bins);
  const std::int64_t blocks = blocks_of(shape.channels), count = bins.pooled[0] * bins.pooled[1];
  at::Tensor out = at::empty({rois.size(0), shape.channels, bins.pooled[0], bins.pooled[1]}, features.options());
  T* result = out.mutable_data_ptr<T>();
  const at::Tensor held = features.contiguous();
  const std::vector<T> blocked = to_blocks(held.const_data_ptr<T>(), shape);
  at::parallel_for(0, rois.size(0) * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; ++at) {
      const std::int64_t r = at / blocks, block = at % blocks;
      const Grid<T>& grid = grids[static_cast<std::size_t>(r)];
      pool_block(grid, bins, shape.width, blocked.data() + (grid.image * blocks + block) * shape.pixels() * kBlock,
                 std::min(kBlock, shape.channels - block * kBlock),
                 result + (r * shape.channels + block * kBlock) * count);
    }
  });
  return out;
}

template <class T, class In>
at::Tensor pool_planes(const at::Tensor& features, const at::Tensor& rois, const Bins& bins) {
  const Shape shape = shape_of(features);
  const auto grids = make_grids<T>(rois, shape, bins);
  const std::int64_t count = bins.pooled[0] * bins.pooled[1];
  at::Tensor out = at::empty({rois.size(0), shape.channels, bins.pooled[0], bins.pooled[1]},
                             features.options().dtype(c10::CppTypeToScalarType<T>::value));
  T* result = out.mutable_data_ptr<T>();
  const at::Tensor held = features.contiguous();
  const In* in = static_cast<const In*>(held.const_data_ptr());
  at::parallel_for(0, rois.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const Grid<T>& grid = grids[static_cast<std::size_t>(r)];
      for (std::int64_t c = 0; c < shape.channels; ++c)
        pool_channel(grid, bins, shape.width, in + (grid.image * shape.channels + c) * shape.pixels(),
                     result + (r * shape.channels + c) * count);
    }
  });
  return out;
}

/// Every block of channels of an image is one task that goes over the RoIs in order: no two tasks write to one place,
/// and each sum has one order whatever the number of threads.
template <class T>
at::Tensor pool_backward(const at::Tensor& grad, const at::Tensor& rois, const Shape& shape, const Bins& bins) {
  const auto grids = make_grids<T>(rois, shape, bins);
  const std::int64_t blocks = blocks_of(shape.channels), count = bins.pooled[0] * bins.pooled[1];
  const at::Tensor held = grad.contiguous();
  const T* given = held.const_data_ptr<T>();
  std::vector<T> blocked(static_cast<std::size_t>(shape.images * blocks * shape.pixels() * kBlock));
  at::parallel_for(0, shape.images * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; ++at) {
      const std::int64_t image = at / blocks, first = at % blocks * kBlock;
      const std::int64_t filled = std::min(kBlock, shape.channels - first);
      T* block = blocked.data() + at * shape.pixels() * kBlock;
      T share[kBlock] = {};
      for (std::size_t r = 0; r < grids.size(); ++r) {
        if (grids[r].image != image) continue;
        const T* from = given + (static_cast<std::int64_t>(r) * shape.channels + first) * count;
        walk(
            grids[r], bins, shape.width,
            [&](std::int64_t bin) {
              for (std::int64_t c = 0; c < filled; ++c) share[c] = from[c * count + bin] / grids[r].count;
            },
            [&](const std::array<T, 4>& w, const std::array<std::int64_t, 4>& pixel) {
              for (std::size_t k = 0; k < 4; ++k) {
                T* to = block + pixel[k] * kBlock;
                for (std::int64_t c = 0; c < kBlock; ++c) to[c] += w[k] * share[c];
              }
            });
      }
    }
  });
  at::Tensor out = at::empty({shape.images, shape.channels, shape.height, shape.width}, grad.options());
  from_blocks(blocked, shape, out.mutable_data_ptr<T>());
  return out;
}

struct RoiAlign : torch::autograd::Function<RoiAlign> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& features,
                            const at::Tensor& rois, const Bins& bins) {
    context->save_for_backward({rois});
    context->saved_data["shape"] = features.sizes().vec();
    context->saved_data["pooled"] = std::vector<std::int64_t>{bins.pooled[0], bins.pooled[1], bins.sampling};
    context->saved_data["scale"] = bins.scale;
    at::Tensor out;
    AT_DISPATCH_FLOATING_TYPES(features.scalar_type(), "roi_align", [&] {
      out = features.size(1) == 1 ? pool_planes<scalar_t, scalar_t>(features, rois, bins)
                                  : pool<scalar_t>(features, rois, bins);
    });
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor rois = context->get_saved_variables()[0];
    const auto sizes = context->saved_data["shape"].toIntVector();
    const auto pooled = context->saved_data["pooled"].toIntVector();
    const Shape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
    const Bins bins{{pooled[0], pooled[1]}, context->saved_data["scale"].toDouble(), pooled[2]};
    at::Tensor out;
    AT_DISPATCH_FLOATING_TYPES(grads[0].scalar_type(), "roi_align_backward",
                               [&] { out = pool_backward<scalar_t>(grads[0], rois, shape, bins); });
    return {out, at::Tensor(), at::Tensor()};
  }
};

void check_arguments(const at::Tensor& features, const at::Tensor& rois, const Bins& bins) {
  DIVERGEN_CHECK(features.dim() == 4 && rois.dim() == 2 && rois.size(1) == 5, features.sizes(), rois.sizes());
  DIVERGEN_CHECK(features.size(2) > 0 && features.size(3) > 0, features.sizes());
  DIVERGEN_CHECK(bins.pooled[0] > 0 && bins.pooled[1] > 0 && bins.sampling >= 0);
}

// Stands in for RoIs that are not finite: every sample is outside.
constexpr double kFarOutside = -1e6;

/// [R, bins, size]: how much of each pixel of an axis is in each bin of each RoI. A bilinear sample at x, held within
/// the image, has weight max(0, 1 - |x - pixel|) on every pixel.
at::Tensor axis_matrix(const at::Tensor& low, const at::Tensor& high, std::int64_t bins, std::int64_t size,
                       std::int64_t sampling) {
  const at::Tensor side = high - low, bin = side / bins;
  const at::Tensor per_bin = sampling > 0 ? at::full_like(side, static_cast<double>(sampling)) : bin.ceil();
  const auto most = std::max<std::int64_t>(per_bin.max().item<std::int64_t>(), 1);
  const at::Tensor sample = at::arange(most, low.options());
  const at::Tensor index = at::arange(bins, low.options()), pixel = at::arange(size, low.options());
  const auto column = [](const at::Tensor& x) { return x.view({-1, 1, 1}); };
  const at::Tensor x =
      column(low) + index.view({1, -1, 1}) * column(bin) + (sample + 0.5) * column(bin) / column(per_bin.clamp_min(1));
  const at::Tensor counts =
      sample.lt(column(per_bin)).logical_and(x.ge(-1)).logical_and(x.le(static_cast<double>(size)));
  const at::Tensor held = x.clamp(0, static_cast<double>(size - 1)).unsqueeze(-1);
  const at::Tensor weight = (1 - (held - pixel).abs()).clamp_min(0) * counts.unsqueeze(-1);
  return weight.sum(2) / column(per_bin.clamp_min(1));
}

}  // namespace

at::Tensor roi_align_composed(const at::Tensor& features, const at::Tensor& rois, std::array<std::int64_t, 2> pooled,
                              double scale, std::int64_t sampling_ratio) {
  check_arguments(features, rois, {pooled, scale, sampling_ratio});
  const at::Tensor input = at::isFloatingType(features.scalar_type()) ? features : features.to(at::kFloat);
  const Shape shape = shape_of(input);
  // RoIs of one image share its features in one matrix product; their number bounds the product at 2^26 elements.
  const std::int64_t chunk =
      std::max<std::int64_t>(1, (std::int64_t{1} << 26) / (pooled[0] * shape.channels * shape.width));
  const at::Tensor finite = rois.isfinite().all(1);
  const at::Tensor placed =
      (rois.where(finite.unsqueeze(1), rois.new_full({}, kFarOutside)).narrow(1, 1, 4) * scale - 0.5)
          .to(input.scalar_type());
  const at::Tensor image_of = rois.select(1, 0).to(at::kLong);
  std::vector<at::Tensor> parts, rows_of;
  for (std::int64_t image = 0; image < shape.images; ++image) {
    for (const at::Tensor& some : image_of.eq(image).nonzero().squeeze(1).split(chunk)) {
      const std::int64_t n = some.size(0);
      if (n == 0) continue;
      const at::Tensor box = placed.index_select(0, some);
      const at::Tensor rows = axis_matrix(box.select(1, 1), box.select(1, 3), pooled[0], shape.height, sampling_ratio);
      const at::Tensor columns =
          axis_matrix(box.select(1, 0), box.select(1, 2), pooled[1], shape.width, sampling_ratio);
      const at::Tensor plane = input[image].transpose(0, 1).reshape({shape.height, -1});  // [H, C·W]
      const at::Tensor banded =
          rows.reshape({n * pooled[0], shape.height}).matmul(plane).view({n, pooled[0] * shape.channels, shape.width});
      parts.push_back(
          banded.bmm(columns.transpose(1, 2)).view({n, pooled[0], shape.channels, pooled[1]}).transpose(1, 2));
      rows_of.push_back(some);
    }
  }
  const std::int64_t found = [&] {
    std::int64_t sum = 0;
    for (const at::Tensor& some : rows_of) sum += some.size(0);
    return sum;
  }();
  DIVERGEN_CHECK(found == rois.size(0), "RoIs of images that are not there");
  if (parts.empty()) return input.new_zeros({0, shape.channels, pooled[0], pooled[1]});
  return at::cat(parts).index_select(0, at::cat(rows_of).argsort());
}

at::Tensor roi_align(const at::Tensor& features, const at::Tensor& rois, std::array<std::int64_t, 2> pooled,
                     double scale, std::int64_t sampling_ratio) {
  const Bins bins{pooled, scale, sampling_ratio};
  check_arguments(features, rois, bins);
  if (!features.is_cpu()) return roi_align_composed(features, rois, pooled, scale, sampling_ratio);
  const at::ScalarType type = features.scalar_type();
  if (type == at::kBool || type == at::kByte) return pool_planes<float, std::uint8_t>(features, rois, bins);
  return RoiAlign::apply(features, rois, bins);
}

}  // namespace divergen::nn
