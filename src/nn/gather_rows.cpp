#include "nn/gather_rows.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"

namespace divergen::nn {
namespace {

/// The gather without autograd; fill without elements: zeros.
at::Tensor gather(const at::Tensor& x, const at::Tensor& from, const at::Tensor& fill) {
  const std::int64_t images = x.size(0), rows = x.size(1), places = from.size(0);
  if (!x.is_cpu()) {
    const at::Tensor last = fill.numel() > 0 ? fill.view({1, 1, -1}).expand({images, 1, -1})
                                             : at::zeros({images, 1, x.size(2)}, x.options());
    return at::cat({x, last}, 1).index_select(1, at::where(from.lt(0), from.new_full({}, rows), from));
  }
  const at::Tensor source = x.contiguous();
  at::Tensor out = at::empty({images, places, x.size(2)}, source.options());
  const at::Tensor filling = fill.numel() > 0 ? fill.contiguous() : at::zeros({x.size(2)}, x.options());
  const std::size_t bytes = static_cast<std::size_t>(x.size(2)) * source.element_size();
  const auto* read = static_cast<const char*>(source.const_data_ptr());
  const auto* hole = static_cast<const char*>(filling.const_data_ptr());
  auto* write = static_cast<char*>(out.mutable_data_ptr());
  const std::int64_t* index = from.const_data_ptr<std::int64_t>();
  constexpr std::int64_t kGrainBytes = 1 << 16;  // below it a thread costs more than it brings
  const std::int64_t grain = std::max<std::int64_t>(1, kGrainBytes / std::max<std::int64_t>(1, std::int64_t(bytes)));
  at::parallel_for(0, images * places, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = index[i % places];
      const char* taken = row < 0 ? hole : read + static_cast<std::size_t>(i / places * rows + row) * bytes;
      std::memcpy(write + static_cast<std::size_t>(i) * bytes, taken, bytes);
    }
  });
  return out;
}

struct GatherRows : torch::autograd::Function<GatherRows> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& from,
                            const at::Tensor& to, const at::Tensor& holes, const at::Tensor& fill) {
    context->save_for_backward({to, holes});
    return gather(x, from, fill);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    torch::autograd::variable_list out(5);
    if (!grads[0].defined()) return out;
    if (context->needs_input_grad(0)) out[0] = gather(grads[0], saved[0], at::empty({0}));
    if (context->needs_input_grad(4)) out[4] = grads[0].index_select(1, saved[1]).sum(at::IntArrayRef{0, 1});
    return out;
  }
};

}  // namespace

RowMap RowMap::of(const at::Tensor& from, std::int64_t rows) {
  const at::Tensor places = from.ge(0).nonzero().squeeze(1);
  at::Tensor to = at::full({rows}, -1, from.options());
  to.index_copy_(0, from.index_select(0, places), places);
  return {from, to, from.lt(0).nonzero().squeeze(1)};
}

RowMap RowMap::inverse() const { return {to, from, to.lt(0).nonzero().squeeze(1)}; }

at::Tensor gather_rows(const at::Tensor& x, const RowMap& map, const at::Tensor& fill) {
  DIVERGEN_CHECK(x.dim() == 3 && x.size(1) == map.to.size(0), x.sizes(), " by ", map.to.sizes());
  return GatherRows::apply(x, map.from, map.to, map.holes, fill.defined() ? fill : at::empty({0}));
}

}  // namespace divergen::nn
