// The texts that a run keeps about itself, as a torn disk or a stranger leaves them: stage records, progress, the
// journals of starts and of a training. Each is read, passed over, or refused as damaged data.
//
// The first byte chooses which; the others are the file.

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "base/error.hpp"
#include "base/fs.hpp"
#include "base/log.hpp"
#include "stages/common/run_directory.hpp"
#include "stages/common/starts.hpp"
#include "stages/common/watch.hpp"
#include "stages/train/training_log.hpp"

namespace {

using namespace divergen;
using namespace divergen::stages;

const Path& folder() {
  static const Path one = [] {
    log::init({1, "", log::Level::Error});  // another rank than 0: silent
    std::string name = "/dev/shm/divergen-fuzz-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      name = "/tmp/divergen-fuzz-XXXXXX";
      if (::mkdtemp(name.data()) == nullptr) std::abort();
    }
    for (const char* part : {"stages", "progress", "train"}) make_folder(Path(name) / part);
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(folder(), ignored);
    });
    return Path(name);
  }();
  return one;
}

void put(const Path& file, std::string_view bytes) {
  std::FILE* out = std::fopen(file.c_str(), "wb");
  if (out == nullptr || std::fwrite(bytes.data(), 1, bytes.size(), out) != bytes.size() || std::fclose(out) != 0)
    std::abort();
}

bool attempt(const std::function<void()>& work) {
  try {
    work();
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data) throw;
    return false;
  }
}

void records(std::string_view text) {
  const RunDirectory dir(folder());
  put(dir.record("generate"), text);
  StageRecord record;
  if (attempt([&] { record = read_record(dir, "generate").value(); })) {
    // What can be read can be written, and is the same then.
    record.stage = "annotate";
    attempt([&] {
      write_record(dir, record);
      if (read_record(dir, "annotate")->items != record.items) std::abort();
    });
  }
  attempt([&] { read_records(dir); });
  prometheus_text(dir);
  committed_units(dir, "generate");
  remove_quietly(dir.record("generate"));
  remove_quietly(dir.record("annotate"));
}

void progress(std::string_view text) {
  const RunDirectory dir(folder());
  put(folder() / "progress/train.json", text);
  put(folder() / "progress/train.stop", text);
  read_progress(dir);
  read_stop(dir, "train");
  prometheus_text(dir);
}

void starts(std::string_view text) {
  const Path file = folder() / "stages/generate.starts";
  put(file, text);
  const StartsJournal journal(file, "abc");
  journal.seconds();
  // A torn end hides at most the line that is written next, which it runs into.
  append_line(file, "");
  const double before = journal.seconds();
  journal.append(2.5);
  const double after = journal.seconds();
  if (before < 1e12 && before > -1e12 && std::abs(after - before - 2.5) > 1e-3) std::abort();
}

void training_log(std::string_view text) {
  put(folder() / "train/log.jsonl", text);
  TrainingLog log(folder() / "train");
  log.rewind(7);
  const std::string once = read_file(log.file());
  log.rewind(7);
  if (read_file(log.file()) != once) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      records(text);
      break;
    case 1:
      progress(text);
      break;
    case 2:
      starts(text);
      break;
    default:
      training_log(text);
  }
  return 0;
}
