#pragma once
// How a program of one process starts and ends: command line, action, exit code.

#include <functional>

#include <CLI/CLI.hpp>

#include "base/error.hpp"
#include "base/log.hpp"

namespace divergen {

/// Parses the command line, runs `action`, and returns the exit code (design §5). Errors end on stderr.
inline int run_program(CLI::App& app, int argc, char** argv, const std::function<int()>& action) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_code(ErrorKind::Usage);
  }
  try {
    return action();
  } catch (const Error& error) {
    log::error(error.what());
    return exit_code(error.kind());
  } catch (const std::exception& error) {
    log::error("unexpected: ", error.what());
    return exit_code(ErrorKind::Bug);
  }
}

}  // namespace divergen
