#!/usr/bin/env python3
"""Makes README's pictures of what an energy is good for, in assets/. Needs Pillow.

usage: scripts/pictures.py [NAME...]      all of them: classes compose guided inpaint looking

They are of runs/digits-density and runs/classes, which README's commands train; LANGEVIN names the program.
"""
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

PROGRAM = os.environ.get("LANGEVIN", "target/release/langevin")
ASSETS = Path("assets")
GAP = 16


def langevin(args, out=None):
    """Runs the program on arguments as a shell would split them; with `out` gives the picture that it writes there."""
    command = [PROGRAM, *shlex.split(args), *(["--out", str(out)] if out else [])]
    print("+", shlex.join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Image.open(out).convert("RGB") if out else None


def beside(pictures, gap=GAP):
    height = max(p.height for p in pictures)
    all = Image.new("RGB", (sum(p.width + gap for p in pictures) - gap, height), "white")
    x = 0
    for p in pictures:
        all.paste(p, (x, 0))
        x += p.width + gap
    return all


def below(pictures, gap=8):
    all = Image.new("RGB", (max(p.width for p in pictures), sum(p.height + gap for p in pictures) - gap), "white")
    y = 0
    for p in pictures:
        all.paste(p, (0, y))
        y += p.height + gap
    return all


def classes(tmp):
    three = "sample runs/classes --class 3 -n 16"
    both = "sample --let a=runs/classes,class=3 --let b=runs/classes,class=8 --compose 'a & b' -n 16"
    return beside([
        langevin(three, tmp / "plain.png"),
        langevin(f"{three} --guidance 3 --guidance-interval 0.1,10", tmp / "guided.png"),
        langevin(both, tmp / "both.png"),
    ])


def compose(tmp):
    of = "sample --let a=exact:8-gaussians --let b=exact:gaussian-2d -n 1000 --compose"
    pictures = [langevin(f"{of} '{what}'", tmp / "composed.png") for what in ["a & b", "2*a & !b", "a | b"]]
    return beside([p.resize((300, 300), Image.Resampling.LANCZOS) for p in pictures])


def guided(tmp):
    usual = "sample runs/digits-density -n 16"
    return beside([
        langevin(usual, tmp / "plain.png"),
        langevin(f"{usual} --guidance 2 --guide runs/digits-density@1000", tmp / "guided.png"),
    ])


def inpaint(tmp):
    return langevin("inpaint runs/classes --data digits:test -n 5 --mask half sampler.steps=60", tmp / "filled.png")


def looking(tmp):
    """Maps of samples that were scratched, blotted, broken and mirrored, and the energy through three others."""
    seeds = [26, 16, 14, 18, 11]  # a three, a nought, a two, a one, a seven
    langevin(f"sample runs/digits-density --seeds {','.join(map(str, seeds))} --images {tmp}/odd")
    paths = [tmp / "odd" / f"{seed}.png" for seed in seeds]
    images = [Image.open(path).convert("L") for path in paths]
    ImageDraw.Draw(images[1]).line([(2, 24), (25, 4)], fill=255, width=1)
    ImageDraw.Draw(images[2]).rectangle([2, 3, 7, 8], fill=230)
    ImageDraw.Draw(images[3]).rectangle([0, 12, 27, 14], fill=0)
    images[4] = ImageOps.mirror(images[4])
    for image, path in zip(images, paths):
        image.save(path)
    langevin(f"detect runs/digits-density {tmp}/odd --maps {tmp}/maps --scores energy")
    maps = below([Image.open(tmp / "maps" / path.name).convert("RGB") for path in paths])
    plane = langevin("look landscape runs/digits-density --through 0,1,2 --level 0.5", tmp / "plane.png")
    return beside([maps, plane.resize((maps.height, maps.height), Image.Resampling.LANCZOS)], 12)


ALL = {f.__name__: f for f in (classes, compose, guided, inpaint, looking)}

if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        if name not in ALL:
            sys.exit(f"{name}: no picture; they are {', '.join(ALL)}")
        with tempfile.TemporaryDirectory() as folder:
            picture = ALL[name](Path(folder)).quantize(256, method=Image.Quantize.FASTOCTREE, kmeans=4)
            picture.save(ASSETS / f"{name}.png", optimize=True)
        print(ASSETS / f"{name}.png")
