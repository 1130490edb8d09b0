#pragma once
// TOML files in layers, as one tree in which every value knows where it came from. toml++ stays inside document.cpp.

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/fs.hpp"

namespace divergen::config {

struct Value;
using Array = std::vector<Value>;
using Table = std::map<std::string, Value>;

struct Value {
  std::variant<bool, std::int64_t, double, std::string, Array, Table> data;
  std::string origin;  // "configs/mini.toml:12", or "--set train.lr"
};

/// Reads a file, after the file that its key `base = "…"` names (relative to itself), and so on; later layers win,
/// tables are merged key by key, everything else is replaced. Then the overrides "section.key=value" (value in TOML
/// syntax; a bare word is a text). Throws Error(Config) with file and line for bad syntax, a base that includes itself,
/// or a bad override.
Table load_layers(const Path& file, const std::vector<std::string>& overrides = {});

/// TOML text with each value's origin as a comment.
std::string to_toml(const Table& table, bool with_origins);

}  // namespace divergen::config
