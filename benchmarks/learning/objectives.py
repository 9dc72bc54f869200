"""Compare every objective on every token group with simple predictors.

    python benchmarks/learning/objectives.py --out docs/objectives.txt

Masked-token modelling, the masked autoencoder and self-distillation are trained with one small
configuration each, on tokens of a demo cohort and of real runs, made by the commands of fmritok
with built-in tokenizers. Losses are on held-out data, in windows with an overlap of three quarters.
Rows ``(trained)`` are on training data and show overfitting.

- demo: two held-out subjects.
- real: one run of 156 frames (visual one-back, TR 2 s) and one of 10 frames of another subject
  (faces, TR 1.5 s, without the lower brain). Training uses frames 0-99 of the first run. ``later``:
  its frames 105-155, the same subject. ``other``: the other subject. Each part is normalised
  separately. Two subjects only show whether a loss falls. Models overfit them quickly: steps, rate
  and patch were chosen by trainings on frames 0-69, evaluated on frames 75-99.

Baselines:

- ``mean``: each token's mean over its run, without information about the window.
- ``last``: the frame before each patch in the same cell. An oracle: with tube masks the model sees
  no frame of a masked cell.
- ``collapsed``: self-distillation with equal embeddings. ``std`` is 0 if all are equal and 1 if
  they are spread evenly; ``rank`` is the effective rank. ``align``: the cosine of a window's two
  views minus that of different windows' views; 0 without information about the window, for any
  loss (docs/probes.md).

``ratio`` is the loss relative to the mean token. Losses of self-distillation are negative: there it
is the collapsed loss relative to the loss. Below 1 is better.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

DEFAULT_DATA = Path(os.environ.get("FMRITOK_TEST_DATA", "../shared/data"))
GROUPS = ("vae", "flatmap", "network")
OBJECTIVES = ("mtm", "mae", "distill")
#: Of the demo cohort, with two runs of a minute each. Frames are fewest in ``network``: every 2 s.
SUBJECTS = {"vae": 8, "flatmap": 8, "network": 40}
EARLY, LATER, OTHER = "sf02early", "sf02later", "rtc1"
#: Changes of the recipe ``tiny``, by data and group.
OPTIONS = {
    ("demo", "vae"): ["data.window=16", "train.steps=300"],
    ("demo", "flatmap"): ["data.window=16", "train.steps=300"],
    ("demo", "network"): ["data.window=24", "train.steps=300"],
    ("real", "vae"): ["data.window=8", "train.steps=400"],
    ("real", "flatmap"): ["data.window=8", "train.steps=150", "model.patch=1"],
    ("real", "network"): ["data.window=8", "train.steps=150", "optim.lr=3e-4"],
}
COLUMNS = ("data", "group", "objective", "held out", "windows", "loss", "mean", "last",
           "collapsed", "ratio", "std", "rank", "align", "steps", "seconds")  # fmt: skip
ROW = "{:<5}{:<9}{:<10}{:<10}" + "{:>10}" * 11


def fmritok(*arguments: object) -> None:
    """Run a command of fmritok."""
    command = [sys.executable, "-m", "fmritok.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def demo_store(folder: Path, groups: Sequence[str], subjects: int) -> Path:
    """Simulate a cohort and tokenize it with defaults."""
    cohort, store = folder / f"cohort-{subjects}", folder / f"demo-{subjects}.zarr"
    fmritok("demo-data", cohort, "--subjects", subjects, "--minutes", 1.0)
    tokenize("demo", cohort, store, groups)
    return store


def real_store(folder: Path, groups: Sequence[str], data: Path) -> Path:
    """Arrange the real runs as fMRIPrep would, with the long one cut in two, and tokenize them.

    The parts are too short for a band-pass, and for other frames than their own.
    """
    import nibabel as nib

    root, store = folder / "fmriprep", folder / "real.zarr"
    root.mkdir(exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "real", "BIDSVersion": "1.8.0"}')
    long = in_mni(data)
    short = nib.load(next((data / "bold_mni").glob("sub-rtc1*MNI2mm*bold.nii.gz")))
    res_3, res_2 = "space-MNI152NLin2009cAsym_res-3", "space-MNI152NLin6Asym_res-2"
    for subject, image, space in ((EARLY, long.slicer[..., :100], res_3),
                                  (LATER, long.slicer[..., 105:], res_3),
                                  (OTHER, short, res_2)):  # fmt: skip
        func = root / f"sub-{subject}" / "func"
        func.mkdir(parents=True, exist_ok=True)
        nib.save(image, func / f"sub-{subject}_task-run_{space}_desc-preproc_bold.nii.gz")
    tokenize("bids", root, store, groups, "--set", "network.band=null", "--set", "network.tr=null")
    return store


def in_mni(data: Path) -> Any:
    """Resample the whole native run to the grid of its first 100 frames, by their affine."""
    import nibabel as nib
    from nilearn.image import resample_img

    native = nib.load(next((data / "bold_native").glob("sub-sf02*bold.nii.gz")))
    moved = nib.load(next((data / "bold_mni").glob("sub-sf02*res-3*bold.nii.gz")))
    to_native = np.loadtxt(next((data / "bold_mni").glob("sub-sf02*to-native_affine.txt")))
    frames = native.get_fdata(dtype=np.float32)
    placed = nib.Nifti1Image(frames, np.linalg.inv(to_native) @ native.affine)
    found = resample_img(placed, moved.affine, moved.shape[:3], copy_header=False)
    brain = moved.get_fdata(dtype=np.float32).any(-1)
    frames = found.get_fdata(dtype=np.float32).clip(0) * brain[..., None]
    image = nib.Nifti1Image(
        np.round(frames * (30000 / frames.max())).astype(np.int16), moved.affine
    )
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*moved.header.get_zooms()[:3], native.header.get_zooms()[3]))
    image.header["sform_code"] = image.header["qform_code"] = moved.header["sform_code"]
    return image


def tokenize(dataset: str, root: Path, store: Path, groups: Sequence[str], *options: str) -> None:
    """Tokenize a cohort; finished runs are kept."""
    if "network" not in groups:
        options = ()
    chosen = [word for group in groups for word in ("--tokenizer", group)]
    fmritok("tokenize", "--dataset", dataset, "--root", root, "--store", store, *chosen, *options)


def train(
    data: str, store: Path, group_name: str, out: Path, options: Sequence[str], recipe: str = "tiny"
) -> list[tuple[object, ...]]:
    """Train once; return a row per held-out part."""
    import torch

    from fmritok.pipeline.store.reader import TokenStore
    from fmritok.terminal import Verbosity, set_verbosity
    from fmritok.trainer.data.split import split_runs
    from fmritok.trainer.recipe import build_config, override, read_recipe
    from fmritok.trainer.record.folder import TrainingFolder
    from fmritok.trainer.training.loop import Trainer
    from fmritok.trainer.training.setup import Setup

    set_verbosity(Verbosity.QUIET)
    group = TokenStore(store).group(group_name)
    options = list(options)
    if data == "real":
        # The first split that trains on the long part alone.
        options += ["data.validation_fraction=0.6"]
        seeds = (s for s in range(99) if len(found := split_runs(group.runs, fraction=0.6, seed=s)
                 .train) == 1 and EARLY in found[0])  # fmt: skip
        options += [f"data.split_seed={next(seeds)}"]
    config = build_config(override(read_recipe(recipe), options))
    steps, objective = config.train.steps, config.objective.name
    rhythm = replace(config.train, validate_every=steps, checkpoint_every=steps)
    setup = Setup(folder=TrainingFolder(out), device=torch.device("cpu"))
    trainer = Trainer(replace(config, train=rhythm), group, setup)
    start = time.perf_counter()
    trainer.run()
    seconds = time.perf_counter() - start
    held_out = {"subjects": trainer.split.validation}
    if data == "real":
        held_out = {
            name: tuple(run for run in trainer.split.validation if subject in run)
            for name, subject in (("later", LATER), ("other", OTHER))
        }
    held_out["(trained)"] = trainer.split.train
    rows = []
    for name, run_ids in held_out.items():
        count, figures = evaluate(trainer, run_ids)
        trivial = figures.get("loss_mean_token", figures.get("loss_collapsed", np.nan))
        ratio = figures["loss"] / trivial
        shown = ("loss_mean_token", "loss_last_frame", "loss_collapsed")
        rows.append(
            (data, group_name, objective, name, count, number(figures["loss"]),
             *(number(figures.get(one)) for one in shown),
             number(1 / ratio if objective == "distill" else ratio),
             number(figures.get("embedding_std"), 2), number(figures.get("effective_rank"), 1),
             number(figures.get("alignment")), steps, f"{seconds:.0f}")
        )  # fmt: skip
    return rows


def evaluate(trainer, run_ids: Sequence[str]) -> tuple[int, Mapping[str, float]]:
    """Return the number of windows of runs and the figures of the trained model on them."""
    from fmritok.trainer.data.drawing import all_windows
    from fmritok.trainer.data.reading import WindowReader
    from fmritok.trainer.data.windows import RunIndex

    window = trainer.config.data.window
    index = RunIndex.of(trainer.group.runs, run_ids)
    windows = all_windows(index, window=window, stride=max(1, window // 4))
    draws = np.random.default_rng(0).integers(0, 2**63 - 1, len(windows))
    batches = list(replace(windows, draw=draws).batches(trainer.config.data.batch_size))
    loader = WindowReader(trainer.group, index).loader(batches, workers=0)
    return len(windows), trainer.learner.evaluate(loader, lambda: None)


def number(value: float | None, digits: int = 3) -> str:
    """Format a figure that may not exist."""
    return "-" if value is None else f"{value:.{digits}f}"


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT_DATA, show_default=True)
@click.option("--groups", default=",".join(GROUPS), show_default=True)
@click.option("--objectives", default=",".join(OBJECTIVES), show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Keep cohorts and stores for another time."
)
@click.option("--set", "overrides", multiple=True, help="Change an option of every training.")
@click.option("--skip", type=click.Choice(["demo", "real"]))
@click.option("--out", type=click.Path(path_type=Path), help="Keep what is printed.")
def main(
    data: Path,
    groups: str,
    objectives: str,
    folder: Path | None,
    overrides: tuple[str, ...],
    skip: str | None,
    out: Path | None,
) -> None:
    """Print a table."""
    lines = [f"$ python benchmarks/learning/objectives.py {' '.join(sys.argv[1:])}".rstrip()]

    def say(line: str) -> None:
        click.echo(line)
        lines.append(line)
        if out is not None:
            out.write_text("\n".join(lines) + "\n")

    names = groups.split(",")
    with tempfile.TemporaryDirectory() as place:
        kept = folder or Path(place)
        kept.mkdir(parents=True, exist_ok=True)
        stores = {}
        for subjects in sorted(set(SUBJECTS.values())) if skip != "demo" else ():
            several = [group for group in names if SUBJECTS[group] == subjects]
            if several:
                store = demo_store(kept, several, subjects)
                stores.update({("demo", group): store for group in several})
        if skip != "real":
            store = real_store(kept, names, data)
            stores.update({("real", group): store for group in names})
        say(ROW.format(*COLUMNS))
        for (kind, group), store in stores.items():
            for objective in objectives.split(","):
                training = Path(place) / f"{kind}-{group}-{objective}"
                options = [*OPTIONS[kind, group], f"objective.name={objective}", *overrides]
                for row in train(kind, store, group, training, options):
                    say(ROW.format(*row))


if __name__ == "__main__":
    main()
