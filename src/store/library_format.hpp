#pragma once
// What the .cpp files of the library share: its tables as documents, and the packed entries of the index.

#include "store/library.hpp"

namespace divergen::store {

inline constexpr const char* kIndexFormat = "divergen-instances-index";
inline constexpr const char* kIndexName = "index.h5";

/// One instance in the index's heap, 64 bytes, little-endian: a numpy structured type reads it (data/README.md).
struct IndexEntry {
  std::uint64_t item_id = 0, heap_offset = 0, png_hash = 0, record_hash = 0;
  std::uint32_t heap_length = 0, shard = 0, row = 0, flags = 0;
  std::int32_t width = 0, height = 0, generator = 0;
  float similarity = 0;
};
static_assert(sizeof(IndexEntry) == 64);

/// Categories and generators as documents, provenance as attributes; the prompts are the caller's.
void tables_to_documents(const LibraryTables& tables, Table& table);
LibraryTables documents_to_tables(const Table& table);
/// Throws Error(Data) when it is another format or version.
void check_format(const Table& table, const char* format);

/// All of a row but the picture; `table` may be without heap.
Instance instance_without_png(const Table& table, std::size_t row);
/// record_hash() of an instance whose picture has this hash.
std::uint64_t record_hash(const Instance& instance, const LibraryTables& tables, std::uint64_t png_hash);
/// Throws Error(Data) when a row does not have the record hash that it names.
void check_record(const Instance& instance, const LibraryTables& tables, const Table& table, std::size_t row,
                  const Path& file);

}  // namespace divergen::store
