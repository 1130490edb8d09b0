#pragma once
// Which rows of a shard are to be made, and how: all of it is the usual case.
//
// Last bits of a result may depend on its place in a batch and on the batch's size (kernels treat their last rows in
// another way), never on what else the batch holds. Rows that are left out therefore keep their places.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <vector>

#include "base/error.hpp"
#include "store/salvage.hpp"

namespace divergen::stages {

struct ShardRequest {
  /// Rows of a damaged shard that verified: they are not made. Null: all rows are made.
  const store::KeptRows* kept = nullptr;
  /// When a batch fails, each of its rows is made alone, in its own place; those that fail again are left out and
  /// counted under kFailed, instead of ending the shard.
  bool isolate = false;

  bool wants(std::size_t row) const {
    return kept == nullptr || !std::binary_search(kept->places.begin(), kept->places.end(), row);
  }
  /// Position in kept->rows of a row that is not wanted.
  std::size_t kept_row(std::size_t row) const {
    return static_cast<std::size_t>(std::lower_bound(kept->places.begin(), kept->places.end(), row) -
                                    kept->places.begin());
  }
};

/// A batch of one size whose places are filled in turn; empty places are rows that are left out.
template <class In, class Out>
class FixedBatch {
 public:
  using Compute = std::function<std::vector<Out>(const std::vector<In>&)>;  // as many results as inputs
  using Take = std::function<void(std::size_t row, Out&&)>;
  using Fail = std::function<void(std::size_t row, const char* why)>;

  FixedBatch(std::size_t size, bool isolate, Compute compute, Take take, Fail fail)
      : size_(size), isolate_(isolate), compute_(std::move(compute)), take_(std::move(take)), fail_(std::move(fail)) {}

  void add(std::size_t row, In input) { put({row, std::move(input)}); }
  /// A row that has a place and is not to be made.
  void skip(std::size_t row) { put({row, std::nullopt}); }
  bool empty() const { return places_.empty(); }

  void flush() {
    const auto first = std::find_if(places_.begin(), places_.end(), [](const Place& p) { return p.input.has_value(); });
    if (first != places_.end()) {
      try {
        run(nullptr);
      } catch (const std::exception&) {
        if (!isolate_) throw;
        for (const Place& place : places_)
          if (place.input) alone(place);
      }
    }
    places_.clear();
  }

 private:
  struct Place {
    std::size_t row;
    std::optional<In> input;
  };

  void put(Place place) {
    places_.push_back(std::move(place));
    if (places_.size() == size_) flush();
  }

  /// All places, or those of one row alone: empty places, and those behind the last, hold its or the nearest input.
  void run(const Place* only) {
    std::vector<In> inputs;
    const Place* last = only;
    for (const Place& place : places_)
      if (last == nullptr && place.input) last = &place;
    for (std::size_t i = 0; i < size_; ++i) {
      if (only == nullptr && i < places_.size() && places_[i].input) last = &places_[i];
      inputs.push_back(*last->input);
    }
    std::vector<Out> outputs = compute_(inputs);
    DIVERGEN_CHECK(outputs.size() == size_, outputs.size(), " results of ", size_);
    for (std::size_t i = 0; i < places_.size(); ++i)
      if (places_[i].input && (only == nullptr || only == &places_[i])) take_(places_[i].row, std::move(outputs[i]));
  }

  void alone(const Place& place) {
    try {
      run(&place);
    } catch (const std::exception& error) {
      fail_(place.row, error.what());
    }
  }

  std::size_t size_;
  bool isolate_;
  Compute compute_;
  Take take_;
  Fail fail_;
  std::vector<Place> places_;
};

}  // namespace divergen::stages
