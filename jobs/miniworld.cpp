// divergen-miniworld: makes the LVIS data set of the mini world.

#include <chrono>

#include "base/error.hpp"
#include "base/log.hpp"
#include "miniworld/data_set.hpp"
#include "miniworld/pictures.hpp"
#include "program.hpp"

namespace {

/// How many different texts a category gets, as the published prompt files hold 128.
constexpr int kPromptsPerCategory = 32;

void write_prompts(const divergen::Path& world_folder, const divergen::Path& out, std::uint64_t seed) {
  divergen::make_folder(out);
  const divergen::miniworld::World world(world_folder);
  for (const auto& category : world.categories()) {
    std::string text;
    for (const std::string& line : divergen::miniworld::descriptive_prompts(category, kPromptsPerCategory, seed))
      text += line + '\n';
    divergen::write_file_atomic(out / divergen::cat(category.id, ".txt"), text);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Makes the training and validation scenes of the mini world as an LVIS v1 data set; does nothing when they are "
      "there.\n\nExample: divergen-miniworld --world data/mini --out runs/mini/data"};
  std::string world = "data/mini", out, prompts;
  divergen::miniworld::DataSetOptions options;
  app.add_option("--world", world, "folder of the mini world")->capture_default_str();
  auto* out_option = app.add_option("--out", out, "folder of the data set");
  app.add_option("--prompts", prompts,
                 "instead: write descriptive prompts of all categories, <id>.txt, into this folder")
      ->excludes(out_option);
  app.add_option("--train", options.train_images, "training images")->capture_default_str();
  app.add_option("--val", options.val_images, "validation images")->capture_default_str();
  app.add_option("--size", options.size, "side of an image, px")->capture_default_str();
  app.add_option("--seed", options.seed, "from which everything is drawn")->capture_default_str();
  app.add_flag("--others", options.others,
               "of the sprites outside all categories: a data set to pretrain a detector on");
  return divergen::run_program(app, argc, argv, [&] {
    if (!prompts.empty()) {
      write_prompts(world, prompts, options.seed);
      return 0;
    }
    if (out.empty())
      divergen::fail(divergen::ErrorKind::Usage, {"--out is missing", "divergen-miniworld",
                                                  "nothing says where to write", "name the folder of the data set"});
    const auto start = std::chrono::steady_clock::now();
    const bool made = divergen::miniworld::make_data_set(world, out, options);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    divergen::log::info(made ? "made " : "already there: ", options.train_images, " training and ", options.val_images,
                        " validation images in ", out, made ? divergen::cat(" in ", seconds, " s") : "");
    return 0;
  });
}
