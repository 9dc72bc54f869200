"""Compare `dcae-tiny` with two codes of the same length, on photographs and real fMRI."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from photos import (
    HELD_OUT_PHOTOS,
    SIZE,
    SampleSource,
    build_pyramid,
)
from skimage.metrics import structural_similarity
from torch import Tensor

from fmritok.pipeline.sources.volumes import RunVolumes
from fmritok.tokenizers.vae.intensity import IntensityMode, fit_intensity

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tokenizers" / "vae" / "dcae_tiny"
Codec = Callable[[Tensor], Tensor]  # (n, 3, 96, 96) in [-1, 1] -> its round trip, same shape
NAMES = {"dcae": "dcae-tiny", "pca": "PCA", "down": "downsample"}
BATCH = 48


class Pca:
    """Principal components of 32x32 blocks: 32 numbers a block, 288 a slice.

    Parameters
    ----------
    images : Tensor, (n, channels, 96, 96)
        What to fit on, in [-1, 1]; one channel for grey images, three for colour.
    """

    def __init__(self, images: Tensor) -> None:
        self.channels = images.shape[1]
        blocks = F.unfold(images, 32, stride=32).transpose(1, 2).flatten(0, 1).double()
        self.mean = blocks.mean(0)
        centred = blocks - self.mean
        self.basis = torch.linalg.eigh(centred.T @ centred)[1][:, -32:].float()
        self.mean = self.mean.float()

    def __call__(self, images: Tensor) -> Tensor:
        """Project every block onto the components and back."""
        blocks = F.unfold(images[:, : self.channels], 32, stride=32).transpose(1, 2) - self.mean
        blocks = (blocks @ self.basis) @ self.basis.T + self.mean
        out = F.fold(blocks.transpose(1, 2), (SIZE, SIZE), 32, stride=32)
        return out.expand(-1, 3, -1, -1)


class Downsample:
    """A downsampled image of 288 numbers: 16 x 18 grey pixels, or 8 x 12 colour pixels.

    Parameters
    ----------
    colour : bool
        Whether the three channels differ.
    """

    def __init__(self, colour: bool) -> None:
        self.shape, self.channels = ((8, 12), 3) if colour else ((16, 18), 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Shrink with an anti-aliasing filter, enlarge with cubic interpolation."""
        small = F.interpolate(
            images[:, : self.channels], self.shape, mode="bicubic", antialias=True
        )
        return F.interpolate(small, (SIZE, SIZE), mode="bicubic").expand(-1, 3, -1, -1)


class Autoencoder:
    """The round trip through a saved `AutoencoderDC`.

    Parameters
    ----------
    folder : Path
        Where ``config.json`` and the weights lie.
    """

    def __init__(self, folder: Path) -> None:
        self.model = AutoencoderDC.from_pretrained(folder, low_cpu_mem_usage=False).eval()

    def __call__(self, images: Tensor) -> Tensor:
        """Encode and decode."""
        with torch.inference_mode():
            return torch.cat(
                [self.model.decode(self.model.encode(x).latent).sample for x in images.split(BATCH)]
            )


def make_codecs(folder: Path, colour: bool, seed: int = 1, crops: int = 1500) -> dict[str, Codec]:
    """Load the autoencoder and make the baselines.

    Parameters
    ----------
    folder : Path
        Where the autoencoder's weights lie.
    colour : bool
        Whether the baselines are for colour images or for grey ones.
    seed : int
        Seed of the crops of training photographs that the principal components are fitted on.
    crops : int
        How many of them.

    Returns
    -------
    dict
        Codecs by the keys of `NAMES`.
    """
    source = SampleSource(seed)
    images = source.crops(crops) if colour else source.grey(crops)
    return {"dcae": Autoencoder(folder), "pca": Pca(2 * images - 1), "down": Downsample(colour)}


def held_out_crops(colour: bool, per_photo: int = 48, seed: int = 7) -> Tensor:
    """Cut crops of the held-out photographs, at all scales.

    Parameters
    ----------
    colour : bool
        Leave out the grey photograph and keep the colours; else average them.
    per_photo : int
        Crops of each photograph.
    seed : int
        Seed of the places.

    Returns
    -------
    Tensor, (n, 3, 96, 96) in [-1, 1]
    """
    rng, out = np.random.default_rng(seed), []
    for name in HELD_OUT_PHOTOS[1 if colour else 0 :]:
        pyramid = build_pyramid(name)
        for i in range(per_photo):
            level = pyramid[i % len(pyramid)]
            top, left = (int(rng.integers(n - SIZE + 1)) for n in level.shape[1:])
            out.append(level[:, top : top + SIZE, left : left + SIZE])
    crops = torch.stack(out)
    return 2 * (crops if colour else crops.mean(1, keepdim=True).expand(-1, 3, -1, -1)) - 1


