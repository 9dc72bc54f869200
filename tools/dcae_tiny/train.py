"""Train `dcae-tiny`, the embedded f32c32 image autoencoder, on photographs, on a CPU.

Run ``python tools/dcae_tiny/train.py --out DIR`` where fmritok is installed from its checkout.
The samples are pairs of slightly different images (see ``photos.py``): small changes over time must
survive the bottleneck. The initial weights are a linear code close to PCA.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from photos import HELD_OUT_PHOTOS, TRAIN_PHOTOS, SampleSource
from torch import Tensor

Model = Any  # an AutoencoderDC: diffusers hides its attributes from type checkers

CONFIG = {
    "in_channels": 3,
    "latent_channels": 32,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": (16, 16, 32, 64, 128, 128),
    "decoder_block_out_channels": (16, 16, 32, 64, 128, 128),
    "encoder_layers_per_block": (0, 1, 1, 1, 1, 2),
    "decoder_layers_per_block": (0, 1, 2, 2, 2, 2),
    "encoder_qkv_multiscales": ((),) * 6,
    "decoder_qkv_multiscales": ((),) * 6,
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
}


def build_model() -> Model:
    """Make the untrained model, every residual branch at zero: only the linear path is open.

    Returns
    -------
    AutoencoderDC
    """
    model: Model = AutoencoderDC(**CONFIG)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.zeros_(parameter)
    return model


def _block_components(images: Tensor, side: int, count: int) -> Tensor:
    """Project blocks of `side` pixels on their first `count` principal components, scaled."""
    blocks = F.pixel_unshuffle(images, side).movedim(1, -1)
    flat = blocks.flatten(0, 2)
    variance, basis = torch.linalg.eigh(flat.T @ flat / len(flat))
    basis = basis.flip(1)[:, :count] / variance.flip(0)[:count].clamp_min(1e-6) ** 0.25
    return (blocks @ basis).movedim(-1, 1)


def _fit_conv(conv: torch.nn.Conv2d, given: Tensor, wanted: Tensor, rows: int = 20000) -> None:
    """Set a 3x3 convolution to the ridge regression of `wanted` on `given`."""
    x = F.unfold(given, 3, padding=1).transpose(1, 2).flatten(0, 1)
    y = wanted.flatten(2).transpose(1, 2).flatten(0, 1)
    keep = torch.randperm(len(x))[:rows]
    x = torch.cat([x[keep], torch.ones(len(keep), 1)], 1).double()
    gram = x.T @ x / len(keep)
    gram += 1e-5 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    solution = torch.linalg.solve(gram, x.T @ y[keep].double() / len(keep)).float().T
    conv.weight.copy_(solution[:, :-1].view_as(conv.weight))
    if conv.bias is not None:
        conv.bias.copy_(solution[:, -1])


@torch.no_grad()
def start_linear(model: Model, images: Tensor) -> None:
    """Set the linear path, layer by layer, by regression on principal components of blocks.

    Parameters
    ----------
    model : AutoencoderDC
        A model with its residual branches at zero; changed in place.
    images : Tensor, (n, 3, 96, 96)
        What to fit on, in [-1, 1].
    """
    encoder, decoder = model.encoder, model.decoder
    hidden = images
    downs = [encoder.conv_in, *(encoder.down_blocks[i][-1] for i in range(1, 5))]
    for i, down in enumerate(downs):  # a filter per component of the block that a pixel stands for
        filters = _block_components(images, 2**i, min(3 * 4**i, down.conv.out_channels))
        spare = down.conv.out_channels - filters.shape[1]
        _fit_conv(down.conv, hidden, F.pad(filters, (0, 0, 0, 0, 0, spare)))
        hidden = down(hidden)
    latent = _block_components(images, 32, 32)
    shortcut = hidden.unflatten(1, (-1, encoder.out_shortcut_average_group_size)).mean(2)
    _fit_conv(encoder.conv_out, hidden, latent - shortcut)
    latent = encoder.conv_out(hidden) + shortcut
    # the decoder's hidden layers aim at the components of their blocks; the last sits on a large
    # constant, which the final norm and ReLU pass through almost linearly
    wanted = _block_components(images, 32, decoder.conv_in.out_channels)
    repeated = latent.repeat_interleave(decoder.in_shortcut_repeats, 1)
    _fit_conv(decoder.conv_in, latent, wanted - repeated)
    hidden = decoder.conv_in(latent) + repeated
    for i in range(4, 0, -1):
        up = decoder.up_blocks[i][0]
        channels = up.conv.out_channels // 4
        wanted = _block_components(images, 2**i, min(3 * 4**i, channels))
        wanted = F.pad(wanted, (0, 0, 0, 0, 0, channels - wanted.shape[1]))
        if i == 1:
            wanted = wanted + 4 * wanted.std()
        shortcut = F.pixel_shuffle(hidden.repeat_interleave(up.repeats, 1), 2)
        _fit_conv(up.conv, hidden, F.pixel_unshuffle(wanted - shortcut, 2))
        hidden = up(hidden)
    hidden = decoder.conv_act(decoder.norm_out(hidden.movedim(1, -1)).movedim(-1, 1))
    _fit_conv(decoder.conv_out.conv, hidden, F.pixel_unshuffle(images, 2))


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """Measure 1 - SSIM of images in [-1, 1], windows of 7x7."""
    mean_a, mean_b = F.avg_pool2d(a, 7, 1), F.avg_pool2d(b, 7, 1)
    var_a, var_b = F.avg_pool2d(a * a, 7, 1) - mean_a**2, F.avg_pool2d(b * b, 7, 1) - mean_b**2
    covariance = F.avg_pool2d(a * b, 7, 1) - mean_a * mean_b
    same_mean = (2 * mean_a * mean_b + 4e-4) / (mean_a**2 + mean_b**2 + 4e-4)
    return 1 - (same_mean * (2 * covariance + 3.6e-3) / (var_a + var_b + 3.6e-3)).mean()


def pair_loss(model: Model, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Add log squared error, relative error of the difference, and 1 - SSIM of plain crops.

    Parameters
    ----------
    model : AutoencoderDC
        The model in training.
    first, second : Tensor, each (n, 3, 96, 96)
        Images in [-1, 1].
    weight : Tensor, (n, 1, 96, 96)
        Where they count.

    Returns
    -------
    Tensor
        A scalar.
    """
    both = torch.cat([first, second])
    out = model.decoder(model.encoder(both))
    area = weight.sum((1, 2, 3)).clamp_min(1.0) * 3

    def inside(error: Tensor) -> Tensor:
        return (error**2 * weight).sum((1, 2, 3)) / area

    n = len(first)
    wanted = second - first
    got = out[n:] - out[:n]
    error = (inside(out[:n] - first) + inside(out[n:] - second)) / 2
    outside = ((out - both) ** 2).mean((1, 2, 3)).view(2, n).mean(0)
    change = inside(got - wanted) / (inside(wanted) + 1e-7)
    plain = weight.flatten(1).min(1).values == 1
    blur = _dissimilarity(out[:n][plain], first[plain]) * plain.float().mean()
    return (torch.log(0.8 * error + 0.2 * outside + 2e-4) + 4 * change).mean() + 2 * blur


