// What exactly is wrong with a damaged table: rows and columns by name, as far as they can still be read.

#include <algorithm>
#include <optional>

#include "base/error.hpp"
#include "base/text.hpp"
#include "store/apart.hpp"
#include "store/fletcher32.hpp"
#include "store/h5_reader.hpp"
#include "store/salvage.hpp"
#include "store/table_file.hpp"

namespace divergen::store {
namespace {

/// A damaged file with its checksums left aside: every column as its bytes stand, and which of them have a checksum
/// that does not fit.
class Remains {
 public:
  explicit Remains(const Path& path) : path_(path) {
    std::vector<std::string> names, documents;
    {
      h5::Reader reader(path);
      attributes_ = reader.attributes();
      head_ = h5::take_head(attributes_, path);
      names = reader.names("columns");
      documents = reader.names("documents");
      for (const std::string& name : names) read_column(reader, name);
      for (const std::string& name : documents)
        attempt("documents/" + name, [&] {
          const auto bytes = reader.dataset<std::uint8_t>("documents/" + name);
          documents_[name].assign(bytes.begin(), bytes.end());
        });
      documents_are_whole_ = documents_.size() == documents.size();
      if (reader.has("heap")) {
        has_heap_ = true;
        attempt("heap", [&] { chunks_ = reader.chunks("heap"); });
      }
    }
    if (has_heap_) read_heap();
  }

  std::vector<TableProblem> problems(const std::string& why) const {
    std::vector<TableProblem> out;
    const std::string column = suspects();
    if (has_row_hashes())
      for (const std::size_t row : bad_rows(whole_table()))
        out.push_back(
            {row, column, cat(path_.string(), " row ", row), "its contents do not have the hash that was recorded"});
    if (out.empty()) out.push_back({std::nullopt, column, path_.string(), why});
    return out;
  }

  std::optional<KeptRows> keep() const {
    if (!has_row_hashes() || !documents_are_whole_) return std::nullopt;
    Table table = whole_table();
    const std::vector<std::size_t> bad = bad_rows(table);
    KeptRows kept;
    for (std::size_t row = 0; row < table.rows(); ++row)
      if (!std::binary_search(bad.begin(), bad.end(), row)) kept.places.push_back(row);
    if (kept.places.empty()) return std::nullopt;
    table.attributes = attributes_;
    table.documents = documents_;
    kept.rows = select_rows(table, kept.places);
    kept.total = head_.rows;
    kept.table_hash = head_.table_hash;
    return kept;
  }

 private:
  /// Notes the dataset as bad when the work on it fails for its data's sake.
  template <class Work>
  bool attempt(const std::string& name, const Work& work) {
    try {
      work();
      return true;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      if (std::find(bad_.begin(), bad_.end(), name) == bad_.end()) bad_.push_back(name);
      return false;
    }
  }

  void read_column(h5::Reader& reader, const std::string& name) {
    const std::string full = "columns/" + name;
    attempt(full, [&] { reader.chunks(full); });  // absent pieces read as zeros, without an error
    if (attempt(full, [&] { columns_[name] = reader.column(full); })) return;
    attempt(full, [&] { columns_[name] = reader.column_unchecked(full); });
  }

  void read_heap() {
    attempt("heap", [&] {
      if (chunks_.address.empty()) return;
      const h5::ReadOnly file(path_);
      heap_.resize(chunks_.size);
      h5::read_chunked(file.get(), chunks_, 0, chunks_.size, heap_.data(), path_);
      std::string piece(chunks_.chunk + kFletcher32Bytes, '\0');
      h5::Reader::Chunks whole = chunks_;  // each with its checksum
      for (const std::uint64_t address : chunks_.address) {
        whole.address = {address};
        whole.chunk = whole.size = piece.size();
        h5::read_chunked(file.get(), whole, 0, piece.size(), piece.data(), path_);
        std::uint32_t sum = 0;
        for (std::size_t i = 0; i < kFletcher32Bytes; ++i)
          sum |= static_cast<std::uint32_t>(static_cast<unsigned char>(piece[chunks_.chunk + i])) << (8 * i);
        if (sum != fletcher32(std::string_view(piece).substr(0, chunks_.chunk)))
          h5::damaged(path_, "heap", "its checksum does not fit");
      }
    });
  }

  bool rows_fit() const {
    return std::all_of(columns_.begin(), columns_.end(),
                       [&](const auto& column) {
                         return std::visit([](const auto& v) { return v.size(); }, column.second) == head_.rows;
                       }) &&
           std::holds_alternative<std::vector<std::uint64_t>>(columns_.at(h5::kRowHash));
  }

