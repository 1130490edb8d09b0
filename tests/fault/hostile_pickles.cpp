#include "fault/hostile_pickles.hpp"

namespace divergen::test {
namespace {

std::string in_zip(const std::string& tree) {
  return zip_file({{"m/data.pkl", tree}, {"m/data/0", std::string(16, 'x')}});
}

/// The same pickle as the tree of a zip file, as a legacy checkpoint and as a plain pickle.
void in_all(std::vector<HostileFile>& out, const std::string& id, const std::string& expected,
            const std::string& tree) {
  out.push_back({id + "InZip", "m.pth", expected, [=] { return in_zip(tree); }});
  out.push_back({id + "InLegacy", "m.pt", expected, [=] { return legacy_head() + tree + "\x80\x02]."; }});
  out.push_back({id + "InPkl", "m.pkl", expected, [=] { return tree; }});
}

void code(std::vector<HostileFile>& out) {
  in_all(out, "SystemByReduce", "posix.system",
         PickleText().global("posix", "system").raw("(").text("touch pwned").raw("tR").stop());
  in_all(out, "SystemByStackGlobal", "os.system",
         PickleText(4).text("os").text("system").raw("\x93(").text("touch pwned").raw("tR").stop());
  in_all(out, "EvalAsKnownClassArgument", "builtins.eval",
         PickleText().raw("}").text("a").global("builtins", "eval").raw("(").text("1").raw("tRs").stop());
  in_all(out, "Inst", "opcode 0x69", PickleText().raw("(").text("touch pwned").raw("ios\nsystem\n").stop());
  in_all(out, "Obj", "opcode 0x6f", PickleText().raw("(").text("x").raw("o").stop());
  in_all(out, "NewObjEx", "opcode 0x92", PickleText(4).raw(")}\x92").stop());
  in_all(out, "Extension", "opcode 0x82", PickleText().raw("\x82\x01").stop());
  const auto one = [&](const std::string& id, const std::string& expected, const std::string& tree) {
    out.push_back({id, "m.pth", expected, [=] { return in_zip(tree); }});
  };
  one("BuildOnForeignClass", "socket.socket", PickleText().global("socket", "socket").raw(")\x81}b").stop());
  one("BuildOnText", "state of something", PickleText().text("x").raw("}b").stop());
  one("NewObjOfDict", "not on the list", PickleText().global("collections", "OrderedDict").raw(")\x81").stop());
  one("ModuleClassOutsideTorchScript", "__torch__.Evil", PickleText().global("__torch__", "Evil").raw(")\x81").stop());
  one("CallOfAText", "not a name on the list", PickleText().text("os.system").raw(")R").stop());
  one("CallOfAStorageType", "it calls", PickleText().global("torch", "FloatStorage").raw(")R").stop());
  one("GetattrByReduce", "builtins.getattr", PickleText().global("builtins", "getattr").raw("(NNtR").stop());
  one("TorchLoadFromTorch", "torch.load", PickleText().global("torch", "load").raw("(").text("x").raw("tR").stop());
  one("TextualPersistentId", "opcode 0x50", PickleText().raw("Pos.system\n").stop());
  one("NestedUnpickler", "pickle.loads", PickleText().global("pickle", "loads").raw("(C\x01x").raw("tR").stop());
  one("ProtocolNine", "protocol 9", PickleText(9).raw("}").stop());
  one("ClassAsRoot", "not data", PickleText().global("collections", "OrderedDict").stop());
}

void bombs(std::vector<HostileFile>& out) {
  const auto one = [&](const std::string& id, const std::string& expected, std::function<std::string()> tree) {
    out.push_back({id, "m.pth", expected, [=] { return in_zip(tree()); }});
  };
  // Each level holds the one below ten times: 10^9 values in some 100 bytes.
  one("MemoBomb", "values", [] {
    PickleText out;
    out.text("x").raw(std::string("q\0", 2));
    for (char i = 0; i < 9; ++i) {
      out.raw("(");
      for (int k = 0; k < 10; ++k) out.raw(std::string{'h', i});
      out.raw("t").raw(std::string{'q', static_cast<char>(i + 1)});
    }
    return "\x80\x02(" + out.stop().substr(2, out.stop().size() - 3) + "t.";
  });
  one("ListInItself", "nested deeper", [] { return PickleText().raw(std::string("]q\0h\0a", 6)).stop(); });
  one("DictInItself", "deeper",
      [] { return PickleText().raw(std::string("}q\0", 3)).text("a").raw(std::string("h\0s", 3)).stop(); });
  one("DeepNesting", "nested deeper",
      [] { return PickleText().raw(std::string(100'000, ']')).raw(std::string(99'999, 'a')).stop(); });
  one("MillionsOfMarks", "marks", [] { return PickleText().raw(std::string(5'000'000, '(')).stop(); });
  one("MillionsOfValues", "values", [] { return PickleText().raw(std::string(5'000'000, 'N')).stop(); });
  one("MillionsOfLists", "values", [] { return PickleText().raw(std::string(5'000'000, ']')).stop(); });
  one("StackOfOneValue", "stack grows", [] {
    std::string gets;
    for (int i = 0; i < 1'000'000; ++i) gets += std::string("h\0", 2);
    return PickleText().raw(std::string("Nq\0", 3)).raw(gets).stop();
  });
  one("MemoOfMillions", "remembers more", [] {
    std::string puts;
    for (std::uint32_t i = 0; i < 1'000'000; ++i) puts += "r" + little(i * 4000u);
    return PickleText().raw("N").raw(puts).stop();
  });
  one("TextOf4Gb", "claims", [] { return PickleText().raw("X").raw(little(0xfffffff0u)).raw("x").stop(); });
  one("BytesOf2To63", "claims",
      [] { return PickleText(4).raw("\x8e").raw(little<std::uint64_t>(1ull << 63)).raw("x").stop(); });
  one("LongOf255Bytes", "255 bytes", [] { return PickleText().raw("\x8a\xff").raw(std::string(255, '\1')).stop(); });
}

void lying_tensors(std::vector<HostileFile>& out) {
  const auto one = [&](const std::string& id, const std::string& expected, TorchClaim claim) {
    out.push_back({id, "m.pth", expected, [=] {
                     PickleText tree;
                     tree.raw("}").text("w");
                     add_tensor(tree, claim);
                     return in_zip(tree.raw("s").stop());
                   }});
  };
  one("TensorOfTerabytes", "[w]", {"FloatStorage", "0", 4, 0, {1 << 20, 1 << 20}, {0, 0}});
  one("StorageLargerThanEntry", "expected to have 1073741824", {"FloatStorage", "0", 1 << 30, 0, {2}, {1}});
  one("ShapeWrapsToZero", "more than 2^64", {"FloatStorage", "0", 4, 0, {1ll << 32, 1ll << 32}, {1, 1}});
  one("NegativeSide", "negative", {"FloatStorage", "0", 4, 0, {-4}, {1}});
  one("NegativeStride", "negative", {"FloatStorage", "0", 4, 3, {4}, {-1}});
  one("OffsetBeyond", "reaches element 5", {"FloatStorage", "0", 4, 4, {2}, {1}});
  one("StrideBeyond", "reaches element 300", {"FloatStorage", "0", 4, 0, {4}, {100}});
  one("StrideWraps", "beyond 2^64", {"FloatStorage", "0", 4, 0, {4}, {0x7fffffffffffffff}});
  one("MissingStorage", "'7' is not in the file", {"FloatStorage", "7", 4, 0, {4}, {1}});
  one("StorageOutside", "malformed", {"FloatStorage", "../../etc/passwd", 4, 0, {4}, {1}});
  out.push_back({"LegacyStorageOf4Gb", "m.pth", "truncated", [] {
                   const std::string honest = torch_legacy({float_tensor("w", {4})});
                   return honest.substr(0, honest.size() - 24) + little<std::int64_t>(1ll << 31) + std::string(16, 'x');
                 }});
  out.push_back({"ObjectArray", "m.pkl", "type 'O8'",
                 [] { return PickleText(3).global("numpy", "dtype").text("O8").raw("\x89\x88\x87R").stop(); }});
  out.push_back({"ArrayLargerThanItsBytes", "m.pkl", "near the key 'w'", [] {
                   std::string honest = numpy_pickle({float_tensor("w", {4})});
                   honest.replace(honest.find("(K\x04t"), 4, "(K\xfft");
                   return honest;
                 }});
}

void zips(std::vector<HostileFile>& out) {
  const auto parts = [] { return torch_parts({float_tensor("w", {4})}); };
  const auto one = [&](const std::string& id, const std::string& expected,
                       const std::function<void(std::vector<ZipPart>&)>& spoil, const ZipEnd& end = {}) {
    out.push_back({id, "m.pth", expected, [=] {
                     auto spoilt = parts();
                     spoil(spoilt);
                     return zip_file(spoilt, end);
                   }});
  };
  one("SlipUp", "../evil", [](auto& p) { p.push_back({"m/../../evil", "x"}); });
  one("SlipAbsolute", "/etc/evil", [](auto& p) { p.push_back({"/etc/evil", "x"}); });
  one("SlipBackslash", "evil", [](auto& p) { p.push_back({"m\\..\\evil", "x"}); });
  one("NameWithNul", "not one that PyTorch", [](auto& p) { p.push_back({std::string("m/a\0b", 5), "x"}); });
  one("DeflatedTree", "compressed", [](auto& p) { p[0].method = 8; });
  one("DeflatedStorage", "compressed", [](auto& p) { p[1].method = 8; });
  one("DeflateBombClaim", "compressed", [](auto& p) { p[1].method = 8, p[1].size = 0xfffffffeu, p[1].packed = 16u; });
  one("Encrypted", "encrypted", [](auto& p) { p[1].flags = 1; });
  one("SameNameTwice", "stands twice", [](auto& p) { p.push_back(p[1]); });
  one("OtherNameInside", "calls itself", [](auto& p) { p[1].local_name = "m/data/9"; });
  one("SizesContradict", "in its own header", [](auto& p) { p[1].local_size = 8u; });
  one("EntryBeyondFile", "truncated", [](auto& p) { p[1].size = 1u << 30; });
  one("EntryNowhere", "not where", [](auto& p) { p[1].offset = 3u; });
  one("EntriesOverlap", "lie over each other", [](auto& p) {
    std::uint32_t at = 0;
    for (const ZipPart& part : p) at += static_cast<std::uint32_t>(30 + part.name.size() + part.data.size());
    const ZipPart inner{"m/data/1", "xxxx"};
    p.push_back({"m/data/2", zip_file({inner})});
    p.push_back(inner);
    p.back().offset = at + static_cast<std::uint32_t>(30 + p[p.size() - 2].name.size());
  });
  one("Zip64FieldMissing", "there is none", [](auto& p) { p[1].size = 0xffffffffu; });
  one("Zip64FieldShort", "too short", [](auto& p) {
    p[1].size = 0xffffffffu;
    p[1].extra = little<std::uint16_t>(1) + little<std::uint16_t>(4) + "abcd";
  });
  one("Zip64ClaimsExabytes", "reaches beyond", [](auto& p) {
    p[1].size = 0xffffffffu;
    p[1].flags = 8;
    p[1].extra = little<std::uint16_t>(1) + little<std::uint16_t>(16) + little<std::uint64_t>(1ull << 62) +
                 little<std::uint64_t>(1ull << 62);
  });
  one("Zip64RecordMissing", "zip64 record", [](auto&) {}, {.entries = 0xffff});
  one("DirectoryOfThousands", "claims 60000 entries", [](auto&) {}, {.entries = 60000});
  one("DirectoryBeyondFile", "claims bytes", [](auto&) {}, {.offset = 0xfffffff0u});
  one("NoTree", "no entry data.pkl", [](auto& p) { p.erase(p.begin()); });
  one("TwoTrees", "two trees", [](auto& p) { p.push_back({"n/data.pkl", p[0].data}); });
  one("BigEndian", "byte order", [](auto& p) { p.push_back({"m/byteorder", "big"}); });
  out.push_back({"Zip64RecordLies", "m.pth", "contradicts", [=] {
                   const auto honest = parts();
                   const std::string record = "PK\x06\x06" + little<std::uint64_t>(44) + std::string(12, '\0') +
                                              little<std::uint64_t>(9) + little<std::uint64_t>(9) +
                                              little<std::uint64_t>(400) + little<std::uint64_t>(0);
                   const auto at = zip_file(honest).size() - 22;
                   const std::string locator =
                       "PK\x06\x07" + std::string(4, '\0') + little<std::uint64_t>(at) + little<std::uint32_t>(1);
                   return zip_file(honest, {.before = record + locator});
                 }});
  out.push_back({"CutInTheMiddle", "m.pth", "truncated", [=] {
                   const std::string whole = zip_file(parts());
                   return whole.substr(0, whole.size() / 2);
                 }});
}

}  // namespace

std::vector<HostileFile> hostile_pickles() {
  std::vector<HostileFile> out;
  code(out);
  bombs(out);
  lying_tensors(out);
  zips(out);
  return out;
}

}  // namespace divergen::test
