// divergen: the light driver. Starts in milliseconds; what computes runs in divergen-worker, launched through mpirun.

#include "driver/commands.hpp"
#include "program.hpp"

int main(int argc, char** argv) {
  CLI::App app{
      "Generates, filters and pastes object instances for long-tailed detection, and measures what they bring.\n\n"
      "Example: divergen run configs/mini.toml --ranks 2"};
  app.require_subcommand(1);
  app.set_version_flag("--version", DIVERGEN_VERSION);
  app.footer(
      "Exit codes: 0 done, 64 usage or configuration, 65 bad data, 70 bug or lost rank, 74 input/output,\n"
      "75 stopped early (run again to continue).");
  divergen::driver::Action action;
  divergen::driver::add_run_commands(app, action);
  divergen::driver::add_status_command(app, action);
  divergen::driver::add_library_commands(app, action);
  divergen::driver::add_exchange_commands(app, action);
  divergen::driver::add_convert_command(app, action);
  divergen::driver::add_eval_command(app, action);
  divergen::driver::add_propose_command(app, action);
  divergen::driver::add_submit_commands(app, action);
  divergen::driver::add_scaling_command(app, action);
  divergen::driver::add_bench_command(app, action);
  divergen::driver::add_doctor_command(app, action);
  return divergen::run_program(app, argc, argv, [&] { return action(); });
}
