// The store's part of store.py, which makes the pictures and runs the reference's way beside it. Each command prints
// one JSON object.
//
//   bench_store encode FOLDER        FOLDER/*.rgba (int32 width, height, then pixels) -> shards in FOLDER/library
//   bench_store append FOLDER        their PNG bytes as they are -> shards, and the same bytes into one plain file
//   bench_store read FOLDER N        N pictures at random from FOLDER/library, decoded
//   bench_store index FOLDER N       an index of N made-up instances, 1,203 categories, 18,000 prompts
//   bench_store open FOLDER          opens it

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iostream>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/machine.hpp"
#include "base/rng.hpp"
#include "image/image.hpp"
#include "store/library_format.hpp"
#include "store/table_stream.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<image::Image> pictures_of(const Path& folder) {
  std::vector<Path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".rgba") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<image::Image> out;
  for (const Path& file : files) {
    const std::string bytes = read_file(file);
    std::int32_t size[2] = {};
    std::memcpy(size, bytes.data(), sizeof size);
    image::Image picture(size[1], size[0], 4);
    std::memcpy(picture.pixels.data(), bytes.data() + sizeof size, picture.pixels.size());
    out.push_back(std::move(picture));
  }
  return out;
}

LibraryTables tables() {
  LibraryTables out;
  for (std::int32_t c = 1; c <= 1203; ++c) out.categories.push_back({c, cat("category_", c), "c", false});
  out.generators = {{"sd", "stable_diffusion", "dpmpp", "00", 50, 7.5}};
  out.prompts = {"a photo"};
  return out;
}

Instance instance_of(const image::Image& picture, std::size_t i) {
  Instance one;
  one.item_id = hash64(cat("item ", i));
  one.category_id = static_cast<std::int32_t>(1 + i % 1203);
  one.width = picture.width;
  one.height = picture.height;
  one.source_width = one.source_height = 512;
  return one;
}

Path new_library(const Path& folder) {
  const Path library = folder / "library";
  std::filesystem::remove_all(library);
  make_folder(library);
  return library;
}

json encode(const Path& folder) {
  const auto pictures = pictures_of(folder);
  const Path library = new_library(folder);
  const LibraryTables with = tables();
  const double start = now(), cpu_start = processor_seconds();
  std::vector<Instance> instances;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    instances.push_back(instance_of(pictures[i], i));
    instances.back().png = image::encode_png(pictures[i]);
    bytes += instances.back().png.size();
  }
  write_library_shard(library / "shard-000000.h5", instances, with);
  const double seconds = now() - start, cpu_seconds = processor_seconds() - cpu_start;
  write_library_index(library);
  return {{"pictures", pictures.size()},
          {"seconds", seconds},
          {"cpu_seconds", cpu_seconds},
          {"bytes", bytes},
          {"shard_bytes", std::filesystem::file_size(library / "shard-000000.h5")}};
}

/// Seconds by the clock of rounds, and processor seconds of one.
struct Rounds {
  std::vector<double> seconds;
  double cpu_seconds = 0;
  int all = 0;

  template <class Work>
  void time(const Work& work) {
    ::sync();
    const double start = now(), cpu_start = processor_seconds();
    work();
    if (all++ > 0) seconds.push_back(now() - start);  // the first one warms up
    cpu_seconds += processor_seconds() - cpu_start;
  }
  json to_json() {
    std::sort(seconds.begin(), seconds.end());
    return {{"median", seconds[seconds.size() / 2]}, {"all", seconds}, {"cpu", cpu_seconds / all}};
  }
};

/// The bytes one after another into a file, flushed.
void write_plain(const Path& file, const std::vector<Instance>& instances) {
  const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  for (const Instance& one : instances)
    if (::write(fd, one.png.data(), one.png.size()) != static_cast<ssize_t>(one.png.size()))
      fail_errno("cannot write", file.string(), errno);
  ::fsync(fd);
  ::close(fd);
}

