#include "nn/tensor_io.hpp"

#include <ATen/ATen.h>

#include <optional>
#include <span>

#include "base/error.hpp"
#include "weights/weights.hpp"

namespace divergen::nn {
namespace {

using weights::DType;

constexpr std::pair<DType, at::ScalarType> kTypes[] = {
    {DType::F64, at::kDouble}, {DType::F32, at::kFloat}, {DType::F16, at::kHalf},  {DType::BF16, at::kBFloat16},
    {DType::I64, at::kLong},   {DType::I32, at::kInt},   {DType::I16, at::kShort}, {DType::I8, at::kChar},
    {DType::U8, at::kByte},    {DType::Bool, at::kBool}};

std::optional<DType> find_dtype(at::ScalarType type) {
  for (const auto& [ours, theirs] : kTypes)
    if (theirs == type) return ours;
  return std::nullopt;
}

/// Floating types convert to each other on load, integers too; a file with another kind belongs to another model.
enum class TypeClass { Floating, Integer, Bool, Other };
TypeClass class_of(std::optional<DType> type) {
  if (!type) return TypeClass::Other;
  if (weights::is_floating(*type)) return TypeClass::Floating;
  if (*type == DType::Bool) return TypeClass::Bool;
  const bool is_integer =
      *type == DType::I64 || *type == DType::I32 || *type == DType::I16 || *type == DType::I8 || *type == DType::U8;
  return is_integer ? TypeClass::Integer : TypeClass::Other;
}

std::span<std::byte> bytes_of(at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

/// Collects what does not fit, so that one message tells all.
class Misfit {
 public:
  void add(const std::string& what) {
    if (++count_ <= 8) text_ += cat(text_.empty() ? "" : "; ", what);
  }
  void check(const std::string& source) const {
    if (count_ == 0) return;
    fail(ErrorKind::Data,
         {"the weights do not fit the model", source, count_ > 8 ? cat(text_, "; and ", count_ - 8, " more") : text_,
          "name the weights of this model, or the configuration that belongs to the weights"});
  }

 private:
  std::size_t count_ = 0;
  std::string text_;
};

struct Source {
  std::vector<std::int64_t> shape;
  std::optional<DType> dtype;
  std::string type_text;                  // for messages
  std::function<void(at::Tensor&)> fill;  // copies into a tensor of the same shape, converting
};

void check_fit(const NamedTensor& target, const Source& source, Misfit& misfit) {
  const auto wanted = find_dtype(target.tensor.scalar_type());
  if (target.tensor.sizes() != at::IntArrayRef(source.shape))
    misfit.add(cat("wrong shape of '", target.name, "': expected ", weights::shape_text(target.tensor.sizes()),
                   ", found ", weights::shape_text(source.shape)));
  else if (class_of(wanted) != class_of(source.dtype) || class_of(wanted) == TypeClass::Other)
    misfit.add(cat("wrong dtype of '", target.name, "': expected ",
                   wanted ? std::string(weights::to_string(*wanted)) : at::toString(target.tensor.scalar_type()),
                   ", found ", source.type_text));
}

void load_from(Module& module, const std::map<std::string, Source>& sources, const std::string& name_of_source,
               const LoadOptions& options) {
  const auto targets = module.named_tensors();
  std::map<std::string, const NamedTensor*> by_name;
  Misfit misfit;
  for (const NamedTensor& target : targets) {
    by_name[target.name] = &target;
    const auto source = sources.find(target.name);
    if (source != sources.end()) check_fit(target, source->second, misfit);
    else if (target.is_persistent && !(options.may_miss && options.may_miss(target.name)))
      misfit.add(cat("missing '", target.name, "': expected ", weights::shape_text(target.tensor.sizes())));
  }
  for (const auto& [name, source] : sources)
    if (!by_name.contains(name) && !(options.may_surplus && options.may_surplus(name)))
      misfit.add(cat("surplus '", weights::shown(name), "': found ", source.type_text, " ",
                     weights::shape_text(source.shape)));
  misfit.check(name_of_source);
  at::NoGradGuard no_grad;
  for (const NamedTensor& target : targets) {
    const auto source = sources.find(target.name);
    if (source == sources.end()) continue;
    at::Tensor tensor = target.tensor;
    source->second.fill(tensor);
  }
}

/// Reads straight into the tensor's memory where it lies on the CPU in row-major order, else through one of its own.
void fill_from(const weights::WeightSource& source, const weights::Weight& weight, at::Tensor& target,
               const weights::ReadOptions& options) {
  const DType wanted = to_dtype(target.scalar_type());
  const DType type = weights::is_floating(weight.dtype) ? wanted : weight.dtype;
  if (target.is_cpu() && target.is_contiguous() && type == wanted)
    return weights::read_as(source, weight, type, bytes_of(target), options);
  at::Tensor copy = at::empty(weight.shape, at::TensorOptions().dtype(to_scalar_type(type)));
  weights::read_as(source, weight, type, bytes_of(copy), options);
  target.copy_(copy);
}

void fill_from(const at::Tensor& tensor, const std::string& key, const std::string& source, at::Tensor& target,
               const LoadOptions& options) {
  if (!options.may_be_not_finite && at::isFloatingType(tensor.scalar_type()) &&
      !at::isfinite(tensor).all().item<bool>())
    fail(ErrorKind::Data,
         {"a weight is not a finite number", cat(source, " [", weights::shown(key), "]"),
          "expected finite values, found NaN or infinity", "download the file again, or take an earlier checkpoint"});
  target.copy_(tensor);
}

std::string renamed(const LoadOptions& options, const std::string& name) {
  return options.rename ? options.rename(name) : name;
}

}  // namespace

at::ScalarType to_scalar_type(DType type) {
  for (const auto& [ours, theirs] : kTypes)
    if (ours == type) return theirs;
  fail(ErrorKind::Data,
       {"a type of weights has no use here", std::string(weights::to_string(type)), "", "convert it first"});
}

DType to_dtype(at::ScalarType type) {
  if (const auto found = find_dtype(type)) return *found;
  fail(ErrorKind::Data,
       {"a tensor's type cannot be written to safetensors", at::toString(type), "", "convert it first"});
}

TensorMap load_tensors(const weights::WeightSource& source) {
  TensorMap out;
  for (const weights::Weight& weight : source.tensors()) {
    at::Tensor tensor = at::empty(weight.shape, at::TensorOptions().dtype(to_scalar_type(weight.dtype)));
    weights::read_as(source, weight, weight.dtype, bytes_of(tensor));
    out[weight.name] = std::move(tensor);
  }
  return out;
}

TensorMap load_tensors(const Path& path, const std::string& key) {
  auto source = weights::open_weights(path);
  return load_tensors(key.empty() ? *source : *weights::select_prefix(std::move(source), key + "."));
}

void save_tensors(const Path& path, const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> held;
  std::vector<weights::TensorBytes> entries;
  for (const auto& [name, tensor] : tensors) {
    held.push_back(tensor.detach().cpu().contiguous());
    const at::Tensor& t = held.back();
    entries.push_back({name,
                       to_dtype(t.scalar_type()),
                       t.sizes().vec(),
                       {static_cast<const std::byte*>(t.const_data_ptr()), static_cast<std::size_t>(t.nbytes())}});
  }
  weights::write_safetensors(path, entries, metadata);
}

void load_module(Module& module, const TensorMap& tensors, const std::string& source, const LoadOptions& options) {
  std::map<std::string, Source> sources;
  for (const auto& [name, tensor] : tensors) {
    const std::string ours = renamed(options, name);
    if (ours.empty()) continue;
    const auto type = find_dtype(tensor.scalar_type());
    const auto fill = [&, &name = name, &tensor = tensor](at::Tensor& target) {
      fill_from(tensor, name, source, target, options);
    };
    sources[ours] = {tensor.sizes().vec(), type,
                     type ? std::string(weights::to_string(*type)) : at::toString(tensor.scalar_type()), fill};
  }
  load_from(module, sources, source, options);
}

void load_module(Module& module, const weights::WeightSource& source, const LoadOptions& options) {
  const weights::ReadOptions read{.refuse_not_finite = !options.may_be_not_finite};
  std::map<std::string, Source> sources;
  for (const weights::Weight& weight : source.tensors()) {
    const std::string ours = renamed(options, weight.name);
    if (ours.empty()) continue;
    const auto fill = [&, &weight = weight](at::Tensor& target) { fill_from(source, weight, target, read); };
    if (!sources
             .try_emplace(ours, Source{weight.shape, weight.dtype, std::string(weights::to_string(weight.dtype)), fill})
             .second)
      fail(ErrorKind::Data,
           {"the weights do not fit the model", source.name(),
            cat("two of its names, '", weights::shown(weight.name), "' among them, become '", ours, "'"),
            "name the weights of this model"});
  }
  load_from(module, sources, source.name(), options);
}

void load_module(Module& module, const Path& path, const LoadOptions& options) {
  load_module(module, *weights::open_weights(path), options);
}

void save_module(const Module& module, const Path& file, at::ScalarType type,
                 const std::map<std::string, std::string>& metadata) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const NamedTensor& entry : module.named_tensors()) {
    if (!entry.is_persistent) continue;
    const bool floating = at::isFloatingType(entry.tensor.scalar_type());
    tensors.emplace_back(entry.name, floating ? entry.tensor.detach().to(type) : entry.tensor);
  }
  save_tensors(file, tensors, metadata);
}

}  // namespace divergen::nn
