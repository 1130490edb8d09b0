#!/usr/bin/env python3
"""Shows that our models load in the packages they come from, and that both give the same results.

    tools/check_models.py [FOLDER...]        (default: every model in data/mini/models)

A folder is what it looks like: a diffusers folder of Stable Diffusion or DeepFloyd-IF goes to diffusers, CLIP to transformers, weights
with segment-anything's key names to segment-anything. divergen-probe runs the model on fixed inputs (text, picture,
noise); the package runs the same inputs; a table shows the largest differences. Exit code 1 if one is over its
tolerance, 0 otherwise.

The packages go into an environment of their own, <deps>/check-env, with the PyTorch that tools/setup.sh installed
(<deps>: see there). The first run installs them from PyPI; nothing else is fetched.
"""
import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
PINS = ["diffusers==0.42.1", "transformers==5.23.0", "segment-anything==1.0", "numpy==2.*", "safetensors", "pillow"]
# Goes with PyTorch 2.11; without its dependencies, which would be a second PyTorch.
PINS_ALONE = ["torchvision==0.26.0"]

# Of the largest value of the reference: float32 arithmetic in another order moves results by some 1e-6.
TOLERANCE = 2e-5
# Pictures in bytes: rounding to bytes can turn a last bit into a step of 1, at few places.
PICTURE_SHARE = 5e-4
# Whole runs of DeepFloyd-IF: the reference against itself differs by up to 1.7e-3 (division by small numbers at the
# start, a quantile that feeds back).
IF_LOOP = 5e-3
# Mask logits this near to 0 may fall on either side.
LOGIT_MARGIN = 1e-3

DIFFUSERS_SAMPLERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "dpmpp": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def make_environment():
    """Returns the interpreter of the environment, made if it is missing or holds other versions."""
    torch = pathlib.Path(subprocess.run([ROOT / "tools/setup.sh", "--print-deps"], check=True, text=True,
                                        capture_output=True).stdout.strip())
    if not (torch / "torch").is_dir():
        sys.exit(f"check_models: there is no PyTorch in {torch}; run tools/setup.sh first")
    folder = torch.parent / "check-env"
    python, marker = folder / "bin/python", folder / ".complete"
    contents = "\n".join([str(torch), *PINS, *PINS_ALONE])
    if marker.is_file() and marker.read_text() == contents:
        return python
    print(f"check_models: installing {', '.join(PINS + PINS_ALONE)} into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PINS], check=True)
    subprocess.run([*pip, "--no-deps", *PINS_ALONE], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "divergen_torch.pth").write_text(f"{torch}\n")
    marker.write_text(contents)
    return python


def kind_of(folder):
    if (folder / "model_index.json").is_file():
        name = json.loads((folder / "model_index.json").read_text())["_class_name"]
        return {"StableDiffusionPipeline": "sd", "IFPipeline": "if"}.get(name)  # IF's stage II goes with stage I
    config = folder / "config.json"
    if config.is_file():
        settings = json.loads(config.read_text())
        if settings.get("model_type", "").startswith("clip"):
            return "clip"
        if "img_size" in settings:
            return "sam"
    return None


class Table:
    def __init__(self):
        self.is_good = True

    def row(self, what, difference, largest, allowed, is_good):
        self.is_good &= bool(is_good)
        print(f"  {what:28} {difference:11.3g} {largest:11.3g} {allowed:>11}  {'ok' if is_good else 'WRONG'}")

    def header(self, folder, package):
        print(f"{folder}, against {package}")
        print(f"  {'':28} {'difference':>11} {'largest':>11} {'allowed':>11}")

    def close(self, what, ours, reference):
        """float tensors of one shape, within TOLERANCE of the largest value."""
        ours, reference = ours.double(), reference.double()
        if ours.shape != reference.shape:
            self.row(f"{what} {list(ours.shape)}", float("nan"), float("nan"), str(list(reference.shape)), False)
            return
        largest, difference = reference.abs().max().item(), (ours - reference).abs().max().item()
        self.row(what, difference, largest, f"{TOLERANCE * largest:.3g}", difference <= TOLERANCE * largest)

    def within(self, what, ours, reference, allowed):
        """float tensors, no element further away than `allowed`."""
        difference = (ours.double() - reference.double()).abs().max().item()
        self.row(what, difference, reference.abs().max().item(), f"{allowed:.3g}", difference <= allowed)

    def equal(self, what, ours, reference):
        differing = (ours != reference).sum().item() if ours.shape == reference.shape else ours.numel()
        self.row(what, differing, reference.abs().max().item(), "0 differ", differing == 0)

    def none(self, what, names):
        self.row(what, len(names), len(names), "0", not names)
        for name in names:
            print(f"    {name}")

    def pictures(self, what, ours, reference):
        """uint8 pictures: steps of 1 at a small share of the bytes."""
        difference = (ours.int() - reference.int()).abs()
        share = (difference > 0).double().mean().item()
        is_good = ours.shape == reference.shape and difference.max().item() <= 1 and share <= PICTURE_SHARE
        self.row(f"{what} ({100 * share:.3f} % differ)", difference.max().item(), reference.max().item(), "1", is_good)


def run_probe(program, kind, model):
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as scratch:
        file = os.path.join(scratch, "probe.safetensors")
        subprocess.run([program, kind, model, "--out", file], check=True)
        with safe_open(file, "pt") as tensors:
            return {name: tensors.get_tensor(name).clone() for name in tensors.keys()}, tensors.metadata() or {}


def check_stable_diffusion(folder, probe, facts, table):
    import diffusers
    import torch

    table.header(folder, f"diffusers {diffusers.__version__}")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, low_cpu_mem_usage=False, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    prompts = [facts["negative_prompt"], facts["prompt"]]
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True,
                         return_tensors="pt").input_ids
    table.equal("token ids", probe["ids"], ids)
    text = pipe.text_encoder(ids)[0]
    table.close("text states", probe["text"], text)
    noise, count = probe["noise"], len(probe["noise"])
    context = text[1:].expand(count, -1, -1)
    table.close("predicted noise", probe["unet.out"], pipe.unet(noise, probe["unet.time"], context).sample)
    table.close("decoded latents", probe["vae.image"], pipe.vae.decode(noise).sample)
    samplers = [name.removeprefix("image.") for name in probe if name.startswith("image.")]
    schedule = pipe.scheduler.config
    for sampler in samplers:
        pipe.scheduler = getattr(diffusers, DIFFUSERS_SAMPLERS[sampler]).from_config(schedule)
        images = pipe([facts["prompt"]] * count, negative_prompt=[facts["negative_prompt"]] * count, latents=noise,
                      num_inference_steps=int(facts["steps"]), guidance_scale=float(facts["guidance"]),
                      output_type="np").images
        reference = torch.from_numpy((images * 255).round().astype("uint8"))
        table.pictures(f"picture, {sampler}", probe[f"image.{sampler}"], reference)


