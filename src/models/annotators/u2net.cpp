#include "models/annotators/u2net.hpp"

#include "base/error.hpp"
#include "base/text.hpp"
#include "nn/tensor_io.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

constexpr std::array<int, 6> kDepths{7, 6, 5, 4, 4, 4};  // of stage1 ... stage6; the last two are flat
constexpr std::size_t kFirstFlat = 4;

at::Tensor halve(const at::Tensor& x) { return at::max_pool2d(x, {2, 2}, {2, 2}, {0, 0}, {1, 1}, /*ceil_mode=*/true); }
at::Tensor like(const at::Tensor& x, const at::Tensor& target) {
  return resize_bilinear(x, target.size(2), target.size(3));
}

const weights::Weight& conv_of(const weights::WeightSource& source, const std::string& name) {
  for (const std::string& key : {name, "module." + name}) {
    const weights::Weight* found = source.find(key);
    if (found == nullptr) continue;
    if (found->shape.size() != 4 || found->elements() == 0)
      fail(ErrorKind::Data, {"these are no weights of U²-Net", cat(source.name(), " [", key, "]"),
                             "expected a convolution's four sizes", "name u2net.pth or u2netp.pth"});
    return *found;
  }
  fail(ErrorKind::Data, {"these are no weights of U²-Net", source.name(), cat("there is no '", name, "' in it"),
                         "name u2net.pth or u2netp.pth"});
}

}  // namespace

U2NetSizes U2NetSizes::published(const std::string& name) {
  if (name == "u2net")
    return {{{{3, 32, 64}, {64, 32, 128}, {128, 64, 256}, {256, 128, 512}, {512, 256, 512}, {512, 256, 512}}},
            {{{128, 16, 64}, {256, 32, 64}, {512, 64, 128}, {1024, 128, 256}, {1024, 256, 512}}}};
  if (name == "u2netp")
    return {{{{3, 16, 64}, {64, 16, 64}, {64, 16, 64}, {64, 16, 64}, {64, 16, 64}, {64, 16, 64}}},
            {{{128, 16, 64}, {128, 16, 64}, {128, 16, 64}, {128, 16, 64}, {128, 16, 64}}}};
  fail(ErrorKind::Config, {"there is no such U²-Net", name, "", "use u2net or u2netp"});
}

U2NetSizes U2NetSizes::from(const weights::WeightSource& source) {
  const auto sizes_of = [&](const std::string& stage) {
    const auto& first = conv_of(source, stage + ".rebnconvin.conv_s1.weight").shape;
    const auto& inner = conv_of(source, stage + ".rebnconv1.conv_s1.weight").shape;
    return RsuSizes{first[1], inner[0], first[0]};
  };
  U2NetSizes sizes;
  for (std::size_t i = 0; i < 6; ++i) sizes.encoder[i] = sizes_of(cat("stage", i + 1));
  for (std::size_t i = 0; i < 5; ++i) sizes.decoder[i] = sizes_of(cat("stage", i + 1, "d"));
  return sizes;
}

RsuConv::RsuConv(std::int64_t in, std::int64_t out, std::int64_t dilation)
    : conv_s1(in, out, {.kernel = 3, .padding = dilation, .dilation = dilation}), bn_s1(out) {
  child("conv_s1", conv_s1);
  child("bn_s1", bn_s1);
}
at::Tensor RsuConv::forward(const at::Tensor& x) const { return at::relu(bn_s1.forward(conv_s1.forward(x))); }

Rsu::Rsu(const RsuSizes& s, int depth, bool is_flat) : is_flat_(is_flat), in_(s.in, s.out, 1) {
  child("rebnconvin", in_);
  for (int level = 1; level <= depth; ++level) {
    // A pyramid dilates at its bottom alone; a flat one 1, 2, 4, 8 on the way down and back.
    const std::int64_t dilation = is_flat ? std::int64_t{1} << (level - 1) : (level == depth ? 2 : 1);
    down_.push_back(&make_child<RsuConv>(cat("rebnconv", level), level == 1 ? s.out : s.middle, s.middle, dilation));
  }
  for (int level = depth - 1; level >= 1; --level) {
    const std::int64_t dilation = is_flat ? std::int64_t{1} << (level - 1) : 1;
    up_.push_back(
        &make_child<RsuConv>(cat("rebnconv", level, "d"), 2 * s.middle, level == 1 ? s.out : s.middle, dilation));
  }
}

at::Tensor Rsu::forward(const at::Tensor& x) const {
  const at::Tensor first = in_.forward(x);
  std::vector<at::Tensor> levels;  // what each level but the last hands over to its way up
  at::Tensor y = first;
  for (std::size_t i = 0; i + 1 < down_.size(); ++i) {
    levels.push_back(down_[i]->forward(y));
    const bool is_halved = !is_flat_ && i + 2 < down_.size();
    y = is_halved ? halve(levels.back()) : levels.back();
  }
  y = down_.back()->forward(y);
  for (const RsuConv* up : up_) {
    const at::Tensor level = levels.back();
    levels.pop_back();
    y = up->forward(at::cat({y.size(2) == level.size(2) && y.size(3) == level.size(3) ? y : like(y, level), level}, 1));
  }
  return y + first;
}

U2Net::U2Net(const U2NetSizes& sizes) : outconv_(6, 1, {.kernel = 1}) {
  for (std::size_t i = 0; i < encoder_.size(); ++i) {
    encoder_[i] = std::make_unique<Rsu>(sizes.encoder[i], kDepths[i], i >= kFirstFlat);
    child(cat("stage", i + 1), *encoder_[i]);
  }
  for (std::size_t i = decoder_.size(); i-- > 0;) {
    decoder_[i] = std::make_unique<Rsu>(sizes.decoder[i], kDepths[i], i >= kFirstFlat);
    child(cat("stage", i + 1, "d"), *decoder_[i]);
  }
  for (std::size_t i = 0; i < side_.size(); ++i) {
    const std::int64_t channels = i < decoder_.size() ? sizes.decoder[i].out : sizes.encoder[i].out;
    side_[i] = std::make_unique<nn::Conv2d>(channels, 1, nn::ConvOptions{.kernel = 3, .padding = 1});
    child(cat("side", i + 1), *side_[i]);
  }
  child("outconv", outconv_);
}

std::array<at::Tensor, 7> U2Net::forward(const at::Tensor& x) const {
  std::array<at::Tensor, 6> levels;
  for (std::size_t i = 0; i < levels.size(); ++i) levels[i] = encoder_[i]->forward(i == 0 ? x : halve(levels[i - 1]));
  for (std::size_t i = decoder_.size(); i-- > 0;)
    levels[i] = decoder_[i]->forward(at::cat({like(levels[i + 1], levels[i]), levels[i]}, 1));
  std::vector<at::Tensor> sides;
  for (std::size_t i = 0; i < side_.size(); ++i) {
    const at::Tensor side = side_[i]->forward(levels[i]);
    sides.push_back(i == 0 ? side : like(side, sides.front()));
  }
  std::array<at::Tensor, 7> maps{at::sigmoid(outconv_.forward(at::cat(sides, 1)))};
  for (std::size_t i = 0; i < sides.size(); ++i) maps[i + 1] = at::sigmoid(sides[i]);
  return maps;
}

std::unique_ptr<U2Net> load_u2net(const Path& file) {
  const auto source = weights::open_weights(file);
  auto model = std::make_unique<U2Net>(U2NetSizes::from(*source));
  nn::load_module(*model, *source, {.rename = without_module_prefix});
  return model;
}

}  // namespace divergen::models
