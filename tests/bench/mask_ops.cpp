// Mask operations of one thread on the first annotations of a file, for mask_ops.py, which times pycocotools beside it
// and compares every byte. Masks are kept as either library keeps them: run lengths here, compressed text there.
// Polygons, pixels and their results begin and end alike.
//
//   bench_mask_ops ANNOTATIONS.json COUNT ROUNDS OUT
//
// Prints one JSON object: seconds of the quickest round of each operation, and how many items that were. OUT gets the
// texts of the merged masks, a line each; OUT.iou the overlaps as doubles.

#include <ctime>

#include <cstdio>
#include <cstdlib>
#include <functional>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "lvis/dataset.hpp"
#include "mask/rle.hpp"
#include "mask/spans.hpp"

namespace divergen {
namespace {

using Polygon = std::vector<double>;

struct Input {
  std::int64_t height = 0, width = 0;
  std::vector<Polygon> parts;
};

struct Texts {
  std::int64_t height = 0, width = 0;
  std::vector<std::string> parts;
};

/// Of this thread: the machine may be busy with other things.
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double quickest(int rounds, const std::function<void()>& action) {
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const double start = cpu_seconds();
    action();
    best = std::min(best, cpu_seconds() - start);
  }
  return best;
}

std::vector<Input> read_inputs(const Path& file, std::size_t count) {
  const lvis::Dataset dataset = lvis::read_dataset(file);
  std::vector<Input> out;
  for (const lvis::Annotation& a : dataset.annotations) {
    if (out.size() == count) break;
    const lvis::ImageRecord image = dataset.images[dataset.image_index.at(a.image_id)];
    out.push_back({image.height, image.width, {}});
    for (auto part : a.polygons) out.back().parts.push_back(std::move(part));
  }
  return out;
}

void run(const Path& file, std::size_t count, int rounds, const Path& out) {
  const std::vector<Input> inputs = read_inputs(file, count);
  const std::size_t n = inputs.size();
  nlohmann::json result{{"items", n}};
  std::vector<Texts> parts(n);
  result["polygon"] = quickest(rounds, [&] {
    for (std::size_t i = 0; i < n; ++i) {
      parts[i] = {inputs[i].height, inputs[i].width, {}};
      for (const Polygon& part : inputs[i].parts)
        parts[i].parts.push_back(mask::to_text(mask::from_polygon(part, inputs[i].height, inputs[i].width)));
    }
  });
  // Masks in memory are run lengths here and compressed text there: what either keeps is not counted as work.
  std::vector<std::vector<mask::Rle>> masks(n);
  for (std::size_t i = 0; i < n; ++i)
    for (const std::string& text : parts[i].parts)
      masks[i].push_back(mask::from_text(text, parts[i].height, parts[i].width));
  std::vector<mask::Rle> whole(n);
  result["merge"] = quickest(rounds, [&] {
    for (std::size_t i = 0; i < n; ++i) whole[i] = mask::merge(masks[i]);
  });
  std::vector<std::string> merged(n);
  for (std::size_t i = 0; i < n; ++i) merged[i] = mask::to_text(whole[i]);
  const auto rle = [&](std::size_t i) { return mask::from_text(merged[i], inputs[i].height, inputs[i].width); };
  double sum = 0;
  result["area"] = quickest(rounds, [&] {
    for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(mask::area(whole[i]));
  });
  result["box"] = quickest(rounds, [&] {
    for (std::size_t i = 0; i < n; ++i) sum += mask::bounding_box(whole[i])[2];
  });
  // Pixels of all masks do not fit in memory: one is decoded and encoded at a time, and each step timed by itself.
  double decode = 1e9, encode = 1e9, decode_rows = 1e9, encode_rows = 1e9;
  std::uint64_t hash = 0;
  for (int round = 0; round < rounds; ++round) {
    std::array<double, 4> spent{};
    std::vector<std::uint8_t> pixels;
    hash = 0;
    for (std::size_t i = 0; i < n; ++i) {
      pixels.resize(static_cast<std::size_t>(inputs[i].height * inputs[i].width));
      const auto step = [&](std::size_t which, const auto& action) {
        const double start = cpu_seconds();
        action();
        spent[which] += cpu_seconds() - start;
      };
      std::string text;
      step(0, [&] { mask::decode_columns(rle(i), pixels); });
      hash = hash64({reinterpret_cast<const char*>(pixels.data()), pixels.size()}, hash);
      step(1, [&] { text = mask::to_text(mask::encode_columns(pixels, inputs[i].height, inputs[i].width)); });
      DIVERGEN_CHECK(text == merged[i], i);
      step(2, [&] { mask::decode_into(rle(i), pixels); });
      step(3, [&] { text = mask::to_text(mask::encode(pixels, inputs[i].height, inputs[i].width)); });
      DIVERGEN_CHECK(text == merged[i], i);
    }
    decode = std::min(decode, spent[0]), encode = std::min(encode, spent[1]);
    decode_rows = std::min(decode_rows, spent[2]), encode_rows = std::min(encode_rows, spent[3]);
  }
  result["decode"] = decode, result["encode"] = encode;
  result["decode rows"] = decode_rows, result["encode rows"] = encode_rows;
  std::vector<std::vector<double>> overlaps;  // a matrix a block, as the Python side keeps its arrays
  constexpr std::size_t kBlock = 100;
  const std::size_t blocks = n / kBlock / 2;
  result["iou"] = quickest(rounds, [&] {
    overlaps.clear();
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::span all(whole);
      overlaps.push_back(
          mask::iou_matrix(all.subspan(2 * b * kBlock, kBlock), all.subspan((2 * b + 1) * kBlock, kBlock)));
    }
  });
  result["pairs"] = overlaps.size() * kBlock * kBlock;
  result["checksum"] = sum;
  result["bits"] = to_hex(hash);
  std::string lines, ratios;
  for (const std::vector<double>& matrix : overlaps)
    ratios.append(reinterpret_cast<const char*>(matrix.data()), matrix.size() * sizeof(double));
  for (const std::string& text : merged) lines += text + "\n";
  write_file_atomic(out, lines);
  write_file_atomic(out.string() + ".iou", ratios);
  std::puts(result.dump().c_str());
}

}  // namespace
}  // namespace divergen

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("usage: bench_mask_ops ANNOTATIONS.json COUNT ROUNDS OUT\n", stderr);
    return 64;
  }
  try {
    divergen::run(argv[1], std::strtoull(argv[2], nullptr, 10), std::atoi(argv[3]), argv[4]);
  } catch (const divergen::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return divergen::exit_code(error.kind());
  }
  return 0;
}
