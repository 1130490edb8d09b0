#!/usr/bin/env python3
"""Full-size models with random weights beside the Python references: one JSON line each: name, ours, peer, ratio.

    tests/bench/full_size.py [--models sd15_unet,sam_vit_b] [--precision fp32|bf16] [--channels-last] [--rounds 5]

Both sides are processes of their own that hold the same architecture (checked: as many parameters), and take turns
round by round on the same inputs' sizes. The first round warms up and is left out. "seconds" is the median by the
clock, "processor_seconds" by the processors, which other work on the machine moves less; `ratio` is peer over ours by
the processors' time. The peers (diffusers, transformers, segment-anything) live where tools/check_models.py puts them.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("DIVERGEN_BUILD", ROOT / "build/release"))
MODELS = ["sd15_unet", "sd15_vae", "clip_vit_l14", "sam_vit_b"]
TARGET = 1.0


def check_models():
    spec = importlib.util.spec_from_file_location("check_models", ROOT / "tools/check_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the peer: runs in the environment of tools/check_models.py ----

def peer_model(name):
    """(module, inputs, function that runs it)"""
    import torch
    if name == "sd15_unet":
        from diffusers import UNet2DConditionModel
        model = UNet2DConditionModel(
            sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
        return model, [torch.randn(2, 4, 64, 64), torch.full((2,), 500.0), torch.randn(2, 77, 768)], \
            lambda m, x: m(x[0], x[1], x[2]).sample
    if name == "sd15_vae":
        from diffusers import AutoencoderKL
        model = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
        return model, [torch.randn(1, 4, 64, 64)], lambda m, x: m.decode(x[0]).sample
    if name == "clip_vit_l14":
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
            image_size=224, projection_dim=768))
        return model, [torch.randn(8, 3, 224, 224)], lambda m, x: m(x[0]).image_embeds
    from segment_anything import sam_model_registry
    return sam_model_registry["vit_b"](), [torch.randn(1, 3, 1024, 1024)], lambda m, x: m.image_encoder(x[0])


def serve(name, threads, precision, channels_last):
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(7)
    model, inputs, run = peer_model(name)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    memory = torch.channels_last if channels_last else torch.contiguous_format
    model = model.eval().to(dtype=kind, memory_format=memory)
    inputs = [x.to(kind).contiguous(memory_format=memory) if x.dim() == 4 else x.to(kind) for x in inputs]
    print("ready", sum(p.numel() for p in model.parameters()), flush=True)
    for _ in sys.stdin:
        clock, processors = time.perf_counter(), time.process_time()
        with torch.no_grad():
            out = run(model, inputs)
        processors, clock = time.process_time() - processors, time.perf_counter() - clock
        print(json.dumps({"clock": clock, "processors": processors, "checksum": out.abs().mean().item()}), flush=True)


# ---- the bench ----

class Side:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        word, _, self.parameters = self.process.stdout.readline().partition(" ")
        if word != "ready":
            sys.exit(f"full_size: {' '.join(map(str, command))} did not start")
        self.parameters = int(self.parameters)
        self.rounds = []

    def run(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.rounds.append(json.loads(self.process.stdout.readline()))

    def end(self):
        self.process.stdin.close()
        self.process.wait()

    def median(self, key):
        return statistics.median(r[key] for r in self.rounds[1:])


def compare(name, options, python):
    common = ["--threads", str(options.threads), "--precision", options.precision]
    common += ["--channels-last"] if options.channels_last else []
    ours = Side([BUILD / "bin/bench_full_size", name, *common])
    peer = Side([python, __file__, "--serve", name, *common])
    if ours.parameters != peer.parameters:
        sys.exit(f"full_size: {name} has {ours.parameters} parameters here and {peer.parameters} there")
    for _ in range(options.rounds + 1):
        ours.run()
        peer.run()
    ours.end()
    peer.end()
    suffix = ("" if options.precision == "fp32" else "_" + options.precision) + \
        ("_channels_last" if options.channels_last else "")
    print(json.dumps({
        "name": name + suffix, "ours": round(ours.median("clock"), 4), "peer": round(peer.median("clock"), 4),
        "ratio": round(peer.median("processors") / ours.median("processors"), 3), "target": TARGET, "unit": "s",
        "ratio_by_clock": round(peer.median("clock") / ours.median("clock"), 3),
        "processor_seconds": [round(s.median("processors"), 4) for s in (ours, peer)],
        "parameters": ours.parameters, "threads": options.threads}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads, options.precision, options.channels_last)
        return
    models = check_models()
    python = models.make_environment()
    for name in options.models.split(","):
        compare(name, options, python)


if __name__ == "__main__":
    main()