def check_deepfloyd_if(folder, probe, facts, table):
    """Both stages through diffusers' own pipelines, fed with the T5 states of transformers; the parts first."""
    import diffusers
    import torch
    import transformers

    table.header(folder, f"diffusers {diffusers.__version__}")
    t5, info = transformers.T5EncoderModel.from_pretrained(folder / "text_encoder", local_files_only=True,
                                                           dtype=torch.float32, output_loading_info=True)
    table.none("T5 keys that do not fit", [*info["missing_keys"], *info["unexpected_keys"]])
    text = t5(probe["ids"], attention_mask=probe["mask"])[0]
    table.close("text states", probe["text"], text)
    none = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None,
            "watermarker": None, "requires_safety_checker": False}
    count, guidance, steps = len(probe["stage1.in"]), float(facts["guidance"]), int(facts["steps"])
    # One generator for each picture, going on from stage I to stage II.
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    small = None
    for stage, where in (("stage1", folder), ("stage2", facts["stage2"])):
        if not where:
            continue
        where = pathlib.Path(where)
        unet, info = diffusers.UNet2DConditionModel.from_pretrained(
            where / "unet", local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False,
            output_loading_info=True)
        table.none(f"{stage} keys that do not fit", [*info["missing_keys"], *info["unexpected_keys"]])
        levels = {"class_labels": torch.full((count,), int(facts["noise_level"]))} if stage == "stage2" else {}
        noise = unet(probe[f"{stage}.in"], probe[f"{stage}.time"], text[1:].expand(count, -1, -1), **levels).sample
        table.close(f"{stage}, network", probe[f"{stage}.out"], noise)
        parts = {"unet": unet, "scheduler": diffusers.DDPMScheduler.from_pretrained(where / "scheduler"), **none}
        if stage == "stage1":
            run = diffusers.IFPipeline(**parts)
        else:
            noising = diffusers.DDPMScheduler.from_pretrained(where / "image_noising_scheduler")
            run = diffusers.IFSuperResolutionPipeline(image_noising_scheduler=noising, **parts)
        run.set_progress_bar_config(disable=True)
        images = []
        for i, generator in enumerate(generators):
            given = {} if stage == "stage1" else {"image": small[i:i + 1], "noise_level": int(facts["noise_level"])}
            images.append(run(prompt_embeds=text[1:], negative_prompt_embeds=text[:1], guidance_scale=guidance,
                              num_inference_steps=steps, generator=generator, output_type="pt", **given).images)
        small = torch.cat(images)
        table.within(f"{stage}, picture", probe[f"{stage}.image"], small, IF_LOOP)


def check_clip(folder, probe, _, table):
    import PIL.Image
    import torch
    import transformers
    from torchvision import transforms

    table.header(folder, f"transformers {transformers.__version__}")
    settings = json.loads((folder / "config.json").read_text())
    is_whole = "text_config" in settings
    kind = transformers.CLIPModel if is_whole else transformers.CLIPVisionModelWithProjection
    model, info = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, output_loading_info=True)
    table.none("keys that do not fit", [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]])
    # The preprocessing of openai/CLIP.
    size = model.config.vision_config.image_size if is_whole else model.config.image_size
    prepare = transforms.Compose([
        transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))])
    pixels = prepare(PIL.Image.fromarray(probe["picture"].numpy())).unsqueeze(0)
    table.close("prepared picture", probe["pixels"], pixels)
    features = model.get_image_features(pixels) if is_whole else model(pixels).image_embeds
    table.close("picture features", probe["image_features"], plain(features))
    if is_whole:
        table.close("text features", probe["text_features"], plain(model.get_text_features(probe["ids"])))


