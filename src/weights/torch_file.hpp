#pragma once
// PyTorch's checkpoint files (.pth, .pt, .bin) read as data.
//
// The zip form: entries must be stored, not compressed; data.pkl is interpreted against a closed list of opcodes and
// globals. Nothing is ever imported, called or executed: a global outside the list, an opcode outside the list, or an
// argument of the wrong kind ends the reading with an error (reference/reliability.md §2, torch.load weights_only).

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/fs.hpp"
#include "weights/safetensors.hpp"

namespace divergen::weights {

/// A tensor of the file: a view into one storage. Strides in elements.
struct TorchTensor {
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape, stride;
  std::uint64_t offset = 0;  // in elements
  std::string storage;       // key of the storage
};

struct PickleValue;
using PickleList = std::vector<PickleValue>;
using PickleDict = std::vector<std::pair<PickleValue, PickleValue>>;

/// What a pickle may hold here.
struct PickleValue {
  std::variant<std::monostate, bool, std::int64_t, double, std::string, TorchTensor, std::shared_ptr<PickleList>,
               std::shared_ptr<PickleDict>>
      data;
};

/// A mapped zip checkpoint. Thread-safe after construction.
class TorchFile {
 public:
  /// Throws Error(Io), or Error(Data) naming file, position and what was refused.
  explicit TorchFile(const Path& path);
  ~TorchFile();
  TorchFile(const TorchFile&) = delete;
  TorchFile& operator=(const TorchFile&) = delete;

  const PickleValue& root() const { return root_; }
  /// Tensors by name: those of root, or of root[key] where root is a dictionary of dictionaries; nested names get dots.
  std::map<std::string, TorchTensor> tensors(const std::string& key = "") const;
  bool has(const std::string& key) const;
  /// The whole storage of a tensor. Throws Error(Data) when the tensor reaches beyond it.
  std::span<const std::byte> storage(const TorchTensor& tensor) const;
  const Path& path() const { return path_; }

 private:
  void read_directory();

  Path path_;
  const std::byte* map_ = nullptr;
  std::size_t size_ = 0;
  std::map<std::string, std::pair<std::size_t, std::size_t>> entries_;  // name -> offset, length
  std::string prefix_;
  PickleValue root_;
};

/// Interprets pickle bytes; `name` is for messages.
PickleValue parse_pickle(std::span<const std::byte> bytes, const std::string& name);

}  // namespace divergen::weights
