"""The instance factory: fused runs, further samples of rejected items, and repair row by row, as a user meets them."""

import json
import pathlib
import re
import shutil
import unittest

import system


class Factory(unittest.TestCase):
    def test_fused_makes_the_same_library_without_pictures_on_the_disk(self):
        folder = system.fresh("fused")
        for ranks in (1, 2, 3):
            run = folder / str(ranks)
            self.assertEqual(system.divergen("plan", run, ranks=ranks).code, 0)
            made = system.divergen("fused", run, ranks=ranks)
            self.assertEqual(made.code, 0, made)
            self.assertEqual(system.library_hash(run), system.library_hash(system.REFERENCE), f"on {ranks} ranks")
            for raw in ("generate", "annotate", "filter.scores"):
                self.assertFalse((run / raw).exists(), raw)
        verified = system.tool("verify", run)
        self.assertEqual(verified.code, 0, verified)
        self.assertEqual(system.divergen("report", run, "--set", "run.fused=true").code, 0)
        metrics = system.read_json(run / "metrics.json")
        for stage in ("generate", "annotate", "fused", "filter", "pool"):
            self.assertEqual(metrics["stages"][stage]["items"], 48, stage)
            self.assertEqual(metrics["stages"][stage]["rejected"], {}, stage)
        self.assertEqual(metrics["items"]["planned"], 48)
        self.assertEqual(metrics["items"]["kept"], 48)
        status = json.loads(system.tool("status", run, "--json", "--no-queue").stdout)
        self.assertEqual(sum(rank["items"] for rank in status["stages"]["fused"]["ranks"]), 48)
        reproduced = system.tool("reproduce", run, "--count", "2")
        self.assertEqual(reproduced.code, 0, reproduced)

    def test_kill9_of_a_fused_run(self):
        folder = system.fresh("fused_kill")
        run = folder / "run"
        self.assertEqual(system.divergen("plan", run).code, 0)
        for shards in (1, 3, 5):
            program = system.start("fused", run)
            program.wait_until(lambda: len(list(run.glob("fused/shard-*.h5"))) >= shards)
            program.kill()
        self.assertEqual(system.divergen("fused", run).code, 0)
        self.assertEqual(system.library_hash(run), system.library_hash(system.REFERENCE))

    def test_retries(self):
        folder = system.fresh("retries")
        spread = json.loads(system.tool("inspect", system.REFERENCE, "--json").stdout)["similarity"]
        bound = f"filter.similarity={spread['median']}"
        hashes, tables = set(), []
        for ranks, fused in ((1, False), (3, False), (2, True)):
            run = folder / f"{ranks}-{fused}"
            self.assertEqual(system.divergen("plan", run, ranks=ranks).code, 0)
            more = ("--set", "run.fused=true") if fused else ()
            made = system.divergen("retry", run, "--retry-rejected", "2", "--set", bound, *more, ranks=ranks)
            self.assertEqual(made.code, 0, made)
            self.assertIn("retry: round 1:", made.stderr)
            report = system.divergen("report", run, "--set", bound, "--set", "plan.retry_rejected=2", *more)
            self.assertEqual(report.code, 0, report)
            items = system.read_json(run / "metrics.json")["items"]
            for one in (items, *items["categories"].values()):
                self.assertEqual(one["planned"] + one["retries"], one["made"] + one["failed"])
                self.assertEqual(one["made"], one["kept"] + sum(one["rejected"].values()))
            self.assertEqual(items["planned"], 48)
            self.assertGreater(items["retries"], 0)
            self.assertGreater(items["kept"], 24, "more than without retries")
            hashes.add(system.library_hash(run))
            tables.append(items)
            verified = system.tool("verify", run)
            self.assertEqual(verified.code, 0, verified)
        self.assertEqual(len(hashes), 1)
        self.assertTrue(all(table == tables[0] for table in tables))

    def test_repair_makes_one_row_again(self):
        folder = system.fresh("repair_row")
        run = system.copy_of_reference(folder)
        before = system.contents(run, "generate", "annotate", "filter", "filter.scores", "pool")
        shard = pathlib.Path(sorted((run / "generate").glob("shard-*.h5"))[2])
        data = bytearray(shard.read_bytes())
        places = [match.start() for match in re.finditer(b"IDAT", data)]
        data[places[3] + 30] ^= 16
        shard.write_bytes(data)
        problems = json.loads(system.tool("verify", run, "--json").stdout)["problems"]
        self.assertEqual([p["column"] for p in problems if p["row"] is not None], ["heap"])
        repaired = system.tool("repair", run)
        self.assertEqual(repaired.code, 0, repaired)
        self.assertIn("7 of its 8 rows are kept", repaired.stderr)
        made = system.divergen("generate", run)
        self.assertEqual(made.code, 0, made)
        self.assertIn("1 of 8 rows are made again", made.stderr + "".join(
            log.read_text() for log in (run / "logs").glob("generate.rank-*.log")))
        self.assertEqual(sum(rank["items"] for rank in system.read_json(run / "stages/generate.json")["ranks"]), 1)
        after = system.contents(run, "generate", "annotate", "filter", "filter.scores", "pool")
        self.assertEqual({name: value[0] for name, value in after.items()},
                         {name: value[0] for name, value in before.items()})
        self.assertEqual({name for name in after if after[name][1] != before[name][1]},
                         {str(shard.relative_to(run))}, "nothing else is touched")
        shutil.rmtree(folder)


if __name__ == "__main__":
    unittest.main()
