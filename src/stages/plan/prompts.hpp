#pragma once
// Where a category's prompts come from.

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/fs.hpp"
#include "config/settings.hpp"
#include "stages/plan/categories.hpp"

namespace divergen::stages {

/// DiverGen's sentence (reference/semantics.md §2), with the placeholders of expand_prompt().
inline constexpr std::string_view kManualTemplate = "a photo of a single {name}, {def}, in a white background";

/// Puts a category into a sentence: "{name}" becomes its name with underscores as spaces, "{def}" its definition; the
/// clause ", {def}" of a category without one is left out.
std::string expand_prompt(std::string_view sentence, std::string_view name, std::string_view definition);

/// The lines of a prompt file; empty ones are skipped, and repeated ones too (the published files hold 342).
std::vector<std::string> prompt_lines(std::string_view text);

/// One [prompts.<name>] of a configuration, opened once.
class PromptSource {
 public:
  /// Reads the archive or the list; a folder is only looked at. Throws Error(Io | Data | Config).
  explicit PromptSource(const config::PromptSettings& settings);

  /// The category's prompts, each once, in the source's order, cut at `limit`. Empty when it has none. Throws
  /// Error(Io) when its file cannot be read.
  std::vector<std::string> prompts_of(const CategoryInfo& category) const;

  const config::PromptSettings& settings() const { return settings_; }

 private:
  std::vector<std::string> all_of(const CategoryInfo& category) const;

  config::PromptSettings settings_;
  std::map<std::string, std::vector<std::string>> by_file_;      // of an archive: "<id>.txt"
  std::map<std::string, std::vector<std::string>> by_category_;  // of a list: id or name
};

/// The regular files of a .tar.gz (ustar, as the published prompt sets are), by base name. Throws Error(Io | Data): no
/// gzip, cut short, a damaged header, or more than `most_bytes` when unpacked.
std::map<std::string, std::string> read_tar_gz(const Path& file, std::size_t most_bytes = std::size_t{1} << 30);

}  // namespace divergen::stages
