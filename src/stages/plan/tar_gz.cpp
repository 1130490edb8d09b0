#include <zlib.h>

#include <cstring>
#include <memory>

#include "base/error.hpp"
#include "stages/plan/prompts.hpp"

namespace divergen::stages {
namespace {

// POSIX ustar: blocks of 512 bytes; a header block, then the contents, padded to whole blocks.
constexpr std::size_t kBlock = 512;
constexpr std::size_t kNameAt = 0, kNameSize = 100, kSizeAt = 124, kSizeSize = 12, kSumAt = 148, kSumSize = 8,
                      kTypeAt = 156;

[[noreturn]] void refuse(const Path& file, std::string why) {
  fail(ErrorKind::Data, {"a prompt archive cannot be read", file.string(), std::move(why),
                         "download it again, or unpack it and name the folder"});
}

std::string unpack(const Path& file, std::size_t most_bytes) {
  if (!std::filesystem::exists(file))
    fail(ErrorKind::Io, {"a prompt archive is missing", file.string(), "there is no such file", "correct the path"});
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> in(gzopen(file.c_str(), "rb"), gzclose);
  if (!in) refuse(file, "it cannot be opened");
  if (gzdirect(in.get()) != 0) refuse(file, "it is not compressed with gzip");
  std::string out;
  char piece[1 << 16];
  for (;;) {
    const int n = gzread(in.get(), piece, sizeof piece);
    if (n < 0) refuse(file, "its compressed data are damaged");
    if (n == 0) break;
    out.append(piece, static_cast<std::size_t>(n));
    if (out.size() > most_bytes) refuse(file, cat("it unpacks to more than ", most_bytes, " bytes"));
  }
  int problem = Z_OK;
  gzerror(in.get(), &problem);
  if (problem != Z_OK) refuse(file, "its compressed data are cut short");
  return out;
}

std::size_t octal(const Path& file, std::string_view field) {
  std::size_t value = 0;
  for (const char c : field) {
    if (c == '\0' || c == ' ') continue;
    if (c < '0' || c > '7') refuse(file, "a header holds a number that is not octal");
    value = value * 8 + static_cast<std::size_t>(c - '0');
  }
  return value;
}

/// The sum of a header's bytes, its own field counted as spaces.
std::size_t checksum(std::string_view header) {
  std::size_t sum = 0;
  for (std::size_t i = 0; i < kBlock; ++i)
    sum += i >= kSumAt && i < kSumAt + kSumSize ? std::size_t{' '} : static_cast<unsigned char>(header[i]);
  return sum;
}

}  // namespace

std::map<std::string, std::string> read_tar_gz(const Path& file, std::size_t most_bytes) {
  const std::string tar = unpack(file, most_bytes);
  std::map<std::string, std::string> out;
  for (std::size_t at = 0; at + kBlock <= tar.size();) {
    const std::string_view header(tar.data() + at, kBlock);
    at += kBlock;
    if (header.find_first_not_of('\0') == std::string_view::npos) return out;  // the end is marked by empty blocks
    if (octal(file, header.substr(kSumAt, kSumSize)) != checksum(header)) refuse(file, "a header's checksum is wrong");
    const std::size_t size = octal(file, header.substr(kSizeAt, kSizeSize));
    if (size > tar.size() - at) refuse(file, "a file in it is cut short");
    const char type = header[kTypeAt];
    if (type == '0' || type == '\0') {
      const std::string_view name = header.substr(kNameAt, strnlen(header.data() + kNameAt, kNameSize));
      out[Path(name).filename().string()] = tar.substr(at, size);
    }
    at += (size + kBlock - 1) / kBlock * kBlock;
  }
  refuse(file, "its end is missing");
}

}  // namespace divergen::stages
