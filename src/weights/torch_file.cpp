#include "weights/torch_file.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "weights/safetensors_header.hpp"
#include "weights/strided.hpp"
#include "weights/zip.hpp"

namespace divergen::weights {
namespace {

// Pickle of the magic number 0x1950a86a20f9469cfc6c, with which torch.save began before PyTorch 1.6.
constexpr std::string_view kLegacyMagic("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
constexpr std::int64_t kLegacyVersion = 1001;
constexpr int kMaxDepth = 32;                 // of dictionaries in dictionaries
constexpr std::size_t kMaxVisited = 300'000;  // values, counted as often as they are shared
constexpr std::size_t kMaxFacts = 200, kMaxFact = 200;
constexpr std::uint64_t kMaxTree = 64u << 20;  // bytes of data.pkl; those of real checkpoints have less than 1 MB

bool begins_with(std::span<const std::byte> bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

std::string join(const std::string& name, std::string_view key) {
  std::string out;
  out.reserve(name.size() + 1 + key.size());
  out += name;
  if (!name.empty()) out += '.';
  return out += key;
}

std::string key_text(const Pickle::Value& key) {
  switch (key.kind) {
    case PickleKind::Integer:
      return std::to_string(key.integer);
    case PickleKind::Bool:
      return key.flag ? "True" : "False";
    case PickleKind::Real:
      return cat(key.real);
    case PickleKind::Text:
      return std::string(key.text);
    default:
      return "None";
  }
}

}  // namespace

bool is_torch_file(std::span<const std::byte> bytes) {
  return is_zip(bytes) || (bytes.size() >= 2 && bytes[0] == std::byte{0x80} && bytes[1] <= std::byte{5});
}

void TorchFile::refuse(const std::string& key, const std::string& why) const {
  fail(ErrorKind::Data, {"not a checkpoint that can be read", key.empty() ? name() : cat(name(), " [", shown(key), "]"),
                         why, "download the file again, or convert it to safetensors where you trust it"});
}

TorchFile::TorchFile(std::shared_ptr<const MappedFile> file)
    : WeightSource("", file->path().string()), file_(std::move(file)) {
  files_ = {file_->path()};
  const auto bytes = file_->bytes();
  Storages storages;
  if (is_zip(bytes)) {
    storages = open_zip();
  } else if (begins_with(bytes, kLegacyMagic)) {
    storages = open_legacy();
  } else if (is_torch_file(bytes)) {
    format_ = "numpy-pickle";
    pickle_ = std::make_unique<Pickle>(bytes, name(), PickleOptions{.torch = false, .numpy = true});
    if (pickle_->consumed() != bytes.size())
      refuse("", cat(bytes.size() - pickle_->consumed(), " bytes at its end belong to nothing"));
  } else {
    refuse("", "it begins neither as a zip file nor as a pickle");
  }
  collect(pickle_->root(), "", 0, storages);
}

// ---- containers ----------------------------------------------------------------------------------------------------

TorchFile::Storages TorchFile::open_zip() {
  const auto bytes = file_->bytes();
  const std::vector<ZipEntry> entries = read_zip(bytes, name());
  std::string_view prefix;
  const ZipEntry* tree = nullptr;
  bool is_script = false;
  for (const ZipEntry& entry : entries) {
    const auto slash = entry.name.find('/');
    if (slash == std::string_view::npos || entry.name.substr(slash) != "/data.pkl") continue;
    if (tree != nullptr) refuse("", cat("it has two trees, '", shown(tree->name), "' and '", shown(entry.name), "'"));
    tree = &entry;
    prefix = entry.name.substr(0, slash + 1);
  }
  if (tree == nullptr) refuse("", "it has no entry data.pkl in one folder");
  Storages storages;
  for (const ZipEntry& entry : entries) {
    if (!entry.name.starts_with(prefix)) refuse("", cat("the entry '", shown(entry.name), "' is outside its folder"));
    const std::string_view inner = entry.name.substr(prefix.size());
    const auto data = bytes.subspan(entry.begin, entry.length);
    is_script = is_script || inner == "constants.pkl";
    const bool is_read = inner.starts_with("data/") || inner == "data.pkl" || inner == "byteorder";
    // TorchScript compresses its code, which is not read.
    if (is_read && !entry.is_stored)
      refuse("", cat("the entry '", shown(entry.name), "' is compressed; PyTorch stores what holds data as it is"));
    if (inner == "byteorder" && !begins_with(data, "little")) refuse("", "its byte order is not 'little'");
    if (inner.starts_with("data/")) storages.emplace(inner.substr(5), data);
  }
  if (tree->length > kMaxTree) refuse("", cat("its tree has ", tree->length, " bytes, expected at most ", kMaxTree));
  format_ = is_script ? "torchscript" : "torch-zip";
  pickle_ = std::make_unique<Pickle>(bytes.subspan(tree->begin, tree->length), cat(name(), ":", tree->name),
                                     PickleOptions{.torch = true, .torch_script = is_script});
  if (pickle_->consumed() != tree->length) refuse("", "bytes at the end of its tree belong to nothing");
  return storages;
}

TorchFile::Storages TorchFile::open_legacy() {
  format_ = "torch-legacy";
  const auto bytes = file_->bytes();
  std::size_t at = kLegacyMagic.size();
  const auto next = [&] {
    auto out = std::make_unique<Pickle>(bytes.subspan(at), cat(name(), " from byte ", at), PickleOptions{});
    at += out->consumed();
    return out;
  };
  const auto version = next();
  if ((*version)[version->root()].kind != PickleKind::Integer || (*version)[version->root()].integer != kLegacyVersion)
    refuse("", cat("its protocol version is not ", kLegacyVersion));
  const auto system = next();
  const Pickle::Value* little = system->member((*system)[system->root()], "little_endian");
  if (little == nullptr || !little->flag) refuse("", "its byte order is not little-endian");
  pickle_ = next();
  const auto keys = next();
  if ((*keys)[keys->root()].kind != PickleKind::List) refuse("", "its storages are not a list of keys");
  Storages storages;
  for (const Pickle::Id id : keys->items((*keys)[keys->root()])) {
    const Pickle::Value& key = (*keys)[id];
    const auto type = pickle_->storages().find(key.kind == PickleKind::Text ? key.text : std::string_view());
    if (type == pickle_->storages().end()) refuse("", cat("no tensor belongs to its storage '", shown(key.text), "'"));
    std::int64_t count = 0;
    if (bytes.size() - at < sizeof count)
      refuse("", cat("it ends before its storage '", shown(key.text), "': it is truncated"));
    std::memcpy(&count, bytes.data() + at, sizeof count);
    at += sizeof count;
    const std::size_t element = size_of(type->second), left = bytes.size() - at;
    if (count < 0 || static_cast<std::uint64_t>(count) > left / element)
      refuse("", cat("its storage '", shown(key.text), "' claims ", count, " elements of ", element, " bytes, but ",
                     left, " bytes are left: it is truncated"));
    const std::size_t length = static_cast<std::size_t>(count) * element;
    if (!storages.emplace(key.text, bytes.subspan(at, length)).second)
      refuse("", cat("its storage '", shown(key.text), "' stands twice"));
    at += length;
  }
  if (at != bytes.size()) refuse("", cat(bytes.size() - at, " bytes at its end belong to no tensor"));
  return storages;
}

// ---- tensors -------------------------------------------------------------------------------------------------------

void TorchFile::collect(Pickle::Id id, const std::string& name, int depth, const Storages& storages) {
  const Pickle::Value& value = (*pickle_)[id];
  if (++visited_ > kMaxVisited) refuse(name, cat("its tree has more than ", kMaxVisited, " values"));
  if (depth > kMaxDepth) refuse(name, cat("its tree is nested deeper than ", kMaxDepth, " levels"));
  if (name.size() > kMaxName) refuse(name, cat("a name is longer than ", kMaxName, " bytes"));
  switch (value.kind) {
    case PickleKind::Dict: {
      const auto pairs = pickle_->items(value);
      for (std::size_t i = 0; i + 1 < pairs.size(); i += 2)
        collect(pairs[i + 1], join(name, key_text((*pickle_)[pairs[i]])), depth + 1, storages);
      return;
    }
    case PickleKind::List:
    case PickleKind::Tuple: {
      const auto items = pickle_->items(value);
      for (std::size_t i = 0; i < items.size(); ++i)
        collect(items[i], join(name, std::to_string(i)), depth + 1, storages);
      return;
    }
    case PickleKind::Tensor:
      return add_view(name, resolve(name, pickle_->tensor(value), storages));
    case PickleKind::Array:
      return add_view(name, resolve(name, pickle_->array(value)));
    case PickleKind::None:
    case PickleKind::Bytes:
      return;
    case PickleKind::Text:
    case PickleKind::Integer:
    case PickleKind::Real:
    case PickleKind::Bool:
      if (depth <= 2 && metadata_.size() < kMaxFacts) metadata_.emplace(name, key_text(value).substr(0, kMaxFact));
      return;
    default:
      refuse(name, "a class or a storage stands where data are expected");
  }
}

void TorchFile::add_view(const std::string& name, TorchTensor view) {
  if (WeightSource::tensors().size() >= kMaxTensors) refuse(name, cat("it has more than ", kMaxTensors, " tensors"));
  if (!add(name, view.dtype, view.shape)) refuse(name, "the name stands twice");
  views_.push_back(std::move(view));
}

TorchTensor TorchFile::resolve(const std::string& name, const PickledTensor& tensor, const Storages& storages) const {
  const auto found = storages.find(tensor.storage);
  if (found == storages.end()) refuse(name, cat("its storage '", shown(tensor.storage), "' is not in the file"));
  const std::size_t element = size_of(tensor.dtype);
  const std::span<const std::byte> bytes = found->second;
  if (bytes.size() % element != 0 || bytes.size() / element != tensor.storage_numel)
    refuse(name, cat("its storage '", shown(tensor.storage), "' is expected to have ", tensor.storage_numel,
                     " elements of ", element, " bytes, found ", bytes.size(), " bytes"));
  const auto total = checked_bytes(tensor.dtype, tensor.shape);
  // A view that shows elements more than once could claim any size.
  if (!total || *total > bytes.size())
    refuse(name,
           cat("its shape ", shape_text(tensor.shape), " of ", to_string(tensor.dtype), " takes ",
               total ? cat(*total) : std::string("more than 2^64"), " bytes, but its storage has ", bytes.size()));
  if (*total > 0) {
    const auto last = last_position(tensor.shape, tensor.stride, tensor.offset);
    if (!last || *last >= tensor.storage_numel)
      refuse(name, cat("it reaches element ", last ? cat(*last) : std::string("beyond 2^64"), " of its storage '",
                       shown(tensor.storage), "', which has ", tensor.storage_numel));
  }
  return {tensor.dtype, tensor.shape, tensor.stride, tensor.offset, bytes};
}

TorchTensor TorchFile::resolve(const std::string& name, const PickledArray& array) const {
  if (!array.is_filled) refuse(name, "an array has no data");
  const auto bytes = std::as_bytes(std::span(array.bytes.data(), array.bytes.size()));
  return {array.dtype, array.shape, dense_strides(array.shape, array.is_fortran), 0, bytes, array.is_latin1};
}

std::map<std::string, TorchTensor> TorchFile::tensors(const std::string& key) const {
  const std::string prefix = key.empty() ? "" : key + ".";
  std::map<std::string, TorchTensor> out;
  for (const Weight& weight : tensors())
    if (weight.name.starts_with(prefix)) out.emplace(weight.name.substr(prefix.size()), views_[weight.index]);
  if (out.empty() && !key.empty() && !has(key)) refuse(key, "it has no such entry");
  return out;
}

bool TorchFile::has(const std::string& key) const {
  return pickle_->member((*pickle_)[pickle_->root()], key) != nullptr;
}

// ---- values --------------------------------------------------------------------------------------------------------

std::span<const std::byte> TorchFile::decoded(const TorchTensor& view) const {
  if (decoded_of_ != view.storage.data()) {
    const std::string_view text(reinterpret_cast<const char*>(view.storage.data()), view.storage.size());
    auto bytes = std::make_shared<std::vector<std::byte>>(*latin1_length(text));
    decode_latin1(text, *bytes);
    decoded_ = std::move(bytes);
    decoded_of_ = view.storage.data();
  }
  return *decoded_;
}

void TorchFile::read(const Weight& weight, std::uint64_t first, std::span<std::byte> out) const {
  const TorchTensor& view = views_.at(weight.index);
  if (view.is_latin1 && !view.storage.empty()) {
    const std::lock_guard lock(decoding_);
    return copy_rows(decoded(view), size_of(view.dtype), view.shape, view.stride, view.offset, first, out);
  }
  copy_rows(view.storage, size_of(view.dtype), view.shape, view.stride, view.offset, first, out);
}

void TorchFile::release(const Weight& weight, std::uint64_t first, std::uint64_t count) const {
  const TorchTensor& view = views_.at(weight.index);
  if (view.is_latin1 || count == 0) return;
  const std::size_t element = size_of(view.dtype);
  if (is_dense(view.shape, view.stride)) {
    file_->release(view.storage.subspan((view.offset + first) * element, count * element));
  } else if (first + count == weight.elements()) {
    file_->release(view.storage);  // its elements lie all over the storage
  }
}

}  // namespace divergen::weights
