#pragma once
// Weight files of every format behind one interface: names, types, shapes, and the values in row-major order.
//
// Formats, told apart by content (a file called .safetensors is never read as anything else):
//   safetensors           one file, or an index with shards ("x.safetensors.index.json", variants "….index.fp16.json")
//   torch-zip             torch.save since PyTorch 1.6: .pth .pt .bin; also in shards with an index
//   torchscript           an archive of torch.jit.save, as OpenAI ships CLIP: its attributes
//   torch-legacy          torch.save before PyTorch 1.6
//   numpy-pickle          a plain pickle with NumPy arrays, as detectron2's converters write it
// Names are those of the file, dictionaries joined with dots: a training checkpoint has "model.…", "model_ema.module.…"
// and "optimizer.state.0.exp_avg"; select_prefix() looks into one of them.
//
// Everything about names, types, shapes and bounds is checked when a source is opened, and nothing else is read then:
// opening takes memory for the names alone, whatever a file claims. Values are read in pieces, and the pages of the
// file are given back behind, so that loading needs the target's memory and some MB more.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fs.hpp"
#include "weights/dtype.hpp"

namespace divergen::weights {

/// One tensor of a source.
struct Weight {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::size_t index = 0;  // its position in WeightSource::tensors()

  std::uint64_t elements() const { return count_of(shape); }
  std::uint64_t bytes() const { return elements() * size_of(dtype); }
};

/// A set of named tensors. Thread-safe after construction.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  WeightSource(const WeightSource&) = delete;
  WeightSource& operator=(const WeightSource&) = delete;

  const std::string& format() const { return format_; }  // see the head of this file
  const std::string& name() const { return name_; }      // the file, for messages
  const std::vector<Path>& files() const { return files_; }
  const std::vector<Weight>& tensors() const { return tensors_; }
  const Weight* find(std::string_view name) const;
  /// Texts of a safetensors header; plain numbers and texts near the root of a pickle ("iteration" = "89999").
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Elements [first, first + out.size() / size_of(dtype)) of the tensor in row-major order, in the file's type.
  virtual void read(const Weight& weight, std::uint64_t first, std::span<std::byte> out) const = 0;
  /// These elements will not be read again soon: their pages may go.
  virtual void release(const Weight& weight, std::uint64_t first, std::uint64_t count) const = 0;

 protected:
  WeightSource(std::string format, std::string name) : format_(std::move(format)), name_(std::move(name)) {}
  /// Enters a tensor; returns false when its name is taken.
  bool add(std::string name, DType dtype, std::vector<std::int64_t> shape);

  std::string format_, name_;
  std::vector<Path> files_;
  std::map<std::string, std::string> metadata_;

 private:
  std::vector<Weight> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
};

/// Opens a weight file, an index of shards, or a folder that holds one of the usual names (find_weights). A path that
/// does not exist stands for its other forms beside it: model.safetensors for model.safetensors.index.json,
/// model.fp16.safetensors and so on. Throws Error(Io) when it cannot be read, Error(Data) that names file, key,
/// expected and found when it is damaged, hostile or of no known format.
std::unique_ptr<WeightSource> open_weights(const Path& path);

/// The same from memory, which must outlive the source; no index. `name` stands for the file.
std::unique_ptr<WeightSource> open_weights(std::span<const std::byte> bytes, const std::string& name);

/// The weight file of a folder as diffusers and transformers write them: {model, diffusion_pytorch_model,
/// pytorch_model}, whole or as index, first without variant and then as fp16. Empty when there is none.
Path find_weights(const Path& folder);

/// The tensors whose names begin with `prefix` ("model_ema.module."), without it. Throws Error(Data) naming the
/// prefixes that there are when none does.
std::unique_ptr<WeightSource> select_prefix(std::shared_ptr<const WeightSource> source, const std::string& prefix);

/// Values as `type` (floating ones; others must already have it), in pieces of at most 1 MB that are valid during the
/// call. Throws Error(Data) when `refuse_not_finite` and a NaN or infinity stands in it, naming the tensor and where.
struct ReadOptions {
  bool refuse_not_finite = false;
};
void stream(const WeightSource& source, const Weight& weight, DType type,
            const std::function<void(std::span<const std::byte>)>& sink, const ReadOptions& options = {});
/// The same into `out`, which has elements · size_of(type) bytes.
void read_as(const WeightSource& source, const Weight& weight, DType type, std::span<std::byte> out,
             const ReadOptions& options = {});

/// XXH3-128 over names, types, shapes and values in order of names, 32 hexadecimal digits: the same for the same
/// tensors in whatever format, number of shards and order they lie.
std::string content_hash(const WeightSource& source);

}  // namespace divergen::weights
