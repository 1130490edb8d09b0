#include "models/annotators/ufo.hpp"

#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"
#include "nn/tensor_io.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kNeighbours = 4;  // of a place, whose features are taken into its own
constexpr double kNotItself = 1e8;       // taken from a place's likeness to itself

/// Whether a pooling follows the convolution of this index in VGG-16.
bool is_pooled(std::size_t conv) { return conv == 1 || conv == 3 || conv == 6 || conv == 9 || conv == 12; }

/// [P, D, L] -> products of all pairs of features, summed over L: [P, D · D].
at::Tensor relations(const at::Tensor& x) { return at::bmm(x, x.transpose(1, 2)).flatten(1); }

}  // namespace

UfoSizes UfoSizes::from(const weights::WeightSource& source) {
  const auto find = [&](const std::string& name) {
    const weights::Weight* found = source.find(name);
    return found != nullptr ? found : source.find("module." + name);
  };
  const auto first_size = [&](const std::string& name, std::size_t rank) {
    const weights::Weight* found = find(name);
    if (found == nullptr || found->shape.size() != rank)
      fail(ErrorKind::Data, {"these are no weights of UFO", cat(source.name(), " [", name, "]"),
                             found == nullptr ? "there is no such name in it" : "it has another number of sizes",
                             "name image_best.pth"});
    return found->shape[0];
  };
  UfoSizes s;
  std::size_t index = 0;
  for (std::size_t i = 0; i < s.vgg.size(); ++i) {
    s.vgg[i] = first_size(cat("base.", index, ".weight"), 4);
    index += is_pooled(i) ? 4 : 3;
  }
  s.width = first_size("incr_channel2.0.weight", 4);
  s.relation = first_size("sp1.0.weight", 4);
  s.group_relation = first_size("sp2.0.weight", 4);
  s.classes = first_size("cls.0.weight", 2);
  s.mlp = first_size("transformer_1.layers.0.1.fn.fn.net.0.weight", 2);
  s.layers = 0;
  while (find(cat("transformer_1.layers.", s.layers, ".0.fn.norm.weight")) != nullptr) ++s.layers;
  if (s.width % s.heads != 0)
    fail(ErrorKind::Data,
         {"these are no weights of UFO", source.name(),
          cat("its width ", s.width, " is no multiple of its ", s.heads, " heads"), "name image_best.pth"});
  return s;
}

UfoVgg::UfoVgg(const UfoSizes& sizes) {
  std::int64_t in = 3;
  std::size_t index = 0;
  for (std::size_t i = 0; i < sizes.vgg.size(); ++i) {
    convs_.push_back(&make_child<nn::Conv2d>(cat(index), in, sizes.vgg[i], nn::ConvOptions{.kernel = 3, .padding = 1}));
    norms_.push_back(&make_child<BatchNorm2d>(cat(index + 1), sizes.vgg[i]));
    in = sizes.vgg[i];
    index += is_pooled(i) ? 4 : 3;
  }
}

std::array<at::Tensor, 4> UfoVgg::forward(at::Tensor x) const {
  std::array<at::Tensor, 4> out;
  std::size_t poolings = 0;
  for (std::size_t i = 0; i < convs_.size(); ++i) {
    x = at::relu(norms_[i]->forward(convs_[i]->forward(x)));
    if (!is_pooled(i)) continue;
    x = at::max_pool2d(x, {2, 2}, {2, 2});
    if (poolings++ > 0) out[poolings - 2] = x;
  }
  return out;
}

UfoTransformer::Layer::Layer(std::int64_t width, std::int64_t mlp, std::int64_t heads_)
    : heads(heads_),
      attention_norm(width),
      mlp_norm(width),
      to_qkv(width, 3 * width, false),
      to_out(width, width),
      first(width, mlp),
      second(mlp, width) {
  child("0.fn.norm", attention_norm);
  child("0.fn.fn.to_qkv", to_qkv);
  child("0.fn.fn.to_out.0", to_out);
  child("1.fn.norm", mlp_norm);
  child("1.fn.fn.net.0", first);
  child("1.fn.fn.net.3", second);
}

