"""The second detector of the mini world: the study with a Swin backbone, through all stages."""

import json
import unittest

import system

# Sizes that windows of four tokens do not divide, so that maps are padded in every stage of the backbone.
SMALL = ("augment.train_size=72", "train.iterations=5", "train.warmup=1", "train.batch=2", "train.checkpoint_every=3",
         "train.log_every=1", "evaluate.short_side=72", "evaluate.long_side=100", "plan.shard_items=24",
         "pool.shard_rows=48")


def config_of(folder):
    """The tests' study over configs/mini_swin.toml: its trainings start from random weights."""
    text = system.CONFIG.replace("configs/mini.toml", "configs/mini_swin.toml")
    assert "mini_swin" in text
    file = folder / "swin.toml"
    file.write_text(text)
    return file


def options(*more):
    return [part for setting in (*SMALL, *more) for part in ("--set", setting)]


def tensors_of(file):
    """Names, types, shapes and bytes of a safetensors file, without its metadata: that names the configuration."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    del header["__metadata__"]
    return header, data[end:]


class Swin(unittest.TestCase):
    def test_all_stages(self):
        folder = system.fresh("swin")
        config, run = config_of(folder), folder / "run"
        outcome = system.divergen("run", run, *options(), config=config)
        self.assertEqual(outcome.code, 0, outcome)

        metrics = system.read_json(run / "metrics.json")
        self.assertEqual(set(metrics["evaluations"]), {"baseline", "divergen"})
        self.assertEqual(metrics["library"]["instances"], 48)
        # The library does not know which detector comes after it.
        self.assertEqual(metrics["stages"]["pool"]["items"], 48)
        for training in ("baseline", "divergen"):
            self.assertEqual(metrics["stages"][f"train.{training}"]["items"], 10)
            self.assertEqual(metrics["stages"][f"evaluate.{training}"]["rejected"], {})
            lines = (run / "train" / training / "log.jsonl").read_text().splitlines()
            self.assertEqual(len(lines), 5)
        self.assertIn("swin", (run / "config.toml").read_text())
        self.assertIn("<html", (run / "report.html").read_text())

        # Blocks that are computed again in backward give the same bits; nothing is pasted, so no library is needed.
        again = folder / "again"
        outcome = system.divergen("train", again, "--training", "baseline",
                                  *options("train.activation_checkpointing=true"), config=config)
        self.assertEqual(outcome.code, 0, outcome)
        for file in ("model.safetensors", "last.safetensors"):
            plain, computed_again = (tensors_of(r / "train/baseline" / file) for r in (run, again))
            self.assertTrue(plain == computed_again, f"{file}: the weights differ")

    def test_dry_run_needs_neither_data_nor_weights(self):
        for name in ("divergen_swinL", "baseline_swinL", "baseline_r50"):
            outcome = system.tool("train", system.SOURCE / f"configs/{name}.toml", "--dry-run", "--json", "--ranks", 16)
            self.assertEqual(outcome.code, 0, outcome)
            estimate = json.loads(outcome.stdout)["trainings"][0]
            self.assertGreater(estimate["parameters"], 100_000_000)
            self.assertGreater(estimate["device_bytes"], 4 * 4 * estimate["parameters"])
            self.assertGreater(estimate["node_bytes"], estimate["host_bytes"])
            self.assertGreater(estimate["hours"], 0)
            self.assertTrue(any("assumed" in line for line in estimate["basis"]), estimate)
        text = system.tool("train", system.SOURCE / "configs/divergen_swinL.toml", "--dry-run")
        for words in ("memory of each rank's device", "optimizer (AdamW)", "checkpoints kept", "hours", "180,000 steps"):
            self.assertIn(words, text.stdout)


if __name__ == "__main__":
    unittest.main()
