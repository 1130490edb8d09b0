#include "stages/evaluate/results.hpp"

#include <cerrno>
#include <charconv>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

void put(std::string& out, double value) {
  char digits[40];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);  // shortest that reads back equal
  out.append(digits, end);
}

void put_entry(std::string& out, const lvis::Detection& d, lvis::IouType type) {
  out += cat("{\"image_id\":", d.image_id, ",\"category_id\":", d.category_id);
  if (type == lvis::IouType::Box) {
    out += ",\"bbox\":[";
    for (std::size_t k = 0; k < 4; ++k) {
      if (k > 0) out += ',';
      put(out, d.box[k]);
    }
    out += ']';
  } else {
    out += cat(",\"segmentation\":{\"size\":[", d.rle.height, ",", d.rle.width, "],\"counts\":\"");
    for (const char c : mask::to_text(d.rle)) {
      if (c == '\\') out += '\\';  // the only character of COCO's alphabet that JSON escapes
      out += c;
    }
    out += "\"}";
  }
  out += ",\"score\":";
  put(out, d.score);
  out += '}';
}

json to_json(const lvis::Summary& summary) {
  json out = json::object();
  for (std::size_t k = 0; k < lvis::Summary::kNames.size(); ++k) out[lvis::Summary::kNames[k]] = summary.values[k];
  return out;
}

json to_json(const std::map<std::int64_t, double>& by_category) {
  json out = json::object();
  for (const auto& [id, ap] : by_category) out[std::to_string(id)] = ap;
  return out;
}

}  // namespace

GrowingFile::GrowingFile(const Path& target) : target_(target), part_(part_name(target)) {
  file_ = std::fopen(part_.c_str(), "wbxe");
  if (file_ == nullptr) fail_errno("cannot create", part_.string(), errno);
}

GrowingFile::~GrowingFile() {
  if (file_ != nullptr) std::fclose(file_);
  if (!committed_) remove_quietly(part_);
}

void GrowingFile::write(std::string_view text) {
  DIVERGEN_CHECK(file_ != nullptr, "it is closed");
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size()) fail_errno("cannot write", part_.string(), errno);
  size_ += text.size();
}

void GrowingFile::close() {
  if (file_ != nullptr && std::fclose(std::exchange(file_, nullptr)) != 0)
    fail_errno("cannot write", part_.string(), errno);
}

void GrowingFile::commit() {
  close();
  committed_ = true;  // commit_file removes it when it fails
  commit_file(part_, target_);
}

std::string results_text(std::span<const lvis::Detection> detections, lvis::IouType type) {
  std::string out;
  for (const lvis::Detection& d : detections) {
    if (!out.empty()) out += kBetweenResults;
    put_entry(out, d, type);
  }
  return out;
}

void write_metrics(const Path& file, const lvis::Evaluation& box, const lvis::Evaluation& mask) {
  const json out{{"bbox", to_json(box.summary)},
                 {"segm", to_json(mask.summary)},
                 {"per_category", {{"bbox", to_json(box.category_ap)}, {"segm", to_json(mask.category_ap)}}}};
  write_file_atomic(file, out.dump(1) + "\n");
}

}  // namespace divergen::stages
