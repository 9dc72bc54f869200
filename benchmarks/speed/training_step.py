"""Measure time and memory of a training step in several implementations.

    python benchmarks/speed/training_step.py --frames 64 --frames 256 --rounds 3

Each runs in a process of its own: forward, backward and optimizer step of masked-token modelling on
random tokens, with the published layer sizes (recipe tablet), one window per step.

- ``plain``: fp32, attention scores materialised, all predictions at once.
- ``usual``: bf16 autocast, torch's fused attention with repeated keys and values.
- ``ours``: bf16, shared heads, the last layer for hidden tokens alone, predictions in chunks;
  without, with selective, and with full activation checkpointing, and with compiled layers.

With several rounds they take turns, and the table has medians over rounds. ``ratio`` is the median
speed relative to ``usual`` in the same round.

Memory is the peak above the idle process with model, gradients and optimizer state (resident on a
CPU, allocated on a GPU). MFU counts the multiplications of the layers and of
attention, three times the forward pass, against ``--peak-tflops``.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

import click

WAYS = ("plain", "usual", "ours", "ours-selective", "ours-full", "ours-compiled")


def measure(
    way: str, frames: int, layers: int, steps: int, device_name: str, windows: int = 1
) -> dict[str, float]:
    """Run the steps, and return seconds, bytes above idle and multiplications of a step."""
    with ExitStack() as patches:
        return _measure(way, frames, layers, steps, device_name, windows, patches)


def _measure(
    way: str,
    frames: int,
    layers: int,
    steps: int,
    device_name: str,
    windows: int,
    patches: ExitStack,
) -> dict[str, float]:
    import torch
    import torch.nn.functional as F

    from fmritok.trainer.config import Config
    from fmritok.trainer.data.reading import Batch
    from fmritok.trainer.model import model as transformer
    from fmritok.trainer.model.backends import Sdpa
    from fmritok.trainer.model.blocks import run_blocks
    from fmritok.trainer.model.layout import TokenLayout
    from fmritok.trainer.objectives.build import build_objective
    from fmritok.trainer.parallel.distributed import Ranks
    from fmritok.trainer.recipe import build_config, read_recipe
    from fmritok.trainer.training.learner import Learner
    from fmritok.trainer.training.step import BegunSteps

    device = torch.device(device_name)
    config: Config = build_config(read_recipe("tablet"))
    model = replace(config.model, layers=layers)
    chunk = config.objective.chunk

    def whole_layers(*args: Any, wanted_BN: Any) -> Any:
        x = run_blocks(*args)
        return x.gather(1, wanted_BN[:, :, None].expand(-1, -1, x.shape[-1]))

    if way in ("plain", "usual"):
        patches.enter_context(mock.patch.object(transformer, "run_blocks", whole_layers))
    if way == "plain":
        model, chunk = replace(model, attention="math"), 1 << 40
    elif way == "usual":
        chunk = 1 << 40

        def repeating(plan: Any, q: Any, k: Any, v: Any) -> Any:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
            return F.scaled_dot_product_attention(q, k, v)

        patches.enter_context(mock.patch.object(Sdpa, "attend", repeating))
    else:
        for kind in ("selective", "full"):
            if kind in way:
                model = replace(model, checkpointing=kind)  # type: ignore[arg-type]
    dtype = "fp32" if way == "plain" else "bf16"
    compiled, graphs = "compiled" in way, "graphs" in way
    train = replace(config.train, dtype=dtype, compile=compiled, graphs=graphs)  # type: ignore[arg-type]
    objective = replace(config.objective, chunk=chunk)
    config = replace(config, model=model, train=train, objective=objective)

    torch.manual_seed(0)
    layout = TokenLayout(27, 3072)
    learner = Learner(
        build_objective(config, layout).to(device),
        config,
        n_steps=1000,
        device=device,
        ranks=Ranks(),
    )
    learner.prepare()

    def batch(n: int) -> Batch:
        tokens = torch.randint(-99, 99, (windows, n, 27, 3072), dtype=torch.int8)
        std = 0.1 + torch.rand(windows, 27, 3072)
        times = (torch.arange(n) * 0.72).repeat(windows, 1)
        made = Batch(tokens, 3 + std, std, std / 50, times, None,
                     torch.zeros(windows, dtype=torch.int64), torch.arange(windows), 0, windows,
                     windows * n)  # fmt: skip
        if device.type == "cuda":  # as the loader gives it
            pinned = {k: v.pin_memory() for k, v in made._asdict().items() if torch.is_tensor(v)}
            made = made._replace(**pinned)
        return made

    learner.learn(batch(1), 0, measure=False)  # makes the optimizer's state
    for p in learner.model.parameters():
        p.grad = torch.zeros_like(p)
    large = batch(frames)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        idle = torch.cuda.memory_allocated(device)
    else:
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begun: BegunSteps[None] = BegunSteps(lambda done, _: done.loss)
    start = time.perf_counter()
    for step in range(steps):
        if step == 1:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
        begun.add(learner.learn(large, step, measure=False), None)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = 27 * (frames + 1) + 1
    weights = sum(p.numel() for p in learner.model.encoder.blocks.parameters())
    scores = 2 * layers * tokens**2 * model.width
    taken = time.perf_counter() - start
    return {
        "seconds": taken / max(steps - 1, 1),
        "bytes": float(peak - idle),
        "multiplications": 3.0 * windows * (weights * tokens + scores),
    }


@click.command()
@click.option("--frames", "lengths", multiple=True, type=int, default=[64], show_default=True)
@click.option("--ways", default=",".join(WAYS), show_default=True)
@click.option("--layers", default=12, show_default=True)
@click.option(
    "--steps", default=1, show_default=True, help="With 2 or more, the first is left out."
)
@click.option("--rounds", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--peak-tflops", type=float, help="Of the device, for the utilisation.")
@click.option("--one", hidden=True)
def main(
    lengths: tuple[int, ...],
    ways: str,
    layers: int,
    steps: int,
    rounds: int,
    device: str,
    peak_tflops: float | None,
    one: str | None,
) -> None:
    """Print a table."""
    if one is not None:
        click.echo(json.dumps(measure(one, lengths[0], layers, steps, device)))
        return
    click.echo(f"{layers} layers, one window of FRAMES x 27 tokens, {device}, {rounds} rounds")
    click.echo("frames way               s/step  ratio  tokens/s    GiB    MFU")
    for frames in lengths:
        measured: dict[str, list[dict[str, float]]] = {way: [] for way in ways.split(",")}
        for _ in range(rounds):
            for way in list(measured):
                try:
                    measured[way].append(in_own_process(way, frames, layers, steps, device))
                except RuntimeError as error:
                    del measured[way]
                    click.echo(f"{frames:>6} {way:<15} failed: {error}")
        for way, got in measured.items():
            figures = _figures(got, measured.get("usual"), frames, peak_tflops)
            click.echo(f"{frames:>6} {way:<15} {figures}")


def in_own_process(way: str, frames: int, layers: int, steps: int, device: str) -> dict[str, float]:
    """Measure a way in a fresh process; raise RuntimeError with its last words if it fails."""
    command = [sys.executable, __file__, "--one", way, "--frames", str(frames), "--layers",
               str(layers), "--steps", str(steps), "--device", device]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
        raise RuntimeError(reason[:80])
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _figures(
    got: list[dict[str, float]],
    usual: list[dict[str, float]] | None,
    frames: int,
    peak_tflops: float | None,
) -> str:
    seconds = statistics.median(one["seconds"] for one in got)
    gib = statistics.median(one["bytes"] for one in got) / 2**30
    ratio = share = ""
    if usual is not None:
        pairs = zip(usual, got, strict=True)
        ratio = f"{statistics.median(u['seconds'] / g['seconds'] for u, g in pairs):.2f}x"
    if peak_tflops:
        share = f"{2 * got[0]['multiplications'] / seconds / peak_tflops / 1e12:.1%}"
    return f"{seconds:>8.2f} {ratio:>6} {27 * frames / seconds:>9,.0f} {gib:>6.2f} {share:>6}"


if __name__ == "__main__":
    main()
