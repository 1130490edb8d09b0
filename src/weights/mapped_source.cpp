#include "weights/mapped_source.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "weights/strided.hpp"

namespace divergen::weights {
namespace {

std::int64_t rows_of(const Weight& weight) { return weight.shape.empty() ? 1 : weight.shape[0]; }

/// Elements of one row.
std::uint64_t width_of(const Weight& weight) {
  return weight.shape.empty() ? 1 : count_of(std::span(weight.shape).subspan(1));
}

}  // namespace

MappedSource::MappedSource(std::shared_ptr<const WeightSource> source, const std::string& map)
    : WeightSource(source->format(), source->name()), source_(std::move(source)), map_(map) {
  files_ = source_->files();
  metadata_ = source_->metadata();
}

void MappedSource::refuse(const std::string& key, const std::string& why) const {
  fail(ErrorKind::Data, {cat("the weights do not fit the map ", map_), cat(name(), " [", shown(key), "]"), why,
                         "name weights of the model that the map is for"});
}

void MappedSource::enter(std::string name, DType dtype, std::vector<std::int64_t> shape, Recipe recipe) {
  const std::string& from = recipe.parts.front().from->name;
  if (!add(name, dtype, std::move(shape))) refuse(from, cat("two tensors become '", name, "'"));
  recipes_.push_back(std::move(recipe));
}

void MappedSource::rename(const Weight& from, std::string name) {
  enter(std::move(name), from.dtype, from.shape, {{{&from, 0, rows_of(from)}}});
}

void MappedSource::split(const Weight& from, std::string name, std::int64_t part, std::int64_t count) {
  if (from.shape.empty() || from.shape[0] % count != 0)
    refuse(from.name, cat("expected a first side of ", count, " equal parts, found ", shape_text(from.shape)));
  std::vector<std::int64_t> shape = from.shape;
  shape[0] /= count;
  const std::int64_t rows = shape[0];
  enter(std::move(name), from.dtype, std::move(shape), {{{&from, part * rows, rows}}});
}

void MappedSource::join(const std::vector<const Weight*>& parts, std::string name) {
  const Weight& first = *parts.front();
  Recipe recipe;
  std::vector<std::int64_t> shape = first.shape;
  if (shape.empty()) refuse(first.name, "expected a tensor with rows, found a scalar");
  shape[0] = 0;
  for (const Weight* part : parts) {
    const bool fits = part->dtype == first.dtype && part->shape.size() == first.shape.size() &&
                      std::equal(part->shape.begin() + 1, part->shape.end(), first.shape.begin() + 1);
    if (!fits)
      refuse(part->name, cat("expected ", to_string(first.dtype), " ", shape_text(first.shape), " as '", first.name,
                             "', found ", to_string(part->dtype), " ", shape_text(part->shape)));
    shape[0] += part->shape[0];
    recipe.parts.push_back({part, 0, part->shape[0]});
  }
  enter(std::move(name), first.dtype, std::move(shape), std::move(recipe));
}

void MappedSource::transpose(const Weight& from, std::string name) {
  if (from.shape.size() != 2) refuse(from.name, cat("expected a matrix, found ", shape_text(from.shape)));
  enter(std::move(name), from.dtype, {from.shape[1], from.shape[0]}, {{{&from, 0, from.shape[0]}}, true});
}

void MappedSource::read(const Weight& weight, std::uint64_t first, std::span<std::byte> out) const {
  const Recipe& recipe = recipes_.at(weight.index);
  const std::size_t element = size_of(weight.dtype);
  if (recipe.is_transposed) {
    // The matrices that are transposed are small (CLIP's projections); one of them is read as a whole.
    const Weight& from = *recipe.parts.front().from;
    std::vector<std::byte> whole(from.bytes());
    source_->read(from, 0, whole);
    const std::int64_t stride[] = {1, from.shape[1]};
    return copy_rows(whole, element, weight.shape, stride, 0, first, out);
  }
  for (const RowsOf& part : recipe.parts) {
    const std::uint64_t width = width_of(*part.from), count = static_cast<std::uint64_t>(part.rows) * width;
    if (first < count && !out.empty()) {
      const std::uint64_t take = std::min<std::uint64_t>(count - first, out.size() / element);
      source_->read(*part.from, static_cast<std::uint64_t>(part.row) * width + first, out.first(take * element));
      out = out.subspan(take * element);
      first = 0;
    } else {
      first -= std::min(first, count);
    }
  }
}

void MappedSource::release(const Weight& weight, std::uint64_t first, std::uint64_t count) const {
  const Recipe& recipe = recipes_.at(weight.index);
  for (const RowsOf& part : recipe.parts) {
    const std::uint64_t width = width_of(*part.from), have = static_cast<std::uint64_t>(part.rows) * width;
    if (recipe.is_transposed) return;
    if (first < have && count > 0) {
      const std::uint64_t take = std::min(have - first, count);
      source_->release(*part.from, static_cast<std::uint64_t>(part.row) * width + first, take);
      count -= take;
      first = 0;
    } else {
      first -= std::min(first, have);
    }
  }
}

}  // namespace divergen::weights