/// The same with what a shard's writing promises besides: another name at first, read back and compared, renamed, the
/// folder flushed.
void publish_plain(const Path& file, const std::vector<Instance>& instances) {
  const Path part = part_name(file);
  const int fd = ::open(part.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
  std::vector<std::uint64_t> hashes;
  for (const Instance& one : instances) {
    if (::write(fd, one.png.data(), one.png.size()) != static_cast<ssize_t>(one.png.size()))
      fail_errno("cannot write", part.string(), errno);
    hashes.push_back(hash64(one.png));
  }
  std::string back;
  off_t at = 0;
  for (std::size_t i = 0; i < instances.size(); ++i) {
    back.resize(instances[i].png.size());
    if (::pread(fd, back.data(), back.size(), at) != static_cast<ssize_t>(back.size()) || hash64(back) != hashes[i])
      fail_errno("not what was written", part.string(), errno);
    at += static_cast<off_t>(back.size());
  }
  ::close(fd);
  commit_file(part, file);
}

/// Ready-made bytes: a shard of 1,000 rows, and the same bytes into a plain file, by turns.
json append(const Path& folder) {
  const auto pictures = pictures_of(folder);
  std::vector<Instance> instances;
  for (std::size_t i = 0; i < 1000; ++i) {
    const auto& picture = pictures[i % pictures.size()];
    instances.push_back(instance_of(picture, i));
    instances.back().png = i < pictures.size() ? image::encode_png(picture) : instances[i - pictures.size()].png;
  }
  std::uint64_t bytes = 0;
  for (const Instance& one : instances) bytes += one.png.size();
  const Path library = new_library(folder), plain_file = folder / "plain.bin", shard = library / "shard-000000.h5";
  const LibraryTables with = tables();
  Rounds plain, published, ours;
  for (int round = 0; round < 8; ++round) {
    std::filesystem::remove(plain_file);
    plain.time([&] { write_plain(plain_file, instances); });
    std::filesystem::remove(plain_file);
    published.time([&] { publish_plain(plain_file, instances); });
    std::filesystem::remove(shard);
    ours.time([&] { write_library_shard(shard, instances, with); });
  }
  std::filesystem::remove(plain_file);
  return {{"bytes", bytes}, {"plain", plain.to_json()}, {"published", published.to_json()}, {"ours", ours.to_json()}};
}

json read(const Path& folder, std::size_t count) {
  const Library library(folder / "library");
  for (std::size_t i = 0; i < library.size(); ++i) library.read_png(i);  // into the page cache
  Rng rng(9);
  const double start = now(), cpu_start = processor_seconds();
  std::uint64_t pixels = 0;
  for (std::size_t n = 0; n < count; ++n) {
    const auto decoded = image::decode(library.read_png(rng.below(library.size())), image::Channels::Rgba);
    DIVERGEN_CHECK(decoded.image);
    pixels += decoded.image->pixels.size();
  }
  return {{"pictures", count},
          {"seconds", now() - start},
          {"cpu_seconds", processor_seconds() - cpu_start},
          {"bytes", pixels}};
}

/// The index of a library that is not there: N entries in shards of 4,096.
json make_index(const Path& folder, std::uint64_t count) {
  make_folder(folder);
  Table table(kIndexFormat, kLibraryVersion);
  LibraryTables with = tables();
  tables_to_documents(with, table);
  json prompts = json::object(), shards = json::array();
  for (int p = 0; p < 18'000; ++p)
    prompts[std::to_string(p)] =
        cat("a photo of a single thing number ", p, ", as a language model tells of it, in a white background");
  const std::uint64_t rows = 4096, last = (count + rows - 1) / rows;
  for (std::uint64_t s = 0; s < last; ++s) {
    char name[40];
    std::snprintf(name, sizeof name, "shard-%06llu.h5", static_cast<unsigned long long>(s));
    shards.push_back({{"file", name}, {"rows", rows}, {"table_hash", to_hex(s)}});
  }
  table.documents["prompts"] = prompts.dump();
  table.documents["shards"] = shards.dump();
  table.attributes["library_hash"] = std::string(32, '0');
  table.attributes["instances"] = std::to_string(count);
  std::vector<std::int32_t> categories;
  std::vector<std::int64_t> counts;
  std::vector<std::uint64_t> lengths, first{0};
  for (std::int32_t c = 0; c < 1203; ++c) {
    const std::uint64_t number = count / 1203 + (static_cast<std::uint64_t>(c) < count % 1203);
    categories.push_back(c + 1);
    counts.push_back(static_cast<std::int64_t>(number));
    lengths.push_back(number * sizeof(IndexEntry));
    first.push_back(first.back() + number);
  }
  table.add("category", categories);
  table.add("instances", counts);
  std::string out;
  write_streamed_table(
      table, lengths,
      [&](std::size_t c) -> std::string_view {
        out.assign(lengths[c], '\0');
        for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(counts[c]); ++i) {
          IndexEntry entry;
          const std::uint64_t n = first[c] + i;
          entry.item_id = n;
          entry.record_hash = n * 0x9e3779b97f4a7c15ULL;
          entry.shard = static_cast<std::uint32_t>(n / rows);
          entry.row = static_cast<std::uint32_t>(n % rows);
          entry.width = entry.height = 200;
          std::memcpy(out.data() + i * sizeof entry, &entry, sizeof entry);
        }
        return out;
      },
      folder / kIndexName);
  return {{"instances", count}, {"bytes", std::filesystem::file_size(folder / kIndexName)}};
}

long resident_kilobytes() {
  long pages = 0, ignored = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  const int found = file != nullptr ? std::fscanf(file, "%ld %ld", &ignored, &pages) : 0;
  if (file != nullptr) std::fclose(file);
  return found == 2 ? pages * (::sysconf(_SC_PAGESIZE) / 1024) : -1;
}

json open(const Path& folder) {
  std::vector<double> seconds;
  double entry_seconds = 0;
  const double cpu_start = processor_seconds();
  long before = resident_kilobytes(), after = 0;
  for (int round = 0; round < 6; ++round) {
    const double start = now();
    const Library library(folder);
    if (round > 0) seconds.push_back(now() - start);  // the first one brings the file in
    after = std::max(after, resident_kilobytes());
    const double again = now();
    DIVERGEN_CHECK(library.entry(library.size() / 2).width == 200);
    entry_seconds = now() - again;
  }
  std::sort(seconds.begin(), seconds.end());
  return {{"seconds", seconds[seconds.size() / 2]},
          {"cpu_seconds", (processor_seconds() - cpu_start) / 6},
          {"all", seconds},
          {"kilobytes", after - before},
          {"first_entry_seconds", entry_seconds}};
}

}  // namespace
}  // namespace divergen::store

int main(int argc, char** argv) {
  using namespace divergen;
  try {
    const std::string command = argc > 2 ? argv[1] : "";
    const Path folder = argc > 2 ? argv[2] : "";
    const auto number = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
    nlohmann::json out;
    if (command == "encode") out = store::encode(folder);
    if (command == "append") out = store::append(folder);
    if (command == "read") out = store::read(folder, number);
    if (command == "index") out = store::make_index(folder, number);
    if (command == "open") out = store::open(folder);
    if (out.is_null()) return 64;
    std::cout << out.dump() << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 70;
  }
}
