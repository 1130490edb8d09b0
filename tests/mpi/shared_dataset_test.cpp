// One data set in memory for all ranks of a node.

#include "stages/common/shared_dataset.hpp"

#include "base/error.hpp"
#include "comm/node_memory.hpp"
#include "mpi/mpi_main.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

using test::world;

std::string text() {
  std::string annotations;
  for (int i = 0; i < 500; ++i)
    annotations +=
        cat(i > 0 ? "," : "", "{\"id\":", i, ",\"image_id\":", i % 3, ",\"category_id\":", 1 + i % 2, ",\"bbox\":[", i,
            ".25,1,2,3],\"area\":", i, ",\"segmentation\":[[0,0,", i, ",0.5,3,", i, ".125]]}");
  return cat(
      R"({"categories":[{"id":1,"name":"\u00e9","frequency":"r","image_count":7},{"id":2}],"images":[)",
      R"({"id":0,"height":9,"width":8,"file_name":"a.jpg","neg_category_ids":[2],"not_exhaustive_category_ids":[1]},)",
      R"({"id":1,"height":9,"width":8},{"id":2,"height":9,"width":8}],"annotations":[)", annotations, "]}");
}

}  // namespace

TEST(SharedDataset, AllRanksSeeTheSame) {
  const test::TemporaryFolder folder;  // of each rank
  const std::string path = world().broadcast_text((folder / "a.json").string());
  if (world().is_root()) write_file_atomic(path, text());
  world().barrier();
  const lvis::Dataset shared = read_shared_dataset(world(), path), own = lvis::read_dataset(path);
  world().barrier();

  EXPECT_EQ(shared.shared != nullptr, world().local_size() > 1);
  ASSERT_EQ(shared.annotations.size(), own.annotations.size());
  for (std::size_t i = 0; i < own.annotations.size(); ++i) {
    const lvis::Annotation a = shared.annotations[i], b = own.annotations[i];
    EXPECT_TRUE(a.id == b.id && a.image_id == b.image_id && a.category_id == b.category_id && a.box == b.box &&
                a.area == b.area);
    EXPECT_EQ(a.polygons[0], b.polygons[0]);
    EXPECT_EQ(shared.mask_of(i), own.mask_of(i));
  }
  for (std::size_t i = 0; i < own.images.size(); ++i) {
    const lvis::ImageRecord a = shared.images[i], b = own.images[i];
    EXPECT_TRUE(a.id == b.id && a.file == b.file && a.negative == b.negative && a.not_exhaustive == b.not_exhaustive);
  }
  ASSERT_EQ(shared.categories.size(), 2U);
  EXPECT_EQ(shared.categories[0].name, own.categories[0].name);
  EXPECT_EQ(shared.image_index.at(2), 2U);
}

TEST(SharedDataset, AnErrorReachesAllRanks) {
  EXPECT_THROW(read_shared_dataset(world(), "/nonexistent/file.json"), Error);
}

TEST(NodeMemory, IsThereForAsLongAsAnyRankHoldsIt) {
  auto memory = std::make_unique<comm::NodeMemory>(world(), std::size_t{1} << 20);
  ASSERT_EQ(memory->bytes().size(), std::size_t{1} << 20);
  world().together([&] {
    if (memory->is_filler()) std::fill(memory->bytes().begin(), memory->bytes().end(), std::byte{42});
  });
  if (memory->is_filler()) memory.reset();
  world().barrier();
  if (memory) {
    EXPECT_EQ(memory->bytes()[12345], std::byte{42});
  }
}

}  // namespace divergen::stages

DIVERGEN_MPI_MAIN()
