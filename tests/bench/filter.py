#!/usr/bin/env python3
"""The filter beside the reference's way, one JSON line each: name, ours, peer, ratio, target.

    tests/bench/filter.py [--build build/release] [--only similarity|crops] [--pictures N] [--rounds N]   (after a build)

Similarity: 2,000 generated pictures of one category against 500 real crops, 768 numbers each. The peer is what
DiverGen's two scripts do (reference/semantics.md 5.3): every feature a .pt file, the cosine of every pair, a nested
dictionary of them as JSON and a CSV, then a second program that reads it, takes the mean for each generated picture and
writes the list of those that reach the bar. Ours reads the features from one table and takes the closed form; so does
the third row, in torch, with the features in memory: most of the gain is algorithmic, and there for Python too.

Crops: the object with 40 px around it, the rest blurred (5.1). The peer decodes the picture, rasterises the polygon and
blurs the whole picture for each annotation, and writes a PNG; it is also given without the file, and with the picture
kept from one annotation to the next. Pixels are compared, all of them.

Processor time of one thread on both sides, so that a busy machine spoils little. Packages go into <deps>/filter-env
(tools/setup.sh), PyTorch is the one that is installed already.
"""
import argparse
import csv
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PINS = ["numpy==2.*", "opencv-python-headless==4.12.*", "pillow", "pycocotools"]
GENERATED, REAL, SIZE, BAR = 2000, 500, 768, 0.6


def enter_environment():
    torch = pathlib.Path(subprocess.run([ROOT / "tools/setup.sh", "--print-deps"], check=True, text=True,
                                        capture_output=True).stdout.strip())
    folder = torch.parent / "filter-env"
    python, marker = folder / "bin/python", folder / ".complete"
    contents = "\n".join([str(torch), *PINS])
    if not (marker.is_file() and marker.read_text() == contents):
        print(f"filter.py: installing {', '.join(PINS)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS], check=True)
        site = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], check=True, text=True,
                              capture_output=True).stdout.strip()
        (pathlib.Path(site) / "divergen_torch.pth").write_text(f"{torch}\n")
        marker.write_text(contents)
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.execve(python, [str(python), __file__, "--inside", *sys.argv[1:]], {**os.environ, **threads})


def say(name, ours, peer, ratio, target, **more):
    print(json.dumps({"name": name, "ours": ours, "peer": peer, "ratio": ratio, "target": target, **more}), flush=True)


def timed(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


# ---- similarity ----------------------------------------------------------------------------------------------------

def make_features(folder):
    """CLIP-like: a common direction, two clusters, and spread, so that the bar lies within the distribution."""
    import numpy as np
    import torch
    rng = np.random.default_rng(5)
    centre = rng.normal(size=SIZE)
    real = centre + 0.9 * rng.normal(size=(REAL, SIZE))
    spread = rng.uniform(0.5, 1.6, size=(GENERATED, 1))
    generated = centre + spread * rng.normal(size=(GENERATED, SIZE))
    generated, real = generated.astype(np.float32), real.astype(np.float32)
    for name, rows in ("gen", generated), ("lvis", real):
        (folder / name).mkdir()
        for i, row in enumerate(rows):
            torch.save(torch.from_numpy(row.copy())[None], folder / name / f"{i:07d}.pt")
    np.concatenate([generated, real]).tofile(folder / "features.bin")
    return generated, real


def reference_similarity(folder):
    """First program: the cosine of every pair, written out."""
    import torch
    names = {kind: sorted(os.listdir(folder / kind)) for kind in ("lvis", "gen")}
    loaded = {kind: [torch.load(folder / kind / name) for name in names[kind]] for kind in names}
    total = {}
    for name, feature in zip(names["lvis"], loaded["lvis"]):
        together = torch.cat(loaded["gen"])
        cosines = torch.nn.functional.cosine_similarity(feature, together).tolist()
        total[name] = dict(zip(names["gen"], cosines))
    with open(folder / "total.json", "w") as file:
        json.dump(total, file)
    with open(folder / "total.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lvis", "gen", "similarity"])
        for crop, row in total.items():
            for name, value in row.items():
                writer.writerow([crop, name, value])


