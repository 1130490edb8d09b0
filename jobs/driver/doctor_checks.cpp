#include "driver/doctor_checks.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/text.hpp"
#include "driver/launch.hpp"
#include "driver/process.hpp"
#include "store/table.hpp"

namespace divergen::driver {
namespace {

constexpr std::uint64_t kGigabyte = std::uint64_t{1} << 30;

std::string limit_text(rlim_t limit, bool is_bytes) {
  if (limit == RLIM_INFINITY) return "unlimited";
  return is_bytes ? human_bytes(limit) : with_thousands(static_cast<std::int64_t>(limit));
}

Finding limit(const char* name, decltype(RLIMIT_NOFILE) which, bool is_bytes, rlim_t least, const char* advice) {
  rlimit held{};
  if (::getrlimit(which, &held) != 0) return {name, cat("unknown: ", std::strerror(errno)), "", false};
  return {name, limit_text(held.rlim_cur, is_bytes), held.rlim_cur < least ? advice : "", false};
}

Finding clock_check() {
  timex state{};
  const int result = ::adjtimex(&state);
  const std::string now = cat(static_cast<long long>(epoch_seconds()), " s since 1970");
  if (result < 0) return {"clock", now, "", false};
  const bool is_loose = result == TIME_ERROR || (state.status & STA_UNSYNC) != 0;
  return {
      "clock", now + (is_loose ? ", not kept by a time server" : ", kept by a time server"),
      is_loose ? "times of different nodes in one log may not agree (harmless in a container or virtual machine)" : "",
      false};
}

/// Numbers of linux/magic.h and of the file systems' own sources.
std::string file_system_name(long type) {
  static const std::map<long, const char*> kNames{
      {0x0BD00BD0, "Lustre"}, {0x47504653, "GPFS"}, {0x19830326, "BeeGFS"}, {0x6969, "NFS"},
      {0xEF53, "ext4"},       {0x58465342, "XFS"},  {0x01021994, "tmpfs"},  {0x794c7630, "overlay"},
      {0x9123683e, "Btrfs"},  {0x2fc12fc1, "ZFS"},  {0x00c36400, "Ceph"},   {0x65735546, "FUSE"},
      {0xaad7aaea, "PanFS"},  {0x61756673, "AUFS"}};
  const auto found = kNames.find(type);
  if (found != kNames.end()) return found->second;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "type 0x%lx", static_cast<unsigned long>(type));
  return text.data();
}

Finding locks(const Path& file) {
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) return {"locks", cat("unknown: ", std::strerror(errno)), "", false};
  const bool works = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0;
  const std::string why = works ? "flock works" : cat("flock fails: ", std::strerror(errno));
  ::close(descriptor);
  return {"locks", why, works ? "" : "two jobs in one run directory would not be kept apart: mount with -o flock",
          false};
}

