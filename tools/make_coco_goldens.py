#!/usr/bin/env python3
"""Makes tests/fixtures/eval/coco_*.json: small data sets with detections, and what pycocotools' COCOeval gives for them.

    tools/make_coco_goldens.py [FOLDER]

Needs numpy and pycocotools (2.0.11 made the committed ones). Everything is drawn from a fixed seed. The sets have what
COCO's rules turn on: crowds (run-length masks too), more than 100 detections of a category in an image, tied scores and
tied overlaps, areas on the borders of the ranges, annotations with id 0, categories without annotations or detections.
"""
import contextlib
import hashlib
import io
import json
import pathlib
import sys

import numpy as np
import pycocotools
from pycocotools import mask as M
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def blob(rng, cx, cy, w, h):
    t = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 14))))
    r = rng.uniform(.6, 1.1, len(t))
    return np.round(np.stack([cx + .5 * w * r * np.cos(t), cy + .5 * h * r * np.sin(t)], 1), 2).ravel().tolist()


def draw(seed, images=5, categories=4):
    rng = np.random.default_rng(seed)
    gt = {"info": {}, "images": [], "annotations": [],
          "categories": [{"id": int(i), "name": f"c{i}"} for i in (3, 1, 8, 5, 9)[:categories + 1]]}
    used = [c["id"] for c in gt["categories"]][:-1]
    dets = []
    for i in range(images):
        height, width = int(rng.integers(60, 200)), int(rng.integers(60, 220))
        image = 40 + 3 * ((i * 3) % images)
        gt["images"].append({"id": image, "height": height, "width": width, "file_name": f"{image}.jpg"})
        for _ in range(int(rng.integers(0, 9))):
            w, h = (float(v) for v in rng.choice([16, 32, 96, 20.5, 48.25], 2))
            x, y = float(rng.integers(0, max(1, width - int(w)))), float(rng.integers(0, max(1, height - int(h))))
            crowd = int(rng.random() < .15)
            polygon = blob(rng, x + w / 2, y + h / 2, w, h)
            rle = M.merge(M.frPyObjects([polygon], height, width))
            bits = M.decode(rle).ravel(order="F")
            runs = np.diff(np.flatnonzero(np.diff(np.r_[2, bits, 2]))).tolist()
            segmentation = {"size": [height, width], "counts": ([0] if bits[0] else []) + runs} if crowd else [polygon]
            gt["annotations"].append({"id": len(gt["annotations"]) + (seed % 2 == 0), "image_id": image,
                                      "category_id": int(rng.choice(used)), "iscrowd": crowd, "bbox": [x, y, w, h],
                                      "area": float(rng.choice([w * h, 1024., 9216., 400.])), "segmentation": segmentation})
        mine = [a for a in gt["annotations"] if a["image_id"] == image]
        for k in range(int(rng.integers(0, 60)) if i != 2 else 130):
            if mine and rng.random() < .6:
                a = mine[int(rng.integers(len(mine)))]
                bx, by, bw, bh = a["bbox"]
                move = rng.choice([0, 0, 1, 4, 9], 4)
                x, y, w, h = bx + float(move[0]), by - float(move[1]), bw + float(move[2]), max(1., bh - float(move[3]))
                c = a["category_id"] if rng.random() < .85 else int(rng.choice(used))
            else:
                w, h = float(rng.uniform(2, 120)), float(rng.uniform(2, 120))
                x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
                c = used[0] if i == 2 else int(rng.choice(used + [77]))
            polygon = blob(rng, x + w / 2, y + h / 2, w, h)
            rle = M.merge(M.frPyObjects([polygon], height, width))
            dets.append({"image_id": image, "category_id": c, "score": float(np.round(rng.random(), 2)),
                         "bbox": [x, y, w, h], "segmentation": {"size": [height, width], "counts": rle["counts"].decode()}})
    return gt, dets


def evaluate(gt, dets, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(gt))
        coco.createIndex()
        e = COCOeval(coco, coco.loadRes(json.loads(json.dumps(dets))), kind)
        e.evaluate(), e.accumulate(), e.summarize()
    hashed = lambda a: hashlib.sha256(np.ascontiguousarray(a, dtype="<f8").tobytes()).hexdigest()
    return {"stats_hex": [float(v).hex() for v in e.stats], "stats": [float(v) for v in e.stats],
            "precision_shape": list(e.eval["precision"].shape), "precision_sha256": hashed(e.eval["precision"]),
            "recall_sha256": hashed(e.eval["recall"])}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/eval")
    for seed in range(1, 5):
        gt, dets = draw(seed)
        for kind in ("bbox", "segm"):
            mine = [{k: v for k, v in d.items() if k != ("segmentation" if kind == "bbox" else "bbox")} for d in dets]
            if kind == "segm" and seed == 4:  # a file with both: areas are the boxes', masks decide
                mine = dets
            entry = {"made_by": f"pycocotools {pycocotools.__version__ if hasattr(pycocotools, '__version__') else ''}".strip(),
                     "iou_type": kind, "gt": gt, "dt": mine, "expected": evaluate(gt, mine, kind)}
            (folder / f"coco_{seed}_{kind}.json").write_text(json.dumps(entry, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
