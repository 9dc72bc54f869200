"""What a GPU does, in three tables and about six minutes: encoder, ``tokenize``, training step.

    python benchmarks/gpu.py --peak-tflops 790
    python benchmarks/gpu.py --device cpu --small

Rows do not depend on each other: one that fails says why, and the others go on. A table's rows
start within its time only: 90 s, 140 s and 90 s. Those that matter most come first. The scripts of
``on_gpu`` print each table whole. ``--small`` tries this script itself on a CPU.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent / "on_gpu"))
from encoding import WAYS, print_encoder, reference_of
from tokenizing import WAYS as TOKENIZE
from tokenizing import print_tokenize
from training_steps import WAYS as STEPS
from training_steps import print_rows

_PARTS = ("encoder", "tokenize", "training")


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(_PARTS), default=_PARTS)
@click.option("--ways", default=",".join(WAYS), show_default=True, help="Of the encoder.")
@click.option("--peak-tflops", type=float, help="Of the device in bf16, for the share of it.")
@click.option("--small", is_flag=True, help="The embedded autoencoder, few frames, one layer.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()))
def main(
    device: str,
    parts: tuple[str, ...],
    ways: str,
    peak_tflops: float | None,
    small: bool,
    cache: Path,
) -> None:
    """Print the tables."""
    import torch

    from fmritok.device import choose_device

    where = choose_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")
    weights = reference_of("dcae-tiny" if small else "full", cache)
    patience = 10 if small else 1  # a CPU that others use, too
    if "encoder" in parts:
        chosen = [way for way in ways.split(",") if not (small and way.endswith("+compile"))]
        print_encoder(weights, device, 2 if small else 256, 90 * patience, chosen)
    if "tokenize" in parts:
        size = (2, 3) if small else (3, 256)
        print_tokenize(weights, device, *size, 140 * patience, TOKENIZE if small else TOKENIZE[:1])
    if "training" in parts:
        cases = [(1, 2)] if small else [(4, 256), (1, 256), (1, 1024), (1, 4096)]
        layers, steps = (1, 2) if small else (12, 6)
        print_rows(
            print, cases=cases, ways=("usual", "ours") if small else STEPS, device=str(where),
            peak_tflops=peak_tflops, layers=layers, steps=steps, budget=90 * patience,
        )  # fmt: skip


if __name__ == "__main__":
    main()
