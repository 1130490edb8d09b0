"""Libraries in and out: reproduce, export, import, merge, diff of the reference run."""

import json
import pathlib
import shutil
import unittest

import system


class Library(unittest.TestCase):
    def test_reproduce(self):
        outcome = system.tool("reproduce", system.REFERENCE, "--count", 3)
        self.assertEqual(outcome.code, 0, outcome)
        told = json.loads(outcome.stdout)
        self.assertEqual((told["instances"], told["equal"]), (3, 3))
        item = told["results"][1]["item"]
        one = system.tool("reproduce", system.REFERENCE, item)
        self.assertEqual(one.code, 0, one)
        self.assertEqual([r["item"] for r in json.loads(one.stdout)["results"]], [item])
        # Other steps are other pictures: refused before anything is made.
        more = ("--set", "generators.sd.steps=4", "--set", "generators.deepfloyd.steps=4")
        other = system.tool("reproduce", system.REFERENCE, item, *more)
        self.assertEqual(other.code, system.BAD_DATA, other)
        self.assertIn("steps", other.stderr)
        absent = system.tool("reproduce", system.REFERENCE, "0123456789abcdef")
        self.assertEqual(absent.code, system.USAGE, absent)

    def test_exchange(self):
        folder = system.fresh("exchange")
        for form in ("coco", "lvis", "png", "webdataset"):
            outcome = system.tool("export", system.REFERENCE, "--to", form, "--out", folder / form)
            self.assertEqual(outcome.code, 0, outcome)
            self.assertTrue((folder / form / "croissant.json").is_file())
        back = system.tool("import", folder / "png", "--out", folder / "back")
        self.assertEqual(back.code, 0, back)
        self.assertEqual(system.library_hash(folder / "back"), system.library_hash(system.REFERENCE))
        same = system.tool("diff", system.REFERENCE, folder / "back", "--json")
        self.assertEqual(same.code, 0, same)
        few = system.tool("export", system.REFERENCE, "--to", "png", "--out", folder / "few", "--limit", 5)
        self.assertEqual(few.code, 0, few)
        self.assertEqual(system.tool("import", folder / "few", "--out", folder / "five").code, 0)
        less = system.tool("diff", system.REFERENCE, folder / "five", "--json")
        self.assertEqual(less.code, 1, less)
        self.assertEqual(json.loads(less.stdout)["same"], 5)
        merged = system.tool("merge", folder / "five", system.REFERENCE, "--out", folder / "merged", "--json")
        self.assertEqual(merged.code, 0, merged)
        self.assertEqual(json.loads(merged.stdout)["duplicates"], 5)
        self.assertEqual(system.library_hash(folder / "merged"), system.library_hash(system.REFERENCE))
        again = system.tool("export", system.REFERENCE, "--to", "png", "--out", folder / "few")
        self.assertEqual(again.code, system.USAGE, again)
        shutil.rmtree(folder)

    def test_repair_makes_exactly_what_was_bad(self):
        folder = system.fresh("repair")
        run = system.copy_of_reference(folder)
        before = system.contents(run, "generate", "annotate", "filter", "pool")
        shard = pathlib.Path(sorted((run / "pool").glob("shard-*.h5"))[1])
        data = bytearray(shard.read_bytes())
        data[data.find(b"IDAT") + 20] ^= 8
        shard.write_bytes(data)
        found = system.tool("verify", run, "--json")
        self.assertEqual(found.code, system.BAD_DATA, found)
        problems = json.loads(found.stdout)["problems"]
        self.assertEqual([(pathlib.Path(p["file"]).name, p["column"]) for p in problems], [(shard.name, "heap")])
        self.assertEqual(problems[0]["row"], 0)
        repaired = system.tool("repair", run)
        self.assertEqual(repaired.code, 0, repaired)
        self.assertFalse(shard.exists())
        self.assertEqual(system.divergen("pool", run).code, 0)
        after = system.contents(run, "generate", "annotate", "filter", "pool")
        self.assertEqual({name: value[0] for name, value in after.items()}, {name: value[0] for name, value in before.items()})
        touched = {name for name in after if after[name][1] != before[name][1]}
        self.assertLessEqual(touched, {f"pool/{shard.name}", "pool/index.h5"})


if __name__ == "__main__":
    unittest.main()
