"""Measure the training step on a GPU: time, memory and share of the chip's peak.

    python benchmarks/on_gpu/training_steps.py --peak-tflops 790

Masked-token modelling on random tokens with the layer sizes of recipe tablet, bf16, by number of
windows and of frames (27 tokens each). ``usual`` is "as usually done": eager layers, torch's fused
attention with repeated keys and values, all predictions at once. The others are described in
``training_step.py``; names that end with ``-deterministic`` use deterministic kernels.

A way that fails gets a row that says why, and the others go on. No row begins after ``--budget``
seconds. ``print_rows`` is for scripts that join several tables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path

import click
from rows import Rows

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from training_step import measure

WAYS = (
    "usual", "ours-compiled", "ours-compiled-graphs", "ours-compiled-selective",
    "ours-compiled-deterministic", "ours",
)  # fmt: skip
HEADER = "windows frames way                           ms/step  ratio  tokens/s    GiB   peak"


def print_rows(
    say: Callable[[str], object],
    *,
    cases: Iterable[tuple[int, int]],
    ways: Iterable[str] = WAYS,
    device: str = "cuda",
    peak_tflops: float | None = None,
    layers: int = 12,
    steps: int = 6,
    budget: float = 300.0,
) -> None:
    """Print a row for each case and way.

    Parameters
    ----------
    say : callable
        Takes a line.
    cases : iterable of (int, int)
        Windows of a batch, and their frames.
    ways : iterable of str
    device : str
    peak_tflops : float, optional
        Of the device in bf16; None leaves the share of it out.
    layers, steps : int
        The first step, which compiles, is not counted.
    budget : float
        Seconds after which no row begins.
    """
    rows = Rows(HEADER, budget, say)
    usual: dict[tuple[int, int], float] = {}

    def row(case: tuple[int, int], way: str) -> tuple[str, None]:
        got = _measured(way, case, layers, steps, device)
        seconds = got["seconds"]
        if way == "usual":
            usual[case] = seconds
        ratio = f"{usual[case] / seconds:.2f}x" if case in usual else ""
        share = ""
        if peak_tflops:
            share = f"{2 * got['multiplications'] / seconds / peak_tflops / 1e12:.1%}"
        tokens = 27 * case[0] * case[1] / seconds
        memory = got["bytes"] / 2**30
        return f"{1000 * seconds:>8.1f} {ratio:>6} {tokens:>9,.0f} {memory:>6.2f} {share:>6}", None

    for way, case in product(ways, cases):
        rows.add(f"{case[0]:>7} {case[1]:>6} {way:<28}", partial(row, case, way))


def _measured(
    way: str, case: tuple[int, int], layers: int, steps: int, device: str
) -> dict[str, float]:
    """Measure a way, with deterministic kernels if its name says so."""
    import torch

    from fmritok.device import free_gpu_memory

    torch.use_deterministic_algorithms(way.endswith("-deterministic"), warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        windows, frames = case
        return measure(way, frames, layers, steps, device, windows)
    finally:
        torch.use_deterministic_algorithms(False)
        torch._dynamo.reset()
        free_gpu_memory()


@click.command()
@click.option(
    "--case",
    "cases",
    multiple=True,
    type=(int, int),
    default=[(4, 256), (1, 256), (4, 64), (1, 1024), (1, 4096)],
    show_default=True,
    help="Windows of a batch and their frames; repeatable.",
)
@click.option("--ways", default=",".join(WAYS), show_default=True)
@click.option("--layers", default=12, show_default=True)
@click.option("--steps", default=6, show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--peak-tflops", type=float, help="Of the device in bf16, for the share of it.")
@click.option("--budget", default=300.0, show_default=True, help="Seconds.")
def main(
    cases: tuple[tuple[int, int], ...],
    ways: str,
    layers: int,
    steps: int,
    device: str,
    peak_tflops: float | None,
    budget: float,
) -> None:
    """Print a table."""
    print_rows(
        click.echo, cases=cases, ways=ways.split(","), device=device, peak_tflops=peak_tflops,
        layers=layers, steps=steps, budget=budget,
    )  # fmt: skip


if __name__ == "__main__":
    main()