def measure_photos(codecs: dict[str, Codec], images: Tensor) -> dict[str, dict[str, float]]:
    """Compare the round trips of photographs.

    Parameters
    ----------
    codecs : dict of str to callable
        What to compare.
    images : Tensor, (n, 3, 96, 96) in [-1, 1]
        Photographs.

    Returns
    -------
    dict
        By codec: ``psnr`` (dB) and ``ssim``, means over the images.
    """
    result = {}
    for key, codec in codecs.items():
        out = codec(images).clamp(-1, 1)
        psnr = -10 * torch.log10(((out - images) ** 2).mean((1, 2, 3)) / 4)
        ssim = [
            structural_similarity(a.numpy(), b.numpy(), data_range=2.0, channel_axis=0)
            for a, b in zip(images, out, strict=True)
        ]
        result[key] = {"psnr": float(psnr.mean()), "ssim": float(np.mean(ssim))}
    return result


def fmri_folder() -> Path:
    """Return the folder of the fMRI test data, from FMRITOK_TEST_DATA or beside the repository."""
    default = ROOT.parent / "shared" / "data"
    return Path(os.environ.get("FMRITOK_TEST_DATA", default)) / "bold_mni"


def find_runs(folder: Path) -> list[Path]:
    """List the runs on the 2 mm MNI lattice."""
    return sorted(folder.glob("*space-MNI2mm91x109x91*affine1?vols_bold.nii.gz"))


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlate two sets of time courses (frames, voxels), voxel by voxel."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / torch.sqrt((a**2).sum(0) * (b**2).sum(0)).clamp_min(1e-12)


def measure_run(
    codecs: dict[str, Codec], run: Tensor, brain: Tensor
) -> dict[str, dict[str, float]]:
    """Compare the round trips of one scaled run, slice by slice along all three axes.

    Parameters
    ----------
    codecs : dict of str to callable
        What to compare.
    run : Tensor, (frames, 96, 96, 96) in [-1, 1]
        Volumes.
    brain : Tensor of bool, (96, 96, 96)
        Where to measure.

    Returns
    -------
    dict
        By codec: ``psnr`` (dB, brain voxels), ``r_median`` and ``r_mean`` (correlation of time
        courses over brain voxels), each the mean over axes; with the suffix ``_3`` for the mean
        of the three reconstructions.
    """
    result = {}
    wanted = run[:, brain]

    def score(got: Tensor) -> tuple[float, float, float]:
        r = _correlation(wanted, got)
        psnr = -10 * torch.log10(((got - wanted) ** 2).mean() / 4)
        return float(psnr), float(r.median()), float(r.mean())

    for key, codec in codecs.items():
        each, mean = [], torch.zeros_like(wanted)
        for axis in range(1, 4):
            slices = run.movedim(axis, 1).reshape(-1, 1, SIZE, SIZE)
            busy = (slices != slices[:, :, :1, :1]).flatten(1).any(1)
            out = torch.empty_like(slices)
            # a blank slice's round trip is the same every time
            out[busy] = codec(slices[busy].expand(-1, 3, -1, -1)).mean(1, keepdim=True)
            out[~busy] = codec(slices[~busy][:1].expand(-1, 3, -1, -1)).mean(1, keepdim=True)
            volume = out.reshape(len(run), SIZE, SIZE, SIZE).movedim(1, axis)
            each.append(score(volume[:, brain]))
            mean += volume[:, brain] / 3
        columns = ("psnr", "r_median", "r_mean")
        single = {
            c: statistics.fmean(v) for c, v in zip(columns, zip(*each, strict=True), strict=True)
        }
        joint = {f"{c}_3": v for c, v in zip(columns, score(mean), strict=True)}
        result[key] = single | joint
    return result


def measure_fmri(
    codecs: dict[str, Codec],
    folder: Path,
    modes: Sequence[IntensityMode] = ("max", "zscore"),
    frames: int | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Compare the round trips of every run on the 2 mm MNI lattice.

    Parameters
    ----------
    codecs : dict of str to callable
        What to compare.
    folder : Path
        Where the runs lie.
    modes : sequence of str
        Intensity modes of :mod:`fmritok.tokenizers.vae.intensity`.
    frames : int, optional
        Read only so many of each run.

    Returns
    -------
    dict
        By ``"<subject> <mode>"``: what `measure_run` returns.
    """
    result = {}
    for path in find_runs(folder):
        run = RunVolumes.read(path, voxel_statistics=True)
        _, volumes = next(run.blocks(frames or run.n_frames))
        # the runs are masked: what varies in time is brain
        brain = torch.from_numpy(run.statistics.std) > 0
        for mode in modes:
            scaled = torch.from_numpy(fit_intensity(mode, run.statistics).forward(volumes))
            name = f"{path.name.split('_')[0]} {mode}"
            result[name] = measure_run(codecs, scaled, brain)
    return result


def time_encoder(folder: Path, threads: int, repeats: int = 100) -> float:
    """Return the seconds to encode 288 slices in fp32: 9 times the best of `repeats` for 32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    encoder, seconds = Autoencoder(folder).model.encoder, []
    slices = torch.rand(32, 3, SIZE, SIZE)
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            encoder(slices)
            seconds.append(time.perf_counter() - start)
            time.sleep(0.02)  # other work on the machine would be measured too
    torch.set_num_threads(before)
    return 9 * min(seconds)
