#pragma once
// Writing weights as detectron2's DetectionCheckpointer reads them (fvcore/detectron2: .pkl through pickle, everything
// else through torch.load). Written as data: no Python, no LibTorch.

#include <optional>

#include "base/fs.hpp"
#include "weights/weights.hpp"

namespace divergen::weights {

/// {"model": {name: array or tensor, ...}, "__author__": "divergen"}, names and their order as in `source`, so that the
/// checkpointer matches them by their whole names (it guesses by suffix only for "matching_heuristics").
///
///   OUT.pkl   a pickle of NumPy arrays. Protocol 3, the first one that has bytes; bfloat16, which NumPy does not have,
///             becomes float32.
///   OUT.pth   a zip checkpoint as torch.save writes it, whose tensors torch.load(weights_only=True) takes.
///
/// `floating`: type of floating tensors in the file; none: as they are. Written atomically, in pieces. Throws
/// Error(Usage) for another extension, Error(Data) for a tensor or a checkpoint too large for the form (4 GB), Error(Io
/// | NoSpace).
void write_detectron2(const Path& out, const WeightSource& source, std::optional<DType> floating = std::nullopt);

}  // namespace divergen::weights
