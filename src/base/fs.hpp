#pragma once
// Files that are either whole or absent.
//
// The commit protocol (measured in the reliability notes: 0 bad files in 1,007 kills): write to a temporary name in the
// same folder, close, fsync, rename, fsync the folder. Nothing durable happens in a destructor.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace divergen {

using Path = std::filesystem::path;

/// Whole file as bytes. Throws Error(Io) with the path and the system's reason.
std::string read_file(const Path& path);

/// Writes `bytes` so that `path` holds either its old contents or all of the new ones, whatever happens meanwhile.
/// Throws Error(Io | NoSpace); the old file is untouched then.
void write_file_atomic(const Path& path, std::string_view bytes);

/// A temporary name beside `path` (same file system), unique to this process and call: "<path>.<pid>-<n>.part".
Path part_name(const Path& path);

/// Publishes a finished file: fsync(part), rename to `path`, fsync the folder. The caller has closed and verified it.
/// Throws Error(Io | NoSpace) and removes the part.
void commit_file(const Path& part, const Path& path);

void make_folder(const Path& path);  // with parents; Error(Io) when it cannot
void fsync_folder(const Path& path);
void remove_quietly(const Path& path) noexcept;
/// Removes left-over "*.part" files of killed runs in one folder; returns how many. Call on one rank, before work
/// starts.
std::size_t sweep_parts(const Path& folder);
/// Free bytes for this user on the file system of `path`.
std::uint64_t free_bytes(const Path& path);

/// Appends one line with a single write(), for journals of which a torn last line is ignored.
void append_line(const Path& path, std::string_view line);

}  // namespace divergen
