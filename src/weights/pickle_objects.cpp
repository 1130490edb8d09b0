// The globals of pickle.hpp and what is made of them. Nothing is called: each name on the list stands for a kind of
// data, and its arguments are checked and kept.

#include <algorithm>
#include <array>

#include "base/error.hpp"
#include "weights/pickle_machine.hpp"

namespace divergen::weights {
namespace {

struct StorageName {
  std::string_view name;
  DType type;
};
constexpr std::array<StorageName, 10> kStorages{{{"torch FloatStorage", DType::F32},
                                                 {"torch DoubleStorage", DType::F64},
                                                 {"torch HalfStorage", DType::F16},
                                                 {"torch BFloat16Storage", DType::BF16},
                                                 {"torch LongStorage", DType::I64},
                                                 {"torch IntStorage", DType::I32},
                                                 {"torch ShortStorage", DType::I16},
                                                 {"torch CharStorage", DType::I8},
                                                 {"torch ByteStorage", DType::U8},
                                                 {"torch BoolStorage", DType::Bool}}};

constexpr std::string_view kRebuild = "torch._utils _rebuild_tensor_v2", kParameter = "torch._utils _rebuild_parameter",
                           kOrderedDict = "collections OrderedDict", kSize = "torch Size";
constexpr std::array<std::string_view, 4> kTorch{kRebuild, kParameter, kOrderedDict, kSize};

// TorchScript marks typed lists and dictionaries with calls that return their first argument.
constexpr std::array<std::string_view, 5> kTorchScript{
    "torch.jit._pickle build_intlist", "torch.jit._pickle build_doublelist", "torch.jit._pickle build_boollist",
    "torch.jit._pickle build_tensorlist", "torch.jit._pickle restore_type_tag"};
/// A class of the archive itself: "__torch__ Model", "__torch__.part Layer".
bool is_module(std::string_view global) { return global.starts_with("__torch__ ") || global.starts_with("__torch__."); }

constexpr std::string_view kEncode = "_codecs encode", kArrayType = "numpy ndarray", kNumpyType = "numpy dtype",
                           kOldBytes = "__builtin__ bytes";

struct NumpyName {
  std::string_view name;
  DType type;
};
constexpr std::array<NumpyName, 12> kNumpyTypes{{{"f8", DType::F64},
                                                 {"f4", DType::F32},
                                                 {"f2", DType::F16},
                                                 {"i8", DType::I64},
                                                 {"i4", DType::I32},
                                                 {"i2", DType::I16},
                                                 {"i1", DType::I8},
                                                 {"u1", DType::U8},
                                                 {"b1", DType::Bool},
                                                 {"u2", DType::U16},
                                                 {"u4", DType::U32},
                                                 {"u8", DType::U64}}};

/// "_reconstruct" of "numpy.core.multiarray _reconstruct" and of NumPy 2's "numpy._core...", else "".
std::string_view numpy_function(std::string_view global) {
  for (const std::string_view prefix :
       {"numpy.core.multiarray ", "numpy._core.multiarray ", "numpy.core.numeric ", "numpy._core.numeric "})
    if (global.starts_with(prefix)) {
      const std::string_view name = global.substr(prefix.size());
      return name == "_reconstruct" || name == "scalar" || name == "_frombuffer" ? name : std::string_view();
    }
  return {};
}

const StorageName* find_storage(std::string_view global) {
  const auto found = std::find_if(kStorages.begin(), kStorages.end(), [&](auto& s) { return s.name == global; });
  return found == kStorages.end() ? nullptr : &*found;
}

bool contains(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_known(std::string_view global, const PickleOptions& options) {
  if (global == kOrderedDict) return true;
  if (options.torch && (find_storage(global) != nullptr || contains(kTorch, global))) return true;
  if (options.torch_script && (is_module(global) || contains(kTorchScript, global))) return true;
  // NumPy numbers stand in training checkpoints too (a learning rate, a best metric).
  return (options.torch || options.numpy) && (!numpy_function(global).empty() || global == kArrayType ||
                                              global == kNumpyType || global == kEncode || global == kOldBytes);
}

}  // namespace

// ---- globals -------------------------------------------------------------------------------------------------------

void PickleMachine::push_global(std::string_view module, std::string_view name) {
  std::string global = cat(module, " ", name);
  if (!is_known(global, options_))
    refuse(cat("it names '", shown(module), ".", shown(name), "', which is not on the list of what stands for data"));
  if (out_.texts_.size() >= kMaxValues) refuse("it names too many globals");
  out_.texts_.push_back(std::move(global));
  push(make({.kind = PickleKind::Global, .text = out_.texts_.back()}));
}

void PickleMachine::stack_global() {
  const Id name = pop(), module = pop();
  const std::string_view name_text = text_of(name, "a global's name"), module_text = text_of(module, "a module's name");
  if (name_text.size() > kMaxLine || module_text.size() > kMaxLine)
    refuse(cat("a name is longer than ", kMaxLine, " bytes"));
  push_global(module_text, name_text);
}

// ---- arguments -----------------------------------------------------------------------------------------------------

std::span<const PickleMachine::Id> PickleMachine::tuple_of(Id id, const char* what) const {
  if (value(id).kind != PickleKind::Tuple) refuse(cat(what, " is not a tuple"));
  return out_.items(value(id));
}
std::int64_t PickleMachine::integer_of(Id id, const char* what) const {
  if (value(id).kind != PickleKind::Integer) refuse(cat(what, " is not an integer"));
  return value(id).integer;
}
std::string_view PickleMachine::text_of(Id id, const char* what) const {
  if (value(id).kind != PickleKind::Text) refuse(cat(what, " is not a text"));
  return value(id).text;
}
std::vector<std::int64_t> PickleMachine::sizes_of(Id id, const char* what) const {
  constexpr std::size_t kMaxSides = 32;
  const auto items = tuple_of(id, what);
  if (items.size() > kMaxSides) refuse(cat(what, " has ", items.size(), " entries, expected at most ", kMaxSides));
  std::vector<std::int64_t> out;
  for (const Id item : items) {
    out.push_back(integer_of(item, what));
    if (out.back() < 0) refuse(cat(what, " ", shape_text(out), " holds a negative number"));
  }
  return out;
}

// ---- torch ---------------------------------------------------------------------------------------------------------

/// ('storage', type, key, device, elements) and, before PyTorch 1.6, a sixth part that must be None.
void PickleMachine::persistent_id() {
  const auto parts = tuple_of(pop(), "a storage reference");
  if (!options_.torch) refuse("it refers to a storage, and there is none in this format");
  if (parts.size() != 5 && !(parts.size() == 6 && value(parts[5]).kind == PickleKind::None))
    refuse(cat("a storage reference has ", parts.size(), " parts, expected 5"));
  const StorageName* type = value(parts[1]).kind == PickleKind::Global ? find_storage(value(parts[1]).text) : nullptr;
  if (text_of(parts[0], "the kind of a reference") != "storage" || type == nullptr)
    refuse("a storage reference does not name a type of storage");
  const std::string_view key = text_of(parts[2], "the key of a storage");
  const std::int64_t numel = integer_of(parts[4], "the size of a storage");
  if (numel < 0 || key.empty() || key.size() > kMaxLine || key.find('/') != std::string_view::npos)
    refuse(cat("the storage '", shown(key), "' with ", numel, " elements is malformed"));
  const auto known = out_.storages_.emplace(key, type->type);
  const auto size = storage_numels_.emplace(key, static_cast<std::uint64_t>(numel));
  if (known.first->second != type->type || size.first->second != static_cast<std::uint64_t>(numel))
    refuse(cat("the storage '", shown(key), "' has two types or sizes"));
  push(make({.kind = PickleKind::Storage, .integer = static_cast<std::int64_t>(type->type), .text = key}));
}

/// (storage, offset, shape, stride, requires_grad, hooks, ...)
void PickleMachine::rebuild_tensor(std::span<const Id> arguments) {
  if (arguments.size() < 4) refuse("a tensor has fewer than four arguments");
  const Value& storage = value(arguments[0]);
  if (storage.kind != PickleKind::Storage) refuse("a tensor is made of something that is not a storage");
  PickledTensor tensor;
  tensor.dtype = static_cast<DType>(storage.integer);
  tensor.storage = storage.text;
  tensor.storage_numel = storage_numels_.at(storage.text);
  tensor.shape = sizes_of(arguments[2], "a tensor's shape");
  tensor.stride = sizes_of(arguments[3], "a tensor's stride");
  const std::int64_t offset = integer_of(arguments[1], "a tensor's offset");
  if (offset < 0 || tensor.shape.size() != tensor.stride.size())
    refuse(cat("a tensor's offset ", offset, ", shape ", shape_text(tensor.shape), " and stride ",
               shape_text(tensor.stride), " do not fit each other"));
  tensor.offset = static_cast<std::uint64_t>(offset);
  const Id id = make({.kind = PickleKind::Tensor, .integer = static_cast<std::int64_t>(out_.tensors_.size())});
  out_.tensors_.push_back(std::move(tensor));
  push(id);
}

/// Nothing, or (Python 2) a list of pairs.
void PickleMachine::ordered_dict(std::span<const Id> arguments) {
  std::vector<Id> flat;
  if (!arguments.empty()) {
    if (value(arguments[0]).kind != PickleKind::List) refuse("a dictionary is made of something that is not a list");
    for (const Id pair : out_.items(value(arguments[0]))) {
      const Value& item = value(pair);
      if ((item.kind != PickleKind::Tuple && item.kind != PickleKind::List) || out_.items(item).size() != 2 ||
          value(out_.items(item)[0]).kind > PickleKind::Text)
        refuse("a dictionary's entry is not a pair of key and value");
      flat.insert(flat.end(), out_.items(item).begin(), out_.items(item).end());
    }
  }
  push(make_sequence(PickleKind::Dict, std::move(flat)));
}

void PickleMachine::reduce() {
  const Id arguments_id = pop(), function_id = pop();
  if (value(function_id).kind != PickleKind::Global) refuse("it calls something that is not a name on the list");
  const std::string_view global = value(function_id).text;
  const auto arguments = tuple_of(arguments_id, "the arguments of a call");
  if (global == kRebuild) return rebuild_tensor(arguments);
  if (global == kOrderedDict) return ordered_dict(arguments);
  if (global == kEncode) return encode(arguments);
  if (global == kNumpyType) return numpy_type(arguments);
  if (global == kOldBytes && arguments.empty()) return push(make({.kind = PickleKind::Bytes}));
  const bool gives_first = global == kParameter || global == kSize || contains(kTorchScript, global);
  if (gives_first && !arguments.empty()) {
    const PickleKind kind = value(arguments[0]).kind;
    const bool is_container = kind == PickleKind::List || kind == PickleKind::Tuple || kind == PickleKind::Dict;
    if (global == kParameter ? kind != PickleKind::Tensor : !is_container)
      refuse(cat("'", global, "' has an argument of the wrong kind"));
    return push(arguments[0]);
  }
  const std::string_view numpy = numpy_function(global);
  if (numpy == "_reconstruct") return reconstruct(arguments);
  if (numpy == "_frombuffer") return from_buffer(arguments);
  if (numpy == "scalar") return scalar(arguments);
  refuse(cat("it calls '", shown(global), "' with ", arguments.size(), " arguments"));
}

/// A TorchScript module: an object of a class that is in the archive, of which only the attributes matter.
void PickleMachine::new_object() {
  const Id arguments = pop(), type = pop();
  if (value(type).kind != PickleKind::Global || !is_module(value(type).text) ||
      !tuple_of(arguments, "the arguments of an object").empty())
    refuse("it makes an object of a class that is not on the list");
  push(make_sequence(PickleKind::Dict, {}));
}

void PickleMachine::build() {
  const Id state = pop();
  if (stack_.empty()) refuse("its stack is empty");
  const Id target = stack_.back();
  const Value& object = value(target);
  if (object.kind == PickleKind::NumpyType) return build_numpy_type(target, state);
  if (object.kind == PickleKind::Array) return build_array(target, state);
  if (object.kind != PickleKind::Dict || value(state).kind != PickleKind::Dict)
    refuse("it sets the state of something that has none");
  if (!options_.torch_script) return;  // attributes of an OrderedDict: state_dict's _metadata, versions of modules
  const auto attributes = out_.items(value(state));
  set_items({attributes.begin(), attributes.end()});
}

// ---- NumPy ---------------------------------------------------------------------------------------------------------

/// (text, 'latin1'): how protocol 2 writes bytes.
void PickleMachine::encode(std::span<const Id> arguments) {
  if (arguments.size() != 2 || text_of(arguments[1], "an encoding") != "latin1")
    refuse("bytes are not encoded as Latin-1");
  const std::string_view text = text_of(arguments[0], "encoded bytes");
  if (!latin1_length(text)) refuse("a text that stands for bytes holds other characters");
  push(make({.kind = PickleKind::Bytes, .flag = true, .text = text}));
}

/// ('f4', align, copy), optionally with '<' or '|' in front.
void PickleMachine::numpy_type(std::span<const Id> arguments) {
  if (arguments.empty()) refuse("a NumPy type has no name");
  std::string_view name = text_of(arguments[0], "a NumPy type");
  if (!name.empty() && (name[0] == '<' || name[0] == '|')) name.remove_prefix(1);
  const auto found = std::find_if(kNumpyTypes.begin(), kNumpyTypes.end(), [&](auto& t) { return t.name == name; });
  if (found == kNumpyTypes.end())
    refuse(cat("an array has type '", shown(name), "', expected a number of 1 to 8 bytes"));
  push(make({.kind = PickleKind::NumpyType, .integer = static_cast<std::int64_t>(found->type)}));
}

/// (version, byte order, None, ...): little-endian only.
void PickleMachine::build_numpy_type(Id, Id state) {
  const auto parts = tuple_of(state, "the state of a NumPy type");
  if (parts.size() < 2) refuse("the state of a NumPy type is too short");
  const std::string_view order = text_of(parts[1], "a byte order");
  if (order != "<" && order != "|" && order != "=")
    refuse(cat("an array has byte order '", shown(order), "', expected '<'"));
}

DType PickleMachine::element_type(Id type) const {
  if (value(type).kind != PickleKind::NumpyType) refuse("an array has no type");
  return static_cast<DType>(value(type).integer);
}

/// (ndarray, (0,), b'b'): an empty array, filled by the BUILD that follows.
void PickleMachine::reconstruct(std::span<const Id> arguments) {
  if (arguments.size() != 3 || value(arguments[0]).kind != PickleKind::Global || value(arguments[0]).text != kArrayType)
    refuse("an array is made of something that is not a plain ndarray");
  const Id id = make({.kind = PickleKind::Array, .integer = static_cast<std::int64_t>(out_.arrays_.size())});
  out_.arrays_.emplace_back();
  push(id);
}

void PickleMachine::fill(PickledArray& array, Id bytes) const {
  const Value& data = value(bytes);
  if (data.kind != PickleKind::Bytes && !(data.kind == PickleKind::Text && data.flag))
    refuse("an array's data are not bytes");
  array.bytes = data.text;
  array.is_latin1 = data.kind == PickleKind::Bytes && data.flag;
  const std::uint64_t have = array.is_latin1 ? *latin1_length(data.text) : data.text.size();
  const auto expected = checked_bytes(array.dtype, array.shape);
  if (!expected || *expected != have)
    refuse(cat("an array of ", to_string(array.dtype), " ", shape_text(array.shape), " takes ",
               expected ? cat(*expected) : std::string("more than 2^64"), " bytes, found ", have));
  array.is_filled = true;
}

/// (version, shape, type, is_fortran, bytes)
void PickleMachine::build_array(Id array_id, Id state) {
  const auto parts = tuple_of(state, "the state of an array");
  if (parts.size() != 5 || value(parts[3]).kind != PickleKind::Bool) refuse("the state of an array is malformed");
  PickledArray& array = out_.arrays_[static_cast<std::size_t>(value(array_id).integer)];
  if (array.is_filled) refuse("an array is filled twice");
  array.shape = sizes_of(parts[1], "an array's shape");
  array.dtype = element_type(parts[2]);
  array.is_fortran = value(parts[3]).flag;
  fill(array, parts[4]);
}

/// (bytes, type, shape, 'C' or 'F'): protocol 5.
void PickleMachine::from_buffer(std::span<const Id> arguments) {
  if (arguments.size() != 4) refuse("an array has not four arguments");
  PickledArray array;
  array.dtype = element_type(arguments[1]);
  array.shape = sizes_of(arguments[2], "an array's shape");
  array.is_fortran = text_of(arguments[3], "an array's order") == "F";
  fill(array, arguments[0]);
  const Id id = make({.kind = PickleKind::Array, .integer = static_cast<std::int64_t>(out_.arrays_.size())});
  out_.arrays_.push_back(std::move(array));
  push(id);
}

/// (type, bytes): a number.
void PickleMachine::scalar(std::span<const Id> arguments) {
  if (arguments.size() != 2) refuse("a NumPy number has not two arguments");
  PickledArray array;
  array.dtype = element_type(arguments[0]);
  fill(array, arguments[1]);
  const Id id = make({.kind = PickleKind::Array, .integer = static_cast<std::int64_t>(out_.arrays_.size())});
  out_.arrays_.push_back(std::move(array));
  push(id);
}

}  // namespace divergen::weights
