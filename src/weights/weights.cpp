#include "weights/weights.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "weights/mapped_file.hpp"
#include "weights/safetensors.hpp"
#include "weights/sharded.hpp"
#include "weights/torch_file.hpp"

// The hash of a content is made of pieces; base/hash.hpp hashes whole texts and files.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/hash.hpp"

namespace divergen::weights {
namespace {

constexpr std::size_t kPiece = 1u << 20;  // bytes of the file that are in hand at a time

class SafetensorsSource : public WeightSource {
 public:
  explicit SafetensorsSource(std::shared_ptr<const MappedFile> mapped)
      : WeightSource("safetensors", mapped->path().string()), file_(std::move(mapped)) {
    files_ = {file_.path()};
    metadata_ = file_.metadata();
    for (const TensorInfo& info : file_.tensors()) add(info.name, info.dtype, info.shape);
  }
  void read(const Weight& weight, std::uint64_t first, std::span<std::byte> out) const override {
    const auto part = file_.bytes(file_.tensors().at(weight.index)).subspan(first * size_of(weight.dtype), out.size());
    std::copy(part.begin(), part.end(), out.begin());
  }
  void release(const Weight& weight, std::uint64_t first, std::uint64_t count) const override {
    const std::size_t element = size_of(weight.dtype);
    file_.file().release(file_.bytes(file_.tensors().at(weight.index)).subspan(first * element, count * element));
  }

 private:
  SafetensorsFile file_;
};

class PrefixSource : public WeightSource {
 public:
  PrefixSource(std::shared_ptr<const WeightSource> source, const std::string& prefix)
      : WeightSource(source->format(), source->name()), source_(std::move(source)) {
    files_ = source_->files();
    metadata_ = source_->metadata();
    for (const Weight& weight : source_->tensors()) {
      if (!weight.name.starts_with(prefix)) continue;
      add(weight.name.substr(prefix.size()), weight.dtype, weight.shape);
      from_.push_back(&weight);
    }
  }
  void read(const Weight& weight, std::uint64_t first, std::span<std::byte> out) const override {
    source_->read(*from_.at(weight.index), first, out);
  }
  void release(const Weight& weight, std::uint64_t first, std::uint64_t count) const override {
    source_->release(*from_.at(weight.index), first, count);
  }

 private:
  std::shared_ptr<const WeightSource> source_;
  std::vector<const Weight*> from_;
};

std::unique_ptr<WeightSource> open_mapped(std::shared_ptr<const MappedFile> file) {
  const Path& path = file->path();
  // What is called .safetensors was promised to hold no pickle, so no pickle is looked for in it.
  if (path.extension() == ".safetensors") return std::make_unique<SafetensorsSource>(std::move(file));
  if (is_torch_file(file->bytes())) return std::make_unique<TorchFile>(std::move(file));
  const bool is_torch_name = path.extension() == ".pth" || path.extension() == ".pt" || path.extension() == ".bin" ||
                             path.extension() == ".pkl";
  if (is_torch_name)
    fail(ErrorKind::Data, {"not a checkpoint that can be read", path.string(),
                           file->bytes().empty() ? "it is empty" : "it begins neither as a zip file nor as a pickle",
                           "download the file again"});
  return std::make_unique<SafetensorsSource>(std::move(file));
}

/// The forms that a missing "x.ext" may have beside it; the full file first, as transformers and diffusers look.
Path other_form(const Path& path) {
  const std::string stem = path.stem().string(), extension = path.extension().string();
  for (const std::string& name :
       {cat(stem, extension, ".index.json"), cat(stem, ".fp16", extension), cat(stem, extension, ".index.fp16.json"),
        cat(stem, ".fp16", extension, ".index.json")})
    if (std::filesystem::exists(path.parent_path() / name)) return path.parent_path() / name;
  return {};
}

}  // namespace

const Weight* WeightSource::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

bool WeightSource::add(std::string name, DType dtype, std::vector<std::int64_t> shape) {
  if (!index_.emplace(name, tensors_.size()).second) return false;
  tensors_.push_back({std::move(name), dtype, std::move(shape), tensors_.size()});
  return true;
}

Path find_weights(const Path& folder) {
  for (const char* name : {"model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin",
                           "diffusion_pytorch_model.bin"}) {
    const Path path = folder / name;
    if (std::filesystem::exists(path)) return path;
    if (const Path other = other_form(path); !other.empty()) return other;
  }
  return {};
}

std::unique_ptr<WeightSource> open_weights(const Path& given) {
  Path path = given;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    path = find_weights(given);
    if (path.empty())
      fail(ErrorKind::Io,
           {"there are no weights in the folder", given.string(),
            "it has neither model.safetensors nor another usual name, nor an index of one", "name the file itself"});
  } else if (!std::filesystem::exists(path, error)) {
    if (const Path other = other_form(path); !other.empty()) path = other;
  }
  if (path.extension() == ".json") return open_sharded(path);
  return open_mapped(std::make_shared<const MappedFile>(path));
}

