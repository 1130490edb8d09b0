#include "weights/zip.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "base/error.hpp"
#include "weights/dtype.hpp"
#include "weights/json_text.hpp"

namespace divergen::weights {
namespace {

constexpr std::uint32_t kEndOfDirectory = 0x06054b50, kDirectoryEntry = 0x02014b50, kLocalEntry = 0x04034b50;
constexpr std::uint32_t kEnd64Locator = 0x07064b50, kEnd64 = 0x06064b50;
constexpr std::uint32_t kIn64 = 0xffffffffu;  // "the value stands in the zip64 field"
constexpr std::size_t kEndSize = 22, kLocatorSize = 20, kEnd64Size = 56, kEntrySize = 46, kLocalSize = 30;
constexpr std::uint64_t kMaxEntries = 200'000;  // one for each storage; T5-XXL has 219
constexpr std::size_t kMaxEntryName = 1024;

struct Directory {
  std::uint64_t offset = 0, size = 0, entries = 0;
  std::uint64_t end = 0;  // where the records after it begin: nothing else may reach beyond
};

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  std::vector<ZipEntry> run() {
    const Directory directory = find_directory();
    std::vector<ZipEntry> entries;
    std::unordered_set<std::string_view> names;
    std::uint64_t at = directory.offset;
    for (std::uint64_t i = 0; i < directory.entries; ++i) {
      entries.push_back(entry(at, directory));
      if (!names.insert(entries.back().name).second)
        refuse(cat("the entry '", shown(entries.back().name), "' stands twice"));
    }
    if (at != directory.offset + directory.size)
      refuse(cat("its directory has ", directory.size, " bytes, but its ", directory.entries, " entries take ",
                 at - directory.offset));
    check_overlap(entries);
    return entries;
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    fail(ErrorKind::Data, {"not a PyTorch checkpoint that can be read", file_, why,
                           "download the file again, or convert it to safetensors where you trust it"});
  }

