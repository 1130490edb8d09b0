#include "lvis/block.hpp"

#include <cstring>

#include <nlohmann/json.hpp>

namespace divergen::lvis {
namespace {

// Layout: how many bytes each column has (kColumns words of 64 bits, then that of the text of the categories), the
// columns in the order of for_each_column, the text; each begins at a multiple of kAlign.
constexpr std::size_t kColumns = 20, kAlign = 64;

template <class Set, class Each>
void for_each_column(Set& dataset, const Each& each) {
  auto& i = dataset.images.columns();
  auto& a = dataset.annotations.columns();
  const auto all = [&](auto&... columns) {
    static_assert(sizeof...(columns) == kColumns);
    (each(columns), ...);
  };
  all(i.id, i.height, i.width, i.has_federated, i.name_end, i.negative_end, i.not_exhaustive_end, i.names, i.negative,
      i.not_exhaustive, a.id, a.image_id, a.category_id, a.box, a.area, a.flags, a.shapes.part_end, a.shapes.word_end,
      a.shapes.kind, a.shapes.words);
}

std::size_t aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }
constexpr std::size_t kHeader = ((kColumns + 1) * sizeof(std::uint64_t) + kAlign - 1) / kAlign * kAlign;

std::string text_of(const std::vector<Category>& categories) {
  auto out = nlohmann::json::array();
  for (const Category& c : categories) out.push_back({c.id, c.name, c.frequency, c.image_count});
  return out.dump();
}

}  // namespace

std::size_t block_bytes(const Dataset& dataset) {
  std::size_t sum = kHeader + aligned(text_of(dataset.categories).size());
  for_each_column(dataset, [&](const auto& column) { sum += aligned(column.span().size_bytes()); });
  return sum;
}

void write_block(Dataset dataset, std::span<std::byte> to) {
  DIVERGEN_CHECK(to.size() == block_bytes(dataset));
  std::size_t at = kHeader, n = 0;
  const auto put = [&](std::span<const std::byte> bytes) {
    const std::uint64_t size = bytes.size();
    std::memcpy(to.data() + n++ * sizeof size, &size, sizeof size);
    if (size > 0) std::memcpy(to.data() + at, bytes.data(), size);
    at += aligned(size);
  };
  for_each_column(dataset, [&](auto& column) {
    put(std::as_bytes(column.span()));
    column.drop();
  });
  const std::string text = text_of(dataset.categories);
  put(std::as_bytes(std::span(text)));
}

Dataset read_block(std::span<const std::byte> from, std::shared_ptr<const void> keep) {
  Dataset out;
  std::size_t at = kHeader, n = 0;
  const auto get = [&] {
    std::uint64_t size = 0;
    std::memcpy(&size, from.data() + n++ * sizeof size, sizeof size);
    const auto bytes = from.subspan(at, size);
    at += aligned(size);
    return bytes;
  };
  for_each_column(out, [&]<class T>(Column<T>& column) {
    const auto bytes = get();
    column = Column<T>::borrow({reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)});
  });
  const auto text = get();
  const char* first = reinterpret_cast<const char*>(text.data());
  for (const auto& c : nlohmann::json::parse(first, first + text.size()))
    out.categories.push_back(
        {c[0].get<std::int64_t>(), c[1].get<std::string>(), c[2].get<std::string>(), c[3].get<std::int64_t>()});
  out.shared = std::move(keep);
  out.rebuild_indices();
  return out;
}

}  // namespace divergen::lvis
