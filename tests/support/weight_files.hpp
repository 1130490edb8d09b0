#pragma once
// Weight files made by hand, byte by byte: honest ones of every format, and parts to build dishonest ones from.

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/fs.hpp"
#include "weights/dtype.hpp"

namespace divergen::test {

template <class T>
std::string little(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// A tensor with its values in row-major order.
struct FileTensor {
  std::string name;
  weights::DType dtype = weights::DType::F32;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

/// Floats 0.5, 1.5, ... as F32.
inline FileTensor float_tensor(const std::string& name, const std::vector<std::int64_t>& shape, float first = 0.5f) {
  FileTensor out{name, weights::DType::F32, shape, ""};
  for (std::uint64_t i = 0; i < weights::count_of(shape); ++i) out.bytes += little(first + static_cast<float>(i));
  return out;
}

/// Opcodes of a pickle, one call each.
class PickleText {
 public:
  explicit PickleText(int protocol = 2) { raw("\x80").raw(std::string(1, static_cast<char>(protocol))); }
  PickleText& raw(const std::string& bytes) {
    bytes_ += bytes;
    return *this;
  }
  PickleText& text(const std::string& value) {
    return raw("X").raw(little(static_cast<std::uint32_t>(value.size()))).raw(value);
  }
  PickleText& bytes(const std::string& value) {
    return raw("B").raw(little(static_cast<std::uint32_t>(value.size()))).raw(value);
  }
  PickleText& integer(std::int64_t value) {
    if (value >= 0 && value < 256) return raw("K").raw(std::string(1, static_cast<char>(value)));
    return raw("\x8a\x08").raw(little(value));
  }
  PickleText& global(const std::string& module, const std::string& name) {
    return raw("c" + module + "\n" + name + "\n");
  }
  PickleText& integers(const std::vector<std::int64_t>& values) {
    raw("(");
    for (const std::int64_t value : values) integer(value);
    return raw("t");
  }
  std::string stop() const { return bytes_ + "."; }

 private:
  std::string bytes_;
};

inline std::string storage_name(weights::DType type) {
  using weights::DType;
  switch (type) {
    case DType::F64:
      return "DoubleStorage";
    case DType::F16:
      return "HalfStorage";
    case DType::BF16:
      return "BFloat16Storage";
    case DType::I64:
      return "LongStorage";
    case DType::I32:
      return "IntStorage";
    case DType::Bool:
      return "BoolStorage";
    default:
      return "FloatStorage";
  }
}

/// What torch.save writes for one tensor; every number can be a lie.
struct TorchClaim {
  std::string type = "FloatStorage", key = "0";
  std::int64_t numel = 0, offset = 0;
  std::vector<std::int64_t> shape, stride;
};
inline TorchClaim claim_of(const FileTensor& tensor, std::size_t index) {
  TorchClaim claim{storage_name(tensor.dtype),
                   std::to_string(index),
                   static_cast<std::int64_t>(tensor.bytes.size() / weights::size_of(tensor.dtype)),
                   0,
                   tensor.shape,
                   std::vector<std::int64_t>(tensor.shape.size())};
  std::int64_t step = 1;
  for (std::size_t i = tensor.shape.size(); i-- > 0; step *= tensor.shape[i]) claim.stride[i] = step;
  return claim;
}
inline void add_tensor(PickleText& out, const TorchClaim& claim, bool is_legacy = false) {
  out.global("torch._utils", "_rebuild_tensor_v2").raw("((").text("storage").global("torch", claim.type);
  out.text(claim.key).text("cpu").integer(claim.numel).raw(is_legacy ? "NtQ" : "tQ").integer(claim.offset);
  out.integers(claim.shape).integers(claim.stride).raw("\x89").global("collections", "OrderedDict").raw(")RtR");
}
/// The tree of a state_dict.
inline std::string torch_tree(const std::vector<FileTensor>& tensors, bool is_legacy = false) {
  PickleText out;
  out.global("collections", "OrderedDict").raw(")R(");
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    out.text(tensors[i].name);
    add_tensor(out, claim_of(tensors[i], i), is_legacy);
  }
  return out.raw("u").stop();
}

/// One entry of a zip file. What is set differs from the truth.
struct ZipPart {
  std::string name, data;
  std::uint16_t method = 0, flags = 0;
  std::optional<std::uint32_t> size = {}, packed = {}, local_size = {}, offset = {};
  std::string extra = {};  // in the directory
  std::optional<std::string> local_name = {};
};
struct ZipEnd {
  std::optional<std::uint16_t> entries = {};
  std::optional<std::uint32_t> size = {}, offset = {};
  std::string before = {};  // zip64 record and locator
};
inline std::string zip_file(const std::vector<ZipPart>& parts, const ZipEnd& end = {}) {
  std::string out, directory;
  for (const ZipPart& part : parts) {
    const auto at = static_cast<std::uint32_t>(out.size()), length = static_cast<std::uint32_t>(part.data.size());
    const std::string local_name = part.local_name.value_or(part.name);
    const std::uint32_t local = part.local_size.value_or(part.size.value_or(length));
    const auto head = [&](std::uint32_t packed, std::uint32_t size, const std::string& name, std::size_t extra) {
      return little<std::uint16_t>(part.flags) + little<std::uint16_t>(part.method) + little<std::uint32_t>(0) +
             little<std::uint32_t>(0) + little(packed) + little(size) +
             little(static_cast<std::uint16_t>(name.size())) + little(static_cast<std::uint16_t>(extra));
    };
    const std::uint32_t packed = part.packed.value_or(part.size.value_or(length));
    out += "PK\x03\x04" + little<std::uint16_t>(20) + head(part.packed.value_or(local), local, local_name, 0) +
           local_name + part.data;
    directory += "PK\x01\x02" + little<std::uint32_t>(0x00140014) +
                 head(packed, part.size.value_or(length), part.name, part.extra.size()) + std::string(10, '\0') +
                 little(part.offset.value_or(at)) + part.name + part.extra;
  }
  const auto count = end.entries.value_or(static_cast<std::uint16_t>(parts.size()));
  const auto start = static_cast<std::uint32_t>(out.size()), size = static_cast<std::uint32_t>(directory.size());
  return out + directory + end.before + "PK\x05\x06" + std::string(4, '\0') + little(count) + little(count) +
         little(end.size.value_or(size)) + little(end.offset.value_or(start)) + std::string(2, '\0');
}

inline std::vector<ZipPart> torch_parts(const std::vector<FileTensor>& tensors) {
  std::vector<ZipPart> parts{{"m/data.pkl", torch_tree(tensors)}};
  for (std::size_t i = 0; i < tensors.size(); ++i) parts.push_back({cat("m/data/", i), tensors[i].bytes});
  parts.push_back({"m/version", "3\n"});
  return parts;
}
inline std::string torch_zip(const std::vector<FileTensor>& tensors) { return zip_file(torch_parts(tensors)); }

/// A module whose attributes are the tensors; names with dots become modules in modules.
inline std::string torch_script(const std::vector<FileTensor>& tensors) {
  PickleText out;
  out.global("__torch__", "Model").raw(")\x81}(");
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::string rest = tensors[i].name;
    int depth = 0;
    for (auto dot = rest.find('.'); dot != std::string::npos; dot = rest.find('.'), ++depth) {
      out.text(rest.substr(0, dot)).global("__torch__", "Part").raw(")\x81}(");
      rest = rest.substr(dot + 1);
    }
    out.text(rest);
    add_tensor(out, claim_of(tensors[i], i));
    for (; depth > 0; --depth) out.raw("ub");
  }
  std::vector<ZipPart> parts{{"m/data.pkl", out.raw("ub").stop()}, {"m/constants.pkl", "\x80\x02)."}};
  for (std::size_t i = 0; i < tensors.size(); ++i) parts.push_back({cat("m/data/", i), tensors[i].bytes});
  parts.push_back({"m/code/__torch__.py", "compressed code", 8, 0, 99u, 15u});
  return zip_file(parts);
}

inline std::string legacy_head() {
  PickleText system;
  system.raw("}(").text("little_endian").raw("\x88u");
  return std::string("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.", 21) + system.stop();
}
inline std::string torch_legacy(const std::vector<FileTensor>& tensors) {
  PickleText keys;
  keys.raw("](");
  std::string data;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    keys.text(std::to_string(i));
    data += little<std::int64_t>(claim_of(tensors[i], i).numel) + tensors[i].bytes;
  }
  return legacy_head() + torch_tree(tensors, true) + keys.raw("e").stop() + data;
}

