#include "weights/detectron2.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.hpp"

namespace divergen::weights {
namespace {

constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
constexpr const char* kAuthor = "divergen";

[[noreturn]] void too_large(const Path& out, const std::string& what) {
  fail(ErrorKind::Data, {"the weights cannot be written in detectron2's layout", out.string(),
                         cat(what, " is larger than 4 GB, which the format has no number for"),
                         "write float16 weights, or leave them as safetensors"});
}

/// A new file beside `path`, which takes its place with commit(); without it nothing stays.
class PartFile {
 public:
  explicit PartFile(const Path& path) : path_(path), part_(part_name(path)) {
    fd_ = ::open(part_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd_ < 0) fail_errno("cannot create the file", part_.string(), errno);
  }
  ~PartFile() {
    if (fd_ >= 0) ::close(fd_);
    remove_quietly(part_);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t done = ::write(fd_, bytes.data(), bytes.size());
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) fail_errno("cannot write", part_.string(), errno);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
      size_ += static_cast<std::uint64_t>(done);
    }
  }
  void write(const std::string& text) { write(std::as_bytes(std::span(text))); }
  std::uint64_t size() const { return size_; }
  /// For what is known only afterwards.
  void patch(std::uint64_t at, const std::string& text) {
    if (::pwrite(fd_, text.data(), text.size(), static_cast<off_t>(at)) != static_cast<ssize_t>(text.size()))
      fail_errno("cannot write", part_.string(), errno);
  }
  void commit() {
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) fail_errno("cannot close", part_.string(), errno);
    commit_file(part_, path_);
  }

 private:
  Path path_, part_;
  int fd_;
  std::uint64_t size_ = 0;
};

