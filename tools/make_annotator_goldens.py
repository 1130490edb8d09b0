#!/usr/bin/env python3
"""Makes tests/fixtures/annotators: what the original code of X-Paste's annotators gives.

    tools/make_annotator_goldens.py [--sources FOLDER] [--out FOLDER] [PART...]

Parts: keys, u2net, ufo, selfreformer, clipseg, clipseg_original, matteformer, choice (default: all). Every part runs the
classes of the original repositories, U-2-Net, UFO, SelfReformer, clipseg and XPaste (commits below), on small pictures.
No trained weights are needed: weights follow from a tensor's name by a formula that tests/parity/annotators computes too,
so that only pictures and results are kept. Networks whose sizes may differ are made small, by giving their classes other
numbers; nothing of their arithmetic is replaced but `.cuda()`, which becomes nothing.

FOLDER has the repositories, each under its name; those that are missing are cloned from GitHub. The packages go into an
environment of their own, <deps>/annotators-env, with the PyTorch that tools/setup.sh installed.
"""
import argparse
import importlib
import json
import math
import os
import pathlib
import subprocess
import sys
import types

ROOT = pathlib.Path(__file__).resolve().parent.parent
PINS = ["numpy==2.*", "einops", "opencv-python-headless", "toml", "easydict", "ftfy", "regex", "safetensors",
        "transformers==5.23.0", "tqdm", "pillow", "setuptools<81"]
PINS_ALONE = ["torchvision==0.26.0", "openai-clip==1.0.1"]
REPOSITORIES = {"U-2-Net": ("xuebinqin/U-2-Net", "ac7e1c8"), "UFO": ("suyukun666/UFO", "cdddf75"),
                "SelfReformer": ("BarCodeReader/SelfReformer", "8c206f2"), "clipseg": ("timojl/clipseg", "77c4e2d"),
                "XPaste": ("yoctta/XPaste", "3f58ce0")}
PARTS = ["keys", "u2net", "ufo", "selfreformer", "clipseg", "clipseg_original", "matteformer", "choice"]


def make_environment():
    """Returns the interpreter of the environment, made if it is missing or holds other versions."""
    torch = pathlib.Path(subprocess.run([ROOT / "tools/setup.sh", "--print-deps"], check=True, text=True,
                                        capture_output=True).stdout.strip())
    folder = torch.parent / "annotators-env"
    python, marker = folder / "bin/python", folder / ".complete"
    contents = "\n".join([str(torch), *PINS, *PINS_ALONE])
    if marker.is_file() and marker.read_text() == contents:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PINS], check=True)
    subprocess.run([*pip, "--no-deps", *PINS_ALONE], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "divergen_torch.pth").write_text(f"{torch}\n")
    marker.write_text(contents)
    return python


def clone(sources):
    for name, (repository, commit) in REPOSITORIES.items():
        if not (sources / name).is_dir():
            subprocess.run(["git", "clone", "-q", f"https://github.com/{repository}", sources / name], check=True)
            subprocess.run(["git", "-C", sources / name, "checkout", "-q", commit], check=True)


# ---- weights by formula ---------------------------------------------------------------------------------------------


def noise(name, count):
    """`count` numbers in [-1, 1): splitmix64 over FNV-1a of the name, 24 bits each."""
    import numpy as np
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def formula(name, shape):
    """The value of a floating tensor; tests/parity/annotators/formula.hpp has the same rules."""
    import numpy as np
    count = math.prod(shape)
    u = noise(name, count)
    fan_in = count // shape[0] if shape else 1
    if not shape:
        v = u * 0 + 2.0
    elif name.endswith("running_var"):
        v = 1 + 0.3 * u
    elif name.endswith(("weight_u", "weight_v")):
        v = (1 + 0.5 * u) / math.sqrt(count)
    elif name.endswith("weight_bar"):
        v = (0.3 + u) / math.sqrt(fan_in)
    elif len(shape) == 1:
        v = 1 + 0.2 * u if name.endswith("weight") else 0.1 * u
    else:
        v = u * math.sqrt(3.0 / fan_in) * (0.05 if ".kqv." in name else 1.2)
    return v.astype(np.float32).reshape(shape)


