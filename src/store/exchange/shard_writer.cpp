#include "store/exchange/shard_writer.hpp"

#include <cstdio>

#include "base/error.hpp"

namespace divergen::store {
namespace {

constexpr std::uint64_t kShardBytes = 1 << 30;

}  // namespace

void ShardWriter::add(Instance instance) {
  if (waiting_.size() == kShardRows || bytes_ + instance.png.size() > kShardBytes) flush();
  bytes_ += instance.png.size();
  ++count_;
  waiting_.push_back(std::move(instance));
}

void ShardWriter::flush() {
  if (waiting_.empty()) return;
  char name[40];
  std::snprintf(name, sizeof name, "shard-%06zu.h5", shards_++);
  write_library_shard(folder_.part() / name, waiting_, tables_);
  waiting_.clear();
  bytes_ = 0;
}

std::string ShardWriter::finish() {
  if (count_ == 0)
    fail(ErrorKind::Data, {"there is no instance to write", folder_.path().string(), "everything was left out",
                           "the lines above say why"});
  flush();
  write_library_index(folder_.part());
  const std::string hash = Library(folder_.part()).hash();
  folder_.commit();
  return hash;
}

}  // namespace divergen::store
