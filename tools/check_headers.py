#!/usr/bin/env python3
"""Compiles each header alone, with the flags of a source file of its library.

    tools/check_headers.py build/release/compile_commands.json HEADER...
"""
import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys


def flags_for(header, database):
    """Flags of the source file whose path shares the longest beginning with the header's."""
    best = max(database, key=lambda e: len(os.path.commonprefix([e["file"], str(header)])))
    words = shlex.split(best["command"])
    del words[words.index("-o"):words.index("-o") + 2]
    return best["directory"], [w for w in words if w not in ("-c", best["file"], "-Winvalid-pch")]


def compile_alone(header, database):
    folder, command = flags_for(header, database)
    run = subprocess.run(command + ["-fsyntax-only", "-x", "c++", "-"], cwd=folder, text=True, capture_output=True,
                         input=f'#include "{header}"\n')
    return header, run.returncode, run.stderr


def main():
    database = [e for e in json.load(open(sys.argv[1])) if e["file"].endswith(".cpp")]
    headers = [pathlib.Path(h).resolve() for h in sys.argv[2:]]
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for header, code, text in pool.map(lambda h: compile_alone(h, database), headers):
            if code != 0:
                bad += 1
                print(f"{header}:\n{text}")
    print(f"headers: {len(headers)} checked, {bad} do not compile alone")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
