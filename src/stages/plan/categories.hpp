#pragma once
// The category file of a run: what is evaluated, and what is generated beside it for diversity.

#include <cstdint>
#include <string>
#include <vector>

#include "base/fs.hpp"

namespace divergen::stages {

struct CategoryInfo {
  std::int32_t id = 0;  // as in the data set's JSON (LVIS: 1-based)
  std::string name;     // raw, underscored
  std::string definition;
  std::string frequency;  // "r", "c", "f"; empty where the file has none
  bool is_extra = false;  // outside the evaluated set
};

/// A JSON list of objects (or an object with such a list under "categories", as annotation files have it) with `id`,
/// `name`, and optionally `def`, `frequency`, `role` ("eval" | "extra"; absent: eval). In file order.
/// Throws Error(Io), or Error(Data) that names the file, the entry and the field.
std::vector<CategoryInfo> read_categories(const Path& file);

}  // namespace divergen::stages
