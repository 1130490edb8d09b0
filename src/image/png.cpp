#include "image/png.hpp"

#include <libdeflate.h>
#include <zlib.h>
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace divergen::image::png {
namespace {

constexpr std::string_view kSignature("\x89PNG\r\n\x1a\n", 8);
constexpr int kFilters = 5;  // none, sub, up, average, Paeth (PNG specification, section 9)

// ---- encoding ------------------------------------------------------------------------------------------------------

void put32(char* to, std::uint32_t value) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<char>(value >> (24 - 8 * i));
}

void put_chunk(std::string& out, const char* type, std::string_view data) {
  const std::size_t start = out.size();
  out.resize(start + 8);
  put32(out.data() + start, static_cast<std::uint32_t>(data.size()));
  std::memcpy(out.data() + start + 4, type, 4);
  out += data;
  const std::uint32_t crc = libdeflate_crc32(0, out.data() + start + 4, data.size() + 4);
  out.resize(out.size() + 4);
  put32(out.data() + out.size() - 4, crc);
}

/// Of three neighbours, the one that is nearest to left + up - corner. Branch-free, so that it becomes vector code.
inline std::uint8_t paeth(std::uint8_t left, std::uint8_t up, std::uint8_t corner) {
  const std::int16_t to_left = static_cast<std::int16_t>(up - corner), to_up = static_cast<std::int16_t>(left - corner);
  const std::int16_t both = static_cast<std::int16_t>(to_left + to_up);
  const std::int16_t a = static_cast<std::int16_t>(to_left < 0 ? -to_left : to_left);
  const std::int16_t b = static_cast<std::int16_t>(to_up < 0 ? -to_up : to_up);
  const std::int16_t c = static_cast<std::int16_t>(both < 0 ? -both : both);
  const std::uint8_t other = b <= c ? up : corner;
  return a <= b && a <= c ? left : other;
}

/// Residues of one row under each filter. `row` and `above` have `bpp` zero bytes before their first one.
struct Candidates {
  explicit Candidates(std::size_t stride) : stride(stride), bytes(kFilters * stride) {}

  void fill(const std::uint8_t* __restrict row, const std::uint8_t* __restrict above, std::size_t bpp) {
    std::uint8_t* __restrict none = bytes.data();
    std::uint8_t* __restrict sub = none + stride;
    std::uint8_t* __restrict up = sub + stride;
    std::uint8_t* __restrict average = up + stride;
    std::uint8_t* __restrict paeth_row = average + stride;
    std::memcpy(none, row, stride);
    const std::uint8_t* left = row - bpp;
    const std::uint8_t* corner = above - bpp;
    for (std::size_t i = 0; i < stride; ++i) sub[i] = static_cast<std::uint8_t>(row[i] - left[i]);
    for (std::size_t i = 0; i < stride; ++i) up[i] = static_cast<std::uint8_t>(row[i] - above[i]);
    for (std::size_t i = 0; i < stride; ++i)
      average[i] = static_cast<std::uint8_t>(row[i] - ((static_cast<std::uint16_t>(left[i]) + above[i]) >> 1));
    for (std::size_t i = 0; i < stride; ++i)
      paeth_row[i] = static_cast<std::uint8_t>(row[i] - paeth(left[i], above[i], corner[i]));
  }

  /// Sum of the residues' magnitudes as signed bytes.
  std::uint64_t cost(int filter) const {
    const std::uint8_t* from = of(filter);
    std::uint64_t sum = 0;
    for (std::size_t start = 0; start < stride; start += 4096) {
      const std::size_t end = std::min(stride, start + 4096);
      std::uint32_t part = 0;
      for (std::size_t i = start; i < end; ++i) {
        const std::uint8_t down = static_cast<std::uint8_t>(-from[i]);
        part += from[i] < down ? from[i] : down;
      }
      sum += part;
    }
    return sum;
  }
  int best() const {
    int best = 0;
    std::uint64_t least = cost(0);
    for (int filter = 1; filter < kFilters; ++filter)
      if (const std::uint64_t now = cost(filter); now < least) {
        least = now;
        best = filter;
      }
    return best;
  }
  const std::uint8_t* of(int filter) const { return bytes.data() + static_cast<std::size_t>(filter) * stride; }

  std::size_t stride;
  std::vector<std::uint8_t> bytes;
};

std::vector<std::uint8_t> filtered(const Image& image) {
  const auto bpp = static_cast<std::size_t>(image.channels);
  const std::size_t stride = static_cast<std::size_t>(image.width) * bpp;
  std::vector<std::uint8_t> out(static_cast<std::size_t>(image.height) * (stride + 1));
  std::vector<std::uint8_t> row(bpp + stride), above(bpp + stride);
  Candidates candidates(stride);
  for (int y = 0; y < image.height; ++y) {
    std::memcpy(row.data() + bpp, image.at(y, 0), stride);
    candidates.fill(row.data() + bpp, above.data() + bpp, bpp);
    const int filter = candidates.best();
    std::uint8_t* to = out.data() + static_cast<std::size_t>(y) * (stride + 1);
    *to = static_cast<std::uint8_t>(filter);
    std::memcpy(to + 1, candidates.of(filter), stride);
    row.swap(above);
  }
  return out;
}

/// A compressor of each level, kept by each thread: making one costs more than compressing a small picture.
libdeflate_compressor* compressor_of(int level) {
  struct Free {
    void operator()(libdeflate_compressor* one) const { libdeflate_free_compressor(one); }
  };
  thread_local std::array<std::unique_ptr<libdeflate_compressor, Free>, 13> kept;
  auto& one = kept[static_cast<std::size_t>(level)];
  if (!one) one.reset(libdeflate_alloc_compressor(level));
  DIVERGEN_CHECK(one != nullptr);
  return one.get();
}

/// Runs and single bytes, no other matches (zlib's strategy Z_RLE, at its fastest level).
class RunLengths {
 public:
  RunLengths() { DIVERGEN_CHECK(deflateInit2(&stream_, 1, Z_DEFLATED, 15, 9, Z_RLE) == Z_OK); }
  ~RunLengths() { deflateEnd(&stream_); }
  RunLengths(const RunLengths&) = delete;
  RunLengths& operator=(const RunLengths&) = delete;

  std::string compress(const std::vector<std::uint8_t>& rows) {
    DIVERGEN_CHECK(rows.size() < (std::size_t{1} << 31) && deflateReset(&stream_) == Z_OK, rows.size());
    std::string out(deflateBound(&stream_, static_cast<uLong>(rows.size())), '\0');
    stream_.next_in = const_cast<Bytef*>(rows.data());
    stream_.avail_in = static_cast<uInt>(rows.size());
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    DIVERGEN_CHECK(deflate(&stream_, Z_FINISH) == Z_STREAM_END);
    out.resize(stream_.total_out);
    return out;
  }

 private:
  z_stream stream_{};
};

std::string compress_matches(const std::vector<std::uint8_t>& rows, int level) {
  libdeflate_compressor* compressor = compressor_of(level);
  std::string data(libdeflate_zlib_compress_bound(compressor, rows.size()), '\0');
  data.resize(libdeflate_zlib_compress(compressor, rows.data(), rows.size(), data.data(), data.size()));
  return data;
}

/// In pictures with noise, as cameras and generators make them, matches of filtered bytes are chance, and cost more
/// than they save: coding runs and bytes alone gives smaller files at three times the speed (measured: 0.97 of Pillow's
/// bytes, where matches give 1.04). Where much repeats, matches are looked for too, and the smaller result is taken.
std::string compress(const std::vector<std::uint8_t>& rows, int level) {
  constexpr double kNoisy = 0.4;  // share of the bytes that is left
  constexpr int kThorough = 6;    // from this level on, both are always tried
  constexpr std::size_t kLarge = std::size_t{1} << 30;
  if (level == 0 || rows.size() > kLarge) return compress_matches(rows, level);
  thread_local RunLengths runs;
  std::string data = runs.compress(rows);
  if (level<kThorough&& static_cast<double>(data.size())> kNoisy * static_cast<double>(rows.size())) return data;
  std::string other = compress_matches(rows, level);
  return other.size() < data.size() ? other : data;
}

std::uint8_t colour_type(int channels) { return channels == 1 ? 0 : channels == 3 ? 2 : 6; }

}  // namespace

