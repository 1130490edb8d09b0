#include "stages/train/tensorboard.hpp"

#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/clock.hpp"
#include "base/error.hpp"

namespace divergen::stages {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // Castagnoli, reflected (RFC 3720, appendix B.4)

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value & 1) != 0 ? (value >> 1) ^ kPolynomial : value >> 1;
    table[i] = value;
  }
  return table;
}

template <class T>
void put_fixed(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

// Protocol Buffers' wire types.
enum Wire : unsigned { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_key(std::string& out, unsigned field, Wire type) { put_varint(out, field << 3 | type); }

void put_bytes(std::string& out, unsigned field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::uint32_t masked_crc(std::string_view bytes) {
  // TensorFlow rotates and shifts the sum, so that a checksum over data that holds checksums stays sound.
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::string event_head(std::int64_t step) {
  std::string event;
  put_key(event, 1, kFixed64);  // wall_time
  put_fixed(event, epoch_seconds());
  put_key(event, 2, kVarint);  // step
  put_varint(event, static_cast<std::uint64_t>(step));
  return event;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr auto kTable = make_table();
  std::uint32_t crc = 0xffffffffu;
  for (const char c : bytes) crc = kTable[(crc ^ static_cast<unsigned char>(c)) & 0xff] ^ (crc >> 8);
  return crc ^ 0xffffffffu;
}

std::string tf_record(std::string_view payload) {
  std::string length, out;
  put_fixed(length, static_cast<std::uint64_t>(payload.size()));
  out += length;
  put_fixed(out, masked_crc(length));
  out += payload;
  put_fixed(out, masked_crc(payload));
  return out;
}

EventFile::EventFile(const Path& folder, std::int64_t first_step) {
  make_folder(folder);
  file_ = folder / cat("events.out.tfevents.", static_cast<std::int64_t>(epoch_seconds()), ".", first_step);
  std::string event = event_head(0);
  put_bytes(event, 3, "brain.Event:2");  // file_version, which must come first
  write_file_atomic(file_, tf_record(event));
}

void EventFile::add(std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    std::string item;
    put_bytes(item, 1, tag);     // Summary.Value.tag
    put_key(item, 2, kFixed32);  // Summary.Value.simple_value
    put_fixed(item, static_cast<float>(value));
    put_bytes(summary, 1, item);  // Summary.value
  }
  append(step, summary);
}

void EventFile::add_picture(std::int64_t step, std::string_view name, std::string_view png, int height, int width) {
  constexpr unsigned kRgb = 3;  // Summary.Image.colorspace
  std::string picture;
  put_key(picture, 1, kVarint);
  put_varint(picture, static_cast<std::uint64_t>(height));
  put_key(picture, 2, kVarint);
  put_varint(picture, static_cast<std::uint64_t>(width));
  put_key(picture, 3, kVarint);
  put_varint(picture, kRgb);
  put_bytes(picture, 4, png);  // Summary.Image.encoded_image_string
  std::string item;
  put_bytes(item, 1, name);     // Summary.Value.tag
  put_bytes(item, 4, picture);  // Summary.Value.image
  std::string summary;
  put_bytes(summary, 1, item);
  append(step, summary);
}

void EventFile::append(std::int64_t step, std::string_view summary) {
  std::string event = event_head(step);
  put_bytes(event, 5, summary);  // Event.summary
  const std::string record = tf_record(event);
  std::FILE* file = std::fopen(file_.c_str(), "abe");
  if (file == nullptr) fail_errno("cannot open", file_.string(), errno);
  const bool whole = std::fwrite(record.data(), 1, record.size(), file) == record.size();
  const int problem = errno;
  if (std::fclose(file) != 0 || !whole) fail_errno("cannot write", file_.string(), whole ? errno : problem);
}

}  // namespace divergen::stages
