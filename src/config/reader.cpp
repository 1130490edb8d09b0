#include "config/reader.hpp"

#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::config {
namespace {

const char* type_name(const Value& value) {
  static constexpr const char* kNames[] = {"true/false", "an integer", "a number", "a text", "a list", "a table"};
  return kNames[value.data.index()];
}

std::string number_text(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

void check_bounds(double value, const Bounds& bounds, const Value& found, const std::string& path) {
  if (value >= bounds.low && value <= bounds.high) return;
  fail(ErrorKind::Config,
       {"a configuration value is out of range", cat(found.origin, " ", path),
        cat(number_text(value), " is not between ", number_text(bounds.low), " and ", number_text(bounds.high)),
        "choose a value in that range"});
}

const Table kEmpty;

}  // namespace

void Reader::wrong_type(const Value& value, const std::string& name, const char* expected) const {
  fail(ErrorKind::Config, {"a configuration value has the wrong type", cat(value.origin, " ", join(name)),
                           cat("it is ", type_name(value), ", not ", expected), cat("write ", expected)});
}

const Value* Reader::ask(const std::string& name, const char* type, std::string fallback, const char* meaning) {
  asked_.insert(name);
  keys_.push_back({join(name), type, std::move(fallback), meaning});
  const auto found = table_->find(name);
  return found == table_->end() ? nullptr : &found->second;
}

void Reader::key(const std::string& name, bool& value, const char* meaning) {
  const Value* found = ask(name, "true/false", value ? "true" : "false", meaning);
  if (found == nullptr) return;
  const auto* v = std::get_if<bool>(&found->data);
  if (v == nullptr) wrong_type(*found, name, "true or false");
  value = *v;
}

void Reader::key(const std::string& name, std::int64_t& value, const char* meaning, Bounds bounds) {
  const Value* found = ask(name, "integer", std::to_string(value), meaning);
  if (found == nullptr) return;
  const auto* v = std::get_if<std::int64_t>(&found->data);
  if (v == nullptr) wrong_type(*found, name, "an integer");
  check_bounds(static_cast<double>(*v), bounds, *found, join(name));
  value = *v;
}

void Reader::key(const std::string& name, double& value, const char* meaning, Bounds bounds) {
  const Value* found = ask(name, "number", number_text(value), meaning);
  if (found == nullptr) return;
  const auto* integer = std::get_if<std::int64_t>(&found->data);
  const auto* real = std::get_if<double>(&found->data);
  if (integer == nullptr && real == nullptr) wrong_type(*found, name, "a number");
  const double v = real != nullptr ? *real : static_cast<double>(*integer);
  check_bounds(v, bounds, *found, join(name));
  value = v;
}

void Reader::key(const std::string& name, std::string& value, const char* meaning,
                 const std::vector<std::string>& choices) {
  std::string type = "text";
  for (std::size_t i = 0; i < choices.size(); ++i) type += cat(i == 0 ? ": " : " | ", choices[i]);
  const Value* found = ask(name, type.c_str(), value, meaning);
  if (found == nullptr) return;
  const auto* v = std::get_if<std::string>(&found->data);
  if (v == nullptr) wrong_type(*found, name, "a text");
  bool allowed = choices.empty();
  for (const std::string& choice : choices) allowed = allowed || choice == *v;
  if (!allowed) {
    const std::string near = nearest_word(*v, choices);
    fail(ErrorKind::Config,
         {"a configuration value is not one of those allowed", cat(found->origin, " ", join(name)),
          cat("'", *v, "' is not one of ", type.substr(6)), near.empty() ? "" : cat("did you mean '", near, "'?")});
  }
  value = *v;
}

void Reader::key(const std::string& name, Path& value, const char* meaning) {
  std::string text = value.string();
  key(name, text, meaning);
  keys_.back().type = "path";
  value = text;
}

void Reader::key(const std::string& name, std::vector<std::string>& value, const char* meaning) {
  std::string fallback;
  for (const std::string& item : value) fallback += cat(fallback.empty() ? "" : ", ", item);
  const Value* found = ask(name, "list of texts", "[" + fallback + "]", meaning);
  if (found == nullptr) return;
  const auto* array = std::get_if<Array>(&found->data);
  if (array == nullptr) wrong_type(*found, name, "a list of texts");
  value.clear();
  for (const Value& item : *array) {
    const auto* v = std::get_if<std::string>(&item.data);
    if (v == nullptr) wrong_type(item, name, "a text in the list");
    value.push_back(*v);
  }
}

void Reader::key(const std::string& name, std::vector<std::int64_t>& value, const char* meaning) {
  std::string fallback;
  for (const std::int64_t item : value) fallback += cat(fallback.empty() ? "" : ", ", item);
  const Value* found = ask(name, "list of integers", "[" + fallback + "]", meaning);
  if (found == nullptr) return;
  const auto* array = std::get_if<Array>(&found->data);
  if (array == nullptr) wrong_type(*found, name, "a list of integers");
  value.clear();
  for (const Value& item : *array) {
    const auto* v = std::get_if<std::int64_t>(&item.data);
    if (v == nullptr) wrong_type(item, name, "an integer in the list");
    value.push_back(*v);
  }
}

void Reader::key(const std::string& name, std::vector<double>& value, const char* meaning) {
  std::string fallback;
  for (const double item : value) fallback += cat(fallback.empty() ? "" : ", ", number_text(item));
  const Value* found = ask(name, "list of numbers", "[" + fallback + "]", meaning);
  if (found == nullptr) return;
  const auto* array = std::get_if<Array>(&found->data);
  if (array == nullptr) wrong_type(*found, name, "a list of numbers");
  value.clear();
  for (const Value& item : *array) {
    if (const auto* real = std::get_if<double>(&item.data)) value.push_back(*real);
    else if (const auto* integer = std::get_if<std::int64_t>(&item.data))
      value.push_back(static_cast<double>(*integer));
    else wrong_type(item, name, "a number in the list");
  }
}

const Table& Reader::table_of(const Value& value, const std::string& path) const {
  const auto* table = std::get_if<Table>(&value.data);
  if (table == nullptr)
    fail(ErrorKind::Config, {"a configuration value has the wrong type", cat(value.origin, " ", path),
                             cat("it is ", type_name(value), ", not a table"), cat("write [", path, "]")});
  return *table;
}

const Table& Reader::child(const std::string& name) {
  asked_.insert(name);
  const auto found = table_->find(name);
  return found == table_->end() ? kEmpty : table_of(found->second, join(name));
}

std::vector<const Table*> Reader::items(const std::string& name) {
  asked_.insert(name);
  std::vector<const Table*> out;
  const auto found = table_->find(name);
  if (found == table_->end()) return out;
  const auto* array = std::get_if<Array>(&found->second.data);
  if (array == nullptr) wrong_type(found->second, name, "a list of tables");
  for (const Value& item : *array) out.push_back(&table_of(item, join(name)));
  return out;
}

void Reader::finish() const {
  for (const auto& [name, value] : *table_) {
    if (asked_.contains(name)) continue;
    const std::vector<std::string> known(asked_.begin(), asked_.end());
    const std::string near = nearest_word(name, known);
    std::string list;
    for (const std::string& candidate : known) list += cat(list.empty() ? "" : ", ", candidate);
    fail(ErrorKind::Config,
         {"an unknown configuration key", cat(value.origin, " ", join(name)), cat("known here: ", list),
          near.empty() ? "remove it" : cat("did you mean '", near, "'?")});
  }
}

void Reader::refuse(const std::string& name, const std::string& why, const std::string& remedy) const {
  const auto found = table_->find(name);
  fail(ErrorKind::Config,
       {"a configuration value cannot be used",
        cat(found == table_->end() ? "(default)" : found->second.origin, " ", join(name)), why, remedy});
}

}  // namespace divergen::config
