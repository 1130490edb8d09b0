#include "nn/tensor_io.hpp"

#include <ATen/ATen.h>

#include <cstring>

#include "base/error.hpp"
#include "weights/torch_file.hpp"

namespace divergen::nn {
namespace {

using weights::DType;

constexpr std::pair<DType, at::ScalarType> kTypes[] = {
    {DType::F64, at::kDouble}, {DType::F32, at::kFloat}, {DType::F16, at::kHalf},  {DType::BF16, at::kBFloat16},
    {DType::I64, at::kLong},   {DType::I32, at::kInt},   {DType::I16, at::kShort}, {DType::I8, at::kChar},
    {DType::U8, at::kByte},    {DType::Bool, at::kBool}};

at::Tensor view_of(const weights::SafetensorsFile& file, const weights::TensorInfo& info) {
  // The mapping is read-only; nobody writes through this view, it is only a source of copies.
  auto* data = const_cast<std::byte*>(file.bytes(info).data());
  if (info.end == info.begin) return at::empty(info.shape, to_scalar_type(info.dtype));
  return at::from_blob(data, info.shape, at::TensorOptions().dtype(to_scalar_type(info.dtype)));
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
  std::function<at::Tensor()> read;
};

void load_from(Module& module, const std::map<std::string, Source>& sources, const std::string& name_of_source,
               const LoadOptions& options) {
  const auto targets = module.named_tensors();
  std::map<std::string, const NamedTensor*> by_name;
  Misfit misfit;
  for (const NamedTensor& target : targets) {
    by_name[target.name] = &target;
    const auto source = sources.find(target.name);
    if (source == sources.end()) {
      if (target.is_persistent && !(options.may_miss && options.may_miss(target.name)))
        misfit.add(cat("missing '", target.name, "'"));
    } else if (target.tensor.sizes() != at::IntArrayRef(source->second.shape)) {
      misfit.add(cat("wrong shape of '", target.name, "': expected ", weights::shape_text(target.tensor.sizes()),
                     ", found ", weights::shape_text(source->second.shape)));
    }
  }
  for (const auto& [name, source] : sources)
    if (!by_name.contains(name) && !(options.may_surplus && options.may_surplus(name)))
      misfit.add(cat("surplus '", name, "'"));
  misfit.check(name_of_source);
  at::NoGradGuard no_grad;
  for (const NamedTensor& target : targets) {
    const auto source = sources.find(target.name);
    if (source == sources.end()) continue;
    at::Tensor tensor = target.tensor;
    tensor.copy_(source->second.read());
  }
}

bool is_torch_file(const Path& path) {
  const std::string extension = path.extension().string();
  return extension == ".pth" || extension == ".pt" || extension == ".bin";
}

TensorMap load_torch(const Path& path, const std::string& key) {
  const weights::TorchFile file(path);
  TensorMap out;
  for (const auto& [name, tensor] : file.tensors(key)) {
    const auto type = to_scalar_type(tensor.dtype);
    const auto bytes = file.storage(tensor);
    if (bytes.empty()) {
      out[name] = at::empty(tensor.shape, type);
      continue;
    }
    auto* data = const_cast<std::byte*>(bytes.data()) + tensor.offset * weights::size_of(tensor.dtype);
    out[name] = at::from_blob(data, tensor.shape, tensor.stride, at::TensorOptions().dtype(type))
                    .clone(at::MemoryFormat::Contiguous);
  }
  return out;
}

std::string renamed(const LoadOptions& options, const std::string& name) {
  return options.rename ? options.rename(name) : name;
}

}  // namespace

at::ScalarType to_scalar_type(DType type) {
  for (const auto& [ours, theirs] : kTypes)
    if (ours == type) return theirs;
  check_failed("a known DType", "");
}

DType to_dtype(at::ScalarType type) {
  for (const auto& [ours, theirs] : kTypes)
    if (theirs == type) return ours;
  fail(ErrorKind::Data,
       {"a tensor's type cannot be written to safetensors", at::toString(type), "", "convert it first"});
}

TensorMap load_tensors(const Path& path, const std::string& key) {
  if (is_torch_file(path)) return load_torch(path, key);
  const weights::SafetensorsFile file(path);
  TensorMap out;
  for (const auto& info : file.tensors()) out[info.name] = view_of(file, info).clone();
  return out;
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
    if (!ours.empty()) sources[ours] = {tensor.sizes().vec(), [&tensor = tensor] { return tensor; }};
  }
  load_from(module, sources, source, options);
}

void load_module(Module& module, const Path& path, const LoadOptions& options) {
  if (is_torch_file(path)) return load_module(module, load_torch(path, ""), path.string(), options);
  const weights::SafetensorsFile file(path);
  std::map<std::string, Source> sources;
  for (const auto& info : file.tensors()) {
    const std::string ours = renamed(options, info.name);
    if (!ours.empty()) sources[ours] = {info.shape, [&file, &info] { return view_of(file, info); }};
  }
  load_from(module, sources, path.string(), options);
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
