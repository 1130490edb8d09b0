#include "stages/plan/categories.hpp"

#include <set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

/// One entry, whose complaints name it.
class Entry {
 public:
  Entry(const Path& file, std::size_t index, const json& value) : file_(file), index_(index), value_(value) {
    if (!value.is_object()) refuse("it is not an object");
  }

  std::int32_t id() const {
    const auto found = value_.find("id");
    if (found == value_.end() || !found->is_number_integer()) refuse("'id' is missing, or no whole number");
    const auto id = found->get<std::int64_t>();
    if (id < 0 || id > INT32_MAX) refuse(cat("'id' is ", id, ", which is no category id"));
    return static_cast<std::int32_t>(id);
  }
  std::string text(const char* key, bool is_required) const {
    const auto found = value_.find(key);
    if (found == value_.end() || found->is_null()) {
      if (is_required) refuse(cat("'", key, "' is missing"));
      return "";
    }
    if (!found->is_string()) refuse(cat("'", key, "' is no text"));
    return found->get<std::string>();
  }
  [[noreturn]] void refuse(std::string why) const {
    fail(ErrorKind::Data, {"the category file cannot be used", cat(file_.string(), ", entry ", index_), std::move(why),
                           "mend the entry"});
  }

 private:
  const Path& file_;
  std::size_t index_;
  const json& value_;
};

}  // namespace

std::vector<CategoryInfo> read_categories(const Path& file) {
  const auto refuse = [&](const char* why) {
    fail(ErrorKind::Data,
         {"the category file cannot be used", file.string(), why, "name a JSON list of categories as data.categories"});
  };
  json list = json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  if (list.is_discarded()) refuse("it is not JSON");
  if (list.is_object() && list.contains("categories")) list = json(list["categories"]);
  if (!list.is_array()) refuse("it is not a list");
  if (list.empty()) refuse("it holds no category");

  std::vector<CategoryInfo> out;
  std::set<std::int32_t> ids;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Entry entry(file, i, list[i]);
    CategoryInfo info;
    info.id = entry.id();
    info.name = entry.text("name", true);
    info.definition = entry.text("def", false);
    info.frequency = entry.text("frequency", false);
    const std::string role = entry.text("role", false);
    if (!role.empty() && role != "eval" && role != "extra")
      entry.refuse(cat("'role' is '", role, "', not eval or extra"));
    info.is_extra = role == "extra";
    if (info.name.empty()) entry.refuse("'name' is empty");
    if (!ids.insert(info.id).second) entry.refuse(cat("its id ", info.id, " stands twice in the file"));
    out.push_back(std::move(info));
  }
  return out;
}

}  // namespace divergen::stages
