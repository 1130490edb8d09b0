#pragma once
// Python's pickles read as data.
//
// A pickle is a program for a stack machine that can call anything. This machine knows the opcodes that torch.save,
// TorchScript and NumPy write (protocols 2 to 5) and a closed list of globals that stand for data; it calls, imports
// and makes nothing. Any other opcode, global or argument ends the reading (reference/reliability.md §2, torch.load
// weights_only). Values, nesting, memo and stack are bounded, so that a hostile file of some bytes costs some bytes.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "weights/dtype.hpp"

namespace divergen::weights {

enum class PickleKind : std::uint8_t {
  None,
  Bool,
  Integer,
  Real,
  Text,
  Bytes,
  List,
  Tuple,
  Dict,    // also an OrderedDict, and the attributes of a TorchScript module
  Tensor,  // a view of a torch storage
  Array,   // of NumPy
  Global,  // the rest are means to an end and stand nowhere in a finished tree
  Storage,
  NumpyType,
};

/// A torch tensor: strides and offset in elements of a storage that lies elsewhere in the file.
struct PickledTensor {
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape, stride;
  std::uint64_t offset = 0;
  std::string_view storage;         // its key
  std::uint64_t storage_numel = 0;  // elements that the pickle claims for it
};

/// A NumPy array whose bytes stand in the pickle.
struct PickledArray {
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  bool is_fortran = false;  // first index fastest
  std::string_view bytes;   // as they stand in the pickle
  bool is_latin1 = false;   // protocol 2: the bytes as code points of UTF-8 text; see decode_latin1()
  bool is_filled = false;   // its BUILD has come
};

struct PickleOptions {
  bool torch = true;          // storages and tensors
  bool torch_script = false;  // module objects "__torch__.*" with attributes
  bool numpy = false;         // arrays
};

/// A parsed pickle. Texts and bytes are views into the parsed bytes. Thread-safe after construction.
class Pickle {
 public:
  using Id = std::uint32_t;
  struct Value {
    PickleKind kind = PickleKind::None;
    bool flag = false;         // Bool: the value; Bytes and Text: an old string that may stand for bytes / Latin-1
    std::int64_t integer = 0;  // Integer; containers, tensors, arrays: position in their table
    double real = 0;           // Real
    std::string_view text;     // Text, Bytes, Global ("module name")
  };

  /// Interprets the bytes up to the first STOP. Throws Error(Data) naming `file`, the byte and the nearest key.
  Pickle(std::span<const std::byte> bytes, const std::string& file, const PickleOptions& options = {});

  Id root() const { return root_; }
  std::size_t consumed() const { return consumed_; }  // bytes up to and with STOP
  const Value& operator[](Id id) const { return values_[id]; }
  /// Elements of a List or Tuple; keys and values in turn of a Dict.
  std::span<const Id> items(const Value& value) const { return sequences_[static_cast<std::size_t>(value.integer)]; }
  const PickledTensor& tensor(const Value& value) const { return tensors_[static_cast<std::size_t>(value.integer)]; }
  const PickledArray& array(const Value& value) const { return arrays_[static_cast<std::size_t>(value.integer)]; }
  /// The value of a text key in a Dict, nullptr if there is none.
  const Value* member(const Value& dict, std::string_view key) const;
  /// Element type by key of every torch storage that the pickle refers to.
  const std::unordered_map<std::string_view, DType>& storages() const { return storages_; }

 private:
  friend class PickleMachine;
  std::deque<Value> values_;
  std::deque<std::vector<Id>> sequences_;
  std::deque<PickledTensor> tensors_;
  std::deque<PickledArray> arrays_;
  std::deque<std::string> texts_;  // "module name" of globals
  std::unordered_map<std::string_view, DType> storages_;
  Id root_ = 0;
  std::size_t consumed_ = 0;
};

/// Number of bytes that UTF-8 text of code points below 256 stands for; nothing where it is no such text.
std::optional<std::size_t> latin1_length(std::string_view text);
void decode_latin1(std::string_view text, std::span<std::byte> out);

}  // namespace divergen::weights