def fill(module, prefix=""):
    import torch
    state = {}
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            state[name] = torch.from_numpy(formula(prefix + name, tuple(tensor.shape)).copy())
        else:
            state[name] = tensor
    module.load_state_dict(state)
    return module.eval()


def pictures(count, height, width, salt):
    """Smooth coloured pictures with one object, uint8 [count, height, width, 3]."""
    import numpy as np
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    out = []
    for n in range(count):
        a = noise(f"picture {salt} {n}", 12)
        back = np.stack([0.5 + 0.4 * np.sin(7 * a[c] * x + 5 * a[c + 3] * y + 6 * a[c + 6]) for c in range(3)], -1)
        inside = ((x - 0.4 - 0.1 * a[9]) ** 2 + (y - 0.4 - 0.1 * a[10]) ** 2) < (0.2 + 0.05 * a[11]) ** 2
        back[inside] = 0.9 - back[inside] * 0.7
        out.append(np.clip(back * 255, 0, 255).astype(np.uint8))
    return np.stack(out)


def to_input(images):
    import torch
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)


# ---- the repositories' code -----------------------------------------------------------------------------------------


def stub_timm():
    import torch

    class DropPath(torch.nn.Identity):
        def __init__(self, p=0.0):
            super().__init__()

    layers = types.ModuleType("timm.models.layers")
    layers.DropPath = DropPath
    layers.to_2tuple = lambda x: x if isinstance(x, tuple) else (x, x)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda f: f
    vit = types.ModuleType("timm.models.vision_transformer")
    vit._cfg = lambda **kwargs: kwargs
    helpers = types.ModuleType("timm.models.helpers")
    helpers.load_pretrained = None
    for name, module in {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models"),
                         "timm.models.layers": layers, "timm.models.registry": registry,
                         "timm.models.helpers": helpers, "timm.models.vision_transformer": vit}.items():
        module.__path__ = []
        sys.modules[name] = module


def on_cpu():
    import torch
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self


def enter(folder):
    """Makes a repository's modules importable, alone."""
    sys.path.insert(0, str(folder))


def exported(folder, name):
    """A class of X-Paste's export.py without its constructor, which loads weights."""
    spec = importlib.util.spec_from_file_location("export", folder / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wanted = getattr(module, name)
    made = wanted.__new__(wanted)
    made.dev = "cpu"
    return made


def save(out, name, tensors):
    from safetensors.numpy import save_file
    import numpy as np
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, out / f"{name}.safetensors")


def selfreformer_net(segment, widths):
    """Their Net, with an encoder of these widths (finest first); None: as published."""
    import torch
    from torch import nn
    enter(segment / "SelfReformer")
    stub_timm()
    from functools import partial
    from model import CRM as crm, Fuser as fuser, PVT_V2 as pvt, Transformer as transformer
    import model.Encoder_pvt as encoder
    import model.network as network
    load = torch.load
    torch.load = lambda *args, **kwargs: {}  # Encoder() wants an ImageNet file; fill() gives all values
    opt = dict(transformer=[[2, 1, 512, 3, 49], [2, 1, 320, 3, 196], [2, 1, 128, 3, 784], [2, 1, 64, 3, 3136]])
    if widths is None:
        net = network.Net(opt)
        torch.load = load
        return net
    net = network.Net.__new__(network.Net)
    nn.Module.__init__(net)
    net.encoder = encoder.Encoder.__new__(encoder.Encoder)
    nn.Module.__init__(net.encoder)
    net.encoder.encoder = pvt.PyramidVisionTransformerV2(
        patch_size=4, embed_dims=widths, num_heads=[1, 2, 5, 8], mlp_ratios=[8, 8, 4, 4], qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), depths=[1, 2, 1, 1], sr_ratios=[8, 4, 2, 1])
    net.encoder_tf_ss = transformer.Transformer(depth=2, num_heads=1, embed_dim=256, mlp_ratio=3, num_patches=196)
    sides, shaped, coarse_first = [7, 14, 28, 56], [1024, 256, 64, 16], widths[::-1]
    for side, out, width in zip(sides, shaped, coarse_first):
        setattr(net, f"encoder_shaper_{side}", nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out), nn.GELU()))
    for side in (7, 28, 56):
        setattr(net, f"encoder_merge{side}_14", nn.Sequential(
            nn.BatchNorm2d(512), nn.Conv2d(512, 256, kernel_size=3, padding=1, bias=True), nn.LeakyReLU()))
    net.encoder_pred = nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 256), nn.GELU(), nn.LayerNorm(256),
                                     nn.Linear(256, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 1))
    net.transformer = nn.ModuleList([transformer.Transformer(depth=2, num_heads=1, embed_dim=w, mlp_ratio=3,
                                                             num_patches=s * s) for w, s in zip(coarse_first, sides)])
    for i in range(3):
        setattr(net, f"fuser{sides[i]}_{sides[i + 1]}",
                fuser.Fuser(emb_dim=coarse_first[i + 1], hw=sides[i], cur_stg=coarse_first[i]))
    for side, out, width in zip(sides, shaped, coarse_first):
        setattr(net, f"CRM_{side}", crm.CRM(inc=width, outc=out, hw=side, embed_dim=width, num_patches=side * side))
    torch.load = load
    return net


