#pragma once
// Copy-paste of generated instances onto a training image (reference/semantics.md §7.4 – 7.7), as a pure function of
// the image, the instances and the draws.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "stages/augment/blend.hpp"
#include "stages/augment/draws.hpp"
#include "stages/augment/stage_clock.hpp"
#include "stages/augment/types.hpp"

namespace divergen::stages {

/// Instances by class, as the sampler sees them: only classes that have some, each with its list.
class InstanceSource {
 public:
  struct Instance {
    std::shared_ptr<const image::Image> rgba;  // nothing: it cannot be read
    bool is_cut_out = true;                    // else the object still has to be cut from its picture by alpha
  };
  virtual ~InstanceSource() = default;
  virtual std::size_t classes() const = 0;
  virtual std::int64_t cls(std::size_t index) const = 0;  // detector class of the index-th class
  virtual std::size_t instances(std::size_t index) const = 0;
  virtual Instance load(std::size_t index, std::size_t instance) const = 0;

  struct Size {
    int height = 0, width = 0;
  };
  /// Of an instance that is cut out, where it is known without reading it: then it is read only if it is pasted, and
  /// draws its size also when it turns out to be unreadable.
  virtual std::optional<Size> size(std::size_t /*index*/, std::size_t /*instance*/) const { return std::nullopt; }
};

/// How instances are chosen (semantics.md §7.4): a class with instances, uniformly, then one of its own ("cas_random");
/// any instance, all alike ("random"); as Category, but of the image's classes alone ("cats_random").
enum class InstanceDraw { Category, Instance, Image };
/// "category", "instance", "image". Throws Error(Config).
InstanceDraw instance_draw_of(const std::string& name);

struct PasteRules {
  std::int64_t max_instances = 20;  // the count is uniform in [0, max_instances)
  std::vector<std::string> blend{"basic"};
  double random_scale_low = 0.05, random_scale_high = 0.3;  // of classes without area statistics
  std::int64_t random_scale_min_size = 3;                   // px
  bool random_scale = false;                                // the random-scale rule for all classes
  InstanceDraw draw = InstanceDraw::Category;
  bool use_largest_part = true;  // when cutting out
  /// Whether objects whose mask ends up empty are dropped in the end. The reference keeps them, as boxes 0 0 0 0, which
  /// become positives in the corner of the heatmap (semantics.md §12, trap 4).
  bool drop_empty = true;
};

enum class Rejection { None, Unreadable, AreaShare, ThinPart, SideLimits, TooSmall, TooLarge };

/// What happened to each chosen instance, for tests and reports.
struct PasteTrace {
  struct Item {
    std::int64_t cls = 0;
    Rejection rejection = Rejection::None;
    int height = 0, width = 0;  // after the resize
    int x = 0, y = 0;           // of its top left pixel on the canvas
    BoxMask mask;               // its visible part
    std::vector<bool> kept;     // of the objects there were, in order
    image::Image rgba;          // as it was pasted
  };
  std::vector<Item> items;
};

/// Draws a count and that many instances, sizes and flips each, then places and pastes those that were not rejected,
/// in the reference's order of draws. `area_statistics` are by class. Boxes become the masks' own with the first paste.
void paste_instances(Sample& sample, const InstanceSource& source, const AreaStatistics& area_statistics,
                     const PasteRules& rules, Draws& draws, StageClock& clock, PasteTrace* trace = nullptr);

/// Takes `cover` away from every object and drops those that are hidden: box moved by more than 10 px at some side and
/// at most 300 px left. Boxes become the masks' own. Says which were kept.
std::vector<bool> occlude(std::vector<SampleObject>& objects, const BoxMask& cover);

}  // namespace divergen::stages
