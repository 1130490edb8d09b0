#include "stages/evaluate/results.hpp"

#include <cerrno>
#include <charconv>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

/// A file that grows under a temporary name.
class PartFile {
 public:
  explicit PartFile(const Path& target) : target_(target), part_(part_name(target)) {
    file_ = std::fopen(part_.c_str(), "wbxe");
    if (file_ == nullptr) fail_errno("cannot create", part_.string(), errno);
  }
  ~PartFile() {
    if (file_ == nullptr) return;
    std::fclose(file_);
    remove_quietly(part_);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  void write(std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), file_) != text.size())
      fail_errno("cannot write", part_.string(), errno);
  }
  void commit() {
    if (std::fclose(std::exchange(file_, nullptr)) != 0) {
      const int problem = errno;
      remove_quietly(part_);
      fail_errno("cannot write", part_.string(), problem);
    }
    commit_file(part_, target_);
  }

 private:
  Path target_, part_;
  std::FILE* file_ = nullptr;
};

void put(std::string& out, double value) {
  char digits[40];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);  // shortest that reads back equal
  out.append(digits, end);
}

std::string line_of(const lvis::Detection& d, lvis::IouType type) {
  std::string out = cat("{\"image_id\":", d.image_id, ",\"category_id\":", d.category_id);
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
  return out + "}";
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

void write_results(const Path& file, const std::vector<lvis::Detection>& detections, lvis::IouType type) {
  PartFile out(file);
  out.write("[");
  for (std::size_t i = 0; i < detections.size(); ++i) out.write((i == 0 ? "\n" : ",\n") + line_of(detections[i], type));
  out.write("\n]\n");
  out.commit();
}

std::vector<lvis::Detection> as_read(std::vector<lvis::Detection> detections, lvis::IouType type) {
  for (lvis::Detection& d : detections) {
    if (type == lvis::IouType::Box) {
      d.area = d.box[2] * d.box[3];
      d.rle = {};
    } else {
      d.area = static_cast<double>(mask::area(d.rle));
      d.box = mask::bounding_box(d.rle);
    }
  }
  return detections;
}

void write_metrics(const Path& file, const lvis::Evaluation& box, const lvis::Evaluation& mask) {
  const json out{{"bbox", to_json(box.summary)},
                 {"segm", to_json(mask.summary)},
                 {"per_category", {{"bbox", to_json(box.category_ap)}, {"segm", to_json(mask.category_ap)}}}};
  write_file_atomic(file, out.dump(1) + "\n");
}

}  // namespace divergen::stages