at::Tensor UfoTransformer::Layer::forward(const at::Tensor& x) const {
  const auto batch = x.size(0), length = x.size(1), width = x.size(2);
  const auto parts = to_qkv.forward(attention_norm.forward(x)).chunk(3, -1);
  const auto split = [&](const at::Tensor& t) {
    return t.reshape({batch, length, heads, width / heads}).transpose(1, 2);
  };
  // The reference scales by the whole width, not by a head's.
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  const at::Tensor attention = (at::matmul(split(parts[0]), split(parts[1]).transpose(2, 3)) * scale).softmax(-1);
  const at::Tensor mixed = at::matmul(attention, split(parts[2])).transpose(1, 2).reshape({batch, length, width});
  const at::Tensor y = to_out.forward(mixed) + x;
  return second.forward(at::gelu(first.forward(mlp_norm.forward(y)))) + y;
}

UfoTransformer::UfoTransformer(const UfoSizes& s) {
  child("layers", layers_);
  for (std::int64_t i = 0; i < s.layers; ++i) layers_.add(s.width, s.mlp, s.heads);
}

at::Tensor UfoTransformer::forward(const at::Tensor& x) const {
  const auto pictures = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const auto groups = pictures / Ufo::kGroup;
  at::Tensor y = x.reshape({groups, Ufo::kGroup, channels, height, width})
                     .permute({0, 1, 3, 4, 2})
                     .reshape({groups, Ufo::kGroup * height * width, channels});
  for (const Layer* layer : layers_) y = layer->forward(y);
  return y.reshape({groups, Ufo::kGroup, height, width, channels})
      .permute({0, 1, 4, 2, 3})
      .reshape({pictures, channels, height, width});
}

UfoMerge::UfoMerge(std::int64_t width, bool is_enlarged)
    : first_(width, width, {.kernel = 1}), second_(width, width, {.kernel = 3, .padding = 1}) {
  child("0", first_);
  child("2", second_);
  if (!is_enlarged) return;
  enlarge_ =
      std::make_unique<nn::ConvTranspose2d>(width, width, nn::ConvOptions{.kernel = 4, .stride = 2, .padding = 1});
  child("4", *enlarge_);
}

at::Tensor UfoMerge::forward(const at::Tensor& x, const at::Tensor& coarser) const {
  at::Tensor y = at::relu(first_.forward(x));
  if (coarser.defined()) y = y + coarser;
  y = at::relu(second_.forward(y));
  return enlarge_ ? enlarge_->forward(y) : y;
}

Ufo::Ufo(const UfoSizes& s)
    : base_(s),
      sp1_(s.width, s.relation, {.kernel = 1}),
      sp2_(s.relation * s.relation, s.group_relation, {.kernel = 1}),
      cls_m_(s.group_relation * s.group_relation, s.width),
      cls_(s.width, s.classes),
      concat_r_(s.width, true),
      concat1_(s.width, false),
      mask_(s.width, 2, {.kernel = 3, .padding = 1}),
      mask_enlarge_(2, 2, {.kernel = 8, .stride = 4, .padding = 2}),
      intra_(s.width, s.width, {.kernel = 1}),
      transformer_1_(s),
      transformer_2_(s) {
  child("base", base_);
  child("sp1.0", sp1_);
  child("sp2.0", sp2_);
  child("cls_m.0", cls_m_);
  child("cls.0", cls_);
  constexpr std::array<std::size_t, 4> kLastOfLevel{3, 6, 9, 12};
  for (std::size_t i = 0; i < 4; ++i) {
    const nn::ConvOptions options{.kernel = 3, .padding = 1};
    incr_channel1_[i] = std::make_unique<nn::Conv2d>(s.vgg[kLastOfLevel[i]], s.width, options);
    incr_channel2_[i] = std::make_unique<nn::Conv2d>(s.width, s.width, options);
  }
  for (std::size_t i = 0; i < 4; ++i) child(cat("incr_channel1.", i), *incr_channel1_[i]);
  for (std::size_t i = 0; i < 4; ++i) child(cat("incr_channel2.", i), *incr_channel2_[i]);
  // The reference makes these layers once and enters them under three names; its files have them three times.
  for (const char* name : {"concat4", "concat3", "concat2"}) child(name, concat_r_);
  child("concat1", concat1_);
  child("mask.0", mask_);
  child("mask.1", mask_enlarge_);
  child("intra.0", intra_);
  child("transformer_1", transformer_1_);
  child("transformer_2", transformer_2_);
}

