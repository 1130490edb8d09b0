#include "config/document.hpp"

#include <algorithm>
#include <cmath>

#define TOML_ENABLE_FORMATTERS 1
#include <toml++/toml.h>

#include "base/error.hpp"

namespace divergen::config {
namespace {

[[noreturn]] void refuse(const std::string& where, const std::string& why, const std::string& remedy) {
  fail(ErrorKind::Config, {"the configuration cannot be read", where, why, remedy});
}

/// What is read, and where from: a file's name, or one origin for all ("--set train.lr").
struct Source {
  std::string name, fixed_origin;
};

/// `place` and `key`: of the node's key; within a list, the node's own place and the list's key.
Value convert(const toml::node& node, const toml::source_position& place, const std::string& key,
              const Source& source) {
  const auto origin =
      source.fixed_origin.empty() ? cat(source.name, ":", place.line, ":", place.column) : source.fixed_origin;
  Value out{false, origin};
  if (const auto* table = node.as_table()) {
    Table entries;
    for (const auto& [name, child] : *table)
      entries.emplace(std::string(name.str()), convert(child, name.source().begin, std::string(name.str()), source));
    out.data = std::move(entries);
  } else if (const auto* array = node.as_array()) {
    Array entries;
    for (const auto& child : *array) entries.push_back(convert(child, child.source().begin, key, source));
    out.data = std::move(entries);
  } else if (const auto* text = node.as_string()) {
    out.data = text->get();
  } else if (const auto* integer = node.as_integer()) {
    out.data = integer->get();
  } else if (const auto* real = node.as_floating_point()) {
    if (!std::isfinite(real->get()))
      refuse(cat(origin, " ", key), "a number is not finite", "write an ordinary number");
    out.data = real->get();
  } else if (const auto* boolean = node.as_boolean()) {
    out.data = boolean->get();
  } else {
    refuse(cat(origin, " ", key), "dates and times have no meaning here", "write a text or a number");
  }
  return out;
}

constexpr std::size_t kMostBytes = 64 << 20;  // of one file; the largest of ours has 3 kB
constexpr int kDeepest = 500;                 // tables within tables by a dotted key: each is walked by recursion

/// toml++ bounds how deep brackets may nest, but not dotted keys ("a.a.a. ... = 1").
void check_depth(std::string_view text, const std::string& name) {
  if (text.size() > kMostBytes) refuse(name, cat("it has ", text.size(), " bytes"), "name a configuration file");
  int dots = 0, line = 1;
  for (const char c : text) {
    if (c == '.') ++dots;
    if ((c == '=' || c == ']') && dots > kDeepest)
      refuse(cat(name, ":", line, ":1"), cat("a key of ", dots + 1, " parts"), "nest tables less deeply");
    if (c == '\n' || c == '=' || c == ',' || c == '{' || c == '[') dots = 0;
    line += c == '\n';
  }
}

Table parse(std::string_view text, const std::string& name, const std::string& fixed_origin = "") {
  check_depth(text, name);
  try {
    const toml::table parsed = toml::parse(text, name);
    return std::get<Table>(convert(parsed, parsed.source().begin, "", {name, fixed_origin}).data);
  } catch (const toml::parse_error& error) {
    refuse(cat(name, ":", error.source().begin.line, ":", error.source().begin.column),
           std::string(error.description()), "mend the TOML syntax there");
  }
}

void merge(Table& below, Table&& above) {
  for (auto& [key, value] : above) {
    const auto found = below.find(key);
    auto* lower = found == below.end() ? nullptr : std::get_if<Table>(&found->second.data);
    auto* upper = std::get_if<Table>(&value.data);
    if (lower != nullptr && upper != nullptr) merge(*lower, std::move(*upper));
    else below.insert_or_assign(key, std::move(value));
  }
}

Table load(const Path& file, std::vector<Path>& chain) {
  std::error_code problem;
  const Path canonical = std::filesystem::weakly_canonical(file, problem);
  if (problem) refuse(file.string(), problem.message(), "check the path");
  if (std::find(chain.begin(), chain.end(), canonical) != chain.end())
    refuse(file.string(), "it includes itself through `base`", "remove one `base` of the loop");
  chain.push_back(canonical);
  if (!std::filesystem::is_regular_file(file, problem))
    refuse(file.string(), "there is no such file", "check the path");
  Table own = parse(read_file(file), file.string());
  Table out;
  if (const auto base = own.find("base"); base != own.end()) {
    const auto* name = std::get_if<std::string>(&base->second.data);
    if (name == nullptr) refuse(base->second.origin, "`base` is not a text", "write base = \"other.toml\"");
    out = load(file.parent_path() / *name, chain);
    own.erase(base);
  }
  merge(out, std::move(own));
  return out;
}

Table parse_override(const std::string& assignment) {
  const auto equals = assignment.find('=');
  const std::string origin = cat("--set ", assignment.substr(0, equals));
  if (equals == std::string::npos || equals == 0)
    refuse(cat("--set ", assignment), "it is not key=value", "write --set section.key=value");
  try {
    return parse(assignment, origin, origin);
  } catch (const Error&) {
    // A bare word: take it as a text.
    const std::string quoted = cat(assignment.substr(0, equals), "='", assignment.substr(equals + 1), "'");
    return parse(quoted, origin, origin);
  }
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {  // TOML has no control characters in texts
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04X", c);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string key_text(const std::string& key) {
  const bool is_bare = !key.empty() && key.find_first_not_of(
                                           "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                           "0123456789_-") == std::string::npos;
  return is_bare ? key : quoted(key);
}

std::string inline_value(const Value& value);

struct Inline {
  std::string operator()(bool v) const { return v ? "true" : "false"; }
  std::string operator()(std::int64_t v) const { return std::to_string(v); }
  std::string operator()(double v) const {
    char text[40];
    std::snprintf(text, sizeof text, "%.17g", v);
    // The shortest text that reads back equal.
    for (int digits = 1; digits < 17; ++digits) {
      char shorter[40];
      std::snprintf(shorter, sizeof shorter, "%.*g", digits, v);
      if (std::strtod(shorter, nullptr) == v) {
        std::snprintf(text, sizeof text, "%s", shorter);
        break;
      }
    }
    std::string out = text;
    return out.find_first_of(".e") == std::string::npos ? out + ".0" : out;
  }
  std::string operator()(const std::string& v) const { return quoted(v); }
  std::string operator()(const Array& v) const {
    std::string out = "[";
    for (std::size_t i = 0; i < v.size(); ++i) out += (i == 0 ? "" : ", ") + inline_value(v[i]);
    return out + "]";
  }
  std::string operator()(const Table& v) const {
    std::string out = "{";
    for (const auto& [key, value] : v)
      out += cat(out.size() > 1 ? ", " : "", key_text(key), " = ", inline_value(value));
    return out + "}";
  }
};

std::string inline_value(const Value& value) { return std::visit(Inline{}, value.data); }

bool is_table_array(const Value& value) {
  const auto* array = std::get_if<Array>(&value.data);
  return array != nullptr && !array->empty() && std::all_of(array->begin(), array->end(), [](const Value& item) {
           return std::holds_alternative<Table>(item.data);
         });
}

/// Names of files may hold anything; a comment may not.
std::string comment(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

void print(const Table& table, const std::string& path, bool with_origins, std::string& out) {
  for (const auto& [key, value] : table) {
    if (std::holds_alternative<Table>(value.data) || is_table_array(value)) continue;
    out += cat(key_text(key), " = ", inline_value(value));
    if (with_origins) out += cat("  # ", comment(value.origin));
    out += '\n';
  }
  for (const auto& [key, value] : table) {
    const std::string name = path.empty() ? key_text(key) : cat(path, ".", key_text(key));
    if (const auto* child = std::get_if<Table>(&value.data)) {
      out += cat("\n[", name, "]\n");
      print(*child, name, with_origins, out);
    } else if (is_table_array(value)) {
      for (const Value& item : std::get<Array>(value.data)) {
        out += cat("\n[[", name, "]]\n");
        print(std::get<Table>(item.data), name, with_origins, out);
      }
    }
  }
}

}  // namespace

Table load_layers(const Path& file, const std::vector<std::string>& overrides) {
  std::vector<Path> chain;
  Table table = load(file, chain);
  for (const std::string& assignment : overrides) merge(table, parse_override(assignment));
  return table;
}

std::string to_toml(const Table& table, bool with_origins) {
  std::string out;
  print(table, "", with_origins, out);
  return out;
}

}  // namespace divergen::config
