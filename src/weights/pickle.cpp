// The pickle interpreter of torch_file.hpp: protocol 2 as torch.save writes it, and nothing else.

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "base/error.hpp"
#include "weights/torch_file.hpp"

namespace divergen::weights {
namespace {

constexpr std::size_t kMaxItems = 20'000'000;  // values made by one file; the largest real checkpoint has some 10,000
constexpr std::size_t kMaxText = 1u << 20;

/// Things on the stack that are not data: globals, marks, storages, tuples.
struct Mark {};
struct Global {
  std::string name;
};
struct Storage {
  DType dtype;
  std::string key;
};
struct Tuple;
using Item = std::variant<Mark, Global, Storage, std::shared_ptr<Tuple>, PickleValue>;
struct Tuple {
  std::vector<Item> items;
};

const std::unordered_map<std::string, DType>& storage_types() {
  static const std::unordered_map<std::string, DType> types{
      {"torch FloatStorage", DType::F32},     {"torch DoubleStorage", DType::F64}, {"torch HalfStorage", DType::F16},
      {"torch BFloat16Storage", DType::BF16}, {"torch LongStorage", DType::I64},   {"torch IntStorage", DType::I32},
      {"torch ShortStorage", DType::I16},     {"torch CharStorage", DType::I8},    {"torch ByteStorage", DType::U8},
      {"torch BoolStorage", DType::Bool}};
  return types;
}

bool is_known_global(const std::string& name) {
  return storage_types().contains(name) || name == "torch._utils _rebuild_tensor_v2" ||
         name == "torch._utils _rebuild_parameter" || name == "collections OrderedDict";
}

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  PickleValue run() {
    while (true) {
      const auto opcode = static_cast<unsigned char>(byte());
      if (opcode == '.') return pop_value();
      step(opcode);
      if (stack_.size() > kMaxItems) refuse("it makes too many values");
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    fail(ErrorKind::Data,
         {"a checkpoint was refused", cat(name_, ", byte ", at_), why,
          "only tensors in dictionaries and lists are read; convert the file to safetensors where you trust it"});
  }
  std::byte byte() {
    if (at_ >= bytes_.size()) refuse("the pickle ends too early");
    return bytes_[at_++];
  }
  std::string take(std::size_t count) {
    if (count > kMaxText || count > bytes_.size() - at_) refuse("a text is longer than the file or 1 MB");
    std::string out(reinterpret_cast<const char*>(bytes_.data() + at_), count);
    at_ += count;
    return out;
  }
  template <class T>
  T number() {
    const std::string raw = take(sizeof(T));
    T value;
    std::memcpy(&value, raw.data(), sizeof value);
    return value;
  }
  std::string line() {
    std::string out;
    for (char c = static_cast<char>(byte()); c != '\n'; c = static_cast<char>(byte())) {
      out += c;
      if (out.size() > 256) refuse("a name is longer than 256 bytes");
    }
    return out;
  }

  void push(Item item) {
    if (++made_ > kMaxItems) refuse("it makes too many values");
    stack_.push_back(std::move(item));
  }
  template <class T>
  void push_value(T value) {
    push(PickleValue{std::move(value)});
  }
  Item pop() {
    if (stack_.empty()) refuse("its stack is empty");
    Item item = std::move(stack_.back());
    stack_.pop_back();
    return item;
  }
  PickleValue value_of(const Item& item) const {
    if (const auto* value = std::get_if<PickleValue>(&item)) return *value;
    if (const auto* tuple = std::get_if<std::shared_ptr<Tuple>>(&item)) {
      auto list = std::make_shared<PickleList>();
      for (const Item& inner : (*tuple)->items) list->push_back(value_of(inner));
      return {list};
    }
    refuse("a class or a storage stands where data is expected");
  }
  PickleValue pop_value() { return value_of(pop()); }
  std::vector<Item> pop_to_mark() {
    std::vector<Item> items;
    while (true) {
      Item item = pop();
      if (std::holds_alternative<Mark>(item)) break;
      items.insert(items.begin(), std::move(item));
    }
    return items;
  }
  void push_tuple(std::vector<Item> items) { push(std::make_shared<Tuple>(Tuple{std::move(items)})); }

  void put(std::uint64_t slot) {
    if (stack_.empty()) refuse("its stack is empty");
    if (slot > kMaxItems) refuse("a memo number is out of bounds");
    memo_[slot] = stack_.back();
  }
  void get(std::uint64_t slot) {
    const auto found = memo_.find(slot);
    if (found == memo_.end()) refuse("it uses a memo that was never set");
    push(found->second);
  }

  PickleDict& dict_on_top() {
    if (!stack_.empty())
      if (auto* value = std::get_if<PickleValue>(&stack_.back()))
        if (auto* dict = std::get_if<std::shared_ptr<PickleDict>>(&value->data)) return **dict;
    refuse("there is no dictionary to fill");
  }
  PickleList& list_on_top() {
    if (!stack_.empty())
      if (auto* value = std::get_if<PickleValue>(&stack_.back()))
        if (auto* list = std::get_if<std::shared_ptr<PickleList>>(&value->data)) return **list;
    refuse("there is no list to fill");
  }

  const std::vector<Item>& tuple_of(const Item& item) const {
    const auto* tuple = std::get_if<std::shared_ptr<Tuple>>(&item);
    if (tuple == nullptr) refuse("a tuple is expected");
    return (*tuple)->items;
  }
  std::int64_t integer_of(const Item& item) const {
    const auto* value = std::get_if<PickleValue>(&item);
    const auto* integer = value == nullptr ? nullptr : std::get_if<std::int64_t>(&value->data);
    if (integer == nullptr) refuse("an integer is expected");
    return *integer;
  }
  std::vector<std::int64_t> integers_of(const Item& item) const {
    std::vector<std::int64_t> out;
    for (const Item& inner : tuple_of(item)) out.push_back(integer_of(inner));
    return out;
  }

  /// ('storage', type, key, device, length)
  void persistent_id() {
    const Item id = pop();
    const auto& parts = tuple_of(id);
    if (parts.size() != 5) refuse("a storage reference has not five parts");
    const auto* type = std::get_if<Global>(&parts[1]);
    const auto* key = std::get_if<PickleValue>(&parts[2]);
    const auto* text = key == nullptr ? nullptr : std::get_if<std::string>(&key->data);
    if (type == nullptr || !storage_types().contains(type->name) || text == nullptr)
      refuse("a storage reference is malformed");
    push(Storage{storage_types().at(type->name), *text});
  }

  void reduce() {
    const Item arguments = pop(), function = pop();
    const auto* global = std::get_if<Global>(&function);
    if (global == nullptr) refuse("it calls something that is not a known function");
    const auto& items = tuple_of(arguments);
    if (global->name == "collections OrderedDict" && items.empty()) return push_value(std::make_shared<PickleDict>());
    if (global->name == "torch._utils _rebuild_parameter" && !items.empty()) return push(items[0]);
    if (global->name != "torch._utils _rebuild_tensor_v2" || items.size() < 4)
      refuse(cat("it calls '", global->name, "'"));
    const auto* storage = std::get_if<Storage>(&items[0]);
    if (storage == nullptr) refuse("a tensor is rebuilt from something that is not a storage");
    TorchTensor tensor{storage->dtype, integers_of(items[2]), integers_of(items[3]), 0, storage->key};
    const std::int64_t offset = integer_of(items[1]);
    if (offset < 0 || tensor.shape.size() != tensor.stride.size()) refuse("a tensor's offset or strides are malformed");
    for (std::size_t i = 0; i < tensor.shape.size(); ++i)
      if (tensor.shape[i] < 0 || tensor.stride[i] < 0) refuse("a tensor has a negative size or stride");
    tensor.offset = static_cast<std::uint64_t>(offset);
    push_value(std::move(tensor));
  }

  void step(unsigned char opcode) {
    switch (opcode) {
      case 0x80:
        if (number<std::uint8_t>() != 2) refuse("only pickle protocol 2 is read");
        return;
      case '(':
        return push(Mark{});
      case ')':
        return push_tuple({});
      case ']':
        return push_value(std::make_shared<PickleList>());
      case '}':
        return push_value(std::make_shared<PickleDict>());
      case 'N':
        return push_value(std::monostate{});
      case 0x88:
        return push_value(true);
      case 0x89:
        return push_value(false);
      case 'K':
        return push_value(static_cast<std::int64_t>(number<std::uint8_t>()));
      case 'M':
        return push_value(static_cast<std::int64_t>(number<std::uint16_t>()));
      case 'J':
        return push_value(static_cast<std::int64_t>(number<std::int32_t>()));
      case 0x8a:
        return long_integer();
      case 'G':
        return real();
      case 'X':
        return push_value(take(number<std::uint32_t>()));
      case 'U':
        return push_value(take(number<std::uint8_t>()));
      case 'c':
        return global();
      case 'q':
        return put(number<std::uint8_t>());
      case 'r':
        return put(number<std::uint32_t>());
      case 'h':
        return get(number<std::uint8_t>());
      case 'j':
        return get(number<std::uint32_t>());
      case 't':
        return push_tuple(pop_to_mark());
      case 0x85:
        return small_tuple(1);
      case 0x86:
        return small_tuple(2);
      case 0x87:
        return small_tuple(3);
      case 'Q':
        return persistent_id();
      case 'R':
        return reduce();
      case 's':
        return set_item();
      case 'u':
        return set_items();
      case 'a': {
        PickleValue value = pop_value();
        list_on_top().push_back(std::move(value));
        return;
      }
      case 'e': {
        const auto items = pop_to_mark();
        PickleList& list = list_on_top();
        for (const Item& item : items) list.push_back(value_of(item));
        return;
      }
      case 'b':
        return build();
      default:
        refuse(cat("opcode 0x", std::hex, static_cast<int>(opcode), " is not on the list"));
    }
  }

  /// Attributes of an OrderedDict (state_dict's _metadata) are dropped; anything else has no attributes here.
  void build() {
    pop();
    dict_on_top();
  }
  void small_tuple(std::size_t count) {
    std::vector<Item> items(count);
    for (std::size_t i = count; i > 0; --i) items[i - 1] = pop();
    push_tuple(std::move(items));
  }
  void global() {
    const std::string module = line();
    const std::string name = cat(module, " ", line());
    if (!is_known_global(name)) refuse(cat("it names '", name, "', which is not on the list"));
    push(Global{name});
  }
  void long_integer() {
    const std::string raw = take(number<std::uint8_t>());
    if (raw.size() > 8) refuse("an integer has more than 64 bits");
    std::int64_t value = !raw.empty() && (raw.back() & 0x80) != 0 ? -1 : 0;
    std::memcpy(&value, raw.data(), raw.size());
    push_value(value);
  }
  void real() {
    std::string raw = take(8);
    std::reverse(raw.begin(), raw.end());
    double value;
    std::memcpy(&value, raw.data(), sizeof value);
    push_value(value);
  }
  void set_item() {
    PickleValue value = pop_value(), key = pop_value();
    dict_on_top().emplace_back(std::move(key), std::move(value));
  }
  void set_items() {
    const auto items = pop_to_mark();
    if (items.size() % 2 != 0) refuse("a key has no value");
    PickleDict& dict = dict_on_top();
    for (std::size_t i = 0; i < items.size(); i += 2) dict.emplace_back(value_of(items[i]), value_of(items[i + 1]));
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  std::size_t at_ = 0, made_ = 0;
  std::vector<Item> stack_;
  std::unordered_map<std::uint64_t, Item> memo_;
};

}  // namespace

PickleValue parse_pickle(std::span<const std::byte> bytes, const std::string& name) {
  return Machine(bytes, name).run();
}

}  // namespace divergen::weights
