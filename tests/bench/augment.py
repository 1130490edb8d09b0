#!/usr/bin/env python3
"""Training samples per second of one core: ours beside the reference's arithmetic in Python.

    tests/bench/augment.py [--data FOLDER | lvis30.tar.xz] [--seconds 20] [--build build/release]

The Python side does what DiverGen's mapper does (reference/semantics.md 7.2 - 7.7) with the packages that it uses: PIL
decodes and resizes, pycocotools rasterises, OpenCV resizes and shifts instances, numpy keeps a mask of canvas size for
every object and updates all of them at each paste. It runs twice: with 64-bit masks, into which the reference's
np.where turns them by accident at the first paste, and mended, with masks of one byte. Ours decodes every picture anew
(no caches); a second row has the caches that a small data set gets. Both draw by the same rules from numbers of their
own; pastes, objects and megapixels a sample are printed, so that the work can be compared. CPU time counts, so that a
busy machine spoils little.

Without --data, 30 pictures of 640x480 with 12 polygons each and 300 cut-outs are made (seeded). Packages go into
<deps>/augment-env (DIVERGEN_DEPS, see tools/setup.sh); nothing else is fetched. One JSON line for each comparison.
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PINS = ["numpy==2.*", "opencv-python-headless", "pillow", "pycocotools"]
SIZE, SCALES, MOST = 896, (0.1, 2.0), 20  # the live configuration (semantics.md 7.1)


def enter_environment():
    """Starts this script again in an environment with the packages, made if it is not there."""
    torch = pathlib.Path(subprocess.run([ROOT / "tools/setup.sh", "--print-deps"], check=True, text=True,
                                        capture_output=True).stdout.strip())
    folder = torch.parent / "augment-env"
    python, marker = folder / "bin/python", folder / ".complete"
    contents = "\n".join(PINS)
    if not (marker.is_file() and marker.read_text() == contents):
        print(f"augment: installing {', '.join(PINS)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS], check=True)
        marker.write_text(contents)
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.execve(python, [str(python), __file__, *sys.argv[1:]], {**os.environ, **threads, "DIVERGEN_AUGMENT_ENV": "1"})


def make_data(folder):
    """LVIS-like pictures, polygons and cut-outs."""
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(1)
    images, annotations, pool = [], [], {}
    (folder / "coco/train2017").mkdir(parents=True)

    def texture(height, width, channels):
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(rng.uniform(.01, .2) * x + rng.uniform(.01, .2) * y + k) for k in range(channels)]
        return np.clip(128 + 70 * np.stack(waves, -1) + rng.normal(0, 8, (height, width, channels)), 0, 255)

    for i in range(1, 31):
        height, width = (480, 640) if i % 3 else (640, 480)
        name = f"{i:012d}.jpg"
        Image.fromarray(texture(height, width, 3).astype(np.uint8)).save(folder / "coco/train2017" / name, quality=90)
        images.append({"id": i, "height": height, "width": width, "neg_category_ids": [],
                       "not_exhaustive_category_ids": [],
                       "coco_url": f"http://images.cocodataset.org/train2017/{name}"})
        for _ in range(12):
            centre, radius = rng.uniform((40, 40), (width - 40, height - 40)), math.exp(rng.uniform(2.3, 5))
            angles = np.sort(rng.uniform(0, 2 * math.pi, 36))
            points = centre + radius * rng.uniform(.7, 1, 36)[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
            points = np.round(np.clip(points, 0, (width, height)), 2)
            low, high = points.min(0), points.max(0)
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": int(rng.integers(1, 1204)),
                                "segmentation": [points.ravel().tolist()], "bbox": [*low.tolist(), *(high - low).tolist()],
                                "area": float(np.prod(high - low))})
    for cls in rng.choice(1453, 100, replace=False).tolist():
        (folder / "images" / str(cls)).mkdir(parents=True)
        pool[str(cls)] = []
        for k in range(3):
            height, width = rng.integers(128, 257, 2)
            rgba = texture(height, width, 4)
            y, x = np.mgrid[-1:1:height * 1j, -1:1:width * 1j]
            rgba[..., 3] = np.where(x * x + y * y < 1, 255, 0)
            name = f"images/{cls}/{k}.png"
            Image.fromarray(rgba.astype(np.uint8)).save(folder / name)
            pool[str(cls)].append("*" + name)
    categories = [{"id": c, "name": f"c{c}", "frequency": "f", "image_count": 200} for c in range(1, 1204)]
    (folder / "lvis.json").write_text(json.dumps({"images": images, "annotations": annotations,
                                                  "categories": categories}))
    (folder / "pool.json").write_text(json.dumps(pool))


class Reference:
    """The mapper's arithmetic; `mended`: masks of one byte."""

    def __init__(self, folder, mended):
        import numpy as np
        self.np, self.folder, self.mended, self.rng = np, folder, mended, np.random.RandomState(42)
        data = json.loads((folder / "lvis.json").read_text())
        self.images = data["images"]
        self.annotations = {image["id"]: [] for image in self.images}
        for annotation in data["annotations"]:
            self.annotations[annotation["image_id"]].append(annotation)
        self.pool = [(int(c), files) for c, files in json.loads((folder / "pool.json").read_text()).items() if files]
        self.areas = {int(k): v for k, v in json.loads((folder / "area_mean_std2.json").read_text()).items()}

    def base(self, record):
        import pycocotools.mask as coco
        from PIL import Image, ImageOps
        np, rng = self.np, self.rng
        path = self.folder / "coco" / "/".join(record["coco_url"].split("/")[-2:])
        image = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        height, width = image.shape[:2]
        aim = rng.uniform(*SCALES) * SIZE
        scale = min(aim / height, aim / width)
        h, w = max(1, int(height * scale)), max(1, int(width * scale))
        top, left = (int(max(0, side - SIZE) * rng.uniform(0, 1)) for side in (h, w))
        image = np.asarray(Image.fromarray(image).resize((w, h), Image.BILINEAR))[top:top + SIZE, left:left + SIZE]
        flip = rng.uniform(0, 1) < 0.5
        if flip:
            image = np.ascontiguousarray(image[:, ::-1])
        h, w = image.shape[:2]
        boxes, masks, classes = [], [], []
        for annotation in self.annotations[record["id"]]:
            x, y, bw, bh = np.asarray(annotation["bbox"], np.float32)
            corners = np.array([[x, y], [x + bw, y + bh]], float) * scale - (left, top)
            polygons = [np.asarray(p, float).reshape(-1, 2) * scale - (left, top) for p in annotation["segmentation"]]
            if flip:
                corners[:, 0] = w - corners[:, 0]
                polygons = [np.stack([w - p[:, 0], p[:, 1]], -1) for p in polygons]
            box = np.clip([*corners.min(0), *corners.max(0)], 0, (w, h, w, h))
            mask = coco.decode(coco.merge(coco.frPyObjects([p.ravel().tolist() for p in polygons], h, w)))
            boxes.append(box)
            masks.append(mask.astype(bool))
            classes.append(annotation["category_id"] - 1)
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        masks = np.stack(masks) if masks else np.zeros((0, h, w), bool)
        keep = ((boxes[:, 2:] - boxes[:, :2]) > 1e-5).all(1) & masks.any((1, 2))
        return image, boxes[keep], masks[keep], np.asarray(classes)[keep]

    def instance(self, canvas):
        import cv2
        from PIL import Image
        np, rng = self.np, self.rng
        height, width = canvas.shape[:2]
        cls, files = self.pool[rng.randint(len(self.pool))]
        rgba = np.asarray(Image.open(self.folder / files[rng.randint(len(files))][1:]).convert("RGBA"))
        h, w = rgba.shape[:2]
        if cls + 1 in self.areas:
            mean, deviation = self.areas[cls + 1]
            share = min(max(mean + rng.randn() * deviation, 10 / height), 0.5)
            aspect = w / h * rng.uniform(0.8, 1.2)
            to_w = math.sqrt(aspect * share * share * height * width)
            to_h, to_w, least = int(to_w / aspect), int(to_w), 5
        else:
            scale = rng.uniform(0.05, 0.3)
            to_h, to_w, least = int(h * scale), int(w * scale), 3
        if to_h < least or to_w < least or to_h >= height or to_w >= width:
            return None
        rgba = cv2.resize(rgba, (to_w, to_h), interpolation=cv2.INTER_LINEAR)
        return cls, rgba[:, ::-1] if rng.uniform(0, 1) < 0.5 else rgba

    def placed(self, rgba, canvas):
        import cv2
        np, rng = self.np, self.rng
        (h, w), (height, width) = rgba.shape[:2], canvas.shape[:2]
        x, y = rng.randint(int(-w / 2), int(width - w / 2)), rng.randint(int(-h / 2), int(height - h / 2))
        shift = np.float32([[1, 0, x], [0, 1, y]])
        mask = (rgba[..., 3] > 0).astype(np.uint8)
        return (cv2.warpAffine(np.ascontiguousarray(rgba[..., :3]), shift, (width, height)),
                cv2.warpAffine(mask, shift, (width, height)).astype(bool))

    def boxes_of(self, masks):
        np = self.np
        out = np.zeros((len(masks), 4), np.float32)
        columns, rows = masks.any(1), masks.any(2)
        for i in range(len(masks)):
            x, y = np.flatnonzero(columns[i]), np.flatnonzero(rows[i])
            if len(x):
                out[i] = x[0], y[0], x[-1] + 1, y[-1] + 1
        return out

    def sample(self):
        np, rng = self.np, self.rng
        image, boxes, masks, classes = self.base(self.images[rng.randint(len(self.images))])
        chosen = [self.instance(image) for _ in range(rng.randint(MOST))]
        chosen = [(cls, *self.placed(rgba, image)) for cls, rgba in filter(None, chosen)]
        for cls, colours, mask in chosen:
            if self.mended:
                masks = masks & ~mask
            else:
                masks = np.where(mask[None], 0, masks)  # the 0 makes them 64 bits wide, from here on
            updated = self.boxes_of(masks)
            keep = (np.abs(updated - boxes) <= 10).all(1) | (masks.sum((1, 2)) > 300)
            masks = np.concatenate([masks[keep], mask[None].astype(masks.dtype)])
            boxes = np.concatenate([updated[keep], self.boxes_of(mask[None])])
            classes = np.append(classes[keep], cls)
            weight = mask[..., None].astype(np.uint8)
            image = (image * (1 - weight) + colours * weight).astype(np.uint8)
        return image, len(boxes), len(chosen)


