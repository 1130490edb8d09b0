"""An undisturbed run: what it leaves, that it is done once, and that the number of ranks does not matter."""

import math
import unittest

import system

AVERAGES = {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"}


class Run(unittest.TestCase):
    def test_run(self):
        """Makes the reference run that the other tests compare with."""
        made = system.make_world()
        self.assertEqual(made.code, 0, made)
        run = system.divergen("run", system.REFERENCE)
        self.assertEqual(run.code, 0, run)

        metrics = system.read_json(system.REFERENCE / "metrics.json")
        self.assertEqual(metrics["schema"], 1)
        self.assertEqual(set(metrics["evaluations"]), {"baseline", "divergen"})
        for evaluation in metrics["evaluations"].values():
            self.assertEqual(set(evaluation), {"bbox", "segm"})
            for averages in evaluation.values():
                self.assertEqual(set(averages), AVERAGES)
                for name, value in averages.items():
                    self.assertTrue(value == -1 or 0 <= value <= 1, f"{name} = {value}")
        # The shared detector knows sprites: a detection pipeline that finds nothing at all is broken.
        self.assertGreater(metrics["evaluations"]["baseline"]["bbox"]["AP50"], 0)
        self.assertEqual(metrics["library"]["instances"], 48)
        self.assertEqual(metrics["library"]["hash"], system.library_hash(system.REFERENCE))
        self.assertTrue(metrics["config_hash"])
        self.assertTrue(metrics["software"])
        stages = metrics["stages"]
        for stage in ("plan", "generate", "annotate", "filter", "pool"):
            self.assertEqual(stages[stage]["items"], 48, stage)
        for training in ("baseline", "divergen"):
            self.assertEqual(stages[f"train.{training}"]["items"], 24)
            self.assertEqual(stages[f"evaluate.{training}"]["items"], 24)
        for stage in stages.values():
            self.assertTrue(math.isfinite(stage["seconds"]) and stage["seconds"] > 0)
            self.assertEqual(stage["rejected"], {})
        page = (system.REFERENCE / "report.html").read_text()
        self.assertIn("<html", page)
        self.assertIn("Do generated instances help", page)

    def test_second_run_changes_nothing(self):
        folders = ("plan.h5", "generate", "annotate", "filter", "filter.reference", "filter.scores", "pool", "train",
                   "evaluate", "stages")
        run = system.copy_of_reference(system.fresh("second_run"))
        before, results = system.contents(run, *folders), system.results(run)
        self.assertGreater(len(before), 50)
        again = system.divergen("run", run)
        self.assertEqual(again.code, 0, again)
        self.assertEqual(system.contents(run, *folders), before)
        self.assertEqual(system.results(run), results)
        for stage in ("plan", "generate", "annotate", "filter", "pool", "train.baseline", "evaluate.baseline",
                      "train.divergen", "evaluate.divergen"):
            self.assertIn(f"{stage}: complete already", again.stderr)
        self.assertNotIn(" to make on ", again.stderr)

    def test_any_number_of_ranks_makes_the_same_library(self):
        folder = system.fresh("rank_counts")
        expected = {name: digest for name, (digest, _) in system.contents(system.REFERENCE, "pool").items()}
        self.assertEqual(len(expected), 7)  # six shards and the index
        for ranks in (1, 3):
            run = folder / str(ranks)
            for stage in ("plan", "generate", "annotate", "filter", "pool"):
                outcome = system.divergen(stage, run, ranks=ranks)
                self.assertEqual(outcome.code, 0, outcome)
            made = {name: digest for name, (digest, _) in system.contents(run, "pool").items()}
            self.assertEqual(made, expected, f"on {ranks} ranks")
            self.assertEqual(system.library_hash(run), system.library_hash(system.REFERENCE))


if __name__ == "__main__":
    unittest.main()
