#include "driver/launch.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "base/error.hpp"
#include "base/leftovers.hpp"
#include "base/log.hpp"
#include "base/text.hpp"

namespace divergen::driver {
namespace {

volatile std::sig_atomic_t child_process = 0;
volatile std::sig_atomic_t stops_asked = 0;

/// The first signal asks the ranks to stop at a safe point; the third ends them.
void pass_on(int) {
  stops_asked = stops_asked + 1;
  if (child_process > 0) ::kill(static_cast<pid_t>(child_process), stops_asked < 3 ? SIGUSR2 : SIGKILL);
}

void set_default_environment(const char* name, const std::string& value) { ::setenv(name, value.c_str(), 0); }

void prepare_environment(const Launch& launch) {
  const std::string threads = std::to_string(launch.threads_per_rank);
  ::setenv("OMP_NUM_THREADS", threads.c_str(), 1);
  // The ranks' stderr is a pipe to mpirun: whether lines may be rewritten is known here alone.
  if (launch.console.empty() && ::isatty(STDERR_FILENO) != 0) set_default_environment("DIVERGEN_TERMINAL", "1");
  set_default_environment("MKL_NUM_THREADS", threads);
  // Ranks wait in system calls, not in spinning threads: a laptop's cores are shared by all of them.
  set_default_environment("OMP_WAIT_POLICY", "passive");
  set_default_environment("OMPI_MCA_mpi_yield_when_idle", "1");
  if (::geteuid() == 0) {
    set_default_environment("OMPI_ALLOW_RUN_AS_ROOT", "1");
    set_default_environment("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
}

int exit_code_of(int status) {
  if (WIFEXITED(status)) {
    const int code = WEXITSTATUS(status);
    return code > 128 ? exit_code(ErrorKind::Comm) : code;
  }
  return exit_code(ErrorKind::Comm);
}

}  // namespace

Path program_folder() {
  std::error_code problem;
  const Path self = std::filesystem::read_symlink("/proc/self/exe", problem);
  return problem ? Path(".") : self.parent_path();
}

std::vector<std::string> command_line(const Launch& launch) {
  std::vector<std::string> command;
  const std::string ranks = std::to_string(launch.ranks);
  if (std::getenv("SLURM_JOB_ID") != nullptr) {
    // As slurm/lib.sh starts them.
    const auto told = [](const char* name) {
      const char* value = std::getenv(name);
      return std::string(value != nullptr ? value : "");
    };
    command = {"srun", cat("--mpi=", told("DIVERGEN_MPI").empty() ? "pmix" : told("DIVERGEN_MPI")),
               "--kill-on-bad-exit=1", "--cpu-bind=cores", "--distribution=block:block"};
    if (const std::string cpus = told("SLURM_CPUS_PER_TASK"); !cpus.empty())
      command.push_back("--cpus-per-task=" + cpus);
    if (!told("SLURM_GPUS_ON_NODE").empty()) command.push_back("--gpu-bind=none");
    for (const std::string& word : split(told("DIVERGEN_SRUN"), ' '))
      if (!word.empty()) command.push_back(word);
    command.insert(command.end(), {"-n", ranks});
  } else {
    command = {"mpirun", "--quiet", "--oversubscribe", "--bind-to", "none", "-n", ranks};
  }
  command.push_back((program_folder() / "divergen-worker").string());
  command.insert(command.end(), launch.worker_args.begin(), launch.worker_args.end());
  return command;
}

int run(const Launch& launch) {
  const std::vector<std::string> command = command_line(launch);
  std::vector<char*> argv;
  for (const std::string& part : command) argv.push_back(const_cast<char*>(part.c_str()));
  argv.push_back(nullptr);
  prepare_environment(launch);
  if (const Leftovers swept = sweep_leftovers(); swept.segments + swept.sessions > 0)
    log::info("removed what killed runs left on this machine: ", swept.segments, " pieces of shared memory, ",
              swept.sessions, " session folders");
  log::flush();
  int console = -1;
  if (!launch.console.empty()) {
    console = ::open(launch.console.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (console < 0) fail_errno("cannot open the ranks' console", launch.console.string(), errno);
  }
  const pid_t child = ::fork();
  if (child < 0) fail_errno("cannot start a process", command[0], errno);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // a killed driver takes its ranks along
    ::setpgid(0, 0);                     // Ctrl-C reaches the driver alone, which asks the ranks to stop
    if (console >= 0) {
      ::dup2(console, STDOUT_FILENO);
      ::dup2(console, STDERR_FILENO);
    }
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  if (console >= 0) ::close(console);
  child_process = child;
  struct sigaction handler {};
  handler.sa_handler = pass_on;
  ::sigaction(SIGTERM, &handler, nullptr);
  ::sigaction(SIGINT, &handler, nullptr);
  ::sigaction(SIGUSR1, &handler, nullptr);
  ::sigaction(SIGUSR2, &handler, nullptr);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  child_process = 0;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    fail(ErrorKind::Io, {"cannot start the ranks", command[0], "the program was not found",
                         "run tools/setup.sh, which installs Open MPI"});
  if (stops_asked > 0 && exit_code_of(status) != 0) return exit_code(ErrorKind::Stopped);
  return exit_code_of(status);
}

}  // namespace divergen::driver
