// ckpt_corrupt (reference/reliability.md §6): every file of a checkpoint deleted, cut at ten points, and with flipped
// bits, 1,000 cases in full: each is found, the training goes on from the checkpoint before, and the log says so. When
// all are damaged it ends with an error and touches none.

#include "mpi/train/toy.hpp"
#include "support/full.hpp"

namespace divergen::test {
namespace {

constexpr const char* kFiles[] = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"};
constexpr int kCuts = 10;

class CkptCorrupt : public ToyTraining {
 protected:
  void SetUp() override {
    ToyTraining::SetUp();
    set_ = options("training", 30);
    ToyTask task(set_.settings.batch);
    std::int64_t last = -1;
    task.at_step = [&](std::int64_t iteration, int) { last = iteration; };
    ASSERT_EQ(run(set_, task, [&] { return last == 19; }), 20);
    for (const char* file : kFiles) good_[file] = read_file(newest() / file);
  }
  Path newest() const { return checkpoint_of(set_.folder, 20); }

  /// In place, as a disk would do it.
  static void overwrite(const Path& file, const std::string& bytes) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  }
  void mend() const {
    for (const auto& [file, bytes] : good_) overwrite(newest() / file, bytes);
  }

  /// Whether the damaged checkpoint is named in the log and the one before it is taken.
  void expect_fall_back(const std::string& what) {
    const Path log = listen();
    const auto found = stages::newest_checkpoint(set_.folder / "checkpoints");
    const std::string said = heard(log);
    ++cases_;
    const bool detected = found && found->iteration == 10 && said.find(newest().string()) != std::string::npos &&
                          said.find("is damaged and is not used") != std::string::npos;
    detected_ += detected;
    EXPECT_TRUE(detected) << what << ": " << said;
  }

  stages::TrainingOptions set_;
  std::map<std::string, std::string> good_;
  int cases_ = 0, detected_ = 0;
};

}  // namespace

TEST_F(CkptCorrupt, EveryDamageIsDetected) {
  Rng rng(91);
  // In full: four files, each deleted, cut ten times, and 239 flipped bits.
  const int flips = times(40, 239);
  for (const char* file : kFiles) {
    const std::string& bytes = good_.at(file);
    std::filesystem::remove(newest() / file);
    expect_fall_back(cat(file, " deleted"));
    for (int cut = 0; cut < kCuts; ++cut) {
      // The first and the last byte make the difference in two of them.
      const std::uint64_t size = cut == 0 ? 0 : cut == 1 ? bytes.size() - 1 : rng.below(bytes.size());
      overwrite(newest() / file, bytes.substr(0, size));
      expect_fall_back(cat(file, " cut to ", size, " of ", bytes.size(), " bytes"));
    }
    for (int flip = 0; flip < flips; ++flip) {
      std::string damaged = bytes;
      const std::uint64_t bit = rng.below(8 * bytes.size());
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
      overwrite(newest() / file, damaged);
      expect_fall_back(cat("bit ", bit, " of ", file, " flipped"));
    }
    mend();
  }
  EXPECT_EQ(stages::newest_checkpoint(set_.folder / "checkpoints")->iteration, 20);
  std::printf("ckpt_corrupt: %d of %d cases detected\n", detected_, cases_);
  EXPECT_EQ(cases_, 4 * (1 + kCuts + flips));
}

TEST_F(CkptCorrupt, TrainingGoesOnFromTheOneBefore) {
  const auto straight = options("straight", 30);
  ASSERT_EQ(run(straight), 30);
  int round = 0;
  for (const char* file : kFiles)
    for (const char* damage : {"deleted", "cut", "flipped"}) {
      auto set = set_;
      set.folder = root_ / cat("damaged-", round++);
      std::filesystem::copy(set_.folder, set.folder, std::filesystem::copy_options::recursive);
      const Path victim = checkpoint_of(set.folder, 20) / file;
      std::string bytes = good_.at(file);
      if (*damage == 'd') std::filesystem::remove(victim);
      if (*damage == 'c') overwrite(victim, bytes.substr(0, bytes.size() / 3));
      bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 2);
      if (*damage == 'f') overwrite(victim, bytes);
      const Path log = listen();
      ToyTask task(set.settings.batch);
      std::int64_t first = -1;
      task.at_step = [&](std::int64_t iteration, int) { first = first < 0 ? iteration : first; };

      ASSERT_EQ(run(set, task), 30) << file << " " << damage;

      EXPECT_EQ(first, 10) << file << " " << damage;
      const std::string said = heard(log);
      EXPECT_NE(said.find("iter-00000020 is damaged and is not used: "), std::string::npos) << said;
      EXPECT_NE(said.find("goes on at iteration 10 from"), std::string::npos) << said;
      expect_same_training(set.folder, straight.folder, 30);
    }
}

TEST_F(CkptCorrupt, WhenAllAreDamagedNothingIsDeleted) {
  for (const std::int64_t iteration : {10, 20})
    std::filesystem::remove(checkpoint_of(set_.folder, iteration) / "optimizer.safetensors");
  const auto contents = [&] {
    std::map<std::string, std::string> out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(set_.folder))
      if (entry.is_regular_file()) out[entry.path().string()] = read_file(entry.path());
    return out;
  };
  const auto before = contents();

  for (int start = 0; start < 2; ++start) {
    const auto error = error_of([&] { run(set_); });

    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::Data);
    const std::string said = error->what();
    for (const std::string& part : {(set_.folder / "checkpoints").string(), std::string("all 2 are damaged"),
                                    std::string("iter-00000020: optimizer.safetensors is missing")})
      EXPECT_NE(said.find(part), std::string::npos) << part << " is not in: " << said;
    EXPECT_EQ(contents(), before);
  }

  // With one put back it goes on.
  overwrite(newest() / "optimizer.safetensors", good_.at("optimizer.safetensors"));
  EXPECT_EQ(run(set_), 30);
}

}  // namespace divergen::test

DIVERGEN_MPI_MAIN()
