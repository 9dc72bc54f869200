"""Simulate the demo cohort as parcel time courses, for many subjects and minutes.

    python benchmarks/learning/parcel_cohort.py --out parcels.zarr --subjects 150 --minutes 6

The time courses are those of ``fmritok demo-data`` (same subjects, effects, nuisance and noise)
without volumes: hundreds of subjects take a minute. The store has the token group ``network`` in
the form of that tokenizer: band-pass 0.01-0.1 Hz, TR 2.0 s, z-scored.

``--latents`` adds a group ``latents``, a stand-in for tokens of an image autoencoder, which would
take days to encode. It has 27 cells of 32 features. Each feature is a fixed random mixture of the
regions' time courses, with a standard deviation of 0.016 around a constant of about 3 (the anatomy,
slightly different in every subject), as measured on real runs. TR 2.0 s, unfiltered, int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CELLS, FEATURES = 27, 32
DYNAMICS, CONSTANT, OWN = 0.016, 3.0, 0.1


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--subjects", default=150, show_default=True)
@click.option("--minutes", default=6.0, show_default=True)
@click.option(
    "--run",
    "runs",
    multiple=True,
    default=["rfMRI_REST1_LR", "tfMRI_LANGUAGE_LR"],
    show_default=True,
    help="HCP name of a run of every subject; may be repeated.",
)
@click.option(
    "--effect",
    "effects",
    multiple=True,
    metavar="NAME=SIZE",
    help="Size of an effect other than that of the demo cohort, e.g. age_effect=0.",
)
@click.option("--latents", is_flag=True, help="Add the group `latents`.")
@click.option("--seed", default=0, show_default=True)
def main(
    out: Path,
    subjects: int,
    minutes: float,
    runs: tuple[str, ...],
    effects: tuple[str, ...],
    latents: bool,
    seed: int,
) -> None:
    """Write the store."""
    import pandas as pd

    from fmritok.pipeline.catalog.events import Event, events_table
    from fmritok.pipeline.demo.anatomy import load_anatomy
    from fmritok.pipeline.demo.config import DemoConfig, task_of
    from fmritok.pipeline.demo.population import draw_subject
    from fmritok.pipeline.demo.signals import NUISANCE, simulate_signals
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.tables.annotations import write_annotations
    from fmritok.tokenizers.temporal import bandpass, resample, standardize

    sizes: dict[str, Any] = {
        name: float(size) for name, _, size in (e.partition("=") for e in effects)
    }
    config = DemoConfig(subjects=subjects, minutes=minutes, seed=seed, runs=runs, **sizes)
    anatomy = load_anatomy()
    order = np.argsort(anatomy.roi_network, kind="stable")
    network = anatomy.roi_network[order].astype(np.int32)
    generator = np.random.default_rng([seed, 1])
    # Nuisance is smooth over the brain: what is shared by all regions, and what is not.
    loading = 0.5 + 0.5 * generator.standard_normal((len(NUISANCE), len(order)))

    people = [draw_subject(config, i, len(anatomy.networks), len(order)) for i in range(subjects)]
    parcels: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    rows, events = [], []
    for person in people:
        for run in config.runs:
            drawn = simulate_signals(config, person, run, anatomy)
            courses = drawn.rois + drawn.nuisance @ loading + drawn.spike[:, None]
            noise = np.random.default_rng([seed, 2, person.index, len(rows)])
            courses += config.noise_percent / 100 / 5 * noise.standard_normal(courses.shape)
            courses = np.ascontiguousarray(courses.T[order], dtype=np.float32)
            run_id = f"demo_{person.subject}_{run}"
            if latents:
                slower = resample(courses, config.tr, 2.0, "pchip")
                tokens[run_id] = _latents(slower.T, [seed, 3], [seed, 4, person.index])
            courses = resample(bandpass(courses, config.tr, 0.01, 0.1), config.tr, 2.0, "pchip")
            standardize(courses)
            parcels[run_id] = courses.T[:, :, None]
            blocks = [Event(e.onset, e.duration, e.condition) for e in drawn.events]
            events.append((run_id, blocks))
            rows.append(
                {"run_id": run_id, "dataset": "demo", "subject": person.subject, "session": "",
                 "task": (task_of(run) or "rest").lower(), "site": "", "tr": 2.0,
                 "family": str(person.family), "space": "", "source": "", "problem": "",
                 "n_frames": len(parcels[run_id])}
            )  # fmt: skip
    location, table = Location(out), pd.DataFrame(rows)
    simulated = {"simulated": config.to_dict()}
    _write(location, table, parcels, "float16", name="network", static={"network": network},
           provenance={"tokenizer": "network", **simulated})  # fmt: skip
    if latents:
        _write(location, table, tokens, "int8", name="latents", provenance=simulated)
    phenotypes = pd.DataFrame(
        {"dataset": "demo", "subject": [p.subject for p in people], "session": "",
         "sex": [p.sex for p in people], "age": [float(p.age) for p in people],
         "cognition": [p.cognition for p in people]}
    )  # fmt: skip
    write_annotations(location, {"phenotypes": phenotypes, "events": events_table(events)})
    click.echo(f"{len(rows)} runs of {rows[0]['n_frames']} frames: {out}")


def _latents(courses: Any, everybody: list[int], own: list[int]) -> Any:
    """Mix courses (n_frames, n_parcels) into tokens (n_frames, cells, features), float32."""
    draw = np.random.default_rng(everybody)
    cell = draw.integers(CELLS, size=courses.shape[1])
    weights = draw.standard_normal((CELLS, FEATURES, courses.shape[1]))
    weights *= cell == np.arange(CELLS)[:, None, None]
    anatomy = CONSTANT * draw.standard_normal((CELLS, FEATURES))
    anatomy = anatomy + OWN * np.random.default_rng(own).standard_normal(anatomy.shape)
    mixed = np.einsum("tp,cdp->tcd", courses - courses.mean(0), weights, optimize=True)
    return (anatomy + DYNAMICS * mixed / mixed.std()).astype(np.float32)


def _write(
    location: Any, rows: pd.DataFrame, tokens: Mapping[str, Any], precision: Any, **group: Any
) -> None:
    """Write the runs of a token group."""
    from fmritok.pipeline.store.ledger import allocate, finalize
    from fmritok.pipeline.store.precision import store_precision
    from fmritok.pipeline.store.records import RunRecord, write_record
    from fmritok.pipeline.store.schema import GroupSpec
    from fmritok.pipeline.store.writer import write_run

    _, n_tokens, dim = next(iter(tokens.values())).shape
    spec = GroupSpec(n_tokens=n_tokens, dim=dim, precision=precision, shard_frames=160, **group)
    for run in allocate(location, spec, rows).to_dict("records"):
        stored = store_precision(tokens[run["run_id"]], precision)
        sums = write_run(location, spec.name, run_id=run["run_id"], row=run["row"],
                         start=run["start"], stored=stored)  # fmt: skip
        record = RunRecord(run["run_id"], "done", run["start"], run["n_frames"], checksums=sums)
        write_record(location, spec.name, record)
    finalize(location, spec.name)


if __name__ == "__main__":
    main()
