#!/usr/bin/env python3
"""Writes src/tokenizers/{html_entities,text_tables}.inc: the tables of Python's html and codecs modules and of ftfy.

    python3 -m venv V && V/bin/pip install ftfy==6.3.1 && V/bin/python tools/make_text_tables.py

The tables are facts of published formats (HTML's named character references, the single-byte code pages) and the
character classes by which ftfy (Apache-2.0) tells text that was decoded wrongly. Run it again only to follow a new
version of ftfy.
"""
import html.entities
import pathlib
import re

import ftfy
import ftfy.badness
import ftfy.bad_codecs  # registers the sloppy codecs
import ftfy.chardata

OUT = pathlib.Path(__file__).resolve().parent.parent / "src/tokenizers"
WIDTH = 118


def wrapped(tokens, separator):
    line, lines = "", []
    for token in tokens:
        if line and len(line) + len(separator) + len(token) > WIDTH:
            lines.append(line)
            line = ""
        line += (separator if line else "") + token
    return lines + [line]


def entities():
    tokens = [f"{name}={'+'.join(f'{ord(c):X}' for c in text)}" for name, text in sorted(html.entities.html5.items())]
    body = "\n".join(wrapped(tokens, " "))
    return f'// HTML 5: name=code points. Names without ";" count even where none follows.\n' \
           f'constexpr const char* kHtmlEntities = R"(\n{body}\n)";\n'


def code_pages():
    out = ["// What bytes 0x80..0xFF mean. Bytes without a meaning are kept as they are where the page's name is sloppy-*.",
           "constexpr CodePage kCodePages[] = {"]
    for name in ftfy.chardata.CHARMAP_ENCODINGS:
        points = [f"0x{ord(c):X}" for c in bytes(range(0x80, 0x100)).decode(name)]
        out += [f'    {{"{name}", {"true" if name.startswith("sloppy") else "false"},', "     {"]
        out += ["      " + line + "," for line in wrapped(points, ", ")]
        out += ["     }},"]
    return "\n".join(out + ["};"]) + "\n"


def char_class(text):
    """A class of Python's re, "a-z..", as escaped code points and ranges."""
    out, i = [], 0
    while i < len(text):
        if i + 2 < len(text) and text[i + 1] == "-":
            out.append(f"\\\\u{ord(text[i]):04X}-\\\\u{ord(text[i + 2]):04X}")
            i += 3
        else:
            out.append(f"\\\\u{ord(text[i]):04X}")
            i += 1
    return out


def classes(name, table):
    out = [f"constexpr CharClass {name}[] = {{"]
    for key, text in table.items():
        lines = wrapped(char_class(text), "")
        quoted = "\n".join(f'     "{line}"' for line in lines)
        out.append(f'    {{"{key}",\n{quoted}}},')
    return "\n".join(out + ["};"]) + "\n"


def main():
    assert re.fullmatch(r"6\.3\..*", ftfy.__version__), ftfy.__version__
    head = f"// Made by tools/make_text_tables.py (ftfy {ftfy.__version__}, Apache-2.0). Do not edit.\n"
    (OUT / "html_entities.inc").write_text("\n".join([head, entities()]))
    (OUT / "text_tables.inc").write_text("\n".join([
        head, code_pages(),
        "// Kinds of characters that wrongly decoded text is full of.",
        classes("kMojibakeClasses", ftfy.badness.MOJIBAKE_CATEGORIES),
        "// What the bytes of UTF-8 look like when they are read as single-byte text.",
        classes("kUtf8Classes", ftfy.chardata.UTF8_CLUES)]))


if __name__ == "__main__":
    main()