at::Tensor Ufo::neighbourhood(const at::Tensor& coarsest) const {
  const at::Tensor points = coarsest.flatten(2).transpose(1, 2);  // [P, L, C]
  const auto pictures = points.size(0), places = points.size(1), channels = points.size(2);
  const at::Tensor square = at::linalg_vector_norm(points, 2, at::IntArrayRef{2}, /*keepdim=*/true).pow(2);
  const at::Tensor itself = at::eye(places, points.options()).mul(-kNotItself);
  const at::Tensor likeness = 2 * at::matmul(points, points.transpose(2, 1)) - square - square.transpose(2, 1) + itself;
  const at::Tensor nearest = std::get<1>(likeness.topk(kNeighbours, -1, /*largest=*/true, /*sorted=*/false));
  const at::Tensor gathered = points.gather(1, nearest.flatten(1).unsqueeze(-1).expand({-1, -1, channels}))
                                  .reshape({pictures, places, kNeighbours, channels});
  const at::Tensor mixed = intra_.forward(gathered.permute({0, 3, 2, 1}));  // [P, C, neighbours, L]
  return mixed.amax(2).view_as(coarsest);
}

at::Tensor Ufo::group_vector(const at::Tensor& coarsest) const {
  const at::Tensor of_pictures = relations(at::relu(sp1_.forward(coarsest)).flatten(2));
  // A group's rows are read as [features, pictures] without being transposed: the reference does so.
  const at::Tensor of_group = of_pictures.view({of_pictures.size(0) / kGroup, of_pictures.size(1), kGroup, 1});
  return at::relu(cls_m_.forward(relations(at::relu(sp2_.forward(of_group)).flatten(2))));
}

at::Tensor Ufo::forward(const at::Tensor& pictures) const {
  DIVERGEN_CHECK(pictures.size(0) % kGroup == 0, pictures.size(0));
  std::array<at::Tensor, 4> levels = base_.forward(pictures);
  for (std::size_t i = 0; i < 4; ++i)
    levels[i] = at::relu(incr_channel2_[i]->forward(incr_channel1_[i]->forward(levels[i])));
  const at::Tensor spatial = at::sigmoid(neighbourhood(levels[3]) + levels[3]);
  const at::Tensor common = group_vector(levels[3]).repeat_interleave(kGroup, 0).unsqueeze(-1).unsqueeze(-1);

  at::Tensor y;
  for (std::size_t i = 4; i-- > 0;) {
    const at::Tensor seen = i == 3   ? transformer_1_.forward(levels[3])
                            : i == 2 ? transformer_2_.forward(levels[2])
                                     : levels[i];
    const at::Tensor x = seen * common + resize_bilinear(spatial, seen.size(2), seen.size(3));
    y = (i == 0 ? concat1_ : concat_r_).forward(x, y);
  }
  return mask_enlarge_.forward(mask_.forward(y)).softmax(1).select(1, 0);
}

std::unique_ptr<Ufo> load_ufo(const Path& file) {
  const auto source = weights::open_weights(file);
  auto model = std::make_unique<Ufo>(UfoSizes::from(*source));
  nn::load_module(*model, *source, {.rename = without_module_prefix});
  return model;
}

}  // namespace divergen::models
