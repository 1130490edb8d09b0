#pragma once
// Detectors and backbones from weight files: our own, detectron2's (.pth, .pkl), timm's (reference/detector.md §10).

#include <memory>
#include <string>

#include "base/fs.hpp"
#include "models/detector/centernet2.hpp"

namespace divergen::weights {
class WeightSource;
}

namespace divergen::models {

/// What may happen to a file's classifier; never more than the configuration says.
enum class FileClasses {
  Same,  // it must fit
  Cut,   // it knows the detector's classes first, then extra ones: their rows and weights go, the last row (background)
         // stays, as DiverGen's convert_imgnet_model_to_lvis does (reference/semantics.md §8.8)
  New,   // it knows other classes: what has a row a class keeps the values that the detector has
};
/// "same", "cut", "new": the words of train.init_classes.
FileClasses file_classes(const std::string& word);

/// The network in a file of any format. Of a training checkpoint the averaged weights ("model_ema") where there are
/// some, as the reference evaluates them, else "model" or "state_dict"; without the "module." of data-parallel
/// training. Throws Error(Io | Data).
std::shared_ptr<const weights::WeightSource> open_network(const Path& file);

/// Classes that the box heads of a detector's weights know. Throws Error(Data) where there are none.
std::int64_t classes_of(const weights::WeightSource& source);

/// Fills all of a detector. Names and shapes are checked before a value changes. Throws Error(Data) that says what does
/// not fit and, for the classifier, which setting allows what.
void load_detector(CenterNet2& detector, const Path& file, FileClasses classes = FileClasses::Same);

/// Fills the network below the pyramid. Names are matched as detectron2's align_and_update_state_dicts does: the
/// longest name of the file that is ours or its end after a dot. Converters' files, timm's and Swin's own checkpoints
/// fit that way. What is left over in the file (classifiers, last norms) is ignored; throws Error(Data) unless every
/// tensor but the unused `fc` and the norms' counters is found with its shape.
void load_backbone(CenterNet2& detector, const Path& file);

}  // namespace divergen::models
