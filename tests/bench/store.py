#!/usr/bin/env python3
"""Speed of the instance library beside the reference's way, one JSON line each: name, ours, peer, ratio, target.

    tests/bench/store.py [--large] [--pictures N]        (after a build; --large: also the index of 100 million)

Pictures are RGBA cut-outs of 128 to 256 px, made here. The peers (Pillow, OpenCV, h5py) live in an environment of their
own, <deps>/store-env (<deps>: tools/setup.sh). One thread each; rates are by processor time, so that a busy machine
counts for both sides alike; figures with a flush to disk are by the clock, medians of rounds that take turns.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PINS = ["pillow", "opencv-python-headless==4.12.*", "h5py", "numpy==2.2.*"]
COLUMNS = ["item_id", "category", "generator", "prompt", "sample", "seed", "width", "height", "box_x", "box_y",
           "source_width", "source_height", "area", "similarity", "clip_score", "flags", "png_hash", "record_hash",
           "heap_offset", "heap_length", "row_hash"]


def make_environment():
    deps = pathlib.Path(subprocess.run([ROOT / "tools/setup.sh", "--print-deps"], check=True, text=True,
                                       capture_output=True).stdout.strip()).parent
    folder = deps / "store-env"
    python, marker = folder / "bin/python", folder / ".complete"
    if marker.is_file() and marker.read_text() == "\n".join(PINS):
        return python
    print(f"store.py: installing {', '.join(PINS)} into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS], check=True)
    marker.write_text("\n".join(PINS))
    return python


def make_pictures(folder, count):
    """Textured objects with camera-like noise and a soft edge on a busy ground: what a generator's cut-outs are like."""
    import numpy as np
    rng = np.random.default_rng(7)

    def texture(height, width, cell):
        grid = rng.random((height // cell + 2, width // cell + 2, 3))
        y, x = np.arange(height) / cell, np.arange(width) / cell
        j, i = y.astype(int), x.astype(int)
        b, a = (y - j)[:, None, None], (x - i)[None, :, None]
        row0, row1 = grid[j], grid[j + 1]
        return ((row0[:, i] * (1 - a) + row0[:, i + 1] * a) * (1 - b) + (row1[:, i] * (1 - a) + row1[:, i + 1] * a) * b)

    pictures = []
    for n in range(count):
        width, height = (int(v) for v in rng.integers(128, 257, 2))
        colour = 0.55 * texture(height, width, 40) + 0.3 * texture(height, width, 12) + 0.15 * texture(height, width, 4)
        colour = colour * 255 + rng.normal(0, 1.5, (height, width, 3))
        y, x = np.mgrid[:height, :width]
        distance = 1 - np.hypot((x - width / 2) / (width / 2), (y - height / 2) / (height / 2))
        alpha = np.clip(distance * 12000 / width, 0, 255)
        rgba = np.dstack([np.clip(colour, 0, 255), alpha]).astype(np.uint8)
        pictures.append(rgba)
        with open(folder / f"{n:05d}.rgba", "wb") as file:
            file.write(np.array([width, height], "<i4").tobytes() + rgba.tobytes())
    return pictures


def say(name, ours, peer, ratio, target, **more):
    print(json.dumps({"name": name, "ours": ours, "peer": peer, "ratio": ratio, "target": target, **more}), flush=True)


def measure(program, folder, options):
    import cv2
    import h5py
    import numpy as np
    from PIL import Image
    cv2.setNumThreads(1)

    def ours(*arguments):
        return json.loads(subprocess.run([program, *map(str, arguments)], check=True, text=True, capture_output=True).stdout)

    pictures = make_pictures(folder, options.pictures)
    files = folder / "files"
    files.mkdir()
    rates = {"ours": [], "pillow": [], "cv2": []}
    sizes = {}
    for _ in range(5):
        start = time.process_time()
        sizes["pillow"] = 0
        for n, rgba in enumerate(pictures):
            Image.fromarray(rgba).save(files / f"{n:05d}.png")
        rates["pillow"].append(len(pictures) / (time.process_time() - start))
        sizes["pillow"] = sum((files / f"{n:05d}.png").stat().st_size for n in range(len(pictures)))
        start = time.process_time()
        for n, rgba in enumerate(pictures):
            cv2.imwrite(str(files / f"c{n:05d}.png"), rgba)
        rates["cv2"].append(len(pictures) / (time.process_time() - start))
        sizes["cv2"] = sum((files / f"c{n:05d}.png").stat().st_size for n in range(len(pictures)))
        made = ours("encode", folder)
        rates["ours"].append(made["pictures"] / made["cpu_seconds"])
        sizes["ours"] = made["shard_bytes"]
    rate = {name: statistics.median(values) for name, values in rates.items()}
    share = sizes["ours"] / sizes["pillow"]
    say("store.encode_write", rate["ours"], rate["pillow"], rate["ours"] / rate["pillow"], ">= 5", unit="pictures/s",
        cv2=rate["cv2"], over_cv2=rate["ours"] / rate["cv2"])
    say("store.bytes", sizes["ours"], sizes["pillow"], share, "<= 1.05", cv2=sizes["cv2"])

    # A plain file: written and flushed. "published": a plain file with a shard's promises too - another name at first,
    # read back and compared by hash, flushed, renamed, its folder flushed.
    flushed = ours("append", folder)
    say("store.ready_made_bytes", flushed["bytes"] / flushed["ours"]["median"],
        flushed["bytes"] / flushed["plain"]["median"], flushed["plain"]["median"] / flushed["ours"]["median"], ">= 0.7",
        unit="bytes/s", over_published=flushed["published"]["median"] / flushed["ours"]["median"],
        by_processor_time=flushed["plain"]["cpu"] / flushed["ours"]["cpu"], rounds=flushed)

    ours("encode", folder)
    order = random.Random(9)
    rates = {"ours": [], "cv2": []}
    for _ in range(5):
        start = time.process_time()
        for _ in range(2 * len(pictures)):
            cv2.imread(str(files / f"{order.randrange(len(pictures)):05d}.png"), cv2.IMREAD_UNCHANGED)
        rates["cv2"].append(2 * len(pictures) / (time.process_time() - start))
        read = ours("read", folder, 2 * len(pictures))
        rates["ours"].append(read["pictures"] / read["cpu_seconds"])
    rate = {name: statistics.median(values) for name, values in rates.items()}
    say("store.random_read", rate["ours"], rate["cv2"], rate["ours"] / rate["cv2"], ">= 1.2", unit="pictures/s")

    with h5py.File(folder / "library/shard-000000.h5") as shard:
        found = sorted(shard["columns"])
        first = np.array(Image.open(__import__("io").BytesIO(shard["heap"][:int(shard["columns/heap_length"][0])].tobytes())))
        equal = bool((first == pictures[0]).all())
    say("store.h5py", sorted(found), sorted(COLUMNS), 1.0 if found == sorted(COLUMNS) and equal else 0.0, "== 1",
        first_picture_equal=equal)

    for count, limit in [(1_200_000, 0.05), (100_000_000, 1.0)][:2 if options.large else 1]:
        place = folder / f"index-{count}"
        made = ours("index", place, count)
        opened = ours("open", place)
        say(f"store.open_{count}", opened["cpu_seconds"], limit, opened["cpu_seconds"] / limit, "<= 1", unit="s",
            by_the_clock=opened["seconds"],
            kilobytes=opened["kilobytes"], first_entry_seconds=opened["first_entry_seconds"], index_bytes=made["bytes"])
        shutil.rmtree(place)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="also 100 million instances: 6.4 GB of disk, for a minute")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/bin/bench_store")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        python = str(make_environment())
        os.execv(python, [python, __file__, "--inside", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="divergen-store-", dir=os.environ.get("DIVERGEN_BENCH_DIR")) as folder:
        measure(options.program, pathlib.Path(folder), options)


if __name__ == "__main__":
    main()
