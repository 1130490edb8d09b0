#pragma once
// Strict reading of a table into a struct: each key is asked for once, with its meaning and its bounds; whatever stands
// in the file and was not asked for is an error that names the nearest key.
//
// The same functions that read also list the keys (Reader::keys), so that documentation and schema cannot drift apart.

#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "config/document.hpp"

namespace divergen::config {

struct KeyInfo {
  std::string path;      // "train.lr"
  std::string type;      // "number"
  std::string fallback;  // the default, as text
  std::string meaning;   // one line
};

/// Bounds of a number; inclusive.
struct Bounds {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
};

class Reader {
 public:
  Reader(const Table& table, std::string path) : table_(&table), path_(std::move(path)) {}

  /// Each takes the key's value if it is there and otherwise leaves `value` as the default. Throw Error(Config) naming
  /// origin, key, expected and found.
  void key(const std::string& name, bool& value, const char* meaning);
  void key(const std::string& name, std::int64_t& value, const char* meaning, Bounds bounds = {});
  void key(const std::string& name, double& value, const char* meaning, Bounds bounds = {});
  void key(const std::string& name, std::string& value, const char* meaning,
           const std::vector<std::string>& choices = {});
  void key(const std::string& name, Path& value, const char* meaning);
  void key(const std::string& name, std::vector<std::string>& value, const char* meaning);
  void key(const std::string& name, std::vector<std::int64_t>& value, const char* meaning);
  void key(const std::string& name, std::vector<double>& value, const char* meaning);

  /// A nested table (empty when absent); `read(Reader&)` asks for its keys.
  template <class Read>
  void section(const std::string& name, const Read& read) {
    Reader inner(child(name), join(name));
    read(inner);
    inner.finish();
    keys_.insert(keys_.end(), inner.keys_.begin(), inner.keys_.end());
  }
  /// Tables under a table, by name: [generators.sd].
  template <class Read>
  void named_sections(const std::string& name, const Read& read) {
    for (const auto& [entry, value] : child(name)) {
      Reader inner(table_of(value, cat_path(join(name), entry)), cat_path(join(name), entry));
      read(entry, inner);
      inner.finish();
      keys_.insert(keys_.end(), inner.keys_.begin(), inner.keys_.end());
    }
  }
  /// An array of tables: [[trainings]].
  template <class Read>
  void section_list(const std::string& name, const Read& read) {
    for (const auto* item : items(name)) {
      Reader inner(*item, join(name));
      read(inner);
      inner.finish();
      keys_.insert(keys_.end(), inner.keys_.begin(), inner.keys_.end());
    }
  }

  /// Throws Error(Config) for the first key that nobody asked for.
  void finish() const;
  bool has(const std::string& name) const { return table_->contains(name); }
  const std::vector<KeyInfo>& keys() const { return keys_; }
  /// For checks that span keys: throws Error(Config) naming the key and where it was set.
  [[noreturn]] void refuse(const std::string& name, const std::string& why, const std::string& remedy) const;

 private:
  const Value* ask(const std::string& name, const char* type, std::string fallback, const char* meaning);
  const Table& child(const std::string& name);
  std::vector<const Table*> items(const std::string& name);
  const Table& table_of(const Value& value, const std::string& path) const;
  std::string join(const std::string& name) const { return cat_path(path_, name); }
  static std::string cat_path(const std::string& a, const std::string& b) { return a.empty() ? b : a + "." + b; }
  [[noreturn]] void wrong_type(const Value& value, const std::string& name, const char* expected) const;

  const Table* table_;
  std::string path_;
  std::set<std::string> asked_;
  std::vector<KeyInfo> keys_;
};

}  // namespace divergen::config