/// How long one write, flush and rename takes, and how the file system's clock compares with ours.
std::vector<Finding> commits(const Path& file) {
  std::vector<Finding> out;
  const auto start = std::chrono::steady_clock::now();
  try {
    write_file_atomic(file, "divergen doctor\n");
  } catch (const Error& error) {
    return {{"commit", error.what(), "runs cannot be written here", true}};
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  constexpr double kSlow = 1;
  out.push_back({"commit", cat(fixed(1000 * seconds, 1), " ms for a small file (write, flush, rename)"),
                 seconds > kSlow ? "a slow or busy file system: choose larger shards (plan.shard_items)" : "", false});
  struct stat facts {};
  if (::stat(file.c_str(), &facts) == 0) {
    const double skew = static_cast<double>(facts.st_mtim.tv_sec) - epoch_seconds();
    constexpr double kMuch = 5;
    out.push_back({"file_clock", cat(fixed(skew, 1), " s from this machine's"),
                   std::abs(skew) > kMuch ? "the file server's clock differs from this machine's" : "", false});
  }
  return out;
}

/// Writes, verifies, and publishes one small table where results would go.
Finding hdf5(const Path& file) {
  store::Table table("divergen-doctor", 1);
  table.add<std::int32_t>("number", {1, 2, 3});
  std::string problem;
  try {
    store::write_table(table, file);
    problem = store::verify_table(file).value_or("");
  } catch (const Error& error) {
    problem = error.what();
  }
  remove_quietly(file);
  return {"hdf5_write_verify_rename", problem.empty() ? "ok" : problem,
          problem.empty() ? "" : "libraries cannot be written here", !problem.empty()};
}

std::string worker_path() { return (program_folder() / "divergen-worker").string(); }

/// Lines of ldd that name a library: "libnccl.so.2 => /path/libnccl.so.2 (0x...)".
std::map<std::string, std::string> libraries_of(const std::string& program) {
  std::map<std::string, std::string> out;
  for (const std::string& line : split(capture({"ldd", program}).out, '\n')) {
    const std::size_t arrow = line.find(" => ");
    if (arrow == std::string::npos) continue;
    const std::size_t first = line.find_first_not_of(" \t");
    const std::string target = line.substr(arrow + 4);
    out[line.substr(first, arrow - first)] = target.starts_with("not found") ? "" : target.substr(0, target.find(" ("));
  }
  return out;
}

Finding nccl() {
  const auto libraries = libraries_of(worker_path());
  const auto found = libraries.find("libnccl.so.2");
  if (found == libraries.end() || found->second.empty())
    return {"nccl", "none", "trainings on several GPUs need it: build with the LibTorch that tools/setup.sh installs",
            false};
  void* library = ::dlopen(found->second.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) return {"nccl", cat(found->second, ": ", ::dlerror()), "", false};
  int version = 0;
  if (auto* ask = reinterpret_cast<int (*)(int*)>(::dlsym(library, "ncclGetVersion"))) ask(&version);
  // Since 2.9: 10000 * major + 100 * minor + patch (nccl.h).
  constexpr int kFirstBad = 22803, kLastBad = 22808;  // NVIDIA's resiliency extension warns of these
  const bool is_bad = version >= kFirstBad && version <= kLastBad;
  return {"nccl", cat(version / 10000, ".", version / 100 % 100, ".", version % 100, ", ", found->second),
          is_bad ? "versions 2.28.3 to 2.28.8 are known to hang: use another one" : "", false};
}

}  // namespace

std::vector<Finding> check_machine() {
  std::vector<Finding> out;
  utsname system{};
  if (::uname(&system) == 0)
    out.push_back(
        {"system", cat(system.sysname, " ", system.release, " ", system.machine, ", ", system.nodename), "", false});
  out.push_back({"cores", cat(std::thread::hardware_concurrency()), "", false});
  out.push_back({"memory",
                 human_bytes(static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                             static_cast<std::uint64_t>(::sysconf(_SC_PAGE_SIZE))),
                 "", false});
  struct statvfs shared {};
  if (::statvfs("/dev/shm", &shared) == 0) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(shared.f_bavail) * shared.f_frsize;
    out.push_back(
        {"shared_memory", human_bytes(bytes) + " free in /dev/shm",
         bytes < kGigabyte / 4 ? "ranks of one node talk through it: enlarge it (containers: --shm-size)" : "", false});
  }
  out.push_back(limit("open_files", RLIMIT_NOFILE, false, 1024, "ulimit -n 4096"));
  out.push_back(limit("locked_memory", RLIMIT_MEMLOCK, true, RLIM_INFINITY,
                      "InfiniBand and GPUDirect want ulimit -l unlimited (without such a network: harmless)"));
  out.push_back(limit("stack", RLIMIT_STACK, true, std::uint64_t{8} << 20, "ulimit -s 8192"));
  out.push_back(limit("address_space", RLIMIT_AS, true, RLIM_INFINITY,
                      "LibTorch maps far more than it uses: ulimit -v unlimited"));
  out.push_back(limit("processes", RLIMIT_NPROC, false, 1024, "ulimit -u 4096"));
  out.push_back(limit("core_files", RLIMIT_CORE, true, 0, ""));
  out.push_back(clock_check());
  return out;
}

