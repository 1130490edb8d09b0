// divergen: what is started by hand. The evaluator runs here, in a program that loads little: its whole run over a
// small results file takes less time than loading what the other commands need (OpenCV's file formats bring a hundred
// libraries, 85 ms). Those are divergen-driver's, which lies beside this program and takes its place.

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "driver/commands.hpp"
#include "program.hpp"

namespace {

int become_driver(char** argv) {
  std::error_code problem;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", problem);
  const std::string driver =
      ((problem ? std::filesystem::path(argv[0]) : self).parent_path() / "divergen-driver").string();
  ::execv(driver.c_str(), argv);
  std::fprintf(stderr, "cannot start %s: %s; it must lie beside divergen (build the target divergen)\n", driver.c_str(),
               std::strerror(errno));
  return divergen::exit_code(divergen::ErrorKind::Io);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || std::string_view(argv[1]) != "lvis-eval") return become_driver(argv);
  CLI::App app{"The part of divergen that evaluates; `divergen --help` shows all of it."};
  app.require_subcommand(1);
  divergen::driver::Action action;
  divergen::driver::add_eval_command(app, action);
  return divergen::run_program(app, argc, argv, [&] { return action(); });
}
