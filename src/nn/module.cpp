#include "nn/module.hpp"

#include <ATen/ATen.h>

#include "base/error.hpp"

namespace divergen::nn {
namespace {

thread_local at::TensorOptions current_options = at::TensorOptions().dtype(at::kFloat).device(at::kCPU);

}  // namespace

NewTensors::NewTensors(const at::TensorOptions& options) : previous_(current_options) { current_options = options; }
NewTensors::~NewTensors() { current_options = previous_; }
const at::TensorOptions& NewTensors::options() { return current_options; }

void Module::parameter(std::string name, at::Tensor& slot, at::IntArrayRef sizes) {
  slot = at::empty(sizes, NewTensors::options());
  parameters_.push_back({std::move(name), &slot, true, true});
}

void Module::buffer(std::string name, at::Tensor& slot, at::IntArrayRef sizes, at::ScalarType type, bool persistent) {
  const auto& options = NewTensors::options();
  slot = at::empty(sizes, at::isFloatingType(type) && type == at::kFloat ? options : options.dtype(type));
  buffers_.push_back({std::move(name), &slot, false, persistent});
}

template <class Visit>
void Module::visit(const std::string& prefix, const Visit& f) const {
  for (const Slot& slot : parameters_) f(prefix + slot.name, slot);
  for (const Slot& slot : buffers_) f(prefix + slot.name, slot);
  for (const auto& [name, module] : children_) module->visit(prefix + name + ".", f);
}

std::vector<NamedTensor> Module::named_tensors() const {
  std::vector<NamedTensor> out;
  visit("", [&](std::string name, const Slot& slot) {
    out.push_back({std::move(name), *slot.tensor, slot.is_parameter, slot.is_persistent});
  });
  return out;
}

std::vector<NamedTensor> Module::named_parameters() const {
  std::vector<NamedTensor> out;
  visit("", [&](std::string name, const Slot& slot) {
    if (slot.is_parameter) out.push_back({std::move(name), *slot.tensor, true, true});
  });
  return out;
}

std::vector<std::pair<std::string, at::Tensor*>> Module::named_slots() {
  std::vector<std::pair<std::string, at::Tensor*>> out;
  visit("", [&](std::string name, const Slot& slot) { out.emplace_back(std::move(name), slot.tensor); });
  return out;
}

void Module::to(const at::TensorOptions& options) {
  visit("", [&](const std::string&, const Slot& slot) {
    at::Tensor& tensor = *slot.tensor;
    const bool grad = tensor.requires_grad();
    const bool floating = at::isFloatingType(tensor.scalar_type());
    tensor = tensor.detach().to(floating ? options : options.dtype(tensor.scalar_type()));
    if (grad) tensor.requires_grad_(true);
  });
}

void Module::requires_grad(bool on) {
  visit("", [&](const std::string&, const Slot& slot) {
    if (slot.is_parameter) slot.tensor->requires_grad_(on);
  });
}

std::int64_t Module::count_parameters() const {
  std::int64_t count = 0;
  for (const NamedTensor& entry : named_parameters()) count += entry.tensor.numel();
  return count;
}

void Module::train(bool on) {
  training_ = on;
  for (const auto& [name, module] : children_) module->train(on);
}

}  // namespace divergen::nn