inline std::string numpy_type(weights::DType type) {
  using weights::DType;
  switch (type) {
    case DType::F64:
      return "f8";
    case DType::F16:
      return "f2";
    case DType::I64:
      return "i8";
    case DType::I32:
      return "i4";
    case DType::Bool:
      return "b1";
    default:
      return "f4";
  }
}
/// {"model": {name: array}} as detectron2's converters write it.
inline std::string numpy_pickle(const std::vector<FileTensor>& tensors) {
  PickleText out(3);
  out.raw("}").text("model").raw("}(");
  for (const FileTensor& tensor : tensors) {
    out.text(tensor.name).global("numpy.core.multiarray", "_reconstruct").global("numpy", "ndarray");
    out.integers({0}).raw("C\x01").raw("b\x87R(").integer(1).integers(tensor.shape);
    out.global("numpy", "dtype").text(numpy_type(tensor.dtype)).raw("\x89\x88\x87R(").integer(3).text("<");
    out.raw("NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff").integer(0).raw("tb\x89").bytes(tensor.bytes).raw("tb");
  }
  return out.raw("us").stop();
}

inline std::string safetensors_file(const std::string& header, const std::string& data) {
  return little<std::uint64_t>(header.size()) + header + data;
}
inline std::string safetensors_entry(const FileTensor& tensor, std::uint64_t begin, std::uint64_t end) {
  return cat("\"", tensor.name, "\":{\"dtype\":\"", weights::to_string(tensor.dtype),
             "\",\"shape\":", weights::shape_text(tensor.shape), ",\"data_offsets\":[", begin, ",", end, "]}");
}
inline std::string safetensors(const std::vector<FileTensor>& tensors) {
  std::string header = "{", data;
  for (const FileTensor& tensor : tensors) {
    header += (data.empty() ? "" : ",") + safetensors_entry(tensor, data.size(), data.size() + tensor.bytes.size());
    data += tensor.bytes;
  }
  return safetensors_file(header + "}", data);
}

}  // namespace divergen::test
