#include "base/leftovers.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.hpp"
#include "support/fixtures.hpp"
#include "support/memory_folder.hpp"

namespace divergen {
namespace {

std::string own(const char* what) {
  char host[256] = {};
  EXPECT_EQ(::gethostname(host, sizeof host - 1), 0);
  return cat(what, std::string(host).substr(0, std::string(host).find('.')), ".", ::geteuid());
}

void make_old(const Path& path) {
  const timespec times[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

/// The number of a process that has ended.
pid_t dead_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  return child;
}

}  // namespace

TEST(Leftovers, SegmentsThatNobodyHasMappedAreRemoved) {
  const test::MemoryFolder memory;
  const test::TemporaryFolder temporary;
  const std::string stem = own("vader_segment.") + ".2bc90001.";
  const auto make = [&](const std::string& name) {
    write_file_atomic(memory / name, std::string(4096, 'x'));
    make_old(memory / name);
    return memory / name;
  };
  const Path dead = make(stem + "0"), mapped = make(stem + "1"), young = make(stem + "2");
  const Path foreign = make("vader_segment.otherhost.0.2bc90001.0"), other = make("something");
  write_file_atomic(young, "just made");
  const int fd = ::open(mapped.c_str(), O_RDONLY);
  void* map = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(map, MAP_FAILED);
  ::close(fd);

  EXPECT_EQ(sweep_leftovers(memory.path(), temporary.path(), 60).segments, 1u);

  EXPECT_FALSE(std::filesystem::exists(dead));
  for (const Path& file : {mapped, young, foreign, other}) EXPECT_TRUE(std::filesystem::exists(file)) << file;
  ::munmap(map, 4096);
  EXPECT_EQ(sweep_leftovers(memory.path(), temporary.path(), 60).segments, 1u) << "now nobody has it";
  EXPECT_FALSE(std::filesystem::exists(mapped));
}

TEST(Leftovers, SessionsOfDeadLaunchersAreRemoved) {
  const test::TemporaryFolder memory, temporary;
  const Path sessions = temporary / own("ompi.");
  const Path dead = sessions / cat("pid.", dead_process()), alive = sessions / cat("pid.", ::getpid());
  for (const Path& folder : {dead / "0/1", alive / "0/1", sessions / "pid.x"}) make_folder(folder);
  write_file_atomic(dead / "contact.txt", "gone");

  EXPECT_EQ(sweep_leftovers(memory.path(), temporary.path(), 60).sessions, 1u);

  EXPECT_FALSE(std::filesystem::exists(dead));
  EXPECT_TRUE(std::filesystem::exists(alive));
  EXPECT_TRUE(std::filesystem::exists(sessions / "pid.x"));
  EXPECT_EQ(sweep_leftovers(memory.path(), "/nowhere", 60).sessions, 0u);
}

}  // namespace divergen
