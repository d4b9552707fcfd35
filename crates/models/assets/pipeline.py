"""Samples of an energy or a denoiser that Langevin trained, with diffusers' UNet2DModel as its network.

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    images = pipe(batch_size=4, generator=[torch.Generator().manual_seed(i) for i in range(4)]).images

Levels of noise, x_t = alpha x_0 + sigma eps, stand in model_index.json, from the prior to clean data; at each the estimate
of the clean data is x0 = c_skip x + c_out F(c_in x, c_noise). F is the network's output or, of an energy, the gradient of
a scalar h of it. Steps are Heun's on the probability-flow ODE (Karras et al. 2022, algorithm 1).
"""

import math

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


def noise_norm(x, y, ratio):
    """The h for which the energy is |c x - s y|^2 / 2, with s^2 = 1 / (1 + ratio^2) and c = ratio s."""
    s = 1 / math.hypot(1, ratio)
    c = ratio * s
    return c * (0.5 * s * (x * x - y * y) + c * x * y)


class LangevinPipeline(DiffusionPipeline):
    def __init__(
        self, unet, levels=None, form=None, second_order=True, angle_above=1e3, clip=False, from_zero=False
    ):
        super().__init__()
        self.register_modules(unet=unet)
        self.register_to_config(levels=levels, form=form, second_order=second_order, angle_above=angle_above)
        self.register_to_config(clip=clip, from_zero=from_zero)

    def network(self, x, level, labels):
        """F(x, c_noise)."""
        time = torch.full((len(x),), level["c_noise"], dtype=x.dtype, device=x.device)
        f = lambda x: self.unet(x, time, class_labels=labels).sample
        if self.config.form is None:
            with torch.no_grad():
                return f(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            y = f(x)
            h = {
                "residual": lambda: y * (x - 0.5 * y),  # -|x - f|^2 / 2 + |x|^2 / 2
                "inner-product": lambda: x * y,
                "squared-norm": lambda: 0.5 * y * y,
                "scalar": lambda: y,
                "noise-norm": lambda: noise_norm(x, y, level["ratio"]),
            }[self.config.form]()
            return torch.autograd.grad(h.sum(), x)[0]

    def x0(self, x, level, labels):
        """The estimate of the clean data at a level."""
        f = self.network(level["c_in"] * x, level, labels)
        x0 = level["c_skip"] * x + level["c_out"] * f
        return x0.clamp(-1, 1) if self.config.clip else x0

    def __call__(self, batch_size=1, generator=None, class_labels=None, output_type="pil", return_dict=True):
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (batch_size, self.unet.config.in_channels, height, width)
        labels = None if class_labels is None else torch.as_tensor(class_labels, device=self.device)
        levels = [*self.config.levels, None]
        x = randn_tensor(shape, generator=generator, device=self.device, dtype=self.unet.dtype) * levels[0]["sigma"]
        for t, s in self.progress_bar(list(zip(levels, levels[1:]))):
            x0 = self.x0(x, t, labels)
            if s is None:
                x = x0
                continue
            keep = s["sigma"] / t["sigma"]
            gain = s["alpha"] - t["alpha"] * keep
            y = keep * x + gain * x0
            if not self.config.second_order:
                x = y
                continue
            next_x0 = self.x0(y, s, labels)
            if max(t["sigma"] / max(t["alpha"], 1e-300), s["sigma"] / s["alpha"]) < self.config.angle_above:
                x = y + 0.5 * gain * s["alpha"] / (t["alpha"] * keep) * (next_x0 - x0)
                continue
            # near pure noise: the same step in the angle atan(sigma / alpha), where every slope is finite
            rt, rs = math.hypot(t["alpha"], t["sigma"]), math.hypot(s["alpha"], s["sigma"])
            half = 0.5 * (math.atan2(s["sigma"], s["alpha"]) - math.atan2(t["sigma"], t["alpha"]))
            slope = lambda m, r, x, x0: m["alpha"] / (m["sigma"] * r) * x - r / m["sigma"] * x0
            x = rs * (x / rt + half * (slope(t, rt, x, x0) + slope(s, rs, y, next_x0)))
        x = x if self.config.from_zero else (x + 1) / 2
        images = x.clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
