#!/usr/bin/env python3
"""Generate, annotate and filter with the miniature models beside a Python script that does the same with diffusers,
segment-anything and transformers: one JSON line each: name, ours, peer, ratio.

    tests/bench/pipeline.py [--per-prompt N] [--rounds R] [--ranks N]        (after a build and jobs/mini.sh)

Same weights, same prompts, same noise, same sampler; the pictures are compared byte by byte, masks and similarities
too, before a time is quoted. The peer is one process with a thread a core that keeps its models loaded over all three
steps and writes pictures and masks as PNG files as the reference scripts do; both are given the mean features of the
real crops, which are made once for a data set. We are three commands of --ranks ranks with one thread each, which
write, verify and flush sealed shards ("pipeline"), and once more one command that makes the library without leaving
pictures and masks on the disk ("pipeline_fused"; it cuts the instances out and writes the library besides). "wall"
counts everything from start to end, programs' start and loading included; "work" leaves start and loading out on both
sides (the stages' own seconds); "processors" is processor time, which other work on the machine moves less.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("DIVERGEN_BUILD", ROOT / "build/release"))
MODELS = ROOT / "data/mini/models"
WORLD = ROOT / "runs/mini/world"
STEPS, GUIDANCE, BATCH = 15, 3.0, 16
STAGES = ("generate", "annotate", "filter")
TARGET = 1.5


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the peer ----

def peer(folder, threads):
    started = time.perf_counter()
    import numpy as np
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
    from PIL import Image
    from safetensors.torch import load_file
    from segment_anything import SamPredictor
    from transformers import CLIPModel, CLIPTokenizer
    tool = load_tool("check_models")
    tool.quieten()
    torch.set_num_threads(threads)
    job = json.loads((folder / "job.json").read_text())
    pipe = StableDiffusionPipeline.from_pretrained(MODELS / "sd", safety_checker=None, local_files_only=True,
                                                   torch_dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    sam = tool.build_sam(json.loads((MODELS / "sam/config.json").read_text()))
    sam.load_state_dict(load_file(MODELS / "sam/model.safetensors"))
    predictor = SamPredictor(sam)
    clip = CLIPModel.from_pretrained(MODELS / "clip", local_files_only=True).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "clip", local_files_only=True)
    size = clip.config.vision_config.image_size
    mean, deviation = (np.array(v, np.float32) for v in (
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    loaded = time.perf_counter()
    items = job["items"]
    with torch.no_grad():
        side = pipe.unet.config.sample_size
        for first in range(0, len(items), BATCH):
            part = items[first:first + BATCH]
            noise = torch.cat([torch.randn(1, pipe.unet.config.in_channels, side, side,
                                           generator=torch.Generator().manual_seed(item["seed"])) for item in part])
            pictures = pipe([item["prompt"] for item in part], latents=noise, guidance_scale=GUIDANCE,
                            num_inference_steps=STEPS, output_type="pil").images
            for i, picture in enumerate(pictures):
                picture.save(folder / f"{first + i:06d}.png")
        generated = time.perf_counter()
        for i in range(len(items)):
            picture = np.asarray(Image.open(folder / f"{i:06d}.png").convert("RGB"))
            predictor.set_image(picture)
            bottom, right = picture.shape[0] - 1, picture.shape[1] - 1
            masks, _, _ = predictor.predict(np.array([[0, 0], [0, bottom], [right, 0], [right, bottom]], float),
                                            np.ones(4, int))
            Image.fromarray((255 * ~masks[2]).astype(np.uint8)).save(folder / f"{i:06d}.mask.png")
        annotated = time.perf_counter()

        def features(pictures):
            inputs = []
            for picture in pictures:
                scale = size / min(picture.shape[:2])
                resized = Image.fromarray(picture).resize(
                    (round(picture.shape[1] * scale), round(picture.shape[0] * scale)), Image.BICUBIC)
                left, top = (resized.width - size) // 2, (resized.height - size) // 2
                pixels = np.asarray(resized.crop((left, top, left + size, top + size)), np.float32) / 255
                inputs.append(torch.from_numpy((pixels - mean) / deviation).permute(2, 0, 1))
            out = tool.plain(clip.get_image_features(torch.stack(inputs)))
            return out / out.norm(dim=-1, keepdim=True)

        references = {int(k): torch.tensor(v) for k, v in job["references"].items()}
        texts, similarities, scores = {}, [], []
        for first in range(0, len(items), BATCH):
            part = items[first:first + BATCH]
            black, ones = [], []
            for i in range(first, first + len(part)):
                picture = np.asarray(Image.open(folder / f"{i:06d}.png").convert("RGB")).copy()
                mask = np.asarray(Image.open(folder / f"{i:06d}.mask.png"))
                black.append(np.where(mask[..., None] == 0, 0, picture).astype(np.uint8))
                ones.append(np.where(mask[..., None] <= 128, 1, picture).astype(np.uint8))
            for item, f in zip(part, features(black)):
                mean_crop = references.get(item["category"])
                similarities.append(float(f @ mean_crop) if mean_crop is not None else None)
            for item, f in zip(part, features(ones)):
                name = item["name"].replace("_", " ")
                if name not in texts:
                    ids = tokenizer("a photo of a single " + name, padding="max_length", truncation=True,
                                    return_tensors="pt")
                    text = tool.plain(clip.get_text_features(**ids))[0]
                    texts[name] = text / text.norm()
                scores.append(float(clip.logit_scale.exp() * (f @ texts[name])))
    done = time.perf_counter()
    (folder / "peer.json").write_text(json.dumps({
        "load": loaded - started, "generate": generated - loaded, "annotate": annotated - generated,
        "filter": done - annotated, "similarities": similarities, "scores": scores}))


# ---- the bench ----

def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(command, **more):
    clock, processors = time.perf_counter(), children_seconds()
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"pipeline: {' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    return time.perf_counter() - clock, children_seconds() - processors


def without_section(text, name):
    """A TOML file's text without a table and its parts."""
    name = re.escape(name)
    return re.sub(rf"^\[{name}[.\]].*?(?=^\[(?!{name}[.\]])|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)


def divergen(stage, config, run, options):
    """The stage's command for the items in run folder `run`."""
    settings = [f"run.dir={run}", "generators.sd.prompts=[\"manual\"]", f"generators.sd.steps={STEPS}",
                f"generators.sd.guidance={GUIDANCE}", f"generators.sd.batch={BATCH}",
                "plan.quota.rare=0", f"generators.sd.samples_per_prompt={options.per_prompt}"]
    command = [BUILD / "bin/divergen", stage, config, "--ranks", str(options.ranks)]
    return command + [word for s in settings for word in ("--set", s)]


def planned(config, run, reference, options):
    """A run directory with a plan and the real crops' mean features."""
    timed(divergen("plan", config, run, options), cwd=ROOT)
    (run / "filter").mkdir()
    shutil.copy(reference, run / "filter/reference.h5")
    return run


def stage_seconds(run, stage):
    return json.loads((run / "stages" / f"{stage}.json").read_text())["seconds"]


def mean_features(config, run, options):
    """The file of the real crops' mean features, which are made once for a data set: no part of the comparison."""
    for stage in ("plan", "generate", "annotate", "filter"):
        timed(divergen(stage, config, run, options), cwd=ROOT)
    return run / "filter/reference.h5"


def table(file):
    import h5py
    with h5py.File(file) as h5:
        columns = {name: data[()] for name, data in h5["columns"].items()}
        documents = {name: bytes(data[()]) for name, data in h5["documents"].items()}
        heap = bytes(h5["heap"][()]) if "heap" in h5 else b""
    return columns, documents, heap


def heap_rows(columns, heap):
    return [heap[o:o + n] for o, n in zip(columns["heap_offset"], columns["heap_length"])]


def shards(folder):
    return [table(file) for file in sorted(folder.glob("shard-*.h5"))]


def write_job(run, folder):
    import numpy as np
    columns, documents, _ = table(run / "plan.h5")
    prompts, categories = json.loads(documents["prompts"]), json.loads(documents["categories"])
    references = {}
    for c, _, heap in [table(run / "filter/reference.h5")]:
        for category, data in zip(c["category"], heap_rows(c, heap)):
            references[int(category)] = np.frombuffer(data, np.float32).tolist()
    items = [{"prompt": prompts[p], "seed": int(s), "category": categories[c]["id"], "name": categories[c]["name"]}
             for p, s, c in zip(columns["prompt"], columns["seed"], columns["category"])]
    (folder / "job.json").write_text(json.dumps({"items": items, "references": references}))
    return len(items)


def compare(run, folder):
    """The largest differences between both sides' pictures, masks and numbers; ends the bench when they matter."""
    import io

    import numpy as np
    from PIL import Image

    def picture(data):
        return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)).astype(int)

    pictures = [row for c, _, heap in shards(run / "generate") for row in heap_rows(c, heap)]
    masks = [row for c, _, heap in shards(run / "annotate") for row in heap_rows(c, heap)]
    similarity = np.concatenate([c["similarity"] for c, _, _ in shards(run / "filter.scores")])
    scores = np.concatenate([c["clip_score"] for c, _, _ in shards(run / "filter.scores")])
    theirs = json.loads((folder / "peer.json").read_text())
    steps = max(np.abs(picture(p) - picture(folder / f"{i:06d}.png")).max() for i, p in enumerate(pictures))
    share = np.mean([np.mean(picture(m) != picture(folder / f"{i:06d}.mask.png")) for i, m in enumerate(masks)])
    near = np.array([s - t for s, t in zip(similarity, theirs["similarities"]) if t is not None])
    result = {"picture_steps": int(steps), "mask_pixels_that_differ": float(share),
              "similarity": float(np.abs(near).max()), "score": float(np.abs(scores - theirs["scores"]).max())}
    if steps > 1 or share > 1e-3 or result["similarity"] > 0.02:
        sys.exit(f"pipeline: both sides do not make the same: {result}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-prompt", type=int, default=4, help="pictures of each of the 56 categories' prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=os.cpu_count())
    parser.add_argument("--peer", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.peer, options.ranks)
        return
    python = load_tool("check_models").make_environment()
    if pathlib.Path(sys.executable) != python:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "h5py"], check=True)
        os.execv(python, [str(python), *sys.argv])
    if not (WORLD / "train.json").is_file():
        sys.exit("pipeline: there is no mini world; run jobs/mini.sh first")
    ours, fused, theirs, equal, count = [], [], [], {}, 0
    with tempfile.TemporaryDirectory(prefix="divergen-pipeline-") as folder:
        folder = pathlib.Path(folder)
        config = folder / "stable-diffusion.toml"
        config.write_text(without_section((ROOT / "configs/mini.toml").read_text(), "generators.deepfloyd"))
        reference = mean_features(config, folder / "features", options)
        for round_ in range(options.rounds):
            pictures = folder / f"peer{round_}"
            pictures.mkdir()
            run = planned(config, folder / f"fused{round_}", reference, options)
            wall, processors = timed(divergen("fused", config, run, options), cwd=ROOT)
            fused.append((wall, stage_seconds(run, "fused"), processors))
            shutil.rmtree(run)
            run = planned(config, folder / f"run{round_}", reference, options)
            wall = processors = 0
            for stage in STAGES:
                clock, cpu = timed(divergen(stage, config, run, options), cwd=ROOT)
                wall, processors = wall + clock, processors + cpu
            ours.append((wall, sum(stage_seconds(run, s) for s in STAGES), processors))
            count = write_job(run, pictures)
            wall, processors = timed([python, __file__, "--peer", pictures, "--ranks", str(options.ranks)])
            times = json.loads((pictures / "peer.json").read_text())
            log = {"round": round_, "peer": {k: round(times[k], 2) for k in STAGES},
                   "ours": {k: round(stage_seconds(run, k), 2) for k in STAGES}}
            print(json.dumps(log), file=sys.stderr)
            theirs.append((wall, times["generate"] + times["annotate"] + times["filter"], processors))
            equal = compare(run, pictures)
            shutil.rmtree(run)
            shutil.rmtree(pictures)
    for kind, mine in (("pipeline", ours), ("pipeline_fused", fused)):
        for i, name in enumerate(("wall", "work", "processors")):
            a, b = (statistics.median(r[i] for r in side) for side in (mine, theirs))
            print(json.dumps({"name": f"{kind}_{name}", "ours": round(a, 2), "peer": round(b, 2),
                              "ratio": round(b / a, 3), "target": TARGET, "unit": "s", "items": count,
                              "ranks": options.ranks, "differences": equal}), flush=True)


if __name__ == "__main__":
    main()