  template <class T>
  T at(std::uint64_t offset) const {
    if (offset > bytes_.size() || sizeof(T) > bytes_.size() - offset)
      refuse("its zip structure points beyond its end: it is truncated");
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  std::string_view text(std::uint64_t offset, std::size_t length) const {
    if (offset > bytes_.size() || length > bytes_.size() - offset)
      refuse("its zip structure points beyond its end: it is truncated");
    return {reinterpret_cast<const char*>(bytes_.data()) + offset, length};
  }

  std::uint64_t find_end() const {
    if (bytes_.size() < kEndSize) refuse("it is too short for a zip file: it is truncated");
    const std::uint64_t last = bytes_.size() - kEndSize;
    for (std::uint64_t back = 0; back <= std::min<std::uint64_t>(last, 65535); ++back)
      if (at<std::uint32_t>(last - back) == kEndOfDirectory && at<std::uint16_t>(last - back + 20) == back)
        return last - back;
    refuse("it has no zip directory at its end: it is truncated");
  }

  Directory find_directory() const {
    const std::uint64_t end = find_end();
    if (at<std::uint16_t>(end + 4) != 0 || at<std::uint16_t>(end + 6) != 0)
      refuse("it is one part of a zip file in several parts");
    Directory out{at<std::uint32_t>(end + 16), at<std::uint32_t>(end + 12), at<std::uint16_t>(end + 10), end};
    if (at<std::uint16_t>(end + 8) != out.entries) refuse("its directory gives two numbers of entries");
    if (end >= kLocatorSize && at<std::uint32_t>(end - kLocatorSize) == kEnd64Locator) {
      out = directory64(end - kLocatorSize, out);
    } else if (out.entries == 0xffff || out.size == kIn64 || out.offset == kIn64) {
      refuse("its directory announces a zip64 record, and there is none");
    }
    if (out.offset > out.end || out.size > out.end - out.offset)
      refuse(cat("its directory claims bytes ", out.offset, " to ", out.offset, " + ", out.size,
                 ", but must end by byte ", out.end));
    if (out.entries > out.size / kEntrySize || out.entries > kMaxEntries)
      refuse(cat("its directory claims ", out.entries, " entries in ", out.size, " bytes"));
    return out;
  }

  Directory directory64(std::uint64_t locator, const Directory& classic) const {
    const auto record = at<std::uint64_t>(locator + 8);
    if (record > locator || locator - record < kEnd64Size || at<std::uint32_t>(record) != kEnd64 ||
        at<std::uint32_t>(locator + 16) != 1)
      refuse("its zip64 record is damaged");
    const Directory out{at<std::uint64_t>(record + 48), at<std::uint64_t>(record + 40), at<std::uint64_t>(record + 32),
                        record};
    if (at<std::uint64_t>(record + 24) != out.entries || at<std::uint32_t>(record + 16) != 0 ||
        at<std::uint32_t>(record + 20) != 0)
      refuse("its zip64 record contradicts itself");
    if ((classic.entries != 0xffff && classic.entries != out.entries) ||
        (classic.size != kIn64 && classic.size != out.size) ||
        (classic.offset != kIn64 && classic.offset != out.offset))
      refuse("its zip64 record contradicts the directory's end record");
    return out;
  }

  /// Replaces values that are all ones by those of the zip64 field, which come in this order for each such value.
  void resolve64(std::uint64_t extra, std::size_t length, std::initializer_list<std::uint64_t*> values,
                 std::string_view name) const {
    bool is_needed = false;
    for (const std::uint64_t* value : values) is_needed = is_needed || *value == kIn64;
    if (!is_needed) return;
    const std::uint64_t end = extra + length;
    for (std::uint64_t field = extra; field + 4 <= end;) {
      const auto id = at<std::uint16_t>(field), size = at<std::uint16_t>(field + 2);
      const std::uint64_t field_end = field + 4 + size;
      if (field_end > end) break;
      if (id == 1) {
        std::uint64_t next = field + 4;
        for (std::uint64_t* value : values) {
          if (*value != kIn64) continue;
          if (next + 8 > field_end) refuse(cat("the zip64 field of the entry '", shown(name), "' is too short"));
          *value = at<std::uint64_t>(next);
          next += 8;
        }
        return;
      }
      field = field_end;
    }
    refuse(cat("the entry '", shown(name), "' announces a zip64 field, and there is none"));
  }

  void check_name(std::string_view name) const {
    const bool leaves = name.empty() || name.front() == '/' || name.find('\\') != std::string_view::npos ||
                        name.find('\0') != std::string_view::npos ||
                        cat("/", name, "/").find("/../") != std::string::npos;
    if (leaves || name.size() > kMaxEntryName || !is_utf8(name))
      refuse(cat("the entry name '", shown(name), "' is not one that PyTorch writes"));
  }

  /// Reads the entry at `position` of the directory and moves on to the next.
  ZipEntry entry(std::uint64_t& position, const Directory& directory) const {
    const std::uint64_t limit = directory.offset + directory.size;
    if (position > limit || limit - position < kEntrySize || at<std::uint32_t>(position) != kDirectoryEntry)
      refuse("its zip directory is damaged");
    const auto flags = at<std::uint16_t>(position + 8), method = at<std::uint16_t>(position + 10);
    std::uint64_t packed = at<std::uint32_t>(position + 20), length = at<std::uint32_t>(position + 24),
                  local = at<std::uint32_t>(position + 42);
    const std::size_t name_length = at<std::uint16_t>(position + 28), extra = at<std::uint16_t>(position + 30),
                      comment = at<std::uint16_t>(position + 32);
    if (limit - position - kEntrySize < name_length + extra + comment) refuse("its zip directory is damaged");
    const std::string_view name = text(position + kEntrySize, name_length);
    check_name(name);
    resolve64(position + kEntrySize + name_length, extra, {&length, &packed, &local}, name);
    position += kEntrySize + name_length + extra + comment;
    if ((flags & 1) != 0) refuse(cat("the entry '", shown(name), "' is encrypted"));
    if (method == 0 && packed != length)
      refuse(cat("the entry '", shown(name), "' is stored in ", packed, " bytes and claims ", length));
    const std::uint64_t data = check_local(name, flags, method, packed, length, local, directory.offset);
    return {name, data, packed, method == 0};
  }

  /// Checks the entry's own header against the directory; returns where its data begin.
  std::uint64_t check_local(std::string_view name, std::uint16_t flags, std::uint16_t method, std::uint64_t packed,
                            std::uint64_t length, std::uint64_t local, std::uint64_t limit) const {
    if (local > limit || limit - local < kLocalSize || at<std::uint32_t>(local) != kLocalEntry)
      refuse(cat("the entry '", shown(name), "' is not where the directory says, at byte ", local));
    const std::size_t name_length = at<std::uint16_t>(local + 26), extra = at<std::uint16_t>(local + 28);
    if (text(local + kLocalSize, name_length) != name)
      refuse(cat("the entry '", shown(name), "' calls itself '", shown(text(local + kLocalSize, name_length)), "'"));
    if (at<std::uint16_t>(local + 8) != method || (at<std::uint16_t>(local + 6) & 1) != 0)
      refuse(cat("the two headers of the entry '", shown(name), "' contradict each other"));
    constexpr std::uint16_t kSizesFollow = 8;  // bit 3: the writer did not know the sizes yet
    if ((flags & kSizesFollow) == 0) {
      std::uint64_t local_packed = at<std::uint32_t>(local + 18), local_length = at<std::uint32_t>(local + 22);
      resolve64(local + kLocalSize + name_length, extra, {&local_length, &local_packed}, name);
      if (local_packed != packed || local_length != length)
        refuse(cat("the entry '", shown(name), "' has ", length, " bytes in the directory and ", local_length,
                   " in its own header"));
    }
    const std::uint64_t data = local + kLocalSize + name_length + extra;
    if (data > limit || packed > limit - data)
      refuse(cat("the entry '", shown(name), "' claims ", packed, " bytes and reaches beyond the data, which end at ",
                 limit, ": it is truncated"));
    return data;
  }

  void check_overlap(const std::vector<ZipEntry>& entries) const {
    std::vector<const ZipEntry*> sorted;
    for (const ZipEntry& entry : entries) sorted.push_back(&entry);
    std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->begin < b->begin; });
    for (std::size_t i = 1; i < sorted.size(); ++i)
      if (sorted[i]->begin - sorted[i - 1]->begin < sorted[i - 1]->length + kLocalSize + sorted[i]->name.size())
        refuse(cat("the entries '", shown(sorted[i - 1]->name), "' and '", shown(sorted[i]->name),
                   "' lie over each other"));
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
};

}  // namespace

bool is_zip(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && std::memcmp(bytes.data(), "PK\3\4", 4) == 0;
}

std::vector<ZipEntry> read_zip(std::span<const std::byte> bytes, const std::string& file) {
  return ZipReader(bytes, file).run();
}

}  // namespace divergen::weights
