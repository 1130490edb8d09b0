#include <algorithm>
#include <map>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/augment/sample_maker.hpp"

namespace divergen::stages {

struct InstancePool::State {
  std::shared_ptr<const store::Library> library;
  std::vector<std::vector<std::size_t>> entries;
  std::vector<std::int64_t> classes;
  std::size_t size = 0;
};

namespace {

/// Whether each generator of the library may be used.
std::vector<bool> allowed_generators(const store::Library& library, const config::TrainSettings& training) {
  const auto& generators = library.tables().generators;
  if (training.pool_generators.empty()) return std::vector<bool>(generators.size(), true);
  std::vector<std::string> names;
  for (const auto& generator : generators) names.push_back(generator.name);
  std::vector<bool> out(generators.size(), false);
  for (const std::string& wanted : training.pool_generators) {
    const auto found = std::find(names.begin(), names.end(), wanted);
    if (found == names.end())
      fail(ErrorKind::Config,
           {"a training asks for instances of a generator that the library does not have",
            cat("pool_generators of '", training.name, "': '", wanted, "'"), "", cat("use one of: ", [&] {
              std::string list;
              for (const auto& name : names) list += (list.empty() ? "" : ", ") + name;
              return list;
            }())});
    out[static_cast<std::size_t>(found - names.begin())] = true;
  }
  return out;
}

/// Keeps `limit` of a longer list, evenly spaced: the library is ordered by generator and prompt, and its first entries
/// would be one generator's.
void thin_out(std::vector<std::size_t>& list, std::size_t limit) {
  const std::size_t count = list.size();
  if (count <= limit) return;
  for (std::size_t k = 0; k < limit; ++k) list[k] = list[k * count / limit];
  list.resize(limit);
}

}  // namespace

InstancePool::InstancePool(std::shared_ptr<const store::Library> library, const config::TrainSettings& training,
                           const ClassMap& class_of) {
  DIVERGEN_CHECK(library != nullptr);
  const std::vector<bool> is_allowed = allowed_generators(*library, training);
  const std::vector<std::string>& groups = training.pool_frequencies;
  std::map<std::int64_t, std::vector<std::size_t>> by_class;
  const auto& entries = library->entries();  // by (category, item id)
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const store::Library::Entry& entry = entries[i];
    const auto found = class_of.class_of.find(entry.category_id);
    if (found == class_of.class_of.end())
      fail(ErrorKind::Data, {"the instance library does not fit the categories", cat("category id ", entry.category_id),
                             "the categories file has no such id",
                             "train with the categories file that the instances were planned with"});
    if (!training.pool_extra && found->second >= class_of.evaluated) continue;
    const std::string& frequency = class_of.frequencies[static_cast<std::size_t>(found->second)];
    if (!groups.empty() && std::find(groups.begin(), groups.end(), frequency) == groups.end()) continue;
    if (entry.generator < 0 || static_cast<std::size_t>(entry.generator) >= is_allowed.size() ||
        !is_allowed[static_cast<std::size_t>(entry.generator)])
      continue;
    by_class[found->second].push_back(i);
  }
  auto state = std::make_shared<State>();
  state->library = std::move(library);
  for (auto& [cls, list] : by_class) {
    if (training.pool_per_category > 0) thin_out(list, static_cast<std::size_t>(training.pool_per_category));
    state->size += list.size();
    state->classes.push_back(cls);
    state->entries.push_back(std::move(list));
  }
  state_ = std::move(state);
}

std::size_t InstancePool::size() const { return state_->size; }
const std::vector<std::vector<std::size_t>>& InstancePool::by_class() const { return state_->entries; }
const std::vector<std::int64_t>& InstancePool::classes() const { return state_->classes; }
const store::Library& InstancePool::library() const { return *state_->library; }

}  // namespace divergen::stages
