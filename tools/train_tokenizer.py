#!/usr/bin/env python3
"""Trains the SentencePiece model of the miniature DeepFloyd-IF on the prompts of the mini world.

    tools/train_tokenizer.py [--out data/mini/models/if/tokenizer] [--pieces 800]

The text: every line of data/mini/prompts, the template prompts of every category of the mini world, and for variety
(the mini world alone has words for 460 pieces) LVIS's names and definitions; lower-cased as DeepFloyd-IF does.
The model is T5's kind: unigram, nmt_nfkc, ids 0 <pad>, 1 </s>, 2 <unk>, no start mark. One thread and sorted text: the
same files give the same model.

SentencePiece comes from PyPI into an environment of its own beside LibTorch (tools/setup.sh --print-deps).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PIN = "sentencepiece==0.2.1"
# Every printable ASCII character has a piece, also where no prompt of the mini world has it.
REQUIRED = "".join(chr(c) for c in range(0x21, 0x7F) if not chr(c).isupper())

TRAIN = """
import sentencepiece, sys
sentencepiece.SentencePieceTrainer.train(
    input=sys.argv[1], model_prefix=sys.argv[2], vocab_size=int(sys.argv[3]), required_chars=sys.argv[4],
    model_type="unigram", normalization_rule_name="nmt_nfkc", character_coverage=1.0, num_threads=1,
    pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>",
    shuffle_input_sentence=False, minloglevel=1)
"""


def interpreter():
    """Of an environment with SentencePiece, made if it is missing."""
    deps = subprocess.run([ROOT / "tools/setup.sh", "--print-deps"], check=True, text=True, capture_output=True)
    folder = pathlib.Path(deps.stdout.strip()).parent / "tokenizer-env"
    python, marker = folder / "bin/python", folder / ".complete"
    if not (marker.is_file() and marker.read_text() == PIN):
        print(f"train_tokenizer: installing {PIN} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PIN], check=True)
        marker.write_text(PIN)
    return python


def corpus():
    lines = set()
    for file in sorted((ROOT / "data/mini/prompts").glob("*.txt")):
        lines.update(file.read_text().splitlines())
    for category in json.loads((ROOT / "data/mini/categories.json").read_text()):
        name = category["name"].replace("_", " ")
        lines.add(f"a photo of a single {name}")
        lines.add(f"a photo of a single {name}, {category['def']}, in a white background")
    for category in json.loads((ROOT / "data/lvis/lvis_v1_train_cat_info.json").read_text()):
        lines.add(f"{category['name'].replace('_', ' ')}, {category['def']}")
    return sorted(line.lower().strip() for line in lines if line.strip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "data/mini/models/if/tokenizer")
    parser.add_argument("--pieces", type=int, default=800)
    options = parser.parse_args()
    options.out = options.out.resolve()
    python, lines = interpreter(), corpus()
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "corpus.txt").write_text("\n".join(lines) + "\n")
        # The model records the names of its files: relative ones are the same in every run.
        subprocess.run([python, "-c", TRAIN, "corpus.txt", "spiece", str(options.pieces), REQUIRED], check=True,
                       cwd=folder)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "spiece.model").write_bytes((pathlib.Path(folder) / "spiece.model").read_bytes())
    (options.out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "T5Tokenizer", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
         "extra_ids": 100, "model_max_length": 77}, indent=1) + "\n")
    print(f"{options.out}: {options.pieces} pieces from {len(lines)} lines")


if __name__ == "__main__":
    main()
