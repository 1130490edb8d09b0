#include "weights/safetensors_header.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <tuple>
#include <utility>

#include "base/error.hpp"
#include "weights/json_text.hpp"

namespace divergen::weights {
namespace {

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& file)
      : bytes_(bytes), file_(file), json_(header_text(), [this](const std::string& why) {
          refuse(name_, cat("its header is not a JSON object of tensors: ", why));
        }) {}

  SafetensorsHeader run() {
    parse_entries();
    sort_and_check_names();
    check_layout();
    return std::move(header_);
  }

 private:
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    fail(ErrorKind::Data, {"not a valid safetensors file", key.empty() ? file_ : cat(file_, " [", shown(key), "]"), why,
                           "download or convert the file again"});
  }

  std::string_view header_text() {
    const std::size_t size = bytes_.size();
    if (size == 0) refuse("", "it is empty");
    if (size < 8) refuse("", cat("it has ", size, " bytes, fewer than the 8 of the header's length"));
    std::uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), sizeof length);
    if (length > kMaxHeader)
      refuse("", cat("its header claims ", length, " bytes, more than the limit of ", kMaxHeader));
    if (length > size - 8)
      refuse("", cat("its header claims ", length, " bytes, but the file has ", size, ": it is truncated"));
    header_.data = 8 + static_cast<std::size_t>(length);
    return {reinterpret_cast<const char*>(bytes_.data()) + 8, static_cast<std::size_t>(length)};
  }

  void parse_entries() {
    json_.expect('{', "'{'");
    bool has_metadata = false;
    if (!json_.take_if('}')) {
      do {
        name_.clear();
        name_ = json_.string(kMaxName, "a tensor's name");
        json_.expect(':', "':'");
        if (name_ == "__metadata__") {
          if (std::exchange(has_metadata, true)) refuse(name_, "the name stands twice in the header");
          parse_metadata();
        } else {
          if (header_.tensors.size() == kMaxTensors) refuse(name_, cat("it names more than ", kMaxTensors, " tensors"));
          header_.tensors.push_back(parse_tensor());
        }
      } while (json_.take_if(','));
      name_.clear();
      json_.expect('}', "',' or '}'");
    }
    if (json_.peek() != '\0' || json_.position() != header_.data - 8)
      refuse("", "its header is not a JSON object: more text follows");
  }

  void parse_metadata() {
    json_.expect('{', "an object of texts");
    if (json_.take_if('}')) return;
    std::size_t total = 0;
    do {
      const std::string key = json_.string(kMaxName, "a name");
      json_.expect(':', "':'");
      if (json_.peek() != '"') refuse(cat(name_, ".", key), "it is not a text");
      std::string value = json_.string(kMaxMetadata, "a text");
      total += key.size() + value.size();
      if (total > kMaxMetadata) refuse(name_, cat("it has more than ", kMaxMetadata, " bytes"));
      if (!header_.metadata.emplace(key, std::move(value)).second)
        refuse(cat(name_, ".", key), "the name stands twice");
    } while (json_.take_if(','));
    json_.expect('}', "',' or '}'");
  }

  /// An integer that is not negative, in digits alone.
  std::uint64_t integer(const char* where, const char* expected) {
    const char next = json_.peek();
    if (next == '[' || next == '{') refuse(name_, cat(where, " is nested: ", expected, " is expected"));
    const std::string_view text = json_.scalar();
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() ||
        (text.size() > 1 && text[0] == '0') || value > static_cast<std::uint64_t>(INT64_MAX))
      refuse(name_, cat(where, " holds ", text.empty() ? std::string(1, next) : std::string(text), ", not ", expected));
    return value;
  }

  TensorInfo parse_tensor() {
    if (json_.peek() != '{') refuse(name_, "its entry is not an object with dtype, shape and data_offsets");
    json_.expect('{', "'{'");
    TensorInfo info;
    info.name = name_;
    bool has_type = false, has_shape = false, has_offsets = false;
    if (json_.peek() == '}') refuse(name_, "the entry lacks dtype, shape or data_offsets");
    do {
      const std::string key = json_.string(kMaxName, "a name");
      json_.expect(':', "':'");
      bool& seen = key == "dtype" ? has_type : key == "shape" ? has_shape : has_offsets;
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        refuse(name_, cat("its entry holds '", key, "', beside dtype, shape and data_offsets"));
      if (std::exchange(seen, true)) refuse(name_, cat("'", key, "' stands twice in its entry"));
      if (key == "dtype") {
        parse_type(info);
      } else if (key == "shape") {
        parse_shape(info);
      } else {
        parse_offsets(info);
      }
    } while (json_.take_if(','));
    json_.expect('}', "',' or '}'");
    if (!has_type || !has_shape || !has_offsets) refuse(name_, "the entry lacks dtype, shape or data_offsets");
    check_size(info);
    return info;
  }

  void parse_type(TensorInfo& info) {
    if (json_.peek() != '"') refuse(name_, "its dtype is not a text");
    const std::string text = json_.string(64, "a type");
    const auto type = parse_dtype(text);
    if (!type) refuse(name_, cat("the type '", text, "' is not one that can be read"));
    info.dtype = *type;
  }

  void parse_shape(TensorInfo& info) {
    if (!json_.take_if('[')) refuse(name_, "the shape is not a list");
    if (json_.take_if(']')) return;
    do {
      if (info.shape.size() == kMaxRank) refuse(name_, cat("the shape has more than ", kMaxRank, " sides"));
      info.shape.push_back(static_cast<std::int64_t>(integer("the shape", "a size")));
    } while (json_.take_if(','));
    json_.expect(']', "',' or ']'");
  }

  void parse_offsets(TensorInfo& info) {
    constexpr const char* kWhat = "two non-negative integers";
    if (!json_.take_if('[')) refuse(name_, "data_offsets are not two integers");
    info.begin = integer("data_offsets", kWhat);
    if (!json_.take_if(',')) refuse(name_, "data_offsets are not two integers");
    info.end = integer("data_offsets", kWhat);
    if (!json_.take_if(']')) refuse(name_, "data_offsets are not two integers");
  }

  void check_size(const TensorInfo& info) const {
    const auto expected = checked_bytes(info.dtype, info.shape);
    if (!expected) refuse(name_, cat("the shape ", shape_text(info.shape), " overflows 64 bits"));
    const auto span = static_cast<std::int64_t>(info.end) - static_cast<std::int64_t>(info.begin);
    if (span < 0 || static_cast<std::uint64_t>(span) != *expected)
      refuse(name_, cat("data_offsets span ", span, " bytes, but ", to_string(info.dtype), " ", shape_text(info.shape),
                        " takes ", *expected));
  }

  void sort_and_check_names() {
    auto& tensors = header_.tensors;
    std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    const auto twice = std::adjacent_find(tensors.begin(), tensors.end(),
                                          [](const auto& a, const auto& b) { return a.name == b.name; });
    if (twice != tensors.end()) refuse(twice->name, "the name stands twice in the header");
    std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
  }

  void check_layout() const {
    std::uint64_t at = 0;
    for (const TensorInfo& tensor : header_.tensors) {
      if (tensor.begin < at)
        refuse(tensor.name, cat("its bytes overlap those of another tensor: it begins at ", tensor.begin,
                                ", where at least ", at, " is expected"));
      if (tensor.begin > at) refuse(tensor.name, cat(tensor.begin - at, " bytes before it belong to no tensor"));
      at = tensor.end;
    }
    const std::uint64_t have = bytes_.size() - header_.data;
    if (at > have)
      refuse(header_.tensors.back().name,
             cat("its tensors end at byte ", at, ", but the file holds only ", have, ": it is truncated"));
    if (at < have) refuse("", cat(have - at, " bytes at its end belong to no tensor"));
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  SafetensorsHeader header_;
  std::string name_;  // of the entry that is being read, for messages
  JsonText json_;
};

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  return Parser(bytes, file).run();
}

}  // namespace divergen::weights