def plain(output):
    """transformers 5 wraps features; older versions give the tensor."""
    return getattr(output, "pooler_output", output)


def build_sam(c):
    """segment-anything's own modules with the sizes of config.json, put together as its build_sam does."""
    from functools import partial

    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = c["img_size"] // c["patch"]
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=c["img_size"], patch_size=c["patch"], embed_dim=c["embed"], depth=c["depth"],
            num_heads=c["heads"], mlp_ratio=c["mlp_ratio"], out_chans=c["dim"], qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=c["window"],
            global_attn_indexes=tuple(c["glob"])),
        prompt_encoder=PromptEncoder(embed_dim=c["dim"], image_embedding_size=(grid, grid),
                                     input_image_size=(c["img_size"],) * 2, mask_in_chans=c["mask_in_chans"]),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3, transformer_dim=c["dim"], iou_head_depth=c["iou_head_depth"],
            iou_head_hidden_dim=c["iou_head_hidden"],
            transformer=TwoWayTransformer(depth=c["decoder_depth"], embedding_dim=c["dim"], mlp_dim=c["decoder_mlp"],
                                          num_heads=c["decoder_heads"])),
        pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375]).eval()


def sam_weights(folder):
    """A folder of ours, or the one .pth file of a folder as segment-anything publishes them."""
    ours = folder / "model.safetensors"
    return folder if ours.is_file() else next(folder.glob("*.pth"))


def check_sam(folder, probe, _, table):
    import numpy
    import segment_anything
    import torch
    from safetensors.torch import load_file

    table.header(folder, "segment-anything 1.0")
    sam = build_sam(json.loads((folder / "config.json").read_text()))
    weights = sam_weights(folder)
    sam.load_state_dict(load_file(weights / "model.safetensors") if weights.is_dir()
                        else torch.load(weights, weights_only=True))
    predictor = segment_anything.SamPredictor(sam)
    picture = probe["picture"].numpy()
    resized = torch.from_numpy(predictor.transform.apply_image(picture)).permute(2, 0, 1)[None]
    table.close("prepared picture", probe["pixels"], sam.preprocess(resized))
    predictor.set_image(picture)
    table.close("embedding", probe["embedding"], predictor.features)
    labels = numpy.ones(len(probe["points"]), dtype=int)
    logits, quality, low = predictor.predict(probe["points"].numpy(), labels, multimask_output=True,
                                             return_logits=True)
    table.close("mask logits", probe["low_res"][0], torch.from_numpy(low))
    table.close("predicted qualities", probe["iou"][0], torch.from_numpy(quality))
    # The object is what the third mask leaves (DiverGen's rule).
    logits = torch.from_numpy(logits[2])
    ours, reference = probe["object"][..., 0] > 0, logits <= sam.mask_threshold
    doubtful = logits.abs() < LOGIT_MARGIN
    table.equal("object", (ours | doubtful).int(), (reference | doubtful).int())


CHECKS = {"sd": check_stable_diffusion, "if": check_deepfloyd_if, "clip": check_clip, "sam": check_sam}


def quieten():
    """Leaves the table alone on the screen; errors still come as exceptions."""
    import diffusers
    import transformers

    warnings.simplefilter("ignore", FutureWarning)
    for package in (diffusers, transformers):
        package.utils.logging.set_verbosity_error()
        package.utils.logging.disable_progress_bar()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--probe", type=pathlib.Path, default=ROOT / "build/release/bin/divergen-probe")
    parser.add_argument("--in-environment", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.probe.is_file():
        sys.exit(f"check_models: there is no {args.probe}; build it with tools/build.sh, or name it with --probe")
    folders = args.folders or sorted(f for f in (ROOT / "data/mini/models").iterdir() if kind_of(f))
    if not folders:
        sys.exit("check_models: there is no model to check; name a folder")
    unknown = [str(folder) for folder in folders if kind_of(folder) is None]
    if unknown:
        sys.exit(f"check_models: neither Stable Diffusion nor DeepFloyd-IF nor CLIP nor SAM: {', '.join(unknown)}")
    if not args.in_environment:
        python = make_environment()
        return subprocess.run([python, __file__, "--in-environment", *sys.argv[1:]],
                              env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}).returncode
    quieten()
    torch = importlib.import_module("torch")
    table = Table()
    with torch.inference_mode():
        for folder in folders:
            kind = kind_of(folder)
            model = sam_weights(folder) if kind == "sam" else folder
            probe, facts = run_probe(args.probe, kind, model)
            CHECKS[kind](folder, probe, facts, table)
    print("all within tolerance" if table.is_good else "check_models: some results differ", flush=True)
    return 0 if table.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