def reference_filter(folder):
    """Second program: means over all crops, and the list."""
    with open(folder / "total.json") as file:
        total = json.load(file)
    sums = {}
    for row in total.values():
        for name, value in row.items():
            sums.setdefault(name, []).append(value)
    kept = []
    with open(folder / "kept.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "filename", "similarity"])
        for name, values in sums.items():
            mean = sum(values) / len(values)
            if mean >= BAR:
                writer.writerow(["thing", name.replace(".pt", ".png"), mean])
                kept.append(int(name[:-3]))
    return sorted(kept)


def closed_form(generated, real):
    import torch
    g, r = torch.from_numpy(generated), torch.from_numpy(real)

    def work():
        mean = torch.nn.functional.normalize(r).mean(0)
        return torch.nonzero(torch.nn.functional.normalize(g) @ mean >= BAR).flatten().tolist()

    work()
    rounds = [timed(work) for _ in range(20)]
    return statistics.median(seconds for seconds, _ in rounds), rounds[0][1]


def measure_similarity(program, folder, repeats):
    generated, real = make_features(folder)
    program("features", folder / "features.bin", GENERATED + REAL, SIZE, folder / "features.h5")
    ours = program("similarity", folder / "features.h5", GENERATED, BAR)
    rounds = []
    for _ in range(repeats):
        first, _ = timed(lambda: reference_similarity(folder))
        second, kept = timed(lambda: reference_filter(folder))
        rounds.append((first + second, first, second))
    rounds.sort()
    total, first, second = rounds[len(rounds) // 2]
    torch_seconds, torch_kept = closed_form(generated, real)
    say("filter.similarity", ours["cpu_seconds"], total, total / ours["cpu_seconds"], ">= 50", unit="s",
        peer_similarity=first, peer_filter=second, kept=len(kept), same_kept=kept == ours["kept"],
        arithmetic_alone=ours["arithmetic_seconds"], over_arithmetic=total / ours["arithmetic_seconds"])
    say("filter.similarity_closed_form", ours["arithmetic_seconds"], torch_seconds,
        torch_seconds / ours["arithmetic_seconds"], "", unit="s", same_kept=torch_kept == ours["kept"],
        note="the same closed form in torch, features in memory on both sides")
    return kept == ours["kept"] == torch_kept


# ---- crops ---------------------------------------------------------------------------------------------------------

def make_pictures(folder, count):
    """LVIS-like: JPEGs of 640x480 with 12 polygons each."""
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(1)
    images, annotations = [], []
    (folder / "pictures").mkdir()
    for i in range(1, count + 1):
        height, width = (480, 640) if i % 3 else (640, 480)
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(rng.uniform(.01, .2) * x + rng.uniform(.01, .2) * y + k) for k in range(3)]
        pixels = np.clip(128 + 70 * np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3)), 0, 255)
        name = f"{i:012d}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / name, quality=90)
        images.append({"id": i, "height": height, "width": width, "file_name": name, "neg_category_ids": [],
                       "not_exhaustive_category_ids": []})
        for _ in range(12):
            centre, radius = rng.uniform((40, 40), (width - 40, height - 40)), math.exp(rng.uniform(2.3, 5))
            angles = np.sort(rng.uniform(0, 2 * math.pi, 36))
            points = centre + radius * rng.uniform(.7, 1, 36)[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
            points = np.round(np.clip(points, 0, (width, height)), 2)
            low, high = points.min(0), points.max(0)
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": int(rng.integers(1, 41)),
                                "segmentation": [points.ravel().tolist()], "bbox": [*low.tolist(), *(high - low).tolist()],
                                "area": float(np.prod(high - low)), "iscrowd": 0})
    categories = [{"id": c, "name": f"thing_{c}", "frequency": "c", "image_count": 20, "instance_count": 20}
                  for c in range(1, 41)]
    (folder / "train.json").write_text(json.dumps({"images": images, "annotations": annotations,
                                                   "categories": categories}))
    return images, annotations