template <class T>
std::string little(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

/// What a tensor is in the file.
DType type_of(const Weight& weight, std::optional<DType> floating) {
  return floating && is_floating(weight.dtype) ? *floating : weight.dtype;
}

/// Opcodes of the pickles that are written here.
struct Pickler {
  std::string text;
  void op(const char* code) { text += code; }
  void protocol(char version) { text += {'\x80', version}; }
  void unicode(const std::string& value) {
    text += 'X';
    text += little(static_cast<std::uint32_t>(value.size())) + value;
  }
  void integer(std::int64_t value) {
    if (value >= 0 && value < 256) text += {'K', static_cast<char>(value)};
    else if (value >= 0 && value <= std::numeric_limits<std::int32_t>::max())
      text += 'J' + little(static_cast<std::int32_t>(value));
    else text += std::string("\x8a\x08") + little(value);  // LONG1 of eight bytes
  }
  void tuple(std::span<const std::int64_t> values) {
    text += '(';
    for (const std::int64_t value : values) integer(value);
    text += 't';
  }
  void global(const std::string& module, const std::string& name) { text += 'c' + module + '\n' + name + '\n'; }
  std::string take() { return std::exchange(text, {}); }
};

// ---- NumPy --------------------------------------------------------------------------------------------------------

struct NumpyType {
  DType from, to;
  const char* code;
};
constexpr std::array<NumpyType, 10> kNumpyTypes{{{DType::F64, DType::F64, "f8"},
                                                 {DType::F32, DType::F32, "f4"},
                                                 {DType::F16, DType::F16, "f2"},
                                                 {DType::BF16, DType::F32, "f4"},
                                                 {DType::I64, DType::I64, "i8"},
                                                 {DType::I32, DType::I32, "i4"},
                                                 {DType::I16, DType::I16, "i2"},
                                                 {DType::I8, DType::I8, "i1"},
                                                 {DType::U8, DType::U8, "u1"},
                                                 {DType::Bool, DType::Bool, "b1"}}};

template <class Types>
const auto& type_in(const Types& types, DType type) {
  for (const auto& entry : types)
    if (entry.from == type) return entry;
  check_failed("a known type", std::string(to_string(type)));
}

/// What numpy.ndarray.__reduce__ gives: _reconstruct(ndarray, (0,), b"b") and the state
/// (1, shape, dtype, is_fortran, bytes); a dtype is dtype(code, False, True) with a state of its own.
void write_array(PartFile& file, const WeightSource& source, const Weight& weight, const Path& out,
                 std::optional<DType> floating) {
  const NumpyType& type = type_in(kNumpyTypes, type_of(weight, floating));
  const std::uint64_t bytes = weight.elements() * size_of(type.to);
  if (bytes > kMost) too_large(out, cat("the tensor '", weight.name, "'"));
  Pickler p;
  p.unicode(weight.name);
  p.global("numpy.core.multiarray", "_reconstruct");
  p.global("numpy", "ndarray");
  p.op("K");
  p.text += '\0';
  p.op("\x85");  // (0,)
  p.op(
      "C\x01"
      "b");
  p.op("\x87R(");  // call with three arguments; the state begins
  p.integer(1);
  p.tuple(weight.shape);
  p.global("numpy", "dtype");
  p.unicode(type.code);
  p.op("\x89\x88\x87R");
  p.op("(");
  p.integer(3);
  p.unicode(type.code[1] == '1' ? "|" : "<");
  p.op("NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff");
  p.integer(0);
  p.op("tb\x89");
  p.op("B");
  p.text += little(static_cast<std::uint32_t>(bytes));
  file.write(p.take());
  stream(source, weight, type.to, [&](std::span<const std::byte> piece) { file.write(piece); });
  p.op("tb");
  file.write(p.take());
}

void write_pkl(const Path& out, const WeightSource& source, std::optional<DType> floating) {
  PartFile file(out);
  Pickler p;
  p.protocol(3);
  p.op("}(");
  p.unicode("model");
  p.op("}(");
  file.write(p.take());
  for (const Weight& weight : source.tensors()) write_array(file, source, weight, out, floating);
  p.op("u");
  p.unicode("__author__");
  p.unicode(kAuthor);
  p.op("u.");
  file.write(p.take());
  file.commit();
}

// ---- PyTorch ------------------------------------------------------------------------------------------------------

struct TorchType {
  DType from;
  const char* storage;
};
constexpr std::array<TorchType, 10> kTorchTypes{{{DType::F64, "DoubleStorage"},
                                                 {DType::F32, "FloatStorage"},
                                                 {DType::F16, "HalfStorage"},
                                                 {DType::BF16, "BFloat16Storage"},
                                                 {DType::I64, "LongStorage"},
                                                 {DType::I32, "IntStorage"},
                                                 {DType::I16, "ShortStorage"},
                                                 {DType::I8, "CharStorage"},
                                                 {DType::U8, "ByteStorage"},
                                                 {DType::Bool, "BoolStorage"}}};

std::string torch_pickle(const WeightSource& source, std::optional<DType> floating) {
  Pickler p;
  p.protocol(2);
  p.op("}(");
  p.unicode("model");
  p.op("}(");
  for (const Weight& weight : source.tensors()) {
    p.unicode(weight.name);
    p.global("torch._utils", "_rebuild_tensor_v2");
    p.op("((");
    p.unicode("storage");
    p.global("torch", type_in(kTorchTypes, type_of(weight, floating)).storage);
    p.unicode(std::to_string(weight.index));
    p.unicode("cpu");
    p.integer(static_cast<std::int64_t>(weight.elements()));
    p.op("tQ");
    p.integer(0);
    p.tuple(weight.shape);
    std::vector<std::int64_t> stride(weight.shape.size(), 1);
    for (std::size_t i = stride.size(); i-- > 1;)
      stride[i - 1] = stride[i] * std::max<std::int64_t>(weight.shape[i], 1);
    p.tuple(stride);
    p.op("\x89");                            // requires_grad
    p.global("collections", "OrderedDict");  // of backward hooks
    p.op(")RtR");
  }
  p.op("u");
  p.unicode("__author__");
  p.unicode(kAuthor);
  p.op("u.");
  return p.take();
}

class Crc32 {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) value_ = kTable[(value_ ^ static_cast<std::uint32_t>(b)) & 0xff] ^ (value_ >> 8);
  }
  std::uint32_t value() const { return ~value_; }

 private:
  static constexpr std::array<std::uint32_t, 256> kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      table[i] = c;
    }
    return table;
  }();
  std::uint32_t value_ = 0xffffffffu;
};

