// System calls that fail, one at a time: whatever happens, a shard that has its name is whole. Runs with the shim
// preloaded (CMakeLists.txt).

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/system_error.hpp"
#include "store/library.hpp"
#include "support/fixtures.hpp"
#include "support/full.hpp"
#include "support/library_cases.hpp"

namespace divergen::store {
namespace {

class IoFaults : public testing::Test {
 protected:
  void SetUp() override {
    arm_ = reinterpret_cast<decltype(arm_)>(::dlsym(RTLD_DEFAULT, "divergen_shim_arm"));
    disarm_ = reinterpret_cast<decltype(disarm_)>(::dlsym(RTLD_DEFAULT, "divergen_shim_disarm"));
    ASSERT_TRUE(arm_ != nullptr && disarm_ != nullptr) << "the shim is not preloaded";
    make_folder(folder / "lib");
    disarm_();
  }

  enum class Ending { Written, Io, NoSpace, Other };

  /// Writes a shard while calls from .. from + times - 1 go wrong, then checks what is there.
  Ending write(long from, long times, int error, bool halve = false, int kind = 0) {
    const Path file = folder / "lib" / "shard-0.h5";
    std::filesystem::remove(file);
    Ending ending = Ending::Written;
    arm_(from, times, error, halve, kind);
    try {
      write_table(table, file);
    } catch (const Error& problem) {
      ending = problem.kind() == ErrorKind::Io        ? Ending::Io
               : problem.kind() == ErrorKind::NoSpace ? Ending::NoSpace
                                                      : Ending::Other;
      last = problem.what();
    }
    calls = disarm_();
    EXPECT_EQ(sweep_parts(folder / "lib"), 0u) << "call " << from;
    if (std::filesystem::exists(file)) {
      const auto problem = verify_table(file);
      EXPECT_FALSE(problem.has_value()) << "call " << from << ": a bad shard is published: " << problem.value_or("");
    } else {
      EXPECT_NE(ending, Ending::Written) << "call " << from << ": no error, and no shard";
    }
    return ending;
  }

  test::TemporaryFolder folder;
  const Table table = make_library_table(test::instances(12), test::tables());
  long calls = 0;
  std::string last;

 private:
  void (*arm_)(long, long, int, int, int) = nullptr;
  long (*disarm_)() = nullptr;
};

}  // namespace

TEST_F(IoFaults, PassingOnesAreTriedAgain) {
  ASSERT_EQ(write(0, 0, 0), Ending::Written);
  const long all = calls;
  ASSERT_GT(all, 20) << "the shim sees the calls of a shard's writing";
  for (const int error : {EIO, ESTALE, EINTR})
    for (long n = 1; n <= all; ++n) {
      const Ending ending = write(n, 1, error);
      EXPECT_EQ(ending, Ending::Written) << std::strerror(error) << " at call " << n << " of " << all << ": " << last;
    }
}

TEST_F(IoFaults, ShortWritesGoOn) {
  ASSERT_EQ(write(0, 0, 0), Ending::Written);
  const long all = calls;
  for (long n = 1; n <= all; ++n) EXPECT_EQ(write(n, 1, 0, true), Ending::Written) << "call " << n << ": " << last;
  EXPECT_EQ(write(1, 1'000'000, 0, true), Ending::Written) << "every write is short: " << last;
}

TEST_F(IoFaults, LastingOnesEndInAnError) {
  ASSERT_EQ(write(0, 0, 0), Ending::Written);
  const long all = calls;
  for (long n = 1; n < all; n += test::is_full() ? 1 : 9)
    EXPECT_EQ(write(n, 1'000'000, EIO), Ending::Io) << "call " << n << ": " << last;
  EXPECT_EQ(write(all, 1'000'000, EIO), Ending::Written) << "the last one closes the folder that has been flushed";
}

TEST_F(IoFaults, AQuotaIsNoSpaceAtEveryCall) {
  constexpr int kTakesRoom = 2;
  ASSERT_EQ(write(0, 0, 0, false, kTakesRoom), Ending::Written);
  const long all = calls;
  ASSERT_GT(all, 10);
  int refused = 0;
  for (long n = 1; n <= all; ++n) {
    const Ending ending = write(n, 1'000'000, EDQUOT, false, kTakesRoom);
    EXPECT_EQ(ending, Ending::NoSpace) << "call " << n << ": " << last;
    refused += ending == Ending::NoSpace;
  }
  EXPECT_EQ(refused, all);
}

TEST_F(IoFaults, NoFreeInodeIsNoSpace) {
  EXPECT_EQ(write(1, 1'000'000, ENOSPC, false, 1), Ending::NoSpace) << last;
  EXPECT_NE(last.find("space"), std::string::npos) << last;
  EXPECT_EQ(write(0, 0, 0), Ending::Written) << "and goes on when there is room again";
}

}  // namespace divergen::store
