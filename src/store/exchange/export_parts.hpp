#pragma once
// What the formats share.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "store/exchange/export.hpp"
#include "store/exchange/output.hpp"

namespace divergen::store {

/// A file of an export that its description names.
struct ExportedFile {
  std::string path, type, sha256;  // relative; media type
  std::uint64_t size = 0;
};
/// Many files of one kind.
struct ExportedSet {
  std::string id, glob, type;
  std::int64_t count = 0;
  std::uint64_t size = 0;
};

/// An export at work.
struct Export {
  const Library& library;
  const ExportOptions& options;
  const std::vector<std::size_t>& entries;
  OutputFolder& folder;
  FileStream& instances;  // instances.jsonl
  std::vector<ExportedFile> files{};
  std::vector<ExportedSet> sets{};

  /// The line of an instance in instances.jsonl; `file` is where its picture is.
  void note(const Instance& instance, const std::string& file);
};

void export_annotations(Export& work, bool is_lvis);
void export_pool(Export& work);
void export_webdataset(Export& work);
/// croissant.json and datasheet.md.
void describe(const Export& work);

/// All of an instance but its picture, indices resolved. Numbers of 64 bits are texts of 16 hex digits: JSON readers
/// round large numbers.
nlohmann::json instance_to_json(const Instance& instance, const LibraryTables& tables);
/// Texts that came from the user's files, inside Markdown.
std::string markdown_escape(std::string_view text);
/// Category with this id.
const LibraryCategory& category_by_id(const LibraryTables& tables, std::int32_t id);

}  // namespace divergen::store
