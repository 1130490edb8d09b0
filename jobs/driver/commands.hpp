#pragma once
// The commands of the light driver. Each add_* function enters its subcommand and what to do when it was given.

#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "config/settings.hpp"

namespace divergen::driver {

/// Set by the subcommand that was given; returns the exit code.
using Action = std::function<int()>;

void add_run_commands(CLI::App& app, Action& action);       // run, plan ... evaluate, report
void add_status_command(CLI::App& app, Action& action);     // status
void add_library_commands(CLI::App& app, Action& action);   // inspect, verify
void add_exchange_commands(CLI::App& app, Action& action);  // export, import, merge, diff
void add_convert_command(CLI::App& app, Action& action);    // convert
void add_eval_command(CLI::App& app, Action& action);       // lvis-eval
void add_propose_command(CLI::App& app, Action& action);    // propose
void add_submit_commands(CLI::App& app, Action& action);    // submit, cancel
void add_scaling_command(CLI::App& app, Action& action);    // scaling
void add_bench_command(CLI::App& app, Action& action);      // bench
void add_doctor_command(CLI::App& app, Action& action);     // doctor

}  // namespace divergen::driver
