#pragma once
// Where the cases of the parity tests are: $DIVERGEN_FIXTURES/<area>, else the copies in tests/fixtures/<area>.

#include <cstdlib>
#include <string>

#include <nlohmann/json.hpp>

#include "base/fs.hpp"

namespace divergen::test {

inline Path fixture_root() {
  const char* given = std::getenv("DIVERGEN_FIXTURES");
  return given != nullptr && *given != '\0' ? Path(given) : Path(DIVERGEN_SOURCE_DIR) / "tests" / "fixtures";
}
inline Path fixtures(const std::string& area) { return fixture_root() / area; }
inline nlohmann::json fixture_json(const Path& path) { return nlohmann::json::parse(read_file(path)); }

/// A folder of this test process that goes when the object goes.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "divergen-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data()) != nullptr ? Path(name) : Path();
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const Path& path() const { return path_; }
  Path operator/(const std::string& name) const { return path_ / name; }

 private:
  Path path_;
};

}  // namespace divergen::test
