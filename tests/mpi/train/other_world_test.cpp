// resume_other_world (reference/reliability.md §6): a training that stopped on some number of ranks goes on with
// another one, on the same stream of samples and with the same losses. The program starts itself under mpiexec.
//
// Equal to rounding is what the ranks' shares do not enter: all of the toy's loss, and CenterNet's losses of the
// detector. The ROI losses of the reference draw and divide by rank, so that they have another value on another number
// of ranks, interrupted or not.

#include <sys/wait.h>

#include <cstdlib>

#include "mpi/train/small_world.hpp"
#include "mpi/train/toy.hpp"
#include "stages/train/train.hpp"
#include "support/fixtures.hpp"
#include "support/full.hpp"

namespace divergen::test {
namespace {

std::string own_path;  // of this program

// ---- the ranks: --worker WHAT FOLDER STEPS STOP --------------------------------------------------------------------

class ToyWorker : public ToyTraining {
 public:
  /// Trains in `folder`; the samples of each rank go to stream-<start>.<rank>.
  static void train(const Path& folder, std::int64_t steps, std::int64_t stop) {
    stages::TrainingOptions set = ToyWorker().options("toy", steps);
    set.folder = folder;
    set.settings.log_every = 1;
    ToyTask task(set.settings.batch);
    std::int64_t last = -1;
    task.at_step = [&](std::int64_t iteration, int) { last = iteration; };
    run(set, task, [&] { return last + 1 == stop && world().rank() == world().size() - 1; });
    std::string lines;
    for (const auto& [step, sample] : task.stream) lines += cat(step, " ", sample, "\n");
    write_file_atomic(folder / cat("stream-", world().size(), ".", world().rank()), lines);
  }
  void TestBody() override {}
};

void train_detector(const Path& folder, std::int64_t steps, std::int64_t stop) {
  SmallWorld small;
  small.training.iterations = steps;
  small.training.log_every = 1;
  stages::RunContext context = small.run("run");
  const Path training = context.dir.training("small");
  if (world().is_root() && std::filesystem::exists(folder)) {
    make_folder(training.parent_path());
    std::filesystem::copy(folder, training, std::filesystem::copy_options::recursive);
  }
  world().barrier();
  std::int64_t asked = 0;
  context.stop_requested = [&] { return ++asked == stop; };
  try {
    run_train(context, small.training);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Stopped) throw;
  }
  if (!world().is_root()) return;
  std::filesystem::remove_all(folder);
  std::filesystem::copy(training, folder, std::filesystem::copy_options::recursive);
}

int run_worker(int argc, char** argv) {
  comm::World ranks(&argc, &argv);
  world_slot() = &ranks;
  const std::string what = argv[2];
  const std::int64_t steps = std::atoll(argv[4]), stop = std::atoll(argv[5]);
  try {
    if (what == "toy") ToyWorker::train(argv[3], steps, stop);
    else train_detector(argv[3], steps, stop);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    ranks.abort(exit_code(error.kind()));
  }
  return 0;
}

// ---- what starts them ----------------------------------------------------------------------------------------------

class ResumeOtherWorld : public testing::Test {
 protected:
  /// On so many ranks, in a folder of this name, up to `steps` or a stop after `stop` of them.
  void train(const std::string& what, const std::string& name, int ranks, std::int64_t steps, std::int64_t stop) {
    const std::string command =
        cat(DIVERGEN_MPIEXEC, " --oversubscribe --bind-to none -n ", ranks, " '", own_path, "' --worker ", what, " '",
            (folder / name).string(), "' ", steps, " ", stop, " > '", (folder / "output").string(), "' 2>&1");
    const int status = std::system(command.c_str());
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << read_file(folder / "output");
  }
  void copy(const std::string& from, const std::string& to) const {
    std::filesystem::copy(folder / from, folder / to, std::filesystem::copy_options::recursive);
  }
  std::vector<nlohmann::json> log_of(const std::string& name) const {
    std::vector<nlohmann::json> out;
    for (const std::string& line : timeless_log(folder / name)) out.push_back(nlohmann::json::parse(line));
    return out;
  }
  /// (step, sample) of all ranks of a start.
  std::multiset<std::pair<std::int64_t, std::int64_t>> stream_of(const std::string& name, int ranks) const {
    std::multiset<std::pair<std::int64_t, std::int64_t>> out;
    for (int r = 0; r < ranks; ++r)
      for (const std::string& line : split(read_file(folder / name / cat("stream-", ranks, ".", r)), '\n'))
        if (const auto words = split(line, ' '); words.size() == 2)
          out.emplace(std::stoll(words[0]), std::stoll(words[1]));
    return out;
  }
  TemporaryFolder folder;
};

double apart(double a, double b) { return std::abs(a - b) / std::max(std::abs(b), 1e-12); }

}  // namespace

