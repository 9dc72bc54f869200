"""The demo cohort at the level of parcels: as many subjects and minutes as a probe needs.

    python benchmarks/parcel_cohort.py --out parcels.zarr --subjects 150 --minutes 6

The courses are those that ``fmritok demo-data`` puts into volumes (same subjects, same effects),
with its nuisance and noise, but no volumes are drawn: hundreds of subjects take a minute. The store
has the token group ``network``, as the tokenizer of that name writes it: band-pass 0.01-0.1 Hz,
2.0 s, z-scored.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np


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
@click.option("--seed", default=0, show_default=True)
def main(out: Path, subjects: int, minutes: float, runs: tuple[str, ...], seed: int) -> None:
    """Write the store."""
    import pandas as pd

    from fmritok.pipeline.demo.anatomy import load_anatomy
    from fmritok.pipeline.demo.config import DemoConfig, task_of
    from fmritok.pipeline.demo.population import draw_subject
    from fmritok.pipeline.demo.signals import NUISANCE, simulate_signals
    from fmritok.pipeline.events import Event, events_table
    from fmritok.pipeline.store.annotations import write_annotations
    from fmritok.pipeline.store.ledger import allocate, finalize
    from fmritok.pipeline.store.location import Location
    from fmritok.pipeline.store.precision import store_precision
    from fmritok.pipeline.store.records import RunRecord, write_record
    from fmritok.pipeline.store.schema import GroupSpec
    from fmritok.pipeline.store.writer import write_run
    from fmritok.tokenizers.temporal import bandpass, resample, standardize

    config = DemoConfig(subjects=subjects, minutes=minutes, seed=seed, runs=runs)
    anatomy = load_anatomy()
    order = np.argsort(anatomy.roi_network, kind="stable")
    network = anatomy.roi_network[order].astype(np.int32)
    generator = np.random.default_rng([seed, 1])
    # Nuisance is smooth over the brain: what is shared by all regions, and what is not.
    loading = 0.5 + 0.5 * generator.standard_normal((len(NUISANCE), len(order)))

    people = [draw_subject(config, i, len(anatomy.networks), len(order)) for i in range(subjects)]
    series, rows, events = {}, [], []
    for person in people:
        for run in config.runs:
            drawn = simulate_signals(config, person, run, anatomy)
            courses = drawn.rois + drawn.nuisance @ loading + drawn.spike[:, None]
            noise = np.random.default_rng([seed, 2, person.index, len(rows)])
            courses += config.noise_percent / 100 / 5 * noise.standard_normal(courses.shape)
            places = np.ascontiguousarray(courses.T[order], dtype=np.float32)
            places = resample(bandpass(places, config.tr, 0.01, 0.1), config.tr, 2.0, "pchip")
            standardize(places)
            run_id = f"demo_{person.subject}_{run}"
            series[run_id] = places.T[:, :, None]
            blocks = [Event(e.onset, e.duration, e.condition) for e in drawn.events]
            events.append((run_id, blocks))
            rows.append(
                {"run_id": run_id, "dataset": "demo", "subject": person.subject, "session": "",
                 "task": (task_of(run) or "rest").lower(), "site": "", "tr": 2.0,
                 "family": str(person.family), "space": "", "source": "", "problem": "",
                 "n_frames": len(series[run_id])}
            )  # fmt: skip
    location = Location(out)
    spec = GroupSpec(
        name="network", n_tokens=len(order), dim=1, precision="float16", shard_frames=160,
        static={"network": network},
        provenance={"tokenizer": "network", "simulated": config.to_dict()},
    )  # fmt: skip
    for run in allocate(location, spec, pd.DataFrame(rows)).to_dict("records"):
        stored = store_precision(series[run["run_id"]], "float16")
        sums = write_run(location, "network", run_id=run["run_id"], row=run["row"],
                         start=run["start"], stored=stored)  # fmt: skip
        record = RunRecord(run["run_id"], "done", run["start"], run["n_frames"], checksums=sums)
        write_record(location, "network", record)
    finalize(location, "network")
    phenotypes = pd.DataFrame(
        {"dataset": "demo", "subject": [p.subject for p in people], "session": "",
         "sex": [p.sex for p in people], "age": [float(p.age) for p in people],
         "cognition": [p.cognition for p in people]}
    )  # fmt: skip
    write_annotations(location, {"phenotypes": phenotypes, "events": events_table(events)})
    click.echo(f"{len(rows)} runs of {rows[0]['n_frames']} frames: {out}")


if __name__ == "__main__":
    main()
