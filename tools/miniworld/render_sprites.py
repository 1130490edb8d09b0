#!/usr/bin/env python3
"""Renders the sprites of the mini world from Noto Color Emoji into data/mini/sprites (needed only to make them again).

    pip install pillow fonttools && apt-get install fonts-noto-color-emoji
    python3 tools/miniworld/render_sprites.py

Writes sprites.png (a grid of square RGBA cells) and sprites.json: one entry a sprite, in grid order, with codepoint, name,
role (eval: an evaluated LVIS category, extra: a category outside the evaluated set, other: for pretraining only) and
category id. data/mini/categories.json gets the real metadata of the eval and extra categories.
"""
import json
import pathlib
import unicodedata

from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "data/mini"
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
CELL = 80        # px
GRID = 16        # cells in a row
STRIKE = 109     # the only size of the font's bitmaps

# LVIS categories that an emoji depicts truthfully; several looks where there are several emoji of the same thing.
RARE = {"gorilla": "🦍", "hippopotamus": "🦛", "koala": "🐨", "mammoth": "🦣", "octopus_(animal)": "🐙", "saxophone": "🎷",
        "snake": "🐍", "taco": "🌮", "violin": "🎻", "wolf": "🐺", "banjo": "🪕", "boxing_glove": "🥊", "microscope": "🔬",
        "baguet": "🥖", "die": "🎲", "race_car": "🏎"}
COMMON = {"camel": "🐫🐪", "crown": "👑", "dolphin": "🐬", "eggplant": "🍆", "flamingo": "🦩", "frog": "🐸",
          "hamburger": "🍔", "ladybug": "🐞", "owl": "🦉", "parrot": "🦜", "peach": "🍑", "penguin": "🐧", "rabbit": "🐰🐇",
          "shark": "🦈", "tiger": "🐯🐅", "turtle": "🐢"}
FREQUENT = {"apple": "🍎🍏", "banana": "🍌", "bear": "🐻", "bell": "🔔", "bicycle": "🚲", "bus_(vehicle)": "🚌🚍",
            "car_(automobile)": "🚗🚙", "carrot": "🥕", "cat": "🐱🐈", "dog": "🐶🐕", "elephant": "🐘", "guitar": "🎸",
            "pizza": "🍕", "strawberry": "🍓", "umbrella": "☂🌂", "airplane": "✈🛩"}
EXTRA = {"scorpion": "🦂", "snail": "🐌", "red_fox": "🦊", "leopard": "🐆", "Nile_crocodile": "🐊", "American_lobster": "🦞",
         "bee": "🐝", "ant": "🐜"}
# Everything else that is a thing and not a sign, for pretraining on objects that are never evaluated.
OTHER_RANGES = [(0x1F330, 0x1F37F), (0x1F380, 0x1F3C6), (0x1F3D5, 0x1F3DB), (0x1F3F0, 0x1F3FA), (0x1F400, 0x1F43F),
                (0x1F451, 0x1F462), (0x1F484, 0x1F48E), (0x1F4A1, 0x1F4A1), (0x1F4B0, 0x1F4C0), (0x1F4DA, 0x1F4FF),
                (0x1F50B, 0x1F52E), (0x1F5A8, 0x1F5DE), (0x1F680, 0x1F6FC), (0x1F950, 0x1F96F), (0x1F980, 0x1F9AE),
                (0x1F9C0, 0x1F9CB), (0x1F9E0, 0x1F9FF), (0x1FA70, 0x1FAD6)]
NOT_THINGS = ("FACE", "PERSON", "MAN", "WOMAN", "SIGN", "SYMBOL", "MARK", "PROHIBIT", "NO ", "MOON", "RAINBOW", "WITH", "PEOPLE",
              "SQUARE", "BUTTON", "CHART", "CALENDAR", "CURRENCY", "CARD", "BANKNOTE", "LEFT", "RIGHT", "INFORMATION", "WATER",
              "BABY", "PASSPORT", "CUSTOMS", "PEDESTRIANS", "CHILDREN", "RESTROOM", "LAVATORY", "EMOJI COMPONENT", "SCENE",
              "BRIDGE", "CITY", "SUNSET", "STREAM", "WAVE", "VOLCANO", "FOG", "NIGHT", "DUSK", "FIREWORK", "SPARKLER", "KISS",
              "BIKINI CLOTHES", "CLOTHES", "PAGE", "MOBILE PHONE OFF", "VIBRATION", "ANTENNA", "FLAG", "LEDGER", "SHOWER",
              "BATH", "PLACE OF WORSHIP", "SLEEPING", "FOOTPRINTS", "PAW", "SPEAKER", "BELL WITH", "GEAR", "MAGNET", "BLOOD")


def render(font, text):
    """One emoji, tight, centred in a square cell with a small margin; None where the font has no picture."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), text, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None or box[2] - box[0] < 40:
        return None
    picture = canvas.crop(box)
    inner = CELL - 4
    scale = inner / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(picture.resize(size, Image.LANCZOS), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def main():
    metadata = json.loads((ROOT / "data/lvis/ImageNet2012_filtered04_lvis_v1_train_cat_info_250.json").read_text())
    by_name = {c["name"]: c for c in metadata}
    font = ImageFont.truetype(FONT, STRIKE)
    known = set(TTFont(FONT).getBestCmap())
    sprites, cells, used, categories = [], [], set(), []

    def add(char, role, name, category_id):
        cell = render(font, char)
        if cell is None:
            raise SystemExit(f"the font has no picture of {name} (U+{ord(char):X})")
        cells.append(cell)
        used.add(char)
        sprites.append({"codepoint": f"U+{ord(char):X}", "name": name, "role": role, "category_id": category_id})

    for group, frequency in ((RARE, "r"), (COMMON, "c"), (FREQUENT, "f"), (EXTRA, None)):
        for name, looks in group.items():
            category = by_name[name]
            if frequency is not None and category["frequency"] != frequency:
                raise SystemExit(f"{name} is {category['frequency']} in LVIS, not {frequency}")
            categories.append(category | {"role": "eval" if frequency else "extra"})
            for char in looks:
                add(char, "eval" if frequency else "extra", name, category["id"])
    for low, high in OTHER_RANGES:
        for point in range(low, high + 1):
            name = unicodedata.name(chr(point), "")
            if point in known and chr(point) not in used and name and not any(word in name for word in NOT_THINGS):
                if render(font, chr(point)) is not None:
                    add(chr(point), "other", name.lower().replace(" ", "_"), 0)

    rows = (len(cells) + GRID - 1) // GRID
    sheet = Image.new("RGBA", (GRID * CELL, rows * CELL))
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % GRID * CELL, i // GRID * CELL))
    (OUT / "sprites").mkdir(parents=True, exist_ok=True)
    sheet.save(OUT / "sprites/sprites.png", optimize=True)
    (OUT / "sprites/sprites.json").write_text(json.dumps({"cell": CELL, "grid": GRID, "sprites": sprites}, indent=1) + "\n")
    categories.sort(key=lambda c: c["id"])
    (OUT / "categories.json").write_text(json.dumps(categories, indent=1) + "\n")
    print(len(sprites), "sprites,", len(categories), "categories")


if __name__ == "__main__":
    main()
