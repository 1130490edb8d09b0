// The opcodes of pickle.hpp: numbers, texts, containers, the memo. What may be called is in pickle_objects.cpp.

#include "weights/pickle.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "weights/json_text.hpp"
#include "weights/pickle_machine.hpp"

namespace divergen::weights {

Pickle::Pickle(std::span<const std::byte> bytes, const std::string& file, const PickleOptions& options) {
  PickleMachine(*this, bytes, file, options).run();
}

const Pickle::Value* Pickle::member(const Value& dict, std::string_view key) const {
  if (dict.kind != PickleKind::Dict) return nullptr;
  const auto pairs = items(dict);
  for (std::size_t i = 0; i + 1 < pairs.size(); i += 2)
    if (values_[pairs[i]].kind == PickleKind::Text && values_[pairs[i]].text == key) return &values_[pairs[i + 1]];
  return nullptr;
}

void PickleMachine::run() {
  while (true) {
    const std::uint8_t opcode = byte();
    if (opcode == '.') break;
    step(opcode);
  }
  out_.root_ = pop();
  if (!stack_.empty() || !marks_.empty()) refuse("it ends with values left on its stack");
  if (value(out_.root_).kind >= PickleKind::Global) refuse("it is a class or a storage, not data");
  out_.consumed_ = at_;
}

void PickleMachine::refuse(const std::string& why) const {
  // The text nearest to the top of the stack is the key whose value is being made.
  std::string_view key = last_text_;
  for (std::size_t i = stack_.size(), looked = 0; i > 0 && looked < 8; --i, ++looked)
    if (value(stack_[i - 1]).kind == PickleKind::Text) {
      key = value(stack_[i - 1]).text;
      break;
    }
  const std::string near = key.empty() ? "" : cat(", near the key '", shown(key), "'");
  fail(ErrorKind::Data, {"a pickle was refused", cat(file_, ", byte ", at_, near), why,
                         "only tensors and plain values are read; convert the file to safetensors where you trust it"});
}

// ---- reading -------------------------------------------------------------------------------------------------------

std::uint8_t PickleMachine::byte() {
  if (at_ >= bytes_.size()) refuse("the pickle ends too early: it is truncated");
  return static_cast<std::uint8_t>(bytes_[at_++]);
}

std::string_view PickleMachine::take(std::uint64_t count) {
  if (count > bytes_.size() - at_)
    refuse(cat("something in it claims ", count, " bytes, but ", bytes_.size() - at_, " are left: it is truncated"));
  const std::string_view out(reinterpret_cast<const char*>(bytes_.data() + at_), static_cast<std::size_t>(count));
  at_ += static_cast<std::size_t>(count);
  return out;
}

template <class T>
T PickleMachine::number() {
  const std::string_view raw = take(sizeof(T));
  T value;
  std::memcpy(&value, raw.data(), sizeof value);
  return value;
}

std::string_view PickleMachine::line() {
  const std::size_t start = at_;
  while (byte() != '\n')
    if (at_ - start > kMaxLine) refuse(cat("a name is longer than ", kMaxLine, " bytes"));
  return {reinterpret_cast<const char*>(bytes_.data() + start), at_ - start - 1};
}

// ---- values and the stack ------------------------------------------------------------------------------------------

PickleMachine::Id PickleMachine::make(Value value) {
  if (out_.values_.size() >= kMaxValues) refuse(cat("it makes more than ", kMaxValues, " values"));
  out_.values_.push_back(value);
  return static_cast<Id>(out_.values_.size() - 1);
}

PickleMachine::Id PickleMachine::make_sequence(PickleKind kind, std::vector<Id> items) {
  elements_made_ += items.size();
  if (elements_made_ > kMaxElements) refuse(cat("its containers have more than ", kMaxElements, " elements"));
  const Id id = make({.kind = kind, .integer = static_cast<std::int64_t>(out_.sequences_.size())});
  out_.sequences_.push_back(std::move(items));
  return id;
}

void PickleMachine::push(Id id) {
  if (stack_.size() >= kMaxStack) refuse(cat("its stack grows beyond ", kMaxStack, " values"));
  stack_.push_back(id);
}

PickleMachine::Id PickleMachine::pop() {
  if (stack_.empty() || (!marks_.empty() && marks_.back() == stack_.size())) refuse("its stack is empty");
  const Id id = stack_.back();
  stack_.pop_back();
  return id;
}

std::vector<PickleMachine::Id> PickleMachine::pop_to_mark() {
  if (marks_.empty()) refuse("it goes back to a mark that was never set");
  const std::size_t from = marks_.back();
  marks_.pop_back();
  std::vector<Id> items(stack_.begin() + static_cast<std::ptrdiff_t>(from), stack_.end());
  stack_.resize(from);
  return items;
}

PickleMachine::Id PickleMachine::top(PickleKind kind, const char* what) const {
  if (stack_.empty() || value(stack_.back()).kind != kind) refuse(cat("there is no ", what, " to fill"));
  return stack_.back();
}

void PickleMachine::append(Id container, Id item) {
  if (++elements_made_ > kMaxElements) refuse(cat("its containers have more than ", kMaxElements, " elements"));
  elements(container).push_back(item);
}

// ---- opcodes -------------------------------------------------------------------------------------------------------

void PickleMachine::step(std::uint8_t opcode) {
  if (step_data(opcode) || step_container(opcode) || step_memo(opcode)) return;
  switch (opcode) {
    case 0x80:  // PROTO
      return protocol();
    case 0x95:  // FRAME: a hint for readers of streams
      take(8);
      return;
    case 'c': {  // GLOBAL
      const std::string_view module = line();
      return push_global(module, line());
    }
    case 0x93:  // STACK_GLOBAL
      return stack_global();
    case 'Q':  // BINPERSID
      return persistent_id();
    case 'R':  // REDUCE
      return reduce();
    case 0x81:  // NEWOBJ
      return new_object();
    case 'b':  // BUILD
      return build();
    default:
      refuse(cat("opcode 0x", std::hex, static_cast<int>(opcode), " is not on the list of those that make data"));
  }
}

bool PickleMachine::step_data(std::uint8_t opcode) {
  switch (opcode) {
    case 'N':  // NONE
      push(make({}));
      return true;
    case 0x88:  // NEWTRUE
    case 0x89:  // NEWFALSE
      push(make({.kind = PickleKind::Bool, .flag = opcode == 0x88}));
      return true;
    case 'K':  // BININT1
      push(make_integer(number<std::uint8_t>()));
      return true;
    case 'M':  // BININT2
      push(make_integer(number<std::uint16_t>()));
      return true;
    case 'J':  // BININT
      push(make_integer(number<std::int32_t>()));
      return true;
    case 0x8a:  // LONG1
      long_integer(number<std::uint8_t>());
      return true;
    case 'G':  // BINFLOAT
      real();
      return true;
    case 'X':  // BINUNICODE
      text(number<std::uint32_t>(), false);
      return true;
    case 0x8c:  // SHORT_BINUNICODE
      text(number<std::uint8_t>(), false);
      return true;
    case 'U':  // SHORT_BINSTRING
      text(number<std::uint8_t>(), true);
      return true;
    case 'T':  // BINSTRING
      text(number<std::uint32_t>(), true);
      return true;
    case 'C':  // SHORT_BINBYTES
      bytes_value(number<std::uint8_t>());
      return true;
    case 'B':  // BINBYTES
      bytes_value(number<std::uint32_t>());
      return true;
    case 0x8e:  // BINBYTES8
    case 0x96:  // BYTEARRAY8
      bytes_value(number<std::uint64_t>());
      return true;
    default:
      return false;
  }
}

bool PickleMachine::step_container(std::uint8_t opcode) {
  switch (opcode) {
    case '(':  // MARK
      if (marks_.size() >= kMaxStack) refuse(cat("it sets more than ", kMaxStack, " marks"));
      marks_.push_back(stack_.size());
      return true;
    case ')':  // EMPTY_TUPLE
      push(make_sequence(PickleKind::Tuple, {}));
      return true;
    case ']':  // EMPTY_LIST
      push(make_sequence(PickleKind::List, {}));
      return true;
    case '}':  // EMPTY_DICT
      push(make_sequence(PickleKind::Dict, {}));
      return true;
    case 't':  // TUPLE
      push(make_sequence(PickleKind::Tuple, pop_to_mark()));
      return true;
    case 'l':  // LIST
      push(make_sequence(PickleKind::List, pop_to_mark()));
      return true;
    case 0x85:  // TUPLE1 to TUPLE3
    case 0x86:
    case 0x87:
      small_tuple(opcode - 0x84u);
      return true;
    case 's': {  // SETITEM
      const Id item = pop(), key = pop();
      set_items({key, item});
      return true;
    }
    case 'u':  // SETITEMS
      set_items(pop_to_mark());
      return true;
    case 'a': {  // APPEND
      const Id item = pop();
      append(top(PickleKind::List, "list"), item);
      return true;
    }
    case 'e': {  // APPENDS
      const std::vector<Id> items = pop_to_mark();
      const Id list = top(PickleKind::List, "list");
      for (const Id item : items) append(list, item);
      return true;
    }
    default:
      return false;
  }
}

bool PickleMachine::step_memo(std::uint8_t opcode) {
  switch (opcode) {
    case 'q':  // BINPUT
      put(number<std::uint8_t>());
      return true;
    case 'r':  // LONG_BINPUT
      put(number<std::uint32_t>());
      return true;
    case 0x94:  // MEMOIZE
      put(memo_.size());
      return true;
    case 'h':  // BINGET
      get(number<std::uint8_t>());
      return true;
    case 'j':  // LONG_BINGET
      get(number<std::uint32_t>());
      return true;
    default:
      return false;
  }
}

void PickleMachine::protocol() {
  const auto version = number<std::uint8_t>();
  if (version < 2 || version > 5) refuse(cat("it has pickle protocol ", int{version}, ", expected 2 to 5"));
}

void PickleMachine::text(std::uint64_t length, bool is_old_string) {
  // Python 2 wrote bytes and texts alike, an array's bytes too: those are as long as the array.
  if (!is_old_string && length > kMaxText && !options_.numpy)
    refuse(cat("a text claims ", length, " bytes, more than the limit of ", kMaxText));
  const std::string_view raw = take(length);
  if (!is_old_string && !is_utf8(raw)) refuse("a text in it is not UTF-8");
  if (length <= kMaxLine) last_text_ = raw;
  push(make({.kind = PickleKind::Text, .flag = is_old_string, .text = raw}));
}

void PickleMachine::bytes_value(std::uint64_t length) { push(make({.kind = PickleKind::Bytes, .text = take(length)})); }

void PickleMachine::long_integer(std::uint64_t length) {
  const std::string_view raw = take(length);
  if (raw.size() > 8) refuse(cat("an integer has ", raw.size(), " bytes, expected at most 8"));
  std::int64_t value = !raw.empty() && (raw.back() & 0x80) != 0 ? -1 : 0;
  std::memcpy(&value, raw.data(), raw.size());
  push(make_integer(value));
}

void PickleMachine::real() {
  std::string raw(take(8));
  std::reverse(raw.begin(), raw.end());
  double value;
  std::memcpy(&value, raw.data(), sizeof value);
  push(make({.kind = PickleKind::Real, .real = value}));
}

void PickleMachine::put(std::uint64_t slot) {
  if (stack_.empty() || (!marks_.empty() && marks_.back() == stack_.size())) refuse("its stack is empty");
  if (memo_.size() >= kMaxValues) refuse(cat("it remembers more than ", kMaxValues, " values"));
  memo_[slot] = stack_.back();
}

void PickleMachine::get(std::uint64_t slot) {
  const auto found = memo_.find(slot);
  if (found == memo_.end()) refuse(cat("it uses memo ", slot, ", which was never set"));
  push(found->second);
}

void PickleMachine::small_tuple(std::size_t count) {
  std::vector<Id> items(count);
  for (std::size_t i = count; i > 0; --i) items[i - 1] = pop();
  push(make_sequence(PickleKind::Tuple, std::move(items)));
}

void PickleMachine::set_items(const std::vector<Id>& items) {
  if (items.size() % 2 != 0) refuse("a key has no value");
  const Id dict = top(PickleKind::Dict, "dictionary");
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i % 2 == 0 && value(items[i]).kind > PickleKind::Text) refuse("a dictionary's key is neither text nor number");
    append(dict, items[i]);
  }
}

// ---- Latin-1 -------------------------------------------------------------------------------------------------------

std::optional<std::size_t> latin1_length(std::string_view text) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < text.size(); ++i, ++length) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) continue;
    if ((c != 0xc2 && c != 0xc3) || i + 1 >= text.size() || (text[i + 1] & 0xc0) != 0x80) return std::nullopt;
    ++i;
  }
  return length;
}

void decode_latin1(std::string_view text, std::span<std::byte> out) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto c = static_cast<unsigned>(static_cast<unsigned char>(text[i]));
    if (c >= 0x80) c = ((c & 3u) << 6) | (static_cast<unsigned char>(text[++i]) & 0x3fu);
    DIVERGEN_CHECK(at < out.size());
    out[at++] = static_cast<std::byte>(c);
  }
}

}  // namespace divergen::weights
