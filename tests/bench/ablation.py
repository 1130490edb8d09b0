#!/usr/bin/env python3
"""What generated instances bring in the mini world, over three seeds of training: mean and spread.

    tests/bench/ablation.py [--out runs/ablation] [--ranks 2]

Runs configs/ablation/seeds.toml through jobs/mini.sh (continues where it stopped), prints a table and, as its last
line, one JSON object.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SEEDS = (1, 2, 3)
KEYS = ("AP", "APr", "APc", "APf")


def spread(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(ROOT / "runs" / "ablation"))
    parser.add_argument("--ranks", default="2")
    args = parser.parse_args()
    command = [str(ROOT / "jobs" / "mini.sh"), "--ranks", args.ranks, "--out", args.out, "--config",
               str(ROOT / "configs" / "ablation" / "seeds.toml")]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code != 0:
        return code
    evaluations = json.load(open(pathlib.Path(args.out) / "metrics.json"))["evaluations"]
    result = {"name": "ablation.seeds", "seeds": len(SEEDS)}
    print(f"{'':12}{'without':>16}{'with':>16}{'gain':>16}   (points, mean ± deviation over {len(SEEDS)} seeds)")
    for kind in ("bbox", "segm"):
        for key in KEYS:
            without, with_ = ([100 * evaluations[f"{name}-{seed}"][kind][key] for seed in SEEDS]
                              for name in ("baseline", "divergen"))
            gains = [b - a for a, b in zip(without, with_)]
            cells = "".join(f"{statistics.mean(v):9.2f} ± {spread(v):4.2f}" for v in (without, with_, gains))
            print(f"{kind} {key:<7}{cells}")
            result[f"{kind}_{key}_gain"] = round(statistics.mean(gains), 3)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