std::string encode(const Image& image, int level) {
  DIVERGEN_CHECK(!image.empty() && (image.channels == 1 || image.channels == 3 || image.channels == 4));
  DIVERGEN_CHECK(level >= 0 && level <= 12, level);
  std::string out(kSignature);
  char header[13] = {};
  put32(header, static_cast<std::uint32_t>(image.width));
  put32(header + 4, static_cast<std::uint32_t>(image.height));
  header[8] = 8;
  header[9] = static_cast<char>(colour_type(image.channels));
  put_chunk(out, "IHDR", {header, sizeof header});
  const std::vector<std::uint8_t> rows = filtered(image);
  const std::string data = compress(rows, level);
  DIVERGEN_CHECK(!data.empty() && data.size() < (std::size_t{1} << 31));
  put_chunk(out, "IDAT", data);
  put_chunk(out, "IEND", {});
  return out;
}

// ---- decoding ------------------------------------------------------------------------------------------------------

namespace {

std::uint32_t get32(const char* from) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<std::uint8_t>(from[i]);
  return value;
}

struct Parts {
  std::int64_t width = 0, height = 0;
  int channels = 0;
  std::string_view data;  // of the IDAT, or of `joined`
  std::string joined;     // when there are several
};

/// Walks the chunks. False when there is anything that encode() does not write, but for ancillary chunks that change
/// no pixel of a picture read as it is.
bool take_apart(std::string_view bytes, Parts& parts) {
  if (!bytes.starts_with(kSignature)) return false;
  bool has_data = false;
  for (std::size_t at = kSignature.size(); bytes.size() - at >= 12;) {
    const std::size_t length = get32(bytes.data() + at);
    if (length > bytes.size() - at - 12) return false;
    const std::string_view type = bytes.substr(at + 4, 4), data = bytes.substr(at + 8, length);
    if (libdeflate_crc32(0, type.data(), length + 4) != get32(data.data() + length)) return false;
    const bool is_first = at == kSignature.size();
    if (is_first != (type == "IHDR")) return false;
    if (is_first) {
      if (length != 13) return false;
      parts.width = get32(data.data());
      parts.height = get32(data.data() + 4);
      const auto colour = static_cast<std::uint8_t>(data[9]);
      parts.channels = colour == 0 ? 1 : colour == 2 ? 3 : colour == 6 ? 4 : 0;
      if (data[8] != 8 || parts.channels == 0 || data[10] != 0 || data[11] != 0 || data[12] != 0) return false;
    } else if (type == "IDAT") {
      if (has_data) {
        if (parts.joined.empty()) parts.joined = parts.data;
        parts.joined += data;
      } else {
        parts.data = data;
      }
      has_data = true;
    } else if (type == "IEND") {
      if (!parts.joined.empty()) parts.data = parts.joined;
      return has_data;
    } else if (type == "tRNS" || type == "PLTE" || type == "eXIf" || (type[0] & 0x20) == 0) {
      return false;
    }
    at += 12 + length;
  }
  return false;
}

