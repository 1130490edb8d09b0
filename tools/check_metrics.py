#!/usr/bin/env python3
"""Checks the metrics.json of a mini run: all that the design promises is there, and generated data still helps.

    tools/check_metrics.py runs/mini/metrics.json [--require-gain POINTS]
"""
import argparse
import json
import sys

SUMMARIES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics")
    parser.add_argument("--require-gain", type=float, help="least gain of box AP_r, in points")
    args = parser.parse_args()
    metrics = json.load(open(args.metrics))
    wrong = []
    if metrics.get("schema") != 1:
        wrong.append("schema is not 1")
    for name in ("baseline", "divergen"):
        for kind in ("bbox", "segm"):
            values = metrics.get("evaluations", {}).get(name, {}).get(kind, {})
            wrong += [f"evaluations.{name}.{kind}.{key} is missing" for key in SUMMARIES if key not in values]
    if metrics.get("library", {}).get("instances", 0) <= 0:
        wrong.append("the library is empty")
    if not wrong:
        both = [metrics["evaluations"][name] for name in ("baseline", "divergen")]
        for kind in ("bbox", "segm"):
            for key in ("AP", "APr", "APc", "APf"):
                a, b = (100 * e[kind][key] for e in both)
                print(f"{kind} {key:4} {a:6.2f} -> {b:6.2f}  ({b - a:+.2f})")
        gain = 100 * (both[1]["bbox"]["APr"] - both[0]["bbox"]["APr"])
        if args.require_gain is not None and gain < args.require_gain:
            wrong.append(f"box AP_r gains {gain:.2f} points, less than {args.require_gain}")
    for text in wrong:
        print("check_metrics: " + text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