  /// Whether there are rows to tell apart: their hashes, and something for these to speak of.
  bool has_row_hashes() const {
    const auto is_contents = [](const auto& column) {
      return column.first != h5::kRowHash && column.first != h5::kHeapOffset && column.first != h5::kHeapLength;
    };
    return columns_.contains(h5::kRowHash) && rows_fit() &&
           (has_heap_ || std::any_of(columns_.begin(), columns_.end(), is_contents));
  }

  /// All rows as they stand; entries that lie outside of the heap are empty.
  Table whole_table() const {
    Table table(head_.format, head_.version);
    for (const auto& [name, values] : columns_)
      if (name != h5::kRowHash && name != h5::kHeapOffset && name != h5::kHeapLength)
        std::visit([&](const auto& v) { table.add(name, v); }, values);
    std::vector<bool> is_outside(head_.rows, false);
    if (has_heap_) table.set_heap(entries(is_outside));
    return table;
  }

  std::vector<std::size_t> bad_rows(const Table& table) const {
    const auto& recorded = std::get<std::vector<std::uint64_t>>(columns_.at(h5::kRowHash));
    std::vector<bool> is_outside(head_.rows, false);
    if (has_heap_) entries(is_outside);
    const std::vector<std::uint64_t> actual = table.row_hashes();
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < recorded.size(); ++i)
      if (is_outside[i] || actual[i] != recorded[i]) out.push_back(i);
    return out;
  }

  std::vector<std::string> entries(std::vector<bool>& is_outside) const {
    std::vector<std::string> out(head_.rows);
    const auto offsets = columns_.find(h5::kHeapOffset), lengths = columns_.find(h5::kHeapLength);
    const auto as_numbers = [](const auto& found) { return std::get_if<std::vector<std::uint64_t>>(&found->second); };
    const auto* starts = offsets == columns_.end() ? nullptr : as_numbers(offsets);
    const auto* sizes = lengths == columns_.end() ? nullptr : as_numbers(lengths);
    for (std::size_t i = 0; i < out.size(); ++i) {
      is_outside[i] = starts == nullptr || sizes == nullptr || (*starts)[i] > heap_.size() ||
                      (*sizes)[i] > heap_.size() - (*starts)[i];
      if (!is_outside[i]) out[i] = heap_.substr((*starts)[i], (*sizes)[i]);
    }
    return out;
  }

  std::string suspects() const {
    std::string text;
    for (const std::string& name : bad_) text += (text.empty() ? "" : ", ") + name;
    return text;
  }

  Path path_;
  TableHead head_;
  std::map<std::string, std::string> attributes_, documents_;
  bool documents_are_whole_ = false;
  std::map<std::string, ColumnValues> columns_;
  bool has_heap_ = false;
  h5::Reader::Chunks chunks_;
  std::string heap_;
  std::vector<std::string> bad_;
};

std::string to_text(const std::vector<TableProblem>& problems) {
  std::string text;
  for (const TableProblem& p : problems)
    text += cat(p.row ? std::to_string(*p.row) : "", '\0', p.column, '\0', p.object, '\0', p.why, '\0');
  return text;
}

std::vector<TableProblem> problems_of(const std::string& text) {
  const std::vector<std::string> parts = split(text, '\0');
  std::vector<TableProblem> out;
  for (std::size_t i = 0; i + 4 < parts.size(); i += 4) {
    TableProblem problem{std::nullopt, parts[i + 1], parts[i + 2], parts[i + 3]};
    if (!parts[i].empty()) problem.row = std::stoull(parts[i]);
    out.push_back(std::move(problem));
  }
  DIVERGEN_CHECK(!out.empty(), "a damaged table without a problem");
  return out;
}

}  // namespace

std::vector<TableProblem> check_table(const Path& path) {
  const std::optional<std::string> problem = verify_table(path);
  if (!problem) return {};
  // HDF5 1.10 may crash in a damaged file (measured: one of some 200 flipped bits ended in free()).
  std::optional<std::string> found;
  try {
    found = run_apart(path, [&] { return to_text(Remains(path).problems(*problem)); });
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data && error.kind() != ErrorKind::Io) throw;
  }
  if (found) return problems_of(*found);
  return {{std::nullopt, "", path.string(), *problem}};  // too damaged to tell rows apart
}

std::optional<KeptRows> salvage_table(const Path& path) {
  try {
    return Remains(path).keep();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data) throw;
    return std::nullopt;
  }
}

std::optional<KeptCount> keep_whole_rows(const Path& damaged, const Path& beside) {
  const auto kept = run_apart(damaged, [&]() -> std::string {
    const std::optional<KeptRows> rows = salvage_table(damaged);
    if (!rows) return "";
    write_kept_rows(*rows, beside);
    return cat(rows->places.size(), ' ', rows->total);
  });
  if (!kept || kept->empty()) return std::nullopt;
  const std::vector<std::string> counts = split(*kept, ' ');
  return KeptCount{std::stoull(counts.at(0)), std::stoull(counts.at(1))};
}

}  // namespace divergen::store
