"""Small scaling studies of the small world: measured, killed and gone on with, simulated."""

import csv
import json
import os
import signal
import unittest

import system


def study(out, *options, config=None):
    return system.Program(system.BIN / "divergen", "scaling", config or system.HOME / "e2e.toml", "--out", out, *options)


def results(out):
    """The study's JSON, its CSV rows and its page."""
    found = {kind: list(out.glob(f"scaling-*.{kind}")) for kind in ("json", "csv", "html")}
    assert all(len(files) == 1 for files in found.values()), found
    with open(found["csv"][0], newline="") as file:
        rows = list(csv.DictReader(file))
    return system.read_json(found["json"][0]), rows, found["html"][0].read_text()


class Scaling(unittest.TestCase):
    def check(self, made, rows, ranks, repeats):
        self.assertEqual([point["ranks"] for point in made["points"]], ranks)
        self.assertEqual(made["failed_runs"], 0)
        self.assertEqual(len(rows), len(ranks) * (repeats + 1))
        for point in made["points"]:
            self.assertEqual(point["runs"], repeats)
            self.assertGreater(point["warm_up_seconds"], 0)
        for row in rows:
            parts = sum(float(row[name]) for name in row if name.endswith("_seconds") and
                        name not in ("work_seconds", "last_5_percent_seconds"))
            self.assertAlmostEqual(parts, float(row["seconds"]), delta=0.02 * float(row["seconds"]) + 0.01)

    def test_generate_killed_and_continued(self):
        """Runs that are done before a kill -9 stay as they are; the rest is made; all make the same pictures."""
        out = system.fresh("scaling") / "study"
        options = ["--stage", "generate", "--ranks", "1,2", "--repeat", "2", "--items", "8", "--set",
                   "plan.shard_items=2", "--set", "generators.sd.steps=1", "--set", "generators.deepfloyd.steps=1"]
        first = study(out, *options)
        self.assertTrue(first.wait_until(lambda: (out / "points/p000001/r1/run.json").exists(), 400), first.stderr)
        first.kill()
        done = {file: file.read_bytes() for file in out.glob("points/*/*/run.json")}
        self.assertGreaterEqual(len(done), 2)
        self.assertLess(len(done), 6)
        second = study(out, *options).end()
        self.assertEqual(second.code, 0, second)
        for file, text in done.items():
            self.assertEqual(file.read_bytes(), text, "a run that was done is made again")
        made, rows, page = results(out)
        self.check(made, rows, [1, 2], 2)
        self.assertEqual({run["items"] for run in made["runs"]}, {8})
        self.assertEqual(len({run["results"] for run in made["runs"]}), 1, "the pictures depend on the ranks")
        self.assertIn("byte for byte", page)
        self.assertFalse(list(out.glob("points/*/*/run/generate")), "products are left behind")
        other = study(out, *options, "--set", "seed=5").end()
        self.assertEqual(other.code, system.USAGE, other)
        self.assertIn("another study", other.stderr)
        # What was measured, carried on to ranks that are not there.
        more = study(out, *options, "--simulate", "100").end()
        self.assertEqual(more.code, 0, more)
        made, rows, page = results(out)
        simulated = [point for point in made["points"] if point["simulated"]]
        self.assertEqual([point["ranks"] for point in simulated], [100])
        self.assertTrue(all(point["predicted_seconds"] > 0 for point in made["points"] if not point["simulated"]))
        self.assertIn("simulated", page)
        self.assertEqual(len(rows), 7)

    def test_train(self):
        """The same samples at both points, and so nearly the same loss."""
        out = system.fresh("scaling_train") / "study"
        ended = study(out, "--stage", "train", "--training", "baseline", "--ranks", "1,2", "--repeat", "1", "--items",
                      "8").end()
        self.assertEqual(ended.code, 0, ended)
        made, rows, page = results(out)
        self.check(made, rows, [1, 2], 1)
        losses = {run["ranks"]: run["losses"] for run in made["runs"] if run["repeat"] == 1}
        self.assertEqual([samples for samples, _ in losses[1]], [samples for samples, _ in losses[2]])
        self.assertAlmostEqual(losses[1][-1][1], losses[2][-1][1], delta=0.02 * losses[1][-1][1])
        self.assertIn("The same training", page)
        odd = study(out.parent / "odd", "--stage", "train", "--training", "baseline", "--ranks", "1,3").end()
        self.assertEqual(odd.code, system.USAGE, odd)
        self.assertIn("cannot be shared evenly", odd.stderr)

    def test_failures_are_counted_and_repeated(self):
        """A run whose ranks cannot work is a failure, not the end; the same command tries again."""
        out = system.fresh("scaling_failures") / "study"
        options = ["--stage", "evaluate", "--training", "baseline", "--ranks", "1", "--repeat", "1", "--warm-up", "0",
                   "--items", "4", "--set", f"run.dir={system.REFERENCE}"]
        hidden = system.WORLD / "categories.json.away"
        os.rename(system.WORLD / "categories.json", hidden)
        try:
            failed = study(out, *options).end()
        finally:
            os.rename(hidden, system.WORLD / "categories.json")
        self.assertNotEqual(failed.code, 0, failed)
        again = study(out, *options).end()
        self.assertEqual(again.code, 0, again)
        made, rows, page = results(out)
        self.assertEqual(made["failed_runs"], 1)
        self.assertEqual([row["kind"] for row in rows].count("failed"), 1)
        self.assertEqual(made["points"][0]["runs"], 1)
        self.assertEqual(made["points"][0]["items"], 4)
        self.assertIn("1 failed", page)

    def test_stop(self):
        """SIGTERM: the run in work is given up, and the exit code asks for another start."""
        out = system.fresh("scaling_stop") / "study"
        program = study(out, "--stage", "generate", "--ranks", "1", "--repeat", "1", "--items", "400")
        console = out / "points/p000001/r0/console.log"
        self.assertTrue(program.wait_until(lambda: console.exists() and "loading" in console.read_text()), program.stderr)
        program.process.send_signal(signal.SIGTERM)
        ended = program.end()
        self.assertEqual(ended.code, system.STOPPED, ended)
        self.assertFalse((console.parent / "run.json").exists())

    def test_dry_run_writes_nothing(self):
        out = system.fresh("scaling_dry") / "study"
        shown = study(out, "--stage", "annotate", "--mode", "weak", "--ranks", "1,2,64", "--items", "10", "--dry-run").end()
        self.assertEqual(shown.code, 0, shown)
        self.assertIn("640", shown.stdout)
        self.assertIn("fewer than four shards a rank", shown.stdout)
        self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
