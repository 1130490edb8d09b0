"""Bad input: the right exit code, a message that names the thing and says what to do, and nothing lost."""

import json
import shutil
import unittest

import system

RESULTS = ("pool", "train", "evaluate", "metrics.json")


def garble(file):
    """Turns the bits of a few bytes in the middle of a file; its length stays."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle:middle + 16] = bytes(byte ^ 0xFF for byte in data[middle:middle + 16])
    file.write_bytes(data)


class BadInput(unittest.TestCase):
    def assert_told(self, outcome, code, *words):
        """The exit code, all these words in the message, and no debris of a crash."""
        self.assertEqual(outcome.code, code, outcome)
        for word in words:
            self.assertIn(str(word), outcome.stderr)
        for debris in ("terminate called", "unexpected:", "what():", "Segmentation", "backtrace"):
            self.assertNotIn(debris, outcome.stderr)

    def own_config(self, folder, lines):
        config = folder / "own.toml"
        config.write_text(f'base = "{system.HOME}/e2e.toml"\n' + lines)
        return config

    def test_unknown_key(self):
        folder = system.fresh("unknown_key")
        config = self.own_config(folder, "[train]\nlr = 1e-3\niteratons = 3\n")
        outcome = system.divergen("run", folder / "run", config=config)
        self.assert_told(outcome, system.USAGE, f"{config}:4", "iteratons", "did you mean 'iterations'")
        self.assertFalse((folder / "run").exists())

    def test_wrong_type(self):
        folder = system.fresh("wrong_type")
        config = self.own_config(folder, '[train]\niterations = "many"\n')
        outcome = system.divergen("run", folder / "run", config=config)
        self.assert_told(outcome, system.USAGE, f"{config}:3", "train.iterations", "integer")
        self.assertFalse((folder / "run").exists())

    def test_missing_weights(self):
        folder = system.fresh("missing_weights")
        run = system.copy_of_reference(folder)
        before = system.contents(run, *RESULTS)
        weights = folder / "nowhere"
        outcome = system.divergen("generate", run, "--set", f"generators.sd.weights={weights}")
        self.assert_told(outcome, system.INPUT_OUTPUT, weights, "no such file")
        self.assertEqual(system.contents(run, *RESULTS), before)

    def test_corrupt_training_images(self):
        folder = system.fresh("corrupt_images")
        images = folder / "images"
        shutil.copytree(system.WORLD / "images", images)
        names = sorted(image["file_name"] if "file_name" in image else image["coco_url"].rsplit("/", 1)[1]
                       for image in system.read_json(system.WORLD / "train.json")["images"])
        files = [next(images.rglob(name.rsplit("/", 1)[-1])) for name in names]
        for file in files[::3]:  # 16 of 48, of which 24 are drawn: some are met
            file.write_bytes(file.read_bytes()[:100])
        run = folder / "run"
        outcome = system.divergen("train", run, "--training", "baseline", "--set", f"data.train_images={images}")
        self.assertEqual(outcome.code, 0, outcome)
        record = system.read_json(run / "stages/train.baseline.json")
        self.assertGreater(record["rejected"]["unreadable_image"], 0)
        self.assertLessEqual(record["rejected"]["unreadable_image"], 16)
        self.assertTrue(any(file.name in outcome.stderr for file in files[::3]), outcome)

    def test_corrupt_annotations(self):
        folder = system.fresh("corrupt_annotations")
        run = system.copy_of_reference(folder)
        before, hash_before = system.contents(run, *RESULTS), system.library_hash(run)
        annotations = folder / "train.json"
        text = (system.WORLD / "train.json").read_bytes()
        annotations.write_bytes(text[:len(text) // 2])
        outcome = system.divergen("run", run, "--set", f"data.train_json={annotations}")
        self.assert_told(outcome, system.BAD_DATA, annotations)
        self.assertEqual(system.contents(run, *RESULTS), before)
        self.assertEqual(system.library_hash(run), hash_before)

    def test_damaged_shards(self):
        run = system.copy_of_reference(system.fresh("damaged_shards"))
        damaged = [run / "generate/shard-000002.h5", run / "pool/shard-000001.h5"]
        for file in damaged:
            garble(file)
        verified = system.tool("verify", run, "--json")
        self.assert_told(verified, system.BAD_DATA, *damaged, "divergen repair")
        problems = json.loads(verified.stdout)["problems"]
        self.assertLessEqual({str(file) for file in damaged}, {problem["file"] for problem in problems})
        others = {problem["file"] for problem in problems if problem["file"].endswith(".h5")} - set(map(str, damaged))
        self.assertEqual(others, set())
        repaired = system.tool("repair", run)
        self.assert_told(repaired, 0, *damaged)
        self.assertFalse(any(file.exists() for file in damaged))
        again = system.divergen("run", run)
        self.assertEqual(again.code, 0, again)
        self.assertIn("generate: 1 of 6 shards to make", again.stderr)
        self.assertEqual(system.tool("verify", run).code, 0)
        self.assertEqual(system.results(run), system.results(system.REFERENCE))

    def test_empty_categories(self):
        folder = system.fresh("empty_categories")
        for text in ("", "[]"):
            categories = folder / "categories.json"
            categories.write_text(text)
            outcome = system.divergen("run", folder / "run", "--set", f"data.categories={categories}")
            self.assert_told(outcome, system.BAD_DATA, categories)

    def test_nothing_kept(self):
        run = system.copy_of_reference(system.fresh("nothing_kept"))
        outcome = system.divergen("run", run, "--set", "filter.min_area=0.99999")
        self.assert_told(outcome, system.BAD_DATA, "no instance was kept", "mask_too_small", "[filter]", "divergen filter")
        # Back to what kept some: all is as it was.
        again = system.divergen("run", run)
        self.assertEqual(again.code, 0, again)
        self.assertEqual(system.results(run), system.results(system.REFERENCE))


if __name__ == "__main__":
    unittest.main()
