#include "weights/sharded.hpp"

#include <algorithm>
#include <set>

#include "base/error.hpp"
#include "weights/json_text.hpp"
#include "weights/mapped_file.hpp"
#include "weights/safetensors_header.hpp"

namespace divergen::weights {
namespace {

constexpr std::size_t kMaxIndex = 32u << 20;  // bytes; that of a model of 10,000 tensors has 1 MB
constexpr std::size_t kMaxShards = 10'000;

class Index {
 public:
  explicit Index(const Path& path) : file_(path), json_(text(), [this](const std::string& why) { refuse("", why); }) {}

  /// tensor -> file name
  std::map<std::string, std::string> run() {
    std::map<std::string, std::string> out;
    bool has_map = false;
    json_.expect('{', "'{'");
    do {
      const std::string key = json_.string(kMaxName, "a name");
      json_.expect(':', "':'");
      if (key == "weight_map") {
        if (has_map) refuse(key, "the name stands twice");
        has_map = true;
        weight_map(out);
      } else {
        skip(0);
      }
    } while (json_.take_if(','));
    json_.expect('}', "',' or '}'");
    if (json_.peek() != '\0' || json_.position() != text().size()) refuse("", "more text follows the object");
    if (!has_map || out.empty()) refuse("weight_map", "expected tensors and their files, found none");
    return out;
  }

 private:
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    const std::string object = file_.path().string();
    fail(ErrorKind::Data, {"not a valid index of weights", key.empty() ? object : cat(object, " [", shown(key), "]"),
                           why, "download the index and its shards again"});
  }
  std::string_view text() const {
    const auto bytes = file_.bytes();
    if (bytes.size() > kMaxIndex) refuse("", cat("it has ", bytes.size(), " bytes, expected at most ", kMaxIndex));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  void weight_map(std::map<std::string, std::string>& out) {
    json_.expect('{', "an object of file names");
    if (json_.take_if('}')) return;
    do {
      const std::string tensor = json_.string(kMaxName, "a tensor's name");
      json_.expect(':', "':'");
      const std::string file = json_.string(kMaxName, "a file name");
      if (file.empty() || file.front() == '.' || file.find('/') != std::string::npos ||
          file.find('\0') != std::string::npos)
        refuse(tensor, cat("'", shown(file), "' is not the name of a file beside the index"));
      if (out.size() == kMaxTensors) refuse(tensor, cat("it names more than ", kMaxTensors, " tensors"));
      if (!out.emplace(tensor, file).second) refuse(tensor, "the name stands twice");
    } while (json_.take_if(','));
    json_.expect('}', "',' or '}'");
  }

  /// Any value whose meaning does not matter.
  void skip(int depth) {
    constexpr int kMaxDepth = 16;
    if (depth > kMaxDepth) refuse("", "it is nested too deeply");
    const char open = json_.peek();
    if (open == '"') {
      json_.string(kMaxIndex, "a text");
    } else if (json_.take_if('{') || json_.take_if('[')) {
      const char close = open == '{' ? '}' : ']';
      if (json_.take_if(close)) return;
      do {
        if (open == '{') {
          json_.string(kMaxName, "a name");
          json_.expect(':', "':'");
        }
        skip(depth + 1);
      } while (json_.take_if(','));
      json_.expect(close, "the end of a list or object");
    } else if (json_.scalar().empty()) {
      refuse("", cat("a value is expected at byte ", json_.position()));
    }
  }

  MappedFile file_;
  JsonText json_;
};

class ShardedSource : public WeightSource {
 public:
  ShardedSource(const Path& index, std::map<std::string, std::string> map) : WeightSource("sharded", index.string()) {
    files_ = {index};
    std::set<std::string> names;
    for (const auto& [tensor, file] : map) names.insert(file);
    if (names.size() > kMaxShards) refuse("", cat("it has ", names.size(), " shards, expected at most ", kMaxShards));
    for (const std::string& name : names) open_shard(index.parent_path() / name, name, map);
    for (const auto& [tensor, file] : map)
      if (find(tensor) == nullptr) refuse(tensor, cat("expected in the shard '", file, "', found nowhere"));
    format_ = shards_.front()->format() + "-sharded";
  }
  void read(const Weight& weight, std::uint64_t first, std::span<std::byte> out) const override {
    const auto& [shard, from] = from_.at(weight.index);
    shard->read(*from, first, out);
  }
  void release(const Weight& weight, std::uint64_t first, std::uint64_t count) const override {
    const auto& [shard, from] = from_.at(weight.index);
    shard->release(*from, first, count);
  }

 private:
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    fail(ErrorKind::Data,
         {"an index and its shards do not fit", key.empty() ? name() : cat(name(), " [", shown(key), "]"), why,
          "download the index and its shards again"});
  }

  void open_shard(const Path& path, const std::string& shard_name, const std::map<std::string, std::string>& map) {
    std::error_code error;
    if (!std::filesystem::exists(path, error))
      refuse("", cat("expected the shard '", shown(shard_name), "' beside it, found nothing"));
    if (path.extension() == ".json") refuse("", cat("its shard '", shown(shard_name), "' is an index itself"));
    shards_.push_back(open_weights(path));
    const WeightSource* shard = shards_.back().get();
    files_.push_back(path);
    for (const auto& [key, value] : shard->metadata()) metadata_.emplace(key, value);
    for (const Weight& weight : shard->tensors()) {
      const auto entry = map.find(weight.name);
      if (entry == map.end() || entry->second != shard_name)
        refuse(weight.name, cat("the shard '", shard_name, "' holds it, but the index expects it in ",
                                entry == map.end() ? "none" : cat("'", entry->second, "'")));
      if (!add(weight.name, weight.dtype, weight.shape)) refuse(weight.name, "two shards hold it");
      from_.emplace_back(shard, &weight);
    }
  }

  std::vector<std::unique_ptr<WeightSource>> shards_;
  std::vector<std::pair<const WeightSource*, const Weight*>> from_;
};

}  // namespace

std::unique_ptr<WeightSource> open_sharded(const Path& index) {
  return std::make_unique<ShardedSource>(index, Index(index).run());
}

}  // namespace divergen::weights