def reference_crops(folder, images, annotations, out, keep_picture=False):
    """A dictionary of crops by annotation; files too, when `out` is a folder."""
    import cv2
    import numpy as np
    from PIL import Image
    from pycocotools import mask as coco
    by_id, crops, last = {image["id"]: image for image in images}, {}, (None, None)
    for a in annotations:
        image = by_id[a["image_id"]]
        if not keep_picture or last[0] != image["id"]:
            last = (image["id"], np.array(Image.open(folder / "pictures" / image["file_name"])))
        pixels = last[1]
        mask = coco.decode(coco.merge(coco.frPyObjects(a["segmentation"], image["height"], image["width"])))
        rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
        if len(rows) == 0:
            continue
        blurred = cv2.blur(pixels, (10, 10))
        filled = np.where(mask[:, :, None] == 1, pixels, blurred)
        top, bottom = max(0, rows[0] - 40), min(image["height"], rows[-1] + 1 + 40)
        left, right = max(0, columns[0] - 40), min(image["width"], columns[-1] + 1 + 40)
        crop = filled[top:bottom, left:right]
        if out is not None:
            place = out / str(a["category_id"] - 1)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop).save(place / f"{a['image_id']:012d}_{a['id']}.png")
        crops[a["id"]] = crop
    return crops


def measure_crops(program, folder, count, rounds):
    import cv2
    import numpy as np
    cv2.setNumThreads(1)
    images, annotations = make_pictures(folder, count)
    rows = {"ours": [], "files": [], "memory": [], "kept_picture": []}
    for _ in range(rounds):
        seconds, crops = timed(lambda: reference_crops(folder, images, annotations, folder / "crops"))
        rows["files"].append(seconds / len(crops))
        rows["memory"].append(timed(lambda: reference_crops(folder, images, annotations, None))[0] / len(crops))
        rows["kept_picture"].append(
            timed(lambda: reference_crops(folder, images, annotations, None, True))[0] / len(crops))
        made = program("crops", folder / "train.json", folder / "pictures", 40)
        rows["ours"].append(made["cpu_seconds"] / made["crops"])
    each = {name: statistics.median(values) for name, values in rows.items()}
    program("crops", folder / "train.json", folder / "pictures", 40, folder / "crops.bin")
    bytes_, at, same, worst = (folder / "crops.bin").read_bytes(), 0, 0, 0
    while at < len(bytes_):
        annotation, width, height = (int(v) for v in np.frombuffer(bytes_, "<i8", 3, at))
        ours = np.frombuffer(bytes_, np.uint8, width * height * 3, at + 24).reshape(height, width, 3)
        at += 24 + width * height * 3
        peer = crops[annotation]
        if peer.shape == ours.shape:
            same += bool((peer == ours).all())
            worst = max(worst, int(np.abs(peer.astype(int) - ours).max()))
    say("filter.crops", each["ours"], each["files"], each["files"] / each["ours"], ">= 10", unit="s a crop",
        crops=len(crops), same_pixels=same, largest_difference=worst,
        over_no_file=each["memory"] / each["ours"], over_kept_picture=each["kept_picture"] / each["ours"],
        peer_no_file=each["memory"], peer_kept_picture=each["kept_picture"])
    return same == len(crops) == made["crops"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--only", choices=["similarity", "crops"])
    parser.add_argument("--pictures", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        enter_environment()

    def program(*arguments):
        run = subprocess.run([options.build / "tests/bench_filter", *map(str, arguments)], check=True, text=True,
                             capture_output=True)
        return json.loads(run.stdout)

    import torch
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="divergen-filter-", dir=os.environ.get("DIVERGEN_BENCH_DIR")) as folder:
        folder = pathlib.Path(folder)
        equal = []
        if options.only != "crops":
            equal.append(measure_similarity(program, folder, options.rounds))
        if options.only != "similarity":
            equal.append(measure_crops(program, folder, options.pictures, options.rounds))
    sys.exit(0 if all(equal) else "filter.py: the results differ")


if __name__ == "__main__":
    main()
