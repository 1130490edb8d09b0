// That no case of the fixtures is passed over in silence: every case of every part is a test of this program.

#include <map>
#include <set>

#include "cases.hpp"

namespace divergen::stages::test {
namespace {

/// Tests of parametrised suites by the suite's own name ("lsj" of "lsj/lsj").
std::map<std::string, std::size_t> registered() {
  std::map<std::string, std::size_t> out;
  const auto* all = testing::UnitTest::GetInstance();
  for (int i = 0; i < all->total_test_suite_count(); ++i) {
    const std::string name = all->GetTestSuite(i)->name();
    if (const auto slash = name.rfind('/'); slash != std::string::npos)
      out[name.substr(slash + 1)] += static_cast<std::size_t>(all->GetTestSuite(i)->total_test_count());
  }
  return out;
}

}  // namespace

TEST(fixtures, EveryCaseIsATest) {
  struct Group {
    const char *part, *suite;
    std::size_t tests;  // of each case
  };
  auto tests = registered();
  for (const auto& [part, suite, each] :
       {Group{"paste", "paste", 2}, Group{"self_copy", "self_copy", 1}, Group{"lsj", "lsj", 1},
        Group{"poisson", "poisson", 1}, Group{"rfs", "stream", 1}}) {
    const auto names = case_names(part);
    const std::set<std::string> different(names.begin(), names.end());
    EXPECT_FALSE(names.empty()) << "no cases in " << fixtures("augment") / (std::string(part) + ".json");
    EXPECT_EQ(different.size(), names.size()) << part;
    EXPECT_EQ(tests[suite], each * names.size()) << part;
  }
}

TEST(fixtures, EveryPartIsThere) {
  for (const char* part : {"paste", "self_copy", "lsj", "cutout", "crop", "filter", "poisson", "rfs", "ops"})
    for (const char* kind : {".json", ".safetensors"})
      EXPECT_TRUE(std::filesystem::is_regular_file(fixtures("augment") / (std::string(part) + kind))) << part << kind;
}

/// The sources of the resize-crop cases are all used, and every image, box and mask that the fixtures hold is compared.
TEST(fixtures, LsjUsesItsSources) {
  const Part part("lsj");
  std::set<std::size_t> used;
  for (const auto& one : part.json.at("cases")) used.insert(one.at("source").get<std::size_t>());
  EXPECT_EQ(used.size(), part.json.at("sources").size());
}

}  // namespace divergen::stages::test