def ufo_net(segment, small):
    on_cpu()
    enter(segment / "UFO")
    import model_image as m
    if not small:
        return m.build_model("cpu")
    from torch import nn
    from transformer import Transformer
    m.Transformer = lambda dim, depth, heads, mlp, group: Transformer(16, 2, heads, 24, group=group)
    cfg = [4, 4, "M", 8, 8, "M", 8, 8, 8, "M", 16, 16, 16, "M", 16, 16, 16, "M"]

    def narrow(layers):  # the same layers with 16 channels in place of 512
        out = []
        for layer in layers:
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                ins = {128: 8, 256: 8, 512: 16}.get(layer.in_channels, layer.in_channels)
                outs = {512: 16}.get(layer.out_channels, layer.out_channels)
                layer = type(layer)(ins, outs, layer.kernel_size, layer.stride, layer.padding)
            out.append(layer)
        return out

    return m.Model("cpu", m.vgg(cfg), narrow(m.incr_channel()), narrow(m.incr_channel2()), m.hsp(16, 6), m.hsp(36, 4),
                   m.cls_modulation_branch(16, 16), m.cls_branch(16, 7), narrow(m.concat_r()), narrow(m.concat_1()),
                   narrow(m.mask_branch()), narrow(m.intra()))


def matte_net(segment):
    on_cpu()
    stub_timm()
    import numpy
    numpy.float = float  # of NumPy before 1.24
    enter(segment / "clipseg" / "matteformer")
    import networks
    import utils
    import toml
    os.chdir(segment)
    utils.load_config(toml.load(segment / "clipseg/matteformer/config/MatteFormer_Composition1k.toml"))
    return networks.get_generator(is_train=False)


def small_clip():
    """OpenAI's class with towers that are narrow, and of which the image's is deep enough to be extracted from."""
    from clip.model import CLIP
    return CLIP(embed_dim=24, image_resolution=224, vision_layers=10, vision_width=64, vision_patch_size=16,
                context_length=77, vocab_size=49408, transformer_width=64, transformer_heads=1, transformer_layers=1)


def clipseg_original(sources):
    """Their CLIPDensePredT around a small CLIP; its class writes 768 and 512 where the widths stand here."""
    import torch
    from torch import nn
    from torch.nn import functional
    enter(sources / "clipseg")
    from models.clipseg import CLIPDensePredT, get_prompt_list
    made = CLIPDensePredT.__new__(CLIPDensePredT)
    nn.Module.__init__(made)
    made.clip_model = small_clip().float()
    made.model = made.clip_model.visual
    made.n_tokens, made.reduce_cond, made.shift_vector, made.upsample_proj = None, None, None, None
    made.precomputed_prompts, made.prompt_list = {}, get_prompt_list("fixed")
    made.film_mul, made.film_add, made.reduce = nn.Linear(24, 16), nn.Linear(24, 16), nn.Linear(64, 16)
    made.extract_layers, made.cond_layer, made.rev_activations = (3, 6, 9), 0, False
    made.token_shape = (14, 14)
    made.trans_conv = nn.ConvTranspose2d(16, 1, (16, 16), stride=(16, 16))
    made.reduces = nn.ModuleList([nn.Linear(64, 16) for _ in range(3)])
    made.blocks = nn.ModuleList([nn.TransformerEncoderLayer(d_model=16, nhead=4, dim_feedforward=40) for _ in range(3)])
    made.extra_blocks = nn.ModuleList([])

    def rescaled_pos_emb(self, new_size):
        a = self.model.positional_embedding[1:].T.view(1, 64, *self.token_shape)
        b = functional.interpolate(a, new_size, mode="bicubic", align_corners=False)
        return torch.cat([self.model.positional_embedding[:1], b.squeeze(0).view(64, new_size[0] * new_size[1]).T])

    made.rescaled_pos_emb = types.MethodType(rescaled_pos_emb, made)
    return made