std::vector<Finding> check_launchers() {
  std::vector<Finding> out;
  const std::string mpirun = first_line_of({"mpirun", "--version"});
  out.push_back(
      {"mpirun", mpirun.empty() ? "none" : mpirun, mpirun.empty() ? "tools/setup.sh installs Open MPI" : "", false});
  const Captured version = capture({"timeout", "20", "sinfo", "--version"});
  const bool is_installed = version.code != 127;
  const std::string slurm = version.code == 0 ? version.out.substr(0, version.out.find('\n')) : "";
  out.push_back({"slurm", is_installed ? (slurm.empty() ? "installed, not set up" : slurm) : "none",
                 is_installed && slurm.empty() ? "this machine belongs to no cluster (or SLURM_CONF is not set)" : "",
                 false});
  if (!slurm.empty()) {
    const Captured kinds = capture({"timeout", "20", "sh", "-c", "srun --mpi=list 2>&1"});
    const bool has_pmix = kinds.out.find("pmix") != std::string::npos;
    std::string list;
    for (const std::string& line : split(kinds.out, '\n'))
      if (line.find("mpi") == std::string::npos && line.find("MPI") == std::string::npos && !line.empty())
        list += (list.empty() ? "" : " ") + line.substr(std::min(line.find_first_not_of(" \t"), line.size()));
    out.push_back(
        {"slurm_pmix", has_pmix ? cat("yes (", list, ")") : cat("no (", list, ")"),
         has_pmix ? "" : "srun cannot start Open MPI's ranks: ask for Slurm's PMIx plugin, or set DIVERGEN_MPI",
         false});
    const Captured nodes = capture({"timeout", "20", "sinfo", "-h", "-o", "%P %D %T"});
    std::string partitions;
    for (const std::string& line : split(nodes.out, '\n'))
      partitions += (partitions.empty() || line.empty() ? "" : "; ") + line;
    out.push_back({"slurm_controller", nodes.code == 0 ? partitions : "does not answer",
                   nodes.code == 0 ? "" : "submit from a login node of the cluster", false});
  }
  const char* job = std::getenv("SLURM_JOB_ID");
  if (job != nullptr) out.push_back({"slurm_job", job, "", false});
  if (!std::filesystem::exists(worker_path())) {
    out.push_back({"worker", "missing", "build divergen-worker (tools/build.sh)", true});
    return out;
  }
  std::string lost, pmix;
  for (const auto& [name, path] : libraries_of(worker_path())) {
    if (path.empty()) lost += " " + name;
    if (name.starts_with("libpmix") || name.starts_with("libmpi.so")) pmix += (pmix.empty() ? "" : ", ") + path;
  }
  out.push_back({"worker", lost.empty() ? "found, with all its libraries" : "libraries are not found:" + lost,
                 lost.empty() ? "" : "load the modules that it was built with, or set LD_LIBRARY_PATH", !lost.empty()});
  out.push_back({"mpi_library", pmix.empty() ? "unknown" : pmix, "", false});
  return out;
}

std::vector<Finding> check_gpus() {
  std::vector<Finding> out;
  const Captured gpus =
      capture({"nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"});
  int count = 0;
  if (gpus.code == 0)
    for (const std::string& line : split(gpus.out, '\n'))
      if (!line.empty()) out.push_back({cat("gpu_", count++), line, "", false});
  if (count == 0) out.push_back({"gpu", "none", "", false});
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES"))
    out.push_back({"cuda_visible_devices", visible, "", false});
  const auto libraries = libraries_of(worker_path());
  const auto runtime = libraries.find("libcudart.so.13");
  out.push_back(
      {"cuda_runtime", runtime != libraries.end() && !runtime->second.empty() ? runtime->second : "none", "", false});
  out.push_back(nccl());
  return out;
}

std::vector<Finding> check_folder(const Path& folder) {
  std::vector<Finding> out;
  struct statfs kind {};
  if (::statfs(folder.c_str(), &kind) != 0)
    return {{"folder", cat(folder.string(), ": ", std::strerror(errno)), "name a folder that is there", true}};
  out.push_back({"file_system", file_system_name(static_cast<long>(kind.f_type)), "", false});
  const std::uint64_t bytes = free_bytes(folder);
  out.push_back({"free_space", human_bytes(bytes),
                 bytes < 10 * kGigabyte ? "a library of a million instances takes some 100 GB" : "", false});
  struct statvfs facts {};
  if (::statvfs(folder.c_str(), &facts) == 0)
    out.push_back({"free_inodes",
                   facts.f_files == 0 ? "not counted here" : with_thousands(static_cast<std::int64_t>(facts.f_favail)),
                   facts.f_files != 0 && facts.f_favail < 100'000 ? "runs make a few thousand files" : "", false});
  const Path probe = folder / cat(".divergen-doctor-", ::getpid());
  out.push_back(locks(probe));
  for (Finding& finding : commits(probe)) out.push_back(std::move(finding));
  remove_quietly(probe);
  out.push_back(hdf5(folder / cat(".divergen-doctor-", ::getpid(), ".h5")));
  return out;
}

}  // namespace divergen::driver
