// soak_memory, the augmentation: 20,000 samples through the loader's threads (a part of them by default) without growth
// of memory, descriptors or threads.

#include "support/full.hpp"
#include "support/soak.hpp"
#include "unit/stages/augment_world.hpp"

namespace divergen::test {

TEST(SoakMemory, Augmentation) {
  stages::augment_world::World world;
  const stages::SampleMaker maker = world.maker(stages::augment_world::pool_of(world));
  const int samples = times(4000, 20000);
  constexpr std::int64_t kThreads = 2, kDepth = 8;
  stages::SampleLoader loader(maker, 0, 1, kThreads, kDepth);
  Soak soak;
  std::size_t objects = 0;
  for (int i = 0; i < samples; ++i) {
    objects += loader.next().objects.size();
    if (i % (samples / 50) == 0) soak.look(i);
  }
  EXPECT_GT(objects, static_cast<std::size_t>(samples));
  soak.expect_flat("soak_memory, augmentation");
}

// A training that goes back and forth opens many loaders.
TEST(SoakMemory, Loaders) {
  stages::augment_world::World world;
  const stages::SampleMaker maker = world.maker(stages::augment_world::pool_of(world));
  Soak soak;
  const int loaders = times(2000, 20000);
  for (int i = 0; i < loaders; ++i) {
    stages::SampleLoader loader(maker, static_cast<std::uint64_t>(i), 1, 2, 4);
    EXPECT_EQ(loader.next().position, static_cast<std::uint64_t>(i));
    if (i % (loaders / 20) == 0) soak.look(i);
  }
  // Threads of the loader at hand may not have begun yet.
  soak.expect_flat("soak_memory, loaders", 2);
}

}  // namespace divergen::test