/// Undoes one row's filter in place; the bytes before `row` and `above` are those of the pixel left of the first: 0.
template <int Bpp>
void unfilter(int filter, std::uint8_t* __restrict row, const std::uint8_t* __restrict above, std::size_t stride) {
  switch (filter) {
    case 1: {
      std::uint8_t left[Bpp] = {};
      for (std::size_t i = 0; i + Bpp <= stride; i += Bpp)
        for (int c = 0; c < Bpp; ++c)
          row[i + static_cast<std::size_t>(c)] = left[c] =
              static_cast<std::uint8_t>(row[i + static_cast<std::size_t>(c)] + left[c]);
      break;
    }
    case 2:
      for (std::size_t i = 0; i < stride; ++i) row[i] = static_cast<std::uint8_t>(row[i] + above[i]);
      break;
    case 3: {
      std::uint8_t left[Bpp] = {};
      for (std::size_t i = 0; i + Bpp <= stride; i += Bpp)
        for (int c = 0; c < Bpp; ++c) {
          const std::size_t k = i + static_cast<std::size_t>(c);
          row[k] = left[c] = static_cast<std::uint8_t>(row[k] + ((left[c] + above[k]) >> 1));
        }
      break;
    }
    case 4: {
      std::uint8_t left[Bpp] = {}, corner[Bpp] = {};
      for (std::size_t i = 0; i + Bpp <= stride; i += Bpp)
        for (int c = 0; c < Bpp; ++c) {
          const std::size_t k = i + static_cast<std::size_t>(c);
          const std::uint8_t up = above[k];
          row[k] = left[c] = static_cast<std::uint8_t>(row[k] + paeth(left[c], up, corner[c]));
          corner[c] = up;
        }
      break;
    }
    default:
      break;
  }
}

#ifdef __SSE4_1__
/// The same for RGBA, a pixel at a time: filters 1, 3 and 4 hang on the pixel to the left, so a row is one long chain.
inline __m128i load_pixel(const std::uint8_t* from) {
  int value = 0;
  std::memcpy(&value, from, sizeof value);
  return _mm_cvtsi32_si128(value);
}
inline void store_pixel(std::uint8_t* to, __m128i pixel) {
  const int value = _mm_cvtsi128_si32(pixel);
  std::memcpy(to, &value, sizeof value);
}

