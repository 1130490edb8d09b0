#include "config/reader.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "support/fixtures.hpp"

namespace divergen::config {
namespace {

struct Settings {
  std::int64_t steps = 10;
  double rate = 0.5;
  std::string kind = "a";
};

Settings read(const Table& table) {
  Settings s;
  Reader root(table, "");
  root.section("train", [&](Reader& r) {
    r.key("steps", s.steps, "how many", {1, 100});
    r.key("rate", s.rate, "how fast");
    r.key("kind", s.kind, "which", {"alpha", "beta"});
  });
  root.finish();
  return s;
}

std::string message(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.kind() == ErrorKind::Config ? error.what() : "another kind";
  }
}

class Layers : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) { write_file_atomic(folder / name, text); }
  std::string outcome(const std::string& text, std::vector<std::string> overrides = {}) {
    write("c.toml", text);
    return message([&] { read(load_layers(folder / "c.toml", overrides)); });
  }
  test::TemporaryFolder folder;
};

}  // namespace

TEST_F(Layers, LaterLayersAndOverridesWin) {
  write("below.toml", "[train]\nsteps = 1\nrate = 2\n");
  write("c.toml", "base = \"below.toml\"\n[train]\nsteps = 3\n");

  const Settings s = read(load_layers(folder / "c.toml", {"train.kind=beta", "train.rate=0.25"}));

  EXPECT_EQ(s.steps, 3);
  EXPECT_EQ(s.rate, 0.25);
  EXPECT_EQ(s.kind, "beta");
}

TEST_F(Layers, UnknownKeyNamesFileLineAndNearest) {
  const std::string text = outcome("[train]\nstps = 3\n");

  EXPECT_NE(text.find("c.toml:2:1 train.stps"), std::string::npos) << text;
  EXPECT_NE(text.find("did you mean 'steps'"), std::string::npos) << text;
}

TEST_F(Layers, WrongTypesAndRangesAreNamed) {
  EXPECT_NE(outcome("[train]\nsteps = \"many\"\n").find("a text, not an integer"), std::string::npos);
  EXPECT_NE(outcome("[train]\nsteps = 1.5\n").find("not an integer"), std::string::npos);
  EXPECT_NE(outcome("[train]\nsteps = 101\n").find("between 1 and 100"), std::string::npos);
  EXPECT_NE(outcome("[train]\nrate = nan\n").find("not finite"), std::string::npos);
  EXPECT_NE(outcome("[train]\nkind = \"bta\"\n").find("did you mean 'beta'"), std::string::npos);
  EXPECT_NE(outcome("train = 1\n").find("not a table"), std::string::npos);
  EXPECT_NE(outcome("[train\n").find("c.toml:1"), std::string::npos);
  EXPECT_NE(outcome("", {"train.steps"}).find("not key=value"), std::string::npos);
}

TEST_F(Layers, RefusesABaseThatIncludesItself) {
  write("a.toml", "base = \"b.toml\"\n");
  write("b.toml", "base = \"a.toml\"\n");

  EXPECT_NE(message([&] { load_layers(folder / "a.toml"); }).find("includes itself"), std::string::npos);
}

TEST_F(Layers, EffectiveConfigReadsBackTheSame) {
  write("c.toml", "[train]\nsteps = 3\nrate = 0.1\nkind = \"alpha\"\n");
  const Table table = load_layers(folder / "c.toml", {"train.rate=1e-5"});

  write("again.toml", to_toml(table, true));
  const Table again = load_layers(folder / "again.toml");

  EXPECT_EQ(to_toml(again, false), to_toml(table, false));
  EXPECT_NE(to_toml(table, true).find("# --set train.rate"), std::string::npos);
}

}  // namespace divergen::config
