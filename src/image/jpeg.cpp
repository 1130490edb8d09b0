#include "image/jpeg.hpp"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include <jpeglib.h>

namespace divergen::image::jpeg {
namespace {

/// Errors of libjpeg leave by longjmp.
struct Errors {
  jpeg_error_mgr base;  // first, because libjpeg hands back a pointer to it
  std::jmp_buf away;
};

void leave(j_common_ptr state) { std::longjmp(reinterpret_cast<Errors*>(state->err)->away, 1); }
/// Negative levels are warnings: the file is damaged.
void on_message(j_common_ptr state, int level) {
  if (level < 0) leave(state);
}
void say_nothing(j_common_ptr) {}

/// Whether an APP1 segment is EXIF: its orientation is the general decoder's affair.
bool has_exif(const jpeg_decompress_struct& state) {
  for (const jpeg_marker_struct* marker = state.marker_list; marker != nullptr; marker = marker->next)
    if (marker->data_length >= 4 && std::string_view(reinterpret_cast<const char*>(marker->data), 4) == "Exif")
      return true;
  return false;
}

/// The header, as far as to the size; 0 channels where the file is not for this decoder.
int channels_of(jpeg_decompress_struct& state, std::int64_t max_pixels) {
  if (jpeg_read_header(&state, TRUE) != JPEG_HEADER_OK) return 0;
  if (static_cast<std::int64_t>(state.image_width) * state.image_height > max_pixels || has_exif(state)) return 0;
  if (state.data_precision != 8) return 0;
  if (state.jpeg_color_space == JCS_YCbCr && state.num_components == 3) return 3;
  return state.jpeg_color_space == JCS_GRAYSCALE && state.num_components == 1 ? 1 : 0;
}

/// Rows into `pixels`, which hold them all.
void read_rows(jpeg_decompress_struct& state, std::uint8_t* pixels, std::size_t stride) {
  while (state.output_scanline < state.output_height) {
    JSAMPROW rows[8];
    unsigned count = 0;
    for (; count < 8 && state.output_scanline + count < state.output_height; ++count)
      rows[count] = pixels + (state.output_scanline + count) * stride;
    jpeg_read_scanlines(&state, rows, count);
  }
}

struct Reader {
  jpeg_decompress_struct state;
  Errors errors;
  Image out;
  std::vector<std::uint8_t> row;
};

/// The header, and what is to come out; 0 channels where the file is not for this decoder.
int open(jpeg_decompress_struct& state, std::string_view bytes, std::int64_t max_pixels) {
  jpeg_create_decompress(&state);
  jpeg_mem_src(&state, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_save_markers(&state, JPEG_APP0 + 1, 16);
  const int channels = channels_of(state, max_pixels);
  state.out_color_space = channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
  return channels;
}

/// Everything that may jump, and nothing between here and there that has a destructor; what changes lies outside.
bool read(Reader& reader, std::string_view bytes, std::int64_t max_pixels) {
  if (setjmp(reader.errors.away) != 0) return false;
  jpeg_decompress_struct& state = reader.state;
  const int channels = open(state, bytes, max_pixels);
  if (channels == 0) return false;
  reader.out = Image(static_cast<int>(state.image_height), static_cast<int>(state.image_width), channels);
  jpeg_start_decompress(&state);
  read_rows(state, reader.out.pixels.data(),
            static_cast<std::size_t>(reader.out.width) * static_cast<std::size_t>(channels));
  jpeg_finish_decompress(&state);
  return true;
}

#ifdef LIBJPEG_TURBO_VERSION_NUMBER
/// Colour is stored coarser than light and smoothed over neighbours: at the edge of what is decoded the pixels would be
/// others than in the whole picture. One block of 16 px more on each side keeps that edge outside.
constexpr int kMargin = 16;

/// As read().
bool read_region(Reader& reader, std::string_view bytes, int height, int width, const Region& wanted) {
  if (setjmp(reader.errors.away) != 0) return false;
  jpeg_decompress_struct& state = reader.state;
  const int channels = open(state, bytes, std::int64_t{width} * height);
  if (channels == 0 || static_cast<int>(state.image_width) != width || static_cast<int>(state.image_height) != height)
    return false;
  reader.out = Image(wanted.height, wanted.width, channels);
  jpeg_start_decompress(&state);
  JDIMENSION x = static_cast<JDIMENSION>(std::max(0, wanted.x - kMargin));
  JDIMENSION columns = static_cast<JDIMENSION>(std::min(width, wanted.x + wanted.width + kMargin)) - x;
  jpeg_crop_scanline(&state, &x, &columns);  // moves the beginning to a block's
  const auto bytes_of = [&](int pixels) {
    return static_cast<std::size_t>(pixels) * static_cast<std::size_t>(channels);
  };
  reader.row.resize(bytes_of(static_cast<int>(state.output_width)));
  const int above = std::max(0, wanted.y - kMargin);
  if (above > 0 && jpeg_skip_scanlines(&state, static_cast<JDIMENSION>(above)) != static_cast<JDIMENSION>(above))
    return false;
  const std::size_t before = bytes_of(wanted.x - static_cast<int>(x)), count = bytes_of(wanted.width);
  for (int y = above; y < wanted.y + wanted.height; ++y) {
    JSAMPROW row = reader.row.data();
    if (jpeg_read_scanlines(&state, &row, 1) != 1) return false;
    if (y >= wanted.y) std::memcpy(reader.out.at(y - wanted.y, 0), row + before, count);
  }
  return true;
}
#endif

/// Runs `read` with a reader whose errors come back to it.
template <class Read>
std::optional<Image> with_reader(const Read& read) {
  Reader reader{};
  reader.state.err = jpeg_std_error(&reader.errors.base);
  reader.errors.base.error_exit = leave;
  reader.errors.base.emit_message = on_message;
  reader.errors.base.output_message = say_nothing;
  const bool ok = read(reader);
  jpeg_destroy_decompress(&reader.state);
  if (!ok) return std::nullopt;
  return std::move(reader.out);
}

}  // namespace

std::optional<Image> decode(std::string_view bytes, std::int64_t max_pixels) {
  if (bytes.size() < 4 || !bytes.starts_with("\xff\xd8")) return std::nullopt;
  return with_reader([&](Reader& reader) { return read(reader, bytes, max_pixels); });
}

std::optional<Image> decode_region(std::string_view bytes, int height, int width, const Region& region) {
#ifdef LIBJPEG_TURBO_VERSION_NUMBER
  if (bytes.size() < 4 || !bytes.starts_with("\xff\xd8") || !bytes.ends_with("\xff\xd9")) return std::nullopt;
  return with_reader([&](Reader& reader) { return read_region(reader, bytes, height, width, region); });
#else
  static_cast<void>(bytes), static_cast<void>(height), static_cast<void>(width), static_cast<void>(region);
  return std::nullopt;
#endif
}

}  // namespace divergen::image::jpeg
