#pragma once
// PyTorch's checkpoint files (.pth, .pt, .bin) and NumPy pickles (.pkl) read as data: nothing is ever imported, called
// or executed (see pickle.hpp).
//
// zip form (PyTorch 1.6 and newer, TorchScript): entries must be stored, not compressed; data.pkl is the tree, data/<n>
// the storages. Legacy form: five pickles (magic number, version, system, tree, keys), then the storages. Facts:
// reference/detector.md §10, reference/reliability.md §2.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "weights/mapped_file.hpp"
#include "weights/pickle.hpp"
#include "weights/weights.hpp"

namespace divergen::weights {

/// A tensor of the file: a view into one storage, whose bounds have been checked. Strides and offset in elements.
struct TorchTensor {
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape, stride;
  std::uint64_t offset = 0;
  std::span<const std::byte> storage;
  bool is_latin1 = false;  // the storage is text whose code points are the bytes (NumPy, protocol 2)
};

/// A mapped checkpoint. Thread-safe after construction.
class TorchFile : public WeightSource {
 public:
  /// Throws Error(Io), or Error(Data) naming file, position or key, and what was refused.
  explicit TorchFile(const Path& path) : TorchFile(std::make_shared<const MappedFile>(path)) {}
  explicit TorchFile(std::shared_ptr<const MappedFile> file);

  const Path& path() const { return file_->path(); }
  const Pickle& pickle() const { return *pickle_; }
  /// Tensors by name: all, or those of root[key] where root is a dictionary of dictionaries.
  std::map<std::string, TorchTensor> tensors(const std::string& key) const;
  using WeightSource::tensors;
  /// Whether root has an entry of this name.
  bool has(const std::string& key) const;
  const TorchTensor& view(const Weight& weight) const { return views_[weight.index]; }

  void read(const Weight& weight, std::uint64_t first, std::span<std::byte> out) const override;
  void release(const Weight& weight, std::uint64_t first, std::uint64_t count) const override;

 private:
  using Storages = std::map<std::string, std::span<const std::byte>, std::less<>>;
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;
  Storages open_zip();
  Storages open_legacy();
  void collect(Pickle::Id id, const std::string& name, int depth, const Storages& storages);
  void add_view(const std::string& name, TorchTensor view);
  TorchTensor resolve(const std::string& name, const PickledTensor& tensor, const Storages& storages) const;
  TorchTensor resolve(const std::string& name, const PickledArray& array) const;
  std::span<const std::byte> decoded(const TorchTensor& view) const;

  std::shared_ptr<const MappedFile> file_;
  std::unique_ptr<Pickle> pickle_;
  std::vector<TorchTensor> views_;
  std::size_t visited_ = 0;
  mutable std::mutex decoding_;
  mutable const std::byte* decoded_of_ = nullptr;
  mutable std::shared_ptr<const std::vector<std::byte>> decoded_;
};

/// Whether the bytes begin as such a file does.
bool is_torch_file(std::span<const std::byte> bytes);

}  // namespace divergen::weights
