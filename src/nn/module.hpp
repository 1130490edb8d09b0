#pragma once
// A tree of named tensors: what a network is, apart from its arithmetic.
//
// A Module owns its tensors and knows their names, so that the names of a reference implementation's state_dict can be
// given exactly: own parameters, then own buffers, then children, each in order of registration (PyTorch's order).
// Modules are made under an options scope (NewTensors): on Device meta they have shapes and no memory, which is how the
// key tables of full-size models are checked. Tensors hold unspecified values until init or load fills them.

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace divergen::nn {

/// Where and as what type new modules of this thread create their tensors, until the object goes. Default: CPU,
/// float32.
class NewTensors {
 public:
  explicit NewTensors(const at::TensorOptions& options);
  ~NewTensors();
  NewTensors(const NewTensors&) = delete;
  NewTensors& operator=(const NewTensors&) = delete;
  static const at::TensorOptions& options();

 private:
  at::TensorOptions previous_;
};

struct NamedTensor {
  std::string name;    // "down_blocks.0.resnets.1.conv1.weight"
  at::Tensor tensor;   // shares memory with the module's
  bool is_parameter;   // false: buffer
  bool is_persistent;  // false: left out of checkpoints
};

/// A module is neither copied nor moved: children are registered by address.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// All tensors of the tree in state_dict order, names with dots. Includes non-persistent buffers (marked).
  std::vector<NamedTensor> named_tensors() const;
  /// Parameters only, in named_parameters() order of PyTorch.
  std::vector<NamedTensor> named_parameters() const;
  /// The tensors themselves, to replace them (load by assignment, conversion to another type).
  std::vector<std::pair<std::string, at::Tensor*>> named_slots();

  /// Moves or converts every floating tensor in place of the old one; integer buffers keep their type.
  void to(const at::TensorOptions& options);
  /// Whether autograd records operations on the parameters (buffers never).
  void requires_grad(bool on);
  std::int64_t count_parameters() const;

  bool is_training() const { return training_; }
  virtual void train(bool on = true);
  void eval() { train(false); }

 protected:
  /// Creates the tensor in `slot` with unspecified values (see NewTensors) and enters it under `name`.
  void parameter(std::string name, at::Tensor& slot, at::IntArrayRef sizes);
  void buffer(std::string name, at::Tensor& slot, at::IntArrayRef sizes, at::ScalarType type = at::kFloat,
              bool persistent = true);
  /// Enters a child that lives as long as this module (a member, or an element of a member container).
  template <class M>
  M& child(std::string name, M& module) {
    children_.emplace_back(std::move(name), &module);
    return module;
  }
  /// Makes, owns and enters a child.
  template <class M, class... Args>
  M& make_child(std::string name, Args&&... args) {
    auto made = std::make_unique<M>(std::forward<Args>(args)...);
    M& reference = *made;
    owned_.push_back(std::move(made));
    children_.emplace_back(std::move(name), &reference);
    return reference;
  }

 private:
  struct Slot {
    std::string name;
    at::Tensor* tensor;
    bool is_parameter;
    bool is_persistent;
  };
  template <class Visit>
  void visit(const std::string& prefix, const Visit& f) const;

  std::vector<Slot> parameters_, buffers_;
  std::vector<std::pair<std::string, Module*>> children_;
  std::vector<std::unique_ptr<Module>> owned_;
  bool training_ = false;
};

/// An unnamed list of children "0", "1", ...: PyTorch's ModuleList and Sequential. Entries may be skipped with `skip()`
/// where the reference has children without tensors (ReLU), so that numbering stays equal.
template <class M>
class List : public Module {
 public:
  template <class... Args>
  M& add(Args&&... args) {
    M& made = make_child<M>(std::to_string(next_++), std::forward<Args>(args)...);
    items_.push_back(&made);
    return made;
  }
  void skip() { ++next_; }
  std::size_t size() const { return items_.size(); }
  bool empty() const { return items_.empty(); }
  M& operator[](std::size_t i) const { return *items_.at(i); }
  auto begin() const { return items_.begin(); }  // yields M*
  auto end() const { return items_.end(); }

 private:
  std::vector<M*> items_;
  std::size_t next_ = 0;
};

}  // namespace divergen::nn
