#include "base/fault.hpp"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::fault {
namespace {

struct Armed {
  std::mutex mutex;
  std::string point;
  Action action = Action::Kill;
  std::int64_t left = 0;
};
Armed& armed() {
  static Armed one;
  return one;
}

std::atomic<std::int64_t> disarmed{0};  // so many times

void pause() {
  const std::int64_t before = disarmed;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (disarmed == before && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

bool arm_from_environment() {
  const char* text = std::getenv("DIVERGEN_FAULT");
  if (text == nullptr || *text == '\0') return false;
  try {
    arm(std::string_view(text));
  } catch (const Error& error) {
    // Before main(): there is nobody to catch it, and a test that asks for a fault must not pass without one.
    std::fprintf(stderr, "%s\n", error.what());
    ::_exit(exit_code(error.kind()));
  }
  return true;
}

}  // namespace

namespace detail {
std::atomic<bool> is_armed{arm_from_environment()};

/// The action that is due at this point now; what asks to spoil and what does not are counted apart.
std::optional<Action> due(const char* point, bool is_spoiling) {
  Armed& one = armed();
  const std::lock_guard lock(one.mutex);
  if (!is_armed || one.point != point || (one.action == Action::Spoil) != is_spoiling || --one.left > 0)
    return std::nullopt;
  if (one.action == Action::Break) one.left = 1;  // the next time, too
  else is_armed = false;
  return one.action;
}

bool spoils(const char* point) { return due(point, true).has_value(); }

void reach(const char* point) {
  const std::optional<Action> action = due(point, false);
  if (!action) return;
  switch (*action) {
    case Action::Spoil:
      break;
    case Action::Kill:
      ::kill(::getpid(), SIGKILL);
      ::pause();
      break;
    case Action::Pause:
      pause();
      break;
    case Action::Fail:
      fail_errno("a fault was asked for", point, EIO);
    case Action::Break:
      throw std::runtime_error(std::string("a fault was asked for: ") + point);
  }
}
}  // namespace detail

void arm(std::string point, Action action, std::int64_t hit) {
  DIVERGEN_CHECK(!point.empty() && hit >= 1, point, " ", hit);
  Armed& one = armed();
  const std::lock_guard lock(one.mutex);
  one.point = std::move(point);
  one.action = action;
  one.left = hit;
  detail::is_armed = true;
}

void arm(std::string_view text) {
  const std::vector<std::string> parts = split(text, ':');
  const auto refuse = [&](const std::string& why) {
    fail(ErrorKind::Usage,
         {"DIVERGEN_FAULT cannot be read", std::string(text), why, "write point:kill|fail|pause|spoil|break[:hit]"});
  };
  if (parts.size() < 2 || parts.size() > 3 || parts[0].empty()) refuse("it has not two or three parts");
  Action action = Action::Kill;
  if (parts[1] == "fail") {
    action = Action::Fail;
  } else if (parts[1] == "pause") {
    action = Action::Pause;
  } else if (parts[1] == "spoil") {
    action = Action::Spoil;
  } else if (parts[1] == "break") {
    action = Action::Break;
  } else if (parts[1] != "kill") {
    refuse(cat("'", parts[1], "' is no action"));
  }
  const std::int64_t hit = parts.size() == 3 ? std::atoll(parts[2].c_str()) : 1;
  if (hit < 1) refuse(cat("'", parts[2], "' is no positive number"));
  arm(parts[0], action, hit);
}

void disarm() {
  detail::is_armed = false;
  ++disarmed;
}

}  // namespace divergen::fault