def clipseg_config(complex_convolution):
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=49408,
                max_position_embeddings=77, eos_token_id=49407, bos_token_id=49406, pad_token_id=1,
                hidden_act="quick_gelu", layer_norm_eps=1e-5)
    vision = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=5, num_attention_heads=3, patch_size=16,
                  image_size=224, hidden_act="quick_gelu", layer_norm_eps=1e-5)
    return dict(model_type="clipseg", text_config=text, vision_config=vision, projection_dim=24, reduce_dim=16,
                decoder_num_attention_heads=4, decoder_intermediate_size=40, extract_layers=[0, 2, 3],
                conditional_layer=0, use_complex_transposed_convolution=complex_convolution)


# ---- parts ----------------------------------------------------------------------------------------------------------


def write_keys(out, name, module, keep=lambda key: True):
    lines = ["name\tshape\ttype"]
    for key, value in module.state_dict().items():
        if keep(key):
            kind = "" if value.is_floating_point() else "\tint64"
            lines.append(f"{key}\t{'x'.join(map(str, value.shape)) or 'scalar'}{kind}")
    (out / "keys").mkdir(exist_ok=True)
    (out / "keys" / f"{name}.tsv").write_text("\n".join(lines) + "\n")


def part_keys(out, sources, which):
    import torch
    segment = sources / "XPaste/segment_methods"
    with torch.device("meta"):
        if which == "u2net":
            enter(sources / "U-2-Net")
            from model import U2NET
            write_keys(out, "u2net", U2NET(3, 1))
        elif which == "clipseg":
            from transformers import CLIPSegConfig, CLIPSegForImageSegmentation
            config = CLIPSegConfig(vision_config={"patch_size": 16}, use_complex_transposed_convolution=True)
            write_keys(out, "clipseg_rd64_refined", CLIPSegForImageSegmentation(config))
    if which == "ufo":
        write_keys(out, "ufo", ufo_net(segment, small=False))
    elif which == "selfreformer":
        write_keys(out, "selfreformer", selfreformer_net(segment, None))
    elif which == "matteformer":
        write_keys(out, "matteformer", matte_net(segment))


def part_u2net(out, sources):
    import torch
    folder = sources / "XPaste/segment_methods/U-2-Net"
    enter(folder)
    from model import U2NETP
    images = pictures(2, 56, 40, "u2net")
    net = fill(U2NETP(3, 1))
    export = exported(folder, "u2net")
    from torchvision import transforms
    export.net, export.transform = net, transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    maps = net(torch.nn.functional.interpolate(export.transform(to_input(images)), (97, 70), mode="bilinear"))
    save(out, "u2netp", {"pictures": images, "maps": torch.cat(maps, 1)[..., ::5, ::5].numpy(),
                         "masks": export.forward(to_input(images))})


def part_ufo(out, sources):
    import torch
    segment = sources / "XPaste/segment_methods"
    net = fill(ufo_net(segment, small=True))
    export = exported(segment / "UFO", "UFO")
    from torchvision import transforms
    export.net, export.img_size = net, 224
    export.img_transform = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    images = pictures(7, 32, 40, "ufo")
    rest = images[[5, 6, 5, 6, 5]]  # how a group of two is filled up here
    masks = [export.forward(to_input(images[:5])), export.forward(to_input(rest))[:2]]
    raw = net(torch.nn.functional.interpolate(export.img_transform(to_input(images[:5])), (224, 224), mode="bilinear"))
    import numpy as np
    save(out, "ufo", {"pictures": images, "map": raw[1][..., ::9, ::9].numpy(), "masks": np.concatenate(masks)})


