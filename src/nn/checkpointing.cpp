#include "nn/checkpointing.hpp"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <mutex>
#include <optional>
#include <utility>

#include "base/error.hpp"

namespace divergen::nn {
namespace {

/// Position of the default generators that f may draw from.
class RandomState {
 public:
  explicit RandomState(at::Device device) {
    take(at::kCPU);
    if (!device.is_cpu()) take(device);
  }
  void restore() const {
    for (const auto& [device, state] : states_) {
      at::Generator generator = at::globalContext().defaultGenerator(device);
      const std::lock_guard lock(generator.mutex());
      generator.set_state(state);
    }
  }

 private:
  void take(at::Device device) {
    at::Generator generator = at::globalContext().defaultGenerator(device);
    const std::lock_guard lock(generator.mutex());
    states_.emplace_back(device, generator.get_state());
  }
  std::vector<std::pair<at::Device, at::Tensor>> states_;
};

/// Autocast of this thread for CPU and GPU.
class AutocastState {
 public:
  AutocastState() {
    for (std::size_t i = 0; i < kDevices.size(); ++i)
      each_[i] = {at::autocast::is_autocast_enabled(kDevices[i]), at::autocast::get_autocast_dtype(kDevices[i])};
  }
  void apply() const {
    for (std::size_t i = 0; i < kDevices.size(); ++i) {
      at::autocast::set_autocast_enabled(kDevices[i], each_[i].first);
      at::autocast::set_autocast_dtype(kDevices[i], each_[i].second);
    }
  }

 private:
  static constexpr std::array<c10::DeviceType, 2> kDevices{c10::DeviceType::CPU, c10::DeviceType::CUDA};
  std::array<std::pair<bool, at::ScalarType>, 2> each_;
};

/// No copies of converted weights while it lives: those made without autograd would be taken for those made with it.
class NoAutocastCache {
 public:
  NoAutocastCache() : before_(at::autocast::is_autocast_cache_enabled()) {
    at::autocast::set_autocast_cache_enabled(false);
  }
  ~NoAutocastCache() { at::autocast::set_autocast_cache_enabled(before_); }
  NoAutocastCache(const NoAutocastCache&) = delete;
  NoAutocastCache& operator=(const NoAutocastCache&) = delete;

 private:
  bool before_;
};

/// Puts the thread's random numbers and autocast back when it goes.
struct Replay {
  Replay(const RandomState& random, const AutocastState& autocast, at::Device device) : random_now(device) {
    random.restore();
    autocast.apply();
  }
  ~Replay() {
    random_now.restore();
    autocast_now.apply();
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;
  RandomState random_now;
  AutocastState autocast_now;
};

struct Held : torch::CustomClassHolder {
  Held(std::function<at::Tensor(const at::Tensor&)> f_, at::Device device) : f(std::move(f_)), random(device) {}
  std::function<at::Tensor(const at::Tensor&)> f;
  RandomState random;
  AutocastState autocast;
};

struct Checkpoint : torch::autograd::Function<Checkpoint> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, at::TensorList parameters,
                            const c10::intrusive_ptr<Held>& held) {
    torch::autograd::variable_list saved{x};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["held"] = at::IValue::make_capsule(held);
    const NoAutocastCache no_cache;
    return held->f(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const auto held = c10::static_intrusive_pointer_cast<Held>(context->saved_data["held"].toCapsule());
    torch::autograd::variable_list out(saved.size() + 1);  // the last for `held`
    if (!grads[0].defined()) return out;

    torch::autograd::variable_list wanted;
    std::vector<std::size_t> places;
    at::Tensor y;
    {
      const Replay replay(held->random, held->autocast, saved[0].device());
      const NoAutocastCache no_cache;
      at::AutoGradMode with_grad(true);
      const at::Tensor x = saved[0].detach().requires_grad_(context->needs_input_grad(0));
      for (std::size_t i = 0; i < saved.size(); ++i)
        if (context->needs_input_grad(i)) {
          wanted.push_back(i == 0 ? x : saved[i]);
          places.push_back(i);
        }
      y = held->f(x);
    }
    if (!y.requires_grad()) return out;
    auto found = torch::autograd::grad({y}, wanted, {grads[0]}, /*retain_graph=*/false, /*create_graph=*/false,
                                       /*allow_unused=*/true);
    for (std::size_t i = 0; i < places.size(); ++i) out[places[i]] = std::move(found[i]);
    return out;
  }
};

}  // namespace

at::Tensor checkpoint(std::function<at::Tensor(const at::Tensor&)> f, const at::Tensor& x,
                      const std::vector<at::Tensor>& parameters) {
  bool needed = x.requires_grad();
  for (const at::Tensor& parameter : parameters) needed |= parameter.requires_grad();
  if (!needed || !at::GradMode::is_enabled()) return f(x);
  const auto held = c10::make_intrusive<Held>(std::move(f), x.device());
  return Checkpoint::apply(x, at::TensorList(parameters), held);
}

}  // namespace divergen::nn
