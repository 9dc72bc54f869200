"""Compare ``flatmap`` and ``network`` with the usual ways, and time the steps of a whole run.

    python benchmarks/speed/series.py --data FOLDER

FOLDER holds real runs, atlases and fs_LR surfaces as in the tests (FMRITOK_TEST_DATA).
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import nibabel as nib
import numpy as np

from fmritok.cli import main as fmritok
from fmritok.pipeline.resources.atlases import build_semantoks_atlas
from fmritok.pipeline.resources.templates import fetch_template
from fmritok.pipeline.sources.opening import RunFiles, open_run
from fmritok.pipeline.store.reader import TokenStore
from fmritok.pipeline.store.records import read_record
from fmritok.tokenizers.flatmap.tokenizer import FlatmapTokenizer
from fmritok.tokenizers.network.tokenizer import NetworkTokenizer

DEFAULT_DATA = Path(os.environ.get("FMRITOK_TEST_DATA", "../shared/data"))


def alternate(rounds: int, **ways: Callable[[], object]) -> dict[str, list[float]]:
    """Time the ways in turn, after one warm-up of each; seconds."""
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return times


def report(times: dict[str, list[float]], frames: dict[str, int], baseline: str) -> None:
    slow = [t / frames[baseline] for t in times[baseline]]
    for name, found in times.items():
        per_frame = [t / frames[name] for t in found]
        ratios = sorted(s / f for s, f in zip(slow, per_frame, strict=True))
        print(f"  {name:22s} {1e3 * statistics.median(per_frame):9.3f} ms a frame   "
              f"{statistics.median(ratios):7.1f}x  ({ratios[0]:.1f}-{ratios[-1]:.1f})")  # fmt: skip


def flatmap(data: Path, folder: Path, rounds: int) -> None:
    """Compare vertices to pixels: triangulated interpolation per call (published), and ours."""
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import Delaunay

    tokenizer = FlatmapTokenizer(str(fetch_template(folder, data / "surfaces")))
    flat, template = tokenizer.flat, tokenizer.template
    series = np.random.default_rng(0).standard_normal((sum(template.n_vertices), 256))
    series = series.astype(np.float32)
    used = np.unique(flat.vertex)
    # Hemispheres apart, as on the flat map; a pixel's place follows from its weights.
    points = np.concatenate([template.left.flat, template.right.flat + [2000.0, 0]])
    pixels = np.einsum("pk,pkd->pd", flat.weight, points[flat.vertex])
    triangles = Delaunay(points[used])
    matrix = tokenizer.painting.matrix
    n = 4

    def per_call() -> np.ndarray:
        return np.stack(
            [LinearNDInterpolator(triangles, series[used, t])(pixels) for t in range(n)]
        )

    def plain_sparse() -> np.ndarray:
        return matrix @ series[:, :64]

    def ours() -> np.ndarray:
        return tokenizer._painted(series)

    print(f"flatmap: {len(flat.pixel):,} pixels of {flat.shape[0]}x{flat.shape[1]}, fs_LR 32k")
    painted = ours()[flat.feature]
    equal = np.isclose(painted[:, :n].T, per_call(), atol=1e-4)
    print(f"  equal to the triangulated interpolation within 1e-4: {equal.mean():.2%} of pixels "
          "(elsewhere Delaunay's triangles are not the surface's)")  # fmt: skip
    exact = np.einsum("pk,pkt->pt", flat.weight, series[flat.vertex].astype(np.float64))
    error = np.abs(painted - exact).max()
    print(f"  largest difference to the same weights in float64: {error:.1e}")
    times = alternate(rounds, per_call=per_call, plain_sparse=plain_sparse, ours=ours)
    report(times, {"per_call": n, "plain_sparse": 64, "ours": 256}, "per_call")


def network(data: Path, folder: Path, rounds: int) -> None:
    """Compare voxels to parcel means: nilearn's masker, and ours."""
    from nilearn.maskers import NiftiLabelsMasker

    stem = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3"
    labels = data / "atlases" / f"{stem}_MNI152NLin6Asym_2mm.nii.gz"
    atlas = build_semantoks_atlas(
        folder, cortex_and_subcortex=labels, labels=data / "atlases" / f"{stem}_label.txt",
        cerebellum=data / "atlases/derived_Buckner7_LooseMask_MNI2mm91x109x91.nii.gz",
    )  # fmt: skip
    tokenizer = NetworkTokenizer(str(atlas), band=None, tr=None)
    path = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    source = open_run(RunFiles(path))
    block = np.tile(np.concatenate(list(source.blocks())), (5, 1))
    places = tokenizer.places(source.space)
    loaded = nib.load(path)
    image = nib.Nifti1Image(np.tile(np.asarray(loaded.dataobj), 5), loaded.affine)
    masker = NiftiLabelsMasker(labels, resampling_target="data", standardize=None).fit(image)
    rows = np.flatnonzero(tokenizer.atlas.table["image"] == labels.name)
    order = np.argsort(tokenizer.atlas.table["label"].to_numpy()[rows])
    reference = masker.transform(image)

    def ours() -> np.ndarray:
        parts = [places.apply_to_frames(block[i : i + 16]) for i in range(0, len(block), 16)]
        return np.concatenate(parts, axis=1)

    means = ours()[rows[order]].T * source.slope + source.intercept
    print(f"network: 457 parcels of {len(block)} frames of {source.space.description}")
    error = np.abs(means / np.where(reference, reference, np.nan) - 1)[reference > 1].max()
    print(f"  largest relative difference to NiftiLabelsMasker (450 parcels): {error:.1e}")
    times = alternate(rounds, nilearn=lambda: masker.transform(image), ours=ours)
    report(times, {"nilearn": len(block), "ours": len(block)}, "nilearn")


