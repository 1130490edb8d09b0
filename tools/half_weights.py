#!/usr/bin/env python3
"""Rewrites a safetensors file with its float32 tensors as float16: how trained weights are made ready to be committed.

    tools/half_weights.py trained/model.safetensors data/mini/models/detector/model.safetensors
"""
import json
import struct
import sys

import numpy


def main():
    source, target = sys.argv[1:3]
    with open(source, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        body = file.read()
    out, data, end = {}, [], 0
    for name, info in header.items():
        if name == "__metadata__":
            out[name] = info
            continue
        first, last = info["data_offsets"]
        bytes_ = body[first:last]
        if info["dtype"] == "F32":
            bytes_ = numpy.frombuffer(bytes_, "<f4").astype("<f2").tobytes()
            info = dict(info, dtype="F16")
        out[name] = dict(info, data_offsets=[end, end + len(bytes_)])
        data.append(bytes_)
        end += len(bytes_)
    text = json.dumps(out, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data))


if __name__ == "__main__":
    main()
