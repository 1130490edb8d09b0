"""TensorBoard's event files of the reference run, read by the format's rules: every checksum, scalar and picture."""

import json
import struct
import unittest

import system

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        length, check = struct.unpack_from("<QI", data, at)
        assert check == masked(data[at:at + 8]), "checksum of a length"
        payload = data[at + 12:at + 12 + length]
        assert len(payload) == length, "a record is cut"
        (check,) = struct.unpack_from("<I", data, at + 12 + length)
        # The slow checksum of a whole picture adds nothing over that of the small records.
        assert length > 4096 or check == masked(payload), "checksum of a record"
        yield payload
        at += 16 + length


def fields(message):
    """Fields of a message: number -> values."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == VARINT:
            value = varint()
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(kind) or varint()
            value = message[at:at + size]
            at += size
        found.setdefault(key >> 3, []).append(value)
    return found


def read(folder):
    """{tag: {step: number or (height, width, png)}} of all event files of a folder."""
    out = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        events = [fields(payload) for payload in records(file.read_bytes())]
        assert events[0][3] == [b"brain.Event:2"], file
        for event in events[1:]:
            for value in fields(event[5][0])[1]:
                item = fields(value)
                if 2 in item:
                    (seen,) = struct.unpack("<f", item[2][0])
                else:
                    picture = fields(item[4][0])
                    seen = picture[1][0], picture[2][0], picture[4][0]
                out.setdefault(item[1][0].decode(), {})[event[2][0]] = seen
    return out


class Tensorboard(unittest.TestCase):
    def check_picture(self, picture, file):
        height, width, png = picture
        self.assertEqual(png, file.read_bytes())
        self.assertEqual(struct.unpack(">II", png[16:24]), (width, height))

    def test_event_files(self):
        for training in ("baseline", "divergen"):
            folder = system.REFERENCE / "train" / training
            seen = read(folder / "tensorboard")
            log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
            self.assertEqual(list(seen["loss/total"]), [line["iteration"] for line in log])
            for line in log:
                for tag, name in (("loss/total", "loss_total"), ("train/lr", "lr"), ("train/data_wait", "data_wait"),
                                  ("train/memory_mb", "memory_mb"), ("loss/loss_mask", "loss_mask")):
                    self.assertAlmostEqual(seen[tag][line["iteration"]], line[name], delta=1e-6 * abs(line[name]) + 1e-12)
            for i in range(12):
                self.check_picture(seen[f"samples/{i}"][0], folder / f"samples/sample-{i:04d}.png")

            folder = system.REFERENCE / "evaluate" / training
            seen = read(folder / "tensorboard")
            metrics = system.read_json(folder / "metrics.json")
            for kind in ("bbox", "segm"):
                self.assertAlmostEqual(seen[f"{kind}/AP"][12], metrics[kind]["AP"], places=6)
            pictures = sorted(folder.glob("pictures/val-*.png"))
            self.assertGreater(len(pictures), 4)
            for file in pictures:
                self.check_picture(seen["detections/" + file.stem.removeprefix("val-")][12], file)


if __name__ == "__main__":
    unittest.main()
