#!/usr/bin/env python3
"""The other side of `langevin bench`: the same networks, batches and work in PyTorch, on the U-Net of diffusers.

    pip install torch==2.13.0 diffusers==0.42.1 numpy
    python3 scripts/peers/torch_unet.py --net mnist --case energy-train

Prints one line, as `langevin bench` does:

    NET/CASE batch=B params=P median_ms=M min_ms=m peak_mib=R

R is the peak resident memory of the whole process; on a GPU it is the most that PyTorch had allocated there.
On the CPU it uses all cores. scripts/bench_vs_pytorch.sh runs both and makes a table.

What a step does, with a network f and a batch x, t, eps:

    forward       f(x, t), without gradients
    train         loss = mean (f(x, t) - eps)^2; its gradient, a step of AdamW, the average of the weights
    energy-score  score = -grad_x E(x, t) with E = 1/2 sum (x - f(x, t))^2, its graph not kept
    energy-train  loss = mean (score + eps)^2, which differentiates twice; then as train
"""

import argparse
import copy
import os
import resource
import statistics
import sys
import time

import torch
from diffusers import UNet2DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

LR = 2e-4
DECAY = 0.999
CASES = ["forward", "train", "energy-score", "energy-train"]

# The usual batch, and the network.
NETS = {
    # 3 levels, attention at 7x7
    "mnist": (
        64,
        dict(
            sample_size=28,
            in_channels=1,
            out_channels=1,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            norm_num_groups=8,
        ),
    ),
    # google/ddpm-cifar10-32: 35.7 M parameters
    "cifar": (
        8,
        dict(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            norm_num_groups=32,
            norm_eps=1e-6,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
        ),
    ),
}


def arguments():
    parser = argparse.ArgumentParser(description="Time a U-Net in PyTorch, as `langevin bench` does.")
    parser.add_argument("--net", choices=NETS, default="mnist")
    parser.add_argument("--case", choices=CASES, default="train")
    parser.add_argument("--batch", type=int, help="samples at a time [default: 64 for mnist, 8 for cifar]")
    parser.add_argument("--runs", type=int, default=5, help="timed runs, after two to warm up")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16; weights and optimiser stay f32")
    parser.add_argument("--tf32", action="store_true", help="let CUDA compute f32 products in TF32")
    args = parser.parse_args()
    if args.runs < 1 or (args.batch is not None and args.batch < 1):
        parser.error("--batch and --runs: give at least 1")
    return args


class Work:
    """One network and what a step of work needs."""

    def __init__(self, net, batch, device, bf16):
        usual, config = NETS[net]
        batch = batch or usual
        self.device = torch.device(device)
        self.bf16 = bf16
        self.net = UNet2DModel(**config).to(self.device)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=LR)
        shape = (batch, config["in_channels"], config["sample_size"], config["sample_size"])
        self.x = torch.randn(shape, device=self.device)
        self.eps = torch.randn(shape, device=self.device)
        self.t = torch.randint(0, 1000, (batch,), device=self.device)

    def f(self, x):
        return self.net(x, self.t).sample

    def score(self, keep_graph):
        x = self.x.detach().requires_grad_(True)
        energy = 0.5 * (x - self.f(x)).square().sum()
        (slope,) = torch.autograd.grad(energy, x, create_graph=keep_graph)
        return -slope

    def update(self, loss):
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), 1 - DECAY)

    def step(self, case):
        # the fused attentions have no second derivative
        attention = [SDPBackend.MATH]
        if case != "energy-train":
            attention = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        with sdpa_kernel(attention), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if case == "forward":
                with torch.no_grad():
                    self.f(self.x)
            elif case == "energy-score":
                self.score(keep_graph=False)
            elif case == "train":
                self.update((self.f(self.x) - self.eps).square().mean())
            else:
                self.update((self.score(keep_graph=True) + self.eps).square().mean())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_mib(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main():
    args = arguments()
    torch.manual_seed(0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(cores)
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.backends.cudnn.allow_tf32 = args.tf32
    torch.backends.cudnn.benchmark = True

    work = Work(args.net, args.batch, args.device, args.bf16)
    for _ in range(2):  # the first fills what is kept between steps
        work.step(args.case)
    times = []
    for _ in range(args.runs):
        start = time.perf_counter()
        work.step(args.case)
        times.append(1e3 * (time.perf_counter() - start))
    print(
        f"{args.net}/{args.case} batch={len(work.x)} params={sum(p.numel() for p in work.net.parameters())}"
        f" median_ms={statistics.median(times):.1f} min_ms={min(times):.1f} peak_mib={peak_mib(work.device):.0f}"
    )


if __name__ == "__main__":
    main()