TEST_F(ResumeOtherWorld, Toy) {
  constexpr std::int64_t kSteps = 40, kStop = 17;
  const int first = 4;
  train("toy", "straight", first, kSteps, -1);
  train("toy", "stopped", first, kSteps, kStop);
  const auto straight = log_of("straight");
  ASSERT_EQ(straight.size(), static_cast<std::size_t>(kSteps));
  auto rest = stream_of("straight", first);
  std::erase_if(rest, [](const auto& one) { return one.first < kStop; });
  EXPECT_GT(rest.size(), 100u);

  for (const int ranks : {1, 2, 3}) {
    const std::string name = cat("on-", ranks);
    copy("stopped", name);
    train("toy", name, ranks, kSteps, -1);

    EXPECT_EQ(stream_of(name, ranks), rest) << ranks << " ranks";
    const auto log = log_of(name);
    ASSERT_EQ(log.size(), straight.size());
    double worst = 0;
    for (std::size_t i = 0; i < log.size(); ++i)
      for (const auto& [key, value] : straight[i].items())
        worst = std::max(worst, apart(log[i].at(key).get<double>(), value.get<double>()));
    EXPECT_LT(worst, 1e-6) << ranks << " ranks";
    std::printf("stopped on %d ranks, went on with %d: lines of the log are apart by at most %.1e\n", first, ranks,
                worst);
  }
}

TEST_F(ResumeOtherWorld, Detector) {
  constexpr std::int64_t kSteps = 6, kStop = 3;
  const int first = 3;
  train("detector", "straight", first, kSteps, -1);
  train("detector", "stopped", first, kSteps, kStop);
  const auto straight = log_of("straight");
  for (const int ranks : is_full() ? std::vector<int>{1, 2, 6} : std::vector<int>{1, 2}) {
    const std::string name = cat("on-", ranks);
    copy("stopped", name);
    train("detector", name, ranks, kSteps, -1);

    const auto log = log_of(name);
    ASSERT_EQ(log.size(), static_cast<std::size_t>(kSteps));
    for (std::size_t i = 0; i < kStop; ++i) EXPECT_EQ(log[i], straight[i]);
    // The first step that follows has the same weights: its losses say whether it has the same samples.
    double worst = 0;
    for (const char* key : {"loss_centernet_loc", "loss_centernet_agn_pos", "loss_centernet_agn_neg"})
      worst = std::max(worst, apart(log[kStop].at(key).get<double>(), straight[kStop].at(key).get<double>()));
    EXPECT_LT(worst, 1e-5) << ranks << " ranks";
    EXPECT_EQ(log[kStop].at("lr"), straight[kStop].at("lr"));
    std::printf("stopped on %d ranks, went on with %d: CenterNet's losses are apart by %.1e\n", first, ranks, worst);
  }
}

}  // namespace divergen::test

int main(int argc, char** argv) {
  if (argc > 5 && std::string(argv[1]) == "--worker") return divergen::test::run_worker(argc, argv);
  divergen::test::own_path = std::filesystem::canonical("/proc/self/exe").string();
  for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMP_NUM_THREADS"})
    ::setenv(name, "1", 1);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