def part_selfreformer(out, sources):
    import torch
    segment = sources / "XPaste/segment_methods"
    net = fill(selfreformer_net(segment, [8, 16, 40, 64]))
    export = exported(segment / "SelfReformer", "selfreformer")
    from torchvision import transforms
    export.net = net
    export.norm = transforms.Normalize(mean=(0.485, 0.458, 0.407), std=(0.229, 0.224, 0.225))
    images = pictures(2, 44, 36, "selfreformer")
    maps = net(torch.nn.functional.interpolate(export.norm(to_input(images)), (224, 224), mode="bilinear"))
    tensors = {f"map{i}": (m if m.shape[1] < 20 else m[:, ::37])[..., ::5, ::5].numpy() for i, m in enumerate(maps)}
    save(out, "selfreformer", {"pictures": images, "masks": export.forward(to_input(images)), **tensors})


def part_clipseg(out, sources):
    import cv2
    import numpy as np
    import torch
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation
    import clip
    from torchvision import transforms
    images = pictures(2, 50, 70, "clipseg")
    ids = clip.tokenize(["a photo of teddy bear", "a photo of traffic light"])
    pixels = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])(to_input(images))
    resized = torch.nn.functional.interpolate(pixels, (352, 352), mode="bilinear")
    tensors = {"pictures": images, "ids": ids.numpy()}
    for name, refined in {"plain": False, "refined": True}.items():
        config = clipseg_config(refined)
        (out / f"clipseg_{name}.json").write_text(json.dumps(config, indent=1) + "\n")
        model = fill(CLIPSegForImageSegmentation(CLIPSegConfig(**{k: v for k, v in config.items()
                                                                 if k != "model_type"})))
        logits = model(input_ids=ids, pixel_values=resized).logits
        tensors[f"{name}.condition"] = model.get_conditional_embeddings(2, input_ids=ids).numpy()
        tensors[f"{name}.logits"] = logits[..., ::11, ::11].numpy()
        # X-Paste's steps around the network, up to the matting.
        found = torch.nn.functional.interpolate(torch.sigmoid(logits)[:, None], (50, 70), mode="bilinear")[:, 0].numpy()
        soft = np.stack([cv2.GaussianBlur(one, (5, 5), 0) for one in found])
        low, high = soft.min((1, 2), keepdims=True), soft.max((1, 2), keepdims=True)
        tensors[f"{name}.soft"] = soft[..., ::3, ::3]
        tensors[f"{name}.masks"] = ((soft - low) / (high - low) * 255).astype("uint8")
    save(out, "clipseg", tensors)


def part_clipseg_original(out, sources):
    import torch
    made = fill(clipseg_original(sources))
    write_keys(out, "clipseg_original_small", made, lambda k: not k.startswith("model.") and not k.startswith("reduce."))
    # The image tower stands in the state twice; the second name must not have been given other values.
    fill(made.clip_model, "clip_model.")
    images = pictures(2, 40, 48, "clipseg original")
    pixels = torch.nn.functional.interpolate(to_input(images) * 2 - 1, (352, 352), mode="bilinear")
    logits = made(pixels, "a photo of teddy bear")[0]
    save(out, "clipseg_original", {"pictures": images, "logits": logits[:, 0, ::11, ::11].numpy()})