void unfilter_rgba(int filter, std::uint8_t* row, const std::uint8_t* above, std::size_t stride) {
  __m128i left = _mm_setzero_si128();
  if (filter == 1) {
    for (std::size_t i = 0; i < stride; i += 4) store_pixel(row + i, left = _mm_add_epi8(load_pixel(row + i), left));
  } else if (filter == 3) {
    // avg rounds up, the filter rounds down: the carry is the last bit of left xor up.
    const __m128i one = _mm_set1_epi8(1);
    for (std::size_t i = 0; i < stride; i += 4) {
      const __m128i up = load_pixel(above + i);
      const __m128i mean = _mm_sub_epi8(_mm_avg_epu8(left, up), _mm_and_si128(_mm_xor_si128(left, up), one));
      store_pixel(row + i, left = _mm_add_epi8(load_pixel(row + i), mean));
    }
  } else {
    // As 16-bit numbers: left + up - corner may be negative.
    const __m128i low = _mm_set1_epi16(0xff);
    __m128i corner = _mm_setzero_si128();
    for (std::size_t i = 0; i < stride; i += 4) {
      const __m128i up = _mm_cvtepu8_epi16(load_pixel(above + i));
      const __m128i to_left = _mm_sub_epi16(up, corner), to_up = _mm_sub_epi16(left, corner);
      const __m128i a = _mm_abs_epi16(to_left), b = _mm_abs_epi16(to_up);
      const __m128i c = _mm_abs_epi16(_mm_add_epi16(to_left, to_up));
      const __m128i least = _mm_min_epi16(c, _mm_min_epi16(a, b));
      const __m128i guess =
          _mm_blendv_epi8(_mm_blendv_epi8(corner, up, _mm_cmpeq_epi16(least, b)), left, _mm_cmpeq_epi16(least, a));
      left = _mm_and_si128(_mm_add_epi16(_mm_cvtepu8_epi16(load_pixel(row + i)), guess), low);
      store_pixel(row + i, _mm_packus_epi16(left, left));
      corner = up;
    }
  }
}
#endif

bool unfilter_all(const std::vector<std::uint8_t>& rows, Image& image) {
  const std::size_t stride = static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.channels);
  const std::vector<std::uint8_t> zeros(stride);
  const std::uint8_t* above = zeros.data();
  for (int y = 0; y < image.height; ++y) {
    const std::uint8_t* from = rows.data() + static_cast<std::size_t>(y) * (stride + 1);
    if (*from >= kFilters) return false;
    std::uint8_t* row = image.at(y, 0);
    std::memcpy(row, from + 1, stride);
    switch (image.channels) {
      case 1:
        unfilter<1>(*from, row, above, stride);
        break;
      case 3:
        unfilter<3>(*from, row, above, stride);
        break;
      default:
#ifdef __SSE4_1__
        if (*from == 1 || *from >= 3) {
          unfilter_rgba(*from, row, above, stride);
          break;
        }
#endif
        unfilter<4>(*from, row, above, stride);
    }
    above = row;
  }
  return true;
}

libdeflate_decompressor* decompressor() {
  struct Free {
    void operator()(libdeflate_decompressor* one) const { libdeflate_free_decompressor(one); }
  };
  thread_local std::unique_ptr<libdeflate_decompressor, Free> kept(libdeflate_alloc_decompressor());
  DIVERGEN_CHECK(kept != nullptr);
  return kept.get();
}

}  // namespace

std::optional<Image> decode(std::string_view bytes, std::int64_t max_pixels) {
  Parts parts;
  if (!take_apart(bytes, parts)) return std::nullopt;
  constexpr std::int64_t kMost = 0x7fffffff;  // of the specification
  if (parts.width < 1 || parts.height < 1 || parts.width > kMost || parts.height > kMost ||
      parts.width > max_pixels / parts.height)
    return std::nullopt;
  const std::size_t stride = static_cast<std::size_t>(parts.width) * static_cast<std::size_t>(parts.channels);
  const std::size_t size = static_cast<std::size_t>(parts.height) * (stride + 1);
  // DEFLATE makes at most 1,032 bytes of one: a small file that claims a large picture is not given memory for it.
  if (parts.data.size() < size / 1032) return std::nullopt;
  std::vector<std::uint8_t> rows(size);
  std::size_t actual = 0;
  if (libdeflate_zlib_decompress(decompressor(), parts.data.data(), parts.data.size(), rows.data(), size, &actual) !=
          LIBDEFLATE_SUCCESS ||
      actual != size)
    return std::nullopt;
  Image image(static_cast<int>(parts.height), static_cast<int>(parts.width), parts.channels);
  if (!unfilter_all(rows, image)) return std::nullopt;
  return image;
}

}  // namespace divergen::image::png
