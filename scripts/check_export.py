#!/usr/bin/env python3
"""Whether a folder of `langevin export`, or any pipeline of diffusers, draws in Python what `langevin sample` drew.

    langevin export runs/digits folder sampler.name=heun sampler.steps=18
    langevin sample runs/digits -n 3 noise=torch --npz samples.npz sampler.name=heun sampler.steps=18
    pip install torch==2.13.0 diffusers==0.42.1 numpy
    python3 scripts/check_export.py folder samples.npz

Any other pipeline of diffusers is run as it is, in --steps steps: of a DDPMPipeline that was exported, sample with
sampler.name=ddpm sampler.grid=leading; of a folder from elsewhere with sampler.steps alone. Prints the largest difference in
grey levels, and fails if it is above 2.
"""

import argparse
import json
import pathlib
import sys

import numpy
import torch
from diffusers import DiffusionPipeline

parser = argparse.ArgumentParser(description="Compare an exported model with samples of langevin.")
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("samples", help="the .npz, of seeds 0, 1, 2, ...")
parser.add_argument("--steps", type=int, default=10, help="steps of a pipeline of diffusers")
args = parser.parse_args()

samples = numpy.load(args.samples)
ours = samples["arr_0"].astype(float)
generator = [torch.Generator().manual_seed(seed) for seed in range(len(ours))]
folder = str(args.folder.resolve())
if isinstance(json.loads((args.folder / "model_index.json").read_text())["_class_name"], list):
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    labels = samples["arr_1"] if "arr_1" in samples else None
    theirs = pipe(batch_size=len(ours), generator=generator, class_labels=labels, output_type="np").images
else:
    pipe = DiffusionPipeline.from_pretrained(folder)
    theirs = pipe(batch_size=len(ours), generator=generator, num_inference_steps=args.steps, output_type="np").images
theirs = (theirs * 255).round()
difference = numpy.abs(theirs - ours.reshape(theirs.shape)).max()
print(f"largest difference {difference:.0f} of 255, in {len(ours)} pictures; their mean is {theirs.mean():.1f}, ours {ours.mean():.1f}")
sys.exit(1 if difference > 2 else 0)
