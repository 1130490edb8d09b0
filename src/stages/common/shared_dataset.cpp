#include "stages/common/shared_dataset.hpp"

#include <memory>

#include "comm/node_memory.hpp"
#include "lvis/block.hpp"

namespace divergen::stages {

lvis::Dataset read_shared_dataset(comm::World& world, const Path& file) {
  lvis::Dataset dataset;
  const bool reads = world.local_rank() == 0;
  std::size_t bytes = 0;
  world.together([&] {
    if (!reads) return;
    dataset = lvis::read_dataset(file);
    bytes = lvis::block_bytes(dataset);
  });
  if (!world.any(world.local_size() > 1)) return dataset;
  auto memory = std::make_shared<comm::NodeMemory>(world, bytes);
  world.together([&] {
    if (reads) lvis::write_block(std::move(dataset), memory->bytes());
  });
  world.together([&] { dataset = lvis::read_block(memory->bytes(), memory); });
  return dataset;
}

}  // namespace divergen::stages
