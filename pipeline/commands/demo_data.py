"""``fmritok demo-data``: write a simulated cohort."""

from __future__ import annotations

from pathlib import Path

import click

from fmritok.terminal import echo

__all__ = ["demo_data"]


@click.command("demo-data")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--subjects", type=int, default=8, show_default=True, help="Number of subjects.")
@click.option("--minutes", type=float, default=1.0, show_default=True, help="Length of every run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything.")
@click.option("--tr", type=float, default=0.72, show_default=True, help="Repetition time, s.")
@click.option(
    "--run",
    "runs",
    multiple=True,
    default=("rfMRI_REST1_LR", "tfMRI_MOTOR_LR"),
    show_default=True,
    help="HCP run name; may be repeated.",
)
@click.option(
    "--sex-effect",
    type=float,
    default=0.4,
    show_default=True,
    help="Correlation of two networks, men minus women.",
)
@click.option(
    "--age-effect",
    type=float,
    default=0.5,
    show_default=True,
    help="Log amplitude of one network, per ten years.",
)
@click.option(
    "--trait-effect",
    type=float,
    default=0.15,
    show_default=True,
    help="Correlation of two networks, per SD of cognition.",
)
@click.option(
    "--task-effect",
    type=float,
    default=1.5,
    show_default=True,
    help="Response to a block, in SD of the network at rest.",
)
@click.option(
    "--fingerprint",
    type=float,
    default=0.1,
    show_default=True,
    help="SD of what is a subject's own in each correlation.",
)
@click.option(
    "--network-percent",
    type=float,
    default=1.5,
    show_default=True,
    help="SD of the network signal, percent of the mean.",
)
@click.option(
    "--noise-percent",
    type=float,
    default=1.1,
    show_default=True,
    help="SD of the scanner noise, percent of the mean.",
)
@click.option("--motion", type=float, default=1.0, show_default=True, help="Scale of head motion.")
def demo_data(
    out: Path,
    subjects: int,
    minutes: float,
    seed: int,
    tr: float,
    runs: tuple[str, ...],
    sex_effect: float,
    age_effect: float,
    trait_effect: float,
    task_effect: float,
    fingerprint: float,
    network_percent: float,
    noise_percent: float,
    motion: float,
) -> None:
    """Write a simulated cohort in the layout of the HCP to OUT; an effect of 0 is absent.

    Nothing is downloaded. Running it again finishes what was interrupted, or adds subjects.
    """
    from fmritok.errors import FmritokError
    from fmritok.pipeline.demo.cohort import DemoConfig, write_demo_cohort

    try:
        config = DemoConfig(
            subjects=subjects,
            minutes=minutes,
            seed=seed,
            tr=tr,
            runs=runs,
            sex_effect=sex_effect,
            age_effect=age_effect,
            trait_effect=trait_effect,
            task_effect=task_effect,
            fingerprint=fingerprint,
            network_percent=network_percent,
            noise_percent=noise_percent,
            motion=motion,
        )
    except FmritokError as error:
        raise click.UsageError(str(error)) from error
    total = config.subjects * len(config.runs)
    with click.progressbar(length=total, label="runs", show_pos=True) as bar:
        write_demo_cohort(out, config, lambda done, _: bar.update(done - bar.pos))
    echo(f"{total} simulated runs of {config.frames} frames: {out}")
