#pragma once
// What a damaged table is still worth: its rows that verify. A run keeps them and makes only the others again.
//
// They wait in a table of their own ("divergen-kept-rows") beside the place of the damaged file: the same columns and
// heap, documents and attributes, and what identifies the whole: the rows' places, how many rows there were, and the
// table's hash, by which the mended table proves to be the original.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "store/table.hpp"

namespace divergen::store {

struct KeptRows {
  Table rows;                       // of the original format, with the original's documents and attributes
  std::vector<std::size_t> places;  // of each row in the original, ascending
  std::size_t total = 0;            // rows of the original
  std::uint64_t table_hash = 0;     // of the original
};

/// The rows of a damaged table whose contents have the hash that was recorded for them. Nothing when the file is so
/// damaged that rows cannot be told apart, a document is damaged (it speaks for all rows), or no row is whole.
/// Throws Error(Io) when there is no such file.
/// HDF5 may crash in such a file: keep_whole_rows() is for those of unknown damage.
std::optional<KeptRows> salvage_table(const Path& path);

struct KeptCount {
  std::size_t kept = 0, total = 0;  // rows
};
/// The same in a process of its own, which writes them to `beside`. Nothing, too, when HDF5 crashed in the file.
/// Throws Error(NoSpace | Io).
std::optional<KeptCount> keep_whole_rows(const Path& damaged, const Path& beside);

/// Atomically, as every table. Throws Error(NoSpace | Io).
void write_kept_rows(const KeptRows& kept, const Path& path);
/// Throws Error(Data) when the file is damaged or no such table.
KeptRows read_kept_rows(const Path& path);

/// Rows `places` (ascending) of a table, with its attributes and documents.
Table select_rows(const Table& table, const std::vector<std::size_t>& places);
/// `made` with the kept rows in their places, and the original's attributes and documents: its table_hash() is
/// kept.table_hash when the other rows are what they were. Throws Error(Data) when `made` has other columns or rows.
Table merge_rows(const Table& made, const KeptRows& kept);

/// Where the kept rows of a shard wait: "generate/kept-000012.h5" for "generate/shard-000012.h5". Empty for a name that
/// is not a shard's.
Path kept_rows_file(const Path& shard);

}  // namespace divergen::store
