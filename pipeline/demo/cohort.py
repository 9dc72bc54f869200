"""Write a simulated cohort as an HCP-shaped folder, run by run, and carry on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from fmritok.errors import FmritokError, expected
from fmritok.pipeline.demo import tables
from fmritok.pipeline.demo.anatomy import Anatomy, SubjectAnatomy, load_anatomy, subject_anatomy
from fmritok.pipeline.demo.config import DemoConfig, is_rest
from fmritok.pipeline.demo.population import Subject, draw_subject, stream
from fmritok.pipeline.demo.signals import RunSignals, simulate_signals
from fmritok.pipeline.demo.tasks import ev_text
from fmritok.pipeline.demo.volume import write_volume

__all__ = ["MARKER", "DemoConfig", "run_path", "write_demo_cohort"]

MARKER = "SIMULATED.json"
_LOCK = ".demo-data.lock"
_ANATOMY = 12


def write_demo_cohort(
    out: Path, config: DemoConfig, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a simulated cohort in the layout of the HCP, with known effects in it.

    Existing runs are kept. A second call completes an interrupted first one; a call with more
    subjects adds them.

    Parameters
    ----------
    out : Path
        Folder to write; it may exist if it is empty or an earlier output of the same `config`.
    config : DemoConfig
        Size of the cohort and of the effects.
    progress : callable, optional
        Called with the number of runs done and the number of all runs, first with 0 done.

    Raises
    ------
    FmritokError
        `out` is a file, holds something else, holds a cohort made with another `config`, or
        cannot be written.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise FmritokError(
            expected("cannot write", out, "a folder", "a file", "Name another folder.")
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        _check_folder(out, config)  # before anything is written, the lock included
        _write_cohort(out, config, progress)
    except OSError as error:
        raise FmritokError(
            expected(
                "cannot write",
                error.filename or out,
                "a writable place with enough room",
                error.strerror or str(error),
                "Mend that and run the same command again; finished runs are kept.",
            )
        ) from error


def _write_cohort(
    out: Path, config: DemoConfig, progress: Callable[[int, int], None] | None
) -> None:
    with FileLock(out / _LOCK):
        _check_folder(out, config)
        _write_marker(out, config, complete=False)
        anatomy = load_anatomy()
        sizes = len(anatomy.networks), len(anatomy.roi_network)
        subjects = [draw_subject(config, index, *sizes) for index in range(config.subjects)]
        tables.write_text(out / "README.txt", tables.README)
        done, total = 0, len(subjects) * len(config.runs)
        if progress is not None:
            progress(done, total)
        for subject in subjects:
            brain: SubjectAnatomy | None = None
            for run in config.runs:
                path = run_path(out, subject.subject, run)
                if not path.exists():
                    if brain is None:
                        brain = subject_anatomy(anatomy, stream(config, _ANATOMY, subject.index))
                    _write_run(path, config, subject, run, anatomy, brain)
                done += 1
                if progress is not None:
                    progress(done, total)
        truth = tables.truth_json(config, subjects, anatomy)
        tables.write_text(out / "simulated_ground_truth.json", truth)
        tables.write_text(out / "RESTRICTED_demo.csv", tables.restricted_csv(subjects))
        tables.write_text(out / "unrestricted_demo.csv", tables.unrestricted_csv(config, subjects))
        _write_marker(out, config, complete=True)


def run_path(out: Path, subject: str, run: str) -> Path:
    """Return where the volume of a run lies in an HCP-shaped folder."""
    name = f"{run}_hp2000_clean.nii.gz" if is_rest(run) else f"{run}.nii.gz"
    return out / subject / "MNINonLinear" / "Results" / run / name


def _write_run(
    path: Path,
    config: DemoConfig,
    subject: Subject,
    run: str,
    anatomy: Anatomy,
    brain: SubjectAnatomy,
) -> None:
    """Write one run's files, the volume last: a run with a volume is complete."""
    signals = simulate_signals(config, subject, run, anatomy)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_beside(path.parent, signals, anatomy)
    write_volume(path, config, subject, run, anatomy, brain, signals)


def _write_beside(folder: Path, signals: RunSignals, anatomy: Anatomy) -> None:
    """Write head motion, events and the true network courses of a run."""
    motion = signals.relative_rms
    text = "".join(f"{value:.6f}\n" for value in motion)
    tables.write_text(folder / "Movement_RelativeRMS.txt", text)
    tables.write_text(folder / "Movement_RelativeRMS_mean.txt", f"{motion.mean():.6f}\n")
    table = tables.network_table(signals, anatomy)
    tables.write_text(folder / "simulated_networks.tsv", table)
    for condition in {event.condition for event in signals.events}:
        (folder / "EVs").mkdir(exist_ok=True)
        text = ev_text(signals.events, condition)
        tables.write_text(folder / "EVs" / f"{condition}.txt", text)


def _check_folder(out: Path, config: DemoConfig) -> None:
    """Refuse a folder that holds other things, or a cohort made with other options."""
    marker = out / MARKER
    if not marker.exists():
        found = sorted(path.name for path in out.iterdir() if path.name != _LOCK)
        if found:
            raise FmritokError(
                expected(
                    "cannot write",
                    out,
                    f"an empty folder or one with {MARKER}",
                    ", ".join(found[:3]) + (", ..." if len(found) > 3 else ""),
                    "Name another folder; simulated data are never mixed with other data.",
                )
            )
        return
    before = _read_marker(marker)
    now = config.to_dict()
    for name, value in now.items():
        old = before.get(name)
        grows = name == "subjects" and isinstance(old, int) and old <= value
        if old != value and not grows:
            raise FmritokError(
                expected(
                    "other options",
                    f"of the demo cohort in {out}",
                    f"{name}={old} as before" + (" or more" if name == "subjects" else ""),
                    f"{name}={value}",
                    "Name another folder, or delete this one.",
                )
            )


def _read_marker(marker: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(marker.read_text(encoding="utf-8"))["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise FmritokError(
            expected(
                "damaged file",
                marker,
                "JSON that fmritok demo-data wrote",
                f"{type(error).__name__}: {error}",
                "Delete the folder and write the demo cohort again.",
            )
        ) from error


def _write_marker(out: Path, config: DemoConfig, complete: bool) -> None:
    content = {
        "simulated": True,
        "complete": complete,
        "by": f"fmritok {metadata.version('fmritok')}",
        "seed": config.seed,
        "config": config.to_dict(),
    }
    tables.write_text(out / MARKER, json.dumps(content, indent=1) + "\n")
