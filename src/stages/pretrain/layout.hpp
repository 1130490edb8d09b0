#pragma once
// Pieces of the official model layouts that several tasks write.

#include "base/fs.hpp"

namespace divergen::stages {

/// Copies the regular files of one folder (a tokenizer, a trained part) into another, which is made.
void copy_files(const Path& from, const Path& to);

}  // namespace divergen::stages
