// divergen-pretrain: trains the miniature models of data/mini/models from scratch.

#include <ATen/Parallel.h>

#include <csignal>
#include <iostream>

#include <CLI/CLI.hpp>

#include "base/log.hpp"
#include "program.hpp"
#include "stages/pretrain/tasks.hpp"

namespace {

volatile std::sig_atomic_t stop_requested = 0;
void request_stop(int) { stop_requested = 1; }

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Trains one miniature model from scratch; run it again to continue.\n\n"
      "Example: divergen-pretrain configs/pretrain/vae.toml --out runs/pretrain/vae"};
  std::string config, out, world = "data/mini";
  std::vector<std::string> overrides;
  int threads = 0;
  app.add_option("config", config, "what to train and how (configs/pretrain/*.toml)")->required();
  app.add_option("--out", out, "folder for checkpoints, log, samples and the model")->required();
  app.add_option("--world", world, "folder of the mini world");
  app.add_option("--set", overrides, "section.key=value, over the file");
  app.add_option("--threads", threads, "threads of LibTorch (default: all cores)");
  std::signal(SIGTERM, request_stop);
  std::signal(SIGINT, request_stop);
  return divergen::run_program(app, argc, argv, [&] {
    if (threads > 0) at::set_num_threads(threads);
    const auto result =
        divergen::stages::run_pretrain(config, overrides, world, out, [] { return stop_requested != 0; });
    divergen::log::info("iteration ", result.iterations, " after ", result.seconds, " s");
    return stop_requested != 0 ? divergen::exit_code(divergen::ErrorKind::Stopped) : 0;
  });
}
