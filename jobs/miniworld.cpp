// divergen-miniworld: makes the LVIS data set of the mini world.

#include <chrono>

#include <CLI/CLI.hpp>

#include "base/error.hpp"
#include "base/log.hpp"
#include "miniworld/data_set.hpp"

int main(int argc, char** argv) {
  CLI::App app{
      "Makes the training and validation scenes of the mini world as an LVIS v1 data set; does nothing when they are "
      "there.\n\nExample: divergen-miniworld --world data/mini --out runs/mini/data"};
  std::string world = "data/mini", out;
  divergen::miniworld::DataSetOptions options;
  app.add_option("--world", world, "folder of the mini world")->capture_default_str();
  app.add_option("--out", out, "folder of the data set")->required();
  app.add_option("--train", options.train_images, "training images")->capture_default_str();
  app.add_option("--val", options.val_images, "validation images")->capture_default_str();
  app.add_option("--size", options.size, "side of an image, px")->capture_default_str();
  app.add_option("--seed", options.seed, "from which everything is drawn")->capture_default_str();
  app.add_flag("--others", options.others,
               "of the sprites outside all categories: a data set to pretrain a detector on");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    const int code = app.exit(problem);
    return code == 0 ? 0 : divergen::exit_code(divergen::ErrorKind::Usage);
  }
  try {
    const auto start = std::chrono::steady_clock::now();
    const bool made = divergen::miniworld::make_data_set(world, out, options);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    divergen::log::info(made ? "made " : "already there: ", options.train_images, " training and ", options.val_images,
                        " validation images in ", out, made ? divergen::cat(" in ", seconds, " s") : "");
    return 0;
  } catch (const divergen::Error& error) {
    divergen::log::error(error.what());
    return divergen::exit_code(error.kind());
  } catch (const std::exception& error) {
    divergen::log::error("unexpected: ", error.what());
    return divergen::exit_code(divergen::ErrorKind::Bug);
  }
}
