// WebDataset: tar files of <key>.json and <key>.png, one after another.

#include <cstdio>
#include <cstring>
#include <memory>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "store/exchange/export_parts.hpp"

namespace divergen::store {
namespace {

constexpr std::uint64_t kTarBytes = 1 << 30;  // of a tar, at most ...
constexpr std::int64_t kTarKeys = 10'000;     // ... and instances

/// A POSIX ustar archive of plain files whose bytes depend on nothing but them: no times, no users.
class Tar {
 public:
  explicit Tar(const Path& path) : file_(path) {}

  void add(const std::string& name, std::string_view bytes) {
    char header[512] = {};
    DIVERGEN_CHECK(name.size() < 100 && bytes.size() < (std::uint64_t{1} << 33), name);
    std::memcpy(header, name.data(), name.size());
    std::snprintf(header + 100, 8, "%07o", 0644U);
    std::snprintf(header + 108, 8, "%07o", 0U);
    std::snprintf(header + 116, 8, "%07o", 0U);
    std::snprintf(header + 124, 12, "%011llo", static_cast<unsigned long long>(bytes.size()));
    std::snprintf(header + 136, 12, "%011o", 0U);
    header[156] = '0';
    std::memcpy(header + 257,
                "ustar\0"
                "00",
                8);
    std::memset(header + 148, ' ', 8);  // the checksum's own place counts as blanks
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    std::snprintf(header + 148, 7, "%06o", sum);
    header[155] = ' ';
    file_.write({header, sizeof header});
    file_.write(bytes);
    file_.write(std::string((512 - bytes.size() % 512) % 512, '\0'));
  }
  std::uint64_t size() const { return file_.size(); }
  std::string close() {
    file_.write(std::string(1024, '\0'));
    return file_.close();
  }

 private:
  FileStream file_;
};

}  // namespace

void export_webdataset(Export& work) {
  std::unique_ptr<Tar> tar;
  std::string name;
  std::int64_t keys = 0, tars = 0;
  const auto finish = [&] {
    if (!tar) return;
    const std::string hash = tar->close();
    work.files.push_back({name, "application/x-tar", hash, tar->size()});
    tar.reset();
  };
  for (const std::size_t i : work.entries) {
    const Instance instance = work.library.read(i);
    if (!tar || keys >= kTarKeys || tar->size() + instance.png.size() > kTarBytes) {
      finish();
      char text[32];
      std::snprintf(text, sizeof text, "shard-%06lld.tar", static_cast<long long>(tars++));
      name = text;
      tar = std::make_unique<Tar>(work.folder.part() / name);
      keys = 0;
    }
    const std::string key = to_hex(instance.item_id);
    tar->add(key + ".json", instance_to_json(instance, work.library.tables()).dump());
    tar->add(key + ".png", instance.png);
    work.note(instance, cat(name, "/", key, ".png"));
    ++keys;
  }
  finish();
}

}  // namespace divergen::store