def part_matteformer(out, sources):
    import cv2
    import numpy as np
    import torch
    segment = sources / "XPaste/segment_methods"
    net = fill(matte_net(segment))
    import inference  # of matteformer
    import utils
    matting = inference.matting
    from torchvision import transforms
    images = pictures(2, 34, 48, "matte")
    pixels = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])(to_input(images))
    found = np.stack([cv2.resize(noise(f"found {n}", 20).reshape(4, 5).astype(np.float32) * 0.6 + 0.5, (48, 34))
                      for n in range(2)]).clip(0, 1).astype(np.float32)
    tensors = {"pictures": images, "found": found}
    alphas = [matting(net, pixels[n].numpy().transpose(1, 2, 0), found[n]) for n in range(2)]
    tensors["alphas"] = np.stack(alphas)
    tensors["masks"] = np.stack([((a - a.min()) / (a.max() - a.min()) * 255).astype("uint8") for a in alphas])
    trimap = torch.nn.functional.one_hot(torch.from_numpy((noise("trimap", 64 * 96).reshape(1, 64, 96) * 1.5 + 1.5)
                                                          .astype(np.int64)), 3).permute(0, 3, 1, 2).float()
    picture = torch.from_numpy(noise("matte picture", 3 * 64 * 96).reshape(1, 3, 64, 96).astype(np.float32))
    maps = net(picture, trimap)
    for key, value in maps.items():
        tensors[key] = value[..., ::3, ::3].numpy()
    soft = torch.from_numpy(((noise("uncertain", 48).reshape(1, 1, 6, 8) > 0.7) * 0.5).astype(np.float32))
    soft = torch.nn.functional.interpolate(soft, (96, 128), mode="nearest")
    for width in (30, 15):
        tensors[f"uncertain{width}"] = utils.get_unknown_tensor_from_pred(soft, width, train_mode=False) \
            .numpy().astype(np.uint8)[..., ::3, ::3]
    save(out, "matteformer", tensors)


def part_choice(out, sources):
    """CLIP's logits of cut-outs on white, as reseg.py computes them, with the miniature CLIP of data/mini."""
    import clip
    import torch
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode
    from transformers import CLIPModel
    model = CLIPModel.from_pretrained(ROOT / "data/mini/models/clip", dtype=torch.float32).eval()
    side = model.config.vision_config.image_size
    # torchvision of X-Paste's time did not smooth tensors before shrinking them.
    preprocess = transforms.Compose([
        transforms.Resize(side, interpolation=InterpolationMode.BICUBIC, antialias=False), transforms.CenterCrop(side),
        transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))])
    import numpy as np
    images = pictures(3, 70, 93, "choice")
    masks = np.stack([(noise(f"mask {n}", 70 * 93).reshape(70, 93) * 60 + 128 + 60 * (n - 1)).astype(np.uint8)
                      for n in range(3)])
    imgs = to_input(images)
    mask_im = torch.from_numpy(masks > 128).float().unsqueeze(1)
    wb_im = imgs * mask_im + torch.ones_like(imgs) * (1 - mask_im)
    inputs = preprocess(wb_im)
    names = ["teddy_bear", "traffic_light", "apple"]
    ids = clip.tokenize(["a photo of " + " ".join(name.split("_")) for name in names])
    logits = model(input_ids=ids, pixel_values=inputs).logits_per_text
    save(out, "choice", {"pictures": images, "masks": masks, "inputs": inputs[..., ::3, ::3].numpy(),
                         "logits": logits.diagonal().numpy()})


def run_part(part, out, sources):
    import torch
    torch.set_grad_enabled(False)
    name, _, which = part.partition(":")
    if name == "keys":
        part_keys(out, sources, which)
    else:
        globals()[f"part_{name}"](out, sources)
    print(f"{part}: done", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="default: all")
    parser.add_argument("--sources", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/fixtures/annotators")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        return run_part(args.parts[0], args.out.resolve(), args.sources.resolve())
    python = make_environment()
    sources = (args.sources or python.parents[2] / "annotator-sources").resolve()
    sources.mkdir(parents=True, exist_ok=True)
    clone(sources)
    args.out.mkdir(parents=True, exist_ok=True)
    parts = args.parts or PARTS
    if "keys" in parts:
        parts = [p for p in parts if p != "keys"] + [f"keys:{n}" for n in ("u2net", "ufo", "selfreformer", "clipseg",
                                                                          "matteformer")]
    for part in parts:  # each in a process of its own: the repositories' modules have the same names
        subprocess.run([python, __file__, part, "--here", "--out", args.out, "--sources", sources], check=True)


if __name__ == "__main__":
    main()
