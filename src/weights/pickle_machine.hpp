#pragma once
// The stack machine behind Pickle; included by pickle.cpp (opcodes) and pickle_objects.cpp (globals) only.

#include <map>

#include "weights/pickle.hpp"

namespace divergen::weights {

// Bounds of one pickle. A Swin-L detector's checkpoint with optimizer makes some 40,000 values.
inline constexpr std::size_t kMaxValues = 300'000;
inline constexpr std::size_t kMaxElements = 1'000'000;  // of all containers together
inline constexpr std::size_t kMaxStack = 300'000;
inline constexpr std::size_t kMaxText = 1u << 20;  // bytes of one text
inline constexpr std::size_t kMaxLine = 256;       // bytes of a module's or class's name

class PickleMachine {
 public:
  using Id = Pickle::Id;
  using Value = Pickle::Value;

  PickleMachine(Pickle& out, std::span<const std::byte> bytes, const std::string& file, const PickleOptions& options)
      : out_(out), bytes_(bytes), file_(file), options_(options) {}
  void run();

 private:
  [[noreturn]] void refuse(const std::string& why) const;

  // reading
  std::uint8_t byte();
  std::string_view take(std::uint64_t count);
  template <class T>
  T number();
  std::string_view line();

  // values and the stack
  Id make(Value value);
  Id make_integer(std::int64_t value) { return make({.kind = PickleKind::Integer, .integer = value}); }
  Id make_sequence(PickleKind kind, std::vector<Id> items);
  void push(Id id);
  Id pop();
  std::vector<Id> pop_to_mark();
  const Value& value(Id id) const { return out_.values_[id]; }
  std::vector<Id>& elements(Id id) { return out_.sequences_[static_cast<std::size_t>(value(id).integer)]; }
  Id top(PickleKind kind, const char* what) const;
  void append(Id container, Id item);

  // opcodes
  void step(std::uint8_t opcode);
  bool step_data(std::uint8_t opcode);
  bool step_container(std::uint8_t opcode);
  bool step_memo(std::uint8_t opcode);
  void protocol();
  void text(std::uint64_t length, bool is_old_string);
  void bytes_value(std::uint64_t length);
  void real();
  void long_integer(std::uint64_t length);
  void put(std::uint64_t slot);
  void get(std::uint64_t slot);
  void small_tuple(std::size_t count);
  void set_items(const std::vector<Id>& items);

  // globals and what is made of them (pickle_objects.cpp)
  void push_global(std::string_view module, std::string_view name);
  void stack_global();
  void reduce();
  void new_object();
  void build();
  void persistent_id();
  std::span<const Id> tuple_of(Id id, const char* what) const;
  std::int64_t integer_of(Id id, const char* what) const;
  std::string_view text_of(Id id, const char* what) const;
  std::vector<std::int64_t> sizes_of(Id id, const char* what) const;
  void rebuild_tensor(std::span<const Id> arguments);
  void ordered_dict(std::span<const Id> arguments);
  void encode(std::span<const Id> arguments);
  void numpy_type(std::span<const Id> arguments);
  void build_numpy_type(Id type, Id state);
  void reconstruct(std::span<const Id> arguments);
  void build_array(Id array, Id state);
  void from_buffer(std::span<const Id> arguments);
  void scalar(std::span<const Id> arguments);
  DType element_type(Id type) const;
  void fill(PickledArray& array, Id bytes) const;

  Pickle& out_;
  std::span<const std::byte> bytes_;
  const std::string& file_;
  const PickleOptions& options_;
  std::size_t at_ = 0;
  std::size_t elements_made_ = 0;
  std::vector<Id> stack_;
  std::vector<std::size_t> marks_;  // heights of the stack
  std::unordered_map<std::uint64_t, Id> memo_;
  std::unordered_map<std::string_view, std::uint64_t> storage_numels_;
  std::string_view last_text_;  // nearest key, for messages
};

}  // namespace divergen::weights