def whole_run(data: Path, folder: Path, names: tuple[str, ...], rounds: int, frames: int) -> None:
    """Time one run through the pipeline: tokenizers together, and one after another."""
    source = next((data / "bold_mni").glob("*sf02*MNI2mm91x109x91*bold.nii.gz"))
    image = nib.load(source)
    values = np.asarray(image.dataobj)
    values = np.take(values, np.arange(frames) % values.shape[3], axis=3)
    run = folder / "hcp/100001/MNINonLinear/Results/rfMRI_REST1_LR"
    run.mkdir(parents=True)
    path = run / "rfMRI_REST1_LR_hp2000_clean.nii.gz"
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)

    def tokenize(*names: str, key: list[int] = [0]) -> Path:  # noqa: B006  a counter
        key[0] += 1
        store = folder / f"{key[0]}.zarr"
        arguments = [x for name in names for x in ("--tokenizer", name)]
        with open(os.devnull, "w") as null:
            before, sys.stdout = sys.stdout, null
            try:
                fmritok(["tokenize", "--dataset", "hcp", "--root", str(folder / "hcp"), "--store",
                         str(store), "--executor", "serial", *arguments],
                        standalone_mode=False)  # fmt: skip
            finally:
                sys.stdout = before
        return store

    def decompress() -> None:
        with gzip.open(path, "rb") as file:
            while file.read(1 << 24):
                pass

    def decompress_isal() -> None:
        from isal import igzip

        with igzip.open(path, "rb") as file:
            while file.read(1 << 24):
                pass

    size = path.stat().st_size / 1e6
    print(f"{' + '.join(names)}: a run of {frames} frames, {size:.0f} MB compressed, one process")
    times = alternate(
        rounds,
        one_after_another=lambda: [tokenize(name) for name in names],
        together=lambda: tokenize(*names),
        isal_alone=decompress_isal,
        gzip_alone=decompress,
    )
    report(times, dict.fromkeys(times, frames), "one_after_another")
    store = TokenStore(tokenize(*names))
    seconds: dict[str, float] = {}
    for name in store.groups:
        record = read_record(store.location, name, "hcp_100001_rfMRI_REST1_LR")
        assert record is not None
        for phase, spent in record.seconds.items():
            shared = phase in ("setup", "read", "preprocess")
            seconds[phase] = spent if shared else seconds.get(phase, 0) + spent
    del seconds["setup"]  # once per worker
    total = sum(seconds.values())
    shares = ", ".join(f"{phase} {spent / total:.0%}" for phase, spent in seconds.items())
    print(f"  of {1e3 * total / frames:.1f} ms a frame: {shares}")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=DEFAULT_DATA)
@click.option("--rounds", default=5, show_default=True)
@click.option("--frames", default=60, show_default=True)
@click.option("--vae/--no-vae", "with_vae", default=True, help="Also a run with all three.")
def main(data: Path, rounds: int, frames: int, with_vae: bool) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for part in (flatmap, network):
        with tempfile.TemporaryDirectory() as folder:
            part(data, Path(folder), rounds)
    both = ("flatmap", "network")
    all_three = ((("vae", *both), 36, 1),) if with_vae else ()
    for names, length, times in ((both, frames, rounds), *all_three):
        with tempfile.TemporaryDirectory() as folder:
            whole_run(data, Path(folder), names, times, length)
    print(json.dumps({"cpu": os.cpu_count(), "load_average": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