std::unique_ptr<WeightSource> open_weights(std::span<const std::byte> bytes, const std::string& name) {
  return open_mapped(std::make_shared<const MappedFile>(bytes, Path(name)));
}

std::unique_ptr<WeightSource> select_prefix(std::shared_ptr<const WeightSource> source, const std::string& prefix) {
  const std::string name = source->name();
  std::string found;
  std::map<std::string, int> groups;
  for (const Weight& weight : source->tensors()) ++groups[weight.name.substr(0, weight.name.find('.'))];
  for (const auto& [group, count] : groups)
    if (found.size() < 200) found += cat(found.empty() ? "" : ", ", shown(group), " (", count, ")");
  auto out = std::make_unique<PrefixSource>(std::move(source), prefix);
  if (out->tensors().empty())
    fail(ErrorKind::Data, {"the weights hold no tensor of this prefix", cat(name, " [", shown(prefix), "]"),
                           cat("expected names that begin with '", shown(prefix), "', found ", found),
                           "look at the names with: divergen inspect FILE --keys"});
  return out;
}

// ---- values --------------------------------------------------------------------------------------------------------

void stream(const WeightSource& source, const Weight& weight, DType type,
            const std::function<void(std::span<const std::byte>)>& sink, const ReadOptions& options) {
  if (weight.dtype != type && !(is_floating(weight.dtype) && is_floating(type)))
    fail(ErrorKind::Data,
         {"a tensor has the wrong type", cat(source.name(), " [", shown(weight.name), "]"),
          cat("expected ", to_string(type), ", found ", to_string(weight.dtype)), "name the weights of this model"});
  const std::uint64_t total = weight.elements(), at_a_time = kPiece / std::max(size_of(weight.dtype), size_of(type));
  std::vector<std::byte> raw, converted;
  for (std::uint64_t first = 0; first < total; first += at_a_time) {
    const std::uint64_t count = std::min(at_a_time, total - first);
    raw.resize(count * size_of(weight.dtype));
    source.read(weight, first, raw);
    source.release(weight, first, count);
    if (options.refuse_not_finite)
      if (const auto bad = first_not_finite(weight.dtype, raw))
        fail(ErrorKind::Data,
             {"a weight is not a finite number", cat(source.name(), " [", shown(weight.name), "]"),
              cat("expected finite values, found NaN or infinity at element ", first + *bad, " of ", total),
              "download the file again, or take an earlier checkpoint"});
    if (weight.dtype == type) {
      sink(raw);
      continue;
    }
    converted.resize(count * size_of(type));
    convert(weight.dtype, raw, type, converted);
    sink(converted);
  }
}

void read_as(const WeightSource& source, const Weight& weight, DType type, std::span<std::byte> out,
             const ReadOptions& options) {
  DIVERGEN_CHECK(out.size() == weight.elements() * size_of(type), weight.name);
  std::size_t at = 0;
  stream(
      source, weight, type,
      [&](std::span<const std::byte> piece) {
        std::copy(piece.begin(), piece.end(), out.begin() + static_cast<std::ptrdiff_t>(at));
        at += piece.size();
      },
      options);
}

std::string content_hash(const WeightSource& source) {
  std::vector<const Weight*> sorted;
  for (const Weight& weight : source.tensors()) sorted.push_back(&weight);
  std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->name < b->name; });
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(state.get());
  const auto update = [&](std::span<const std::byte> bytes) {
    XXH3_128bits_update(state.get(), bytes.data(), bytes.size());
  };
  for (const Weight* weight : sorted) {
    const std::string head = cat(weight->name, '\n', to_string(weight->dtype), shape_text(weight->shape), '\n');
    update(std::as_bytes(std::span(head)));
    stream(source, *weight, weight->dtype, update);
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return to_hex(Hash128{hash.low64, hash.high64});
}

}  // namespace divergen::weights
