#pragma once
// What the detector is fed, to look at.

#include "base/fs.hpp"
#include "stages/augment/sample_maker.hpp"

namespace divergen::stages {

/// Writes the first `count` samples of the stream as <folder>/sample-0000.png ...: object outlines and class names,
/// real objects in green, generated ones in magenta. Pictures that are there already are left alone; new ones go into
/// an event file of `board`, TensorBoard's folder, too.
void write_sample_pictures(const SampleMaker& maker, const ClassMap& classes, const Path& folder, const Path& board,
                           std::int64_t count);

}  // namespace divergen::stages
