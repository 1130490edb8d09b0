#include "store/h5.hpp"

#include <cstdlib>
#include <cstring>

namespace divergen::store::h5 {
namespace {

thread_local int last_number = 0;

herr_t keep_last(unsigned, const H5E_error2_t* error, void* out) {
  if (error->desc == nullptr) return 0;
  *static_cast<std::string*>(out) = error->desc;
  // HDF5 tells the system's number in words alone: "file write failed: ..., errno = 28, error message = ...".
  static constexpr char kNumber[] = "errno = ";
  if (const char* at = std::strstr(error->desc, kNumber)) last_number = std::atoi(at + sizeof kNumber - 1);
  return 0;
}

}  // namespace

void quiet() {
  // After a close that failed, HDF5's own end of the program crashes (measured with a full disk), and the exit code
  // with it. There is nothing for it to do: every file is closed, or its part was given up.
  [[maybe_unused]] static const herr_t once = H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

int last_errno() { return last_number; }

std::string take_error() {
  std::string message;
  last_number = 0;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, &keep_last, &message);
  H5Eclear2(H5E_DEFAULT);
  return message.empty() ? "HDF5 gave no reason" : "HDF5: " + message;
}

Handle file_access() {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), &H5Pclose);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(access.get(), false, true);
#endif
  return access;
}

}  // namespace divergen::store::h5