def time_reference(folder, mended, paste, seconds):
    global MOST
    MOST = 20 if paste else 1
    mapper = Reference(folder, mended)
    for _ in range(3):
        mapper.sample()
    n = objects = pasted = pixels = 0
    start = time.process_time()
    while time.process_time() - start < seconds or n < 10:
        image, count, pastes = mapper.sample()
        n, objects, pasted, pixels = n + 1, objects + count, pasted + pastes, pixels + image.shape[0] * image.shape[1]
    cpu = time.process_time() - start
    return {"samples": n, "per_cpu_second": n / cpu, "objects": objects / n, "pasted": pasted / n,
            "megapixels": pixels / n * 1e-6}


def time_ours(program, folder, samples, paste, caches, way="basic"):
    command = [program, folder, str(samples), str(int(paste)), str(int(caches)), way]
    out = json.loads(subprocess.run(command, check=True, text=True, capture_output=True).stdout)
    return {**out, "per_cpu_second": out["samples"] / out["cpu_seconds"]}


def compare(name, ours, peer_name, peer):
    line = {"name": name, "ours": round(ours["per_cpu_second"], 2), "peer": round(peer["per_cpu_second"], 2),
            "ratio": round(ours["per_cpu_second"] / peer["per_cpu_second"], 2), "unit": "samples per CPU second",
            "peer_name": peer_name}
    for key in ("samples", "objects", "pasted", "megapixels"):
        line[key] = [round(ours[key], 2), round(peer[key], 2)]
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=30, help="of CPU time for each way in Python")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    args = parser.parse_args()
    if "DIVERGEN_AUGMENT_ENV" not in os.environ:
        enter_environment()
    import cv2
    cv2.setNumThreads(1)
    program = args.build / "bin/bench_augment"
    if not program.is_file():
        sys.exit(f"augment: there is no {program}; build bench_augment first")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if args.data is None:
            make_data(folder)
        elif args.data.is_dir():
            shutil.copytree(args.data, folder, dirs_exist_ok=True)
        else:
            tarfile.open(args.data).extractall(folder)
        shutil.copy(ROOT / "data/lvis/area_mean_std2.json", folder)
        reference = time_reference(folder, False, True, args.seconds)
        mended = time_reference(folder, True, True, args.seconds)
        plain = time_reference(folder, True, False, args.seconds / 2)
        ours = time_ours(program, folder, 600, True, False)
        compare("augment.paste", ours, "the reference's arithmetic, 64-bit masks", reference)
        compare("augment.paste.mended", ours, "the same, masks of one byte", mended)
        compare("augment.paste.cached", time_ours(program, folder, 600, True, True), "masks of one byte", mended)
        compare("augment.no_paste", time_ours(program, folder, 600, False, False), "without pasting", plain)
    return 0


if __name__ == "__main__":
    sys.exit(main())