/// A zip file of stored entries, each at a multiple of 64 bytes as torch.save places them.
class ZipWriter {
 public:
  explicit ZipWriter(PartFile& file) : file_(file) {}

  /// `fill` gives the bytes in pieces.
  void add(const std::string& name, std::uint64_t size,
           const std::function<void(const std::function<void(std::span<const std::byte>)>&)>& fill) {
    constexpr std::uint64_t kAlignment = 64, kHead = 30, kExtraHead = 4;
    const std::uint64_t at = file_.size(), begin = at + kHead + name.size() + kExtraHead;
    const auto padding = static_cast<std::uint16_t>((kAlignment - begin % kAlignment) % kAlignment);
    const std::string sizes = little(static_cast<std::uint32_t>(size)) + little(static_cast<std::uint32_t>(size));
    const std::string lengths = little(static_cast<std::uint16_t>(name.size()));
    file_.write(std::string("PK\x03\x04") + kVersionAndFlags + little(std::uint32_t{0}) + sizes + lengths +
                little(static_cast<std::uint16_t>(kExtraHead + padding)) + name + "FB" + little(padding) +
                std::string(padding, 'Z'));
    Crc32 crc;
    fill([&](std::span<const std::byte> piece) {
      crc.add(piece);
      file_.write(piece);
    });
    const std::string sum = little(crc.value());
    file_.patch(at + 14, sum);
    directory_ += std::string("PK\x01\x02") + std::string("\0\0", 2) + kVersionAndFlags + sum + sizes + lengths +
                  std::string(12, '\0') + little(static_cast<std::uint32_t>(at)) + name;
    ++entries_;
  }
  void add(const std::string& name, const std::string& text) {
    add(name, text.size(), [&](const auto& sink) { sink(std::as_bytes(std::span(text))); });
  }
  void finish() {
    const auto at = static_cast<std::uint32_t>(file_.size()), size = static_cast<std::uint32_t>(directory_.size());
    const std::string count = little(static_cast<std::uint16_t>(entries_));
    file_.write(directory_ + "PK\x05\x06" + std::string(4, '\0') + count + count + little(size) + little(at) +
                std::string(2, '\0'));
  }
  std::uint64_t entries() const { return entries_; }

 private:
  // Version 2.0, no flags, stored, no time.
  static inline const std::string kVersionAndFlags = std::string("\x14\0\0\0\0\0\0\0\0\0", 10);
  PartFile& file_;
  std::string directory_;
  std::uint64_t entries_ = 0;
};

void write_pth(const Path& out, const WeightSource& source, std::optional<DType> floating) {
  constexpr std::uint64_t kMostEntries = 65000, kSlack = std::uint64_t{1} << 24;  // names, padding, directory
  std::uint64_t total = 0;
  for (const Weight& weight : source.tensors()) total += weight.elements() * size_of(type_of(weight, floating));
  if (total > kMost - kSlack || source.tensors().size() > kMostEntries) too_large(out, "all of it");
  PartFile file(out);
  ZipWriter zip(file);
  const std::string folder = out.stem().string() + "/";
  zip.add(folder + "data.pkl", torch_pickle(source, floating));
  zip.add(folder + "byteorder", std::string("little"));
  for (const Weight& weight : source.tensors())
    zip.add(cat(folder, "data/", weight.index), weight.elements() * size_of(type_of(weight, floating)),
            [&](const auto& sink) { stream(source, weight, type_of(weight, floating), sink); });
  zip.add(folder + "version", std::string("3\n"));
  zip.finish();
  file.commit();
}

}  // namespace

void write_detectron2(const Path& out, const WeightSource& source, std::optional<DType> floating) {
  if (out.extension() == ".pkl") return write_pkl(out, source, floating);
  if (out.extension() == ".pth") return write_pth(out, source, floating);
  fail(ErrorKind::Usage, {"detectron2 reads no such file", out.string(), "its checkpoints are .pth or .pkl",
                          "give the file that is to be written one of these endings"});
}

}  // namespace divergen::weights
