#include "store/exchange/output.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/error.hpp"

namespace divergen::store {
namespace {

Path without_slash(const Path& path) {
  const Path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

}  // namespace

OutputFolder::OutputFolder(const Path& path) : path_(without_slash(path)) {
  std::error_code error;
  if (std::filesystem::exists(path_, error) &&
      !(std::filesystem::is_directory(path_, error) && std::filesystem::is_empty(path_, error)))
    fail(ErrorKind::Usage, {"the output folder is there already", path_.string(), "it is not empty",
                            "remove it, or name another one with --out"});
  if (path_.has_parent_path()) make_folder(path_.parent_path());
  part_ = part_name(path_);
  make_folder(part_);
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!is_committed_) std::filesystem::remove_all(part_, ignored);
}

void OutputFolder::write(const Path& relative, std::string_view bytes) const {
  FileStream file(part_ / relative);
  file.write(bytes);
  file.close();
}

void OutputFolder::commit() {
  // One call for all files: the file system that holds the folder.
  const int fd = ::open(part_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno("cannot open the folder", part_.string(), errno);
  const int result = ::syncfs(fd);
  const int number = errno;
  ::close(fd);
  if (result != 0) fail_errno("cannot flush the folder", part_.string(), number);
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);  // an empty folder of this name
  if (::rename(part_.c_str(), path_.c_str()) != 0) fail_errno("cannot publish", path_.string(), errno);
  is_committed_ = true;
  fsync_folder(path_.has_parent_path() ? path_.parent_path() : Path("."));
}

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  DIVERGEN_CHECK(state_->context != nullptr && EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::add(std::string_view bytes) {
  DIVERGEN_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  DIVERGEN_CHECK(EVP_DigestFinal_ex(state_->context, digest, &size) == 1);
  std::string out;
  for (unsigned i = 0; i < size; ++i) {
    char text[3];
    std::snprintf(text, sizeof text, "%02x", digest[i]);
    out += text;
  }
  return out;
}

FileStream::FileStream(const Path& path) : path_(path), file_(std::fopen(path.c_str(), "wbe")) {
  if (file_ == nullptr) fail_errno("cannot create", path.string(), errno);
}
FileStream::~FileStream() {
  if (file_ != nullptr) std::fclose(file_);
}

void FileStream::write(std::string_view bytes) {
  if (!bytes.empty() && std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size())
    fail_errno("cannot write", path_.string(), errno);
  hash_.add(bytes);
  size_ += bytes.size();
}

std::string FileStream::close() {
  std::FILE* file = std::exchange(file_, nullptr);
  if (std::fclose(file) != 0) fail_errno("cannot write", path_.string(), errno);
  return hash_.hex();
}

}  // namespace divergen::store
