#include "stages/plan/prompts.hpp"

#include <algorithm>
#include <unordered_set>

#include "base/error.hpp"
#include "config/document.hpp"

namespace divergen::stages {
namespace {

void replace_all(std::string& text, std::string_view what, std::string_view with) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size()))
    text.replace(at, what.size(), with);
}

bool is_archive(const Path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".tar.gz") || name.ends_with(".tgz");
}

/// A TOML file of lists of texts by category.
std::map<std::string, std::vector<std::string>> read_list(const Path& file) {
  std::map<std::string, std::vector<std::string>> out;
  for (const auto& [category, value] : config::load_layers(file)) {
    const auto refuse = [&] {
      fail(ErrorKind::Config, {"a list of prompts cannot be used", value.origin,
                               cat("'", category, "' is not a list of texts"), "write \"<id>\" = [\"a prompt\", ...]"});
    };
    const auto* list = std::get_if<config::Array>(&value.data);
    if (list == nullptr) refuse();
    auto& texts = out[category];
    for (const config::Value& item : *list) {
      const auto* text = std::get_if<std::string>(&item.data);
      if (text == nullptr) refuse();
      texts.push_back(*text);
    }
  }
  return out;
}

}  // namespace

std::string expand_prompt(std::string_view sentence, std::string_view name, std::string_view definition) {
  std::string spaced(name);
  std::replace(spaced.begin(), spaced.end(), '_', ' ');
  std::string out(sentence);
  if (definition.empty()) replace_all(out, ", {def}", "");
  replace_all(out, "{name}", spaced);
  replace_all(out, "{def}", definition);
  return out;
}

std::vector<std::string> prompt_lines(std::string_view text) {
  std::vector<std::string> out;
  std::unordered_set<std::string> seen;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line(text.substr(begin, end - begin));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && seen.insert(line).second) out.push_back(std::move(line));
    begin = end + 1;
  }
  return out;
}

PromptSource::PromptSource(const config::PromptSettings& settings) : settings_(settings) {
  if (settings.kind == "list" && !settings.file.empty()) by_category_ = read_list(settings.file);
  if (settings.kind != "folder") return;
  if (is_archive(settings.folder)) {
    for (const auto& [name, text] : read_tar_gz(settings.folder)) by_file_[name] = prompt_lines(text);
  } else if (!std::filesystem::is_directory(settings.folder)) {
    fail(ErrorKind::Io,
         {"a folder of prompts is missing", settings.folder.string(), "there is no such folder",
          cat("correct prompts.", settings.name, ".folder: a folder of <category id>.txt files, or a .tar.gz of one")});
  }
}

std::vector<std::string> PromptSource::all_of(const CategoryInfo& category) const {
  if (settings_.kind == "template")
    return {expand_prompt(settings_.text.empty() ? kManualTemplate : std::string_view(settings_.text), category.name,
                          category.definition)};
  if (settings_.kind == "folder") {
    const std::string name = cat(category.id, ".txt");
    if (is_archive(settings_.folder)) {
      const auto found = by_file_.find(name);
      return found == by_file_.end() ? std::vector<std::string>{} : found->second;
    }
    const Path file = settings_.folder / name;
    return std::filesystem::exists(file) ? prompt_lines(read_file(file)) : std::vector<std::string>{};
  }
  std::vector<std::string> out;
  std::unordered_set<std::string> seen;
  const auto add = [&](const std::vector<std::string>& sentences) {
    for (const std::string& sentence : sentences)
      if (std::string text = expand_prompt(sentence, category.name, category.definition); seen.insert(text).second)
        out.push_back(std::move(text));
  };
  for (const std::string& key : {std::to_string(category.id), category.name})
    if (const auto found = by_category_.find(key); found != by_category_.end()) add(found->second);
  add(settings_.texts);
  return out;
}

std::vector<std::string> PromptSource::prompts_of(const CategoryInfo& category) const {
  std::vector<std::string> out = all_of(category);
  if (settings_.limit > 0 && out.size() > static_cast<std::size_t>(settings_.limit))
    out.resize(static_cast<std::size_t>(settings_.limit));
  return out;
}

}  // namespace divergen::stages
