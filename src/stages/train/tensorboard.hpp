#pragma once
// TensorBoard event files: TFRecords (length, masked CRC-32C, payload, masked CRC-32C) of Event messages with summaries
// of scalars and pictures, encoded by hand because the format is small (tensorflow/core/util/event.proto,
// lib/io/record_writer.h).

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fs.hpp"

namespace divergen::stages {

std::uint32_t crc32c(std::string_view bytes);

/// One TFRecord around `payload`.
std::string tf_record(std::string_view payload);

/// An event file of one start of a training. TensorBoard merges the files of a folder by step. Not thread-safe.
class EventFile {
 public:
  /// Creates <folder>/events.out.tfevents.<time>.<first_step>.
  EventFile(const Path& folder, std::int64_t first_step);
  void add(std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars);
  /// A picture under a name such as "samples/0003". `png`: its file.
  void add_picture(std::int64_t step, std::string_view name, std::string_view png, int height, int width);

 private:
  void append(std::int64_t step, std::string_view summary);
  Path file_;
};

}  // namespace divergen::stages