def train(
    out: Path, steps: int, seed: int, threads: int = 1, pairs: int = 16, start_pairs: int = 400
) -> None:
    """Train from scratch and save in half precision.

    Parameters
    ----------
    out : Path
        Folder for ``config.json``, ``diffusion_pytorch_model.safetensors`` and ``training.json``.
    steps : int
        Optimiser steps.
    seed : int
        Seed of the weights and of the samples.
    threads : int
        CPU threads; the same number gives the same weights.
    pairs : int
        Image pairs per step.
    start_pairs : int
        Image pairs that the linear start is fitted on.
    """
    start = time.perf_counter()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    source, model = SampleSource(seed), build_model()
    start_linear(model, torch.cat(source.pairs(start_pairs)[:2]))
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=1e-4)
    for step in range(steps):
        done = step / steps
        rate = 1e-3 * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        optimizer.param_groups[0]["lr"] = rate
        loss = pair_loss(model, *source.pairs(pairs))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(0.998, step / (step + 10))
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        if step % 100 == 0 or step == steps - 1:
            seconds = time.perf_counter() - start
            print(f"step {step} loss {loss.item():.4f} {seconds:.0f} s", flush=True)
        if step % 500 == 499 or step == steps - 1:
            made = {
                "steps": steps, "steps_done": step + 1, "seed": seed, "threads": threads,
                "train_seconds": round(time.perf_counter() - start), "torch": torch.__version__,
                "train_photos": TRAIN_PHOTOS, "held_out": HELD_OUT_PHOTOS,
            }  # fmt: skip
            save(average, out, source, made)


def save(
    weights: dict[str, Tensor], out: Path, source: SampleSource, made: dict[str, object]
) -> None:
    """Write the averaged weights as fp16 safetensors, and how they were made beside them."""
    model: Model = AutoencoderDC(**CONFIG)
    model.load_state_dict(weights)
    model.eval()
    rng_state = source.rng.get_state()
    with torch.inference_mode():
        latent = model.encoder(source.pairs(64)[0])
    source.rng.set_state(rng_state)
    model.register_to_config(scaling_factor=round(1 / float(latent.square().mean().sqrt()), 4))
    model.half().save_pretrained(out)
    (out / "diffusion_pytorch_model.safetensors").chmod(0o644)  # diffusers makes it private
    (out / "training.json").write_text(json.dumps(made, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train dcae-tiny on photographs (CPU).")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    train(options.out, options.steps, options.seed, options.threads)


if __name__ == "__main__":
    main()
