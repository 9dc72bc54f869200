"""Measure `dcae-tiny` beside two codes of the same length, and write its model card.

Run ``python tokenizers/dcae_tiny/evaluate.py``: every number in ``README.md`` comes from here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from skimage.metrics import structural_similarity
from torch import Tensor

from fmritok.tokenizers.dcae_tiny.photos import (
    HELD_OUT_PHOTOS,
    SIZE,
    SampleSource,
    build_pyramid,
)

HERE = Path(__file__).resolve().parent
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
    """A smaller image of 288 numbers: 16 x 18 grey pixels, or 8 x 12 pixels of three colours.

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
    default = HERE.parents[1].parent / "shared" / "data"
    return Path(os.environ.get("FMRITOK_TEST_DATA", default)) / "bold_mni"


def find_runs(folder: Path) -> list[Path]:
    """List the runs on the 2 mm MNI lattice."""
    return sorted(folder.glob("*space-MNI2mm91x109x91*affine1?vols_bold.nii.gz"))


def load_run(path: Path, frames: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read one run on the 2 mm MNI lattice and place it, without interpolation, in a 96-cube.

    Parameters
    ----------
    path : Path
        A 91x109x91 run; its brain mask lies beside it.
    frames : int, optional
        Read only so many.

    Returns
    -------
    run : ndarray of float32, shape (frames, 96, 96, 96)
        Intensities, RAS+.
    brain : ndarray of bool, shape (96, 96, 96)
        Voxels inside the brain mask that vary in time.
    """
    mask_path = path.parent / "space-MNI2mm91x109x91_desc-brain_mask.nii.gz"
    image = nib.as_closest_canonical(nib.load(path))
    mask = np.asarray(nib.as_closest_canonical(nib.load(mask_path)).dataobj) > 0
    data = np.asarray(image.dataobj[..., :frames], dtype=np.float32)
    pad, cut = [], []
    for axis in range(3):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        spare = SIZE - data.shape[axis]
        start = max(0, min((along[0] + along[-1] + 1 - SIZE) // 2, -spare)) if spare < 0 else 0
        cut.append(slice(start, start + min(SIZE, data.shape[axis])))
        pad.append((max(0, spare) // 2, max(0, spare) - max(0, spare) // 2))
    mask = np.pad(mask[tuple(cut)], pad)
    run = np.pad(data[tuple(cut)], [*pad, (0, 0)]).transpose(3, 0, 1, 2)
    return np.ascontiguousarray(run), mask & (run.std(0) > 0)


def scale_run(run: np.ndarray, brain: np.ndarray, mode: str) -> Tensor:
    """Map intensities to [-1, 1].

    Parameters
    ----------
    run : ndarray of float32, shape (frames, 96, 96, 96)
        Intensities.
    brain : ndarray of bool, shape (96, 96, 96)
        Brain voxels.
    mode : str
        ``max``: clamp at 0, divide by the run's maximum, background at -1. ``zscore``: z-score
        each brain voxel in time, clip at 4, divide by 4, background at 0.

    Returns
    -------
    Tensor, (frames, 96, 96, 96)
    """
    if mode == "max":
        run = np.maximum(run, 0)
        return torch.from_numpy(2 * run / run.max() - 1)
    z = (run - run.mean(0)) / np.where(brain, run.std(0), 1)
    return torch.from_numpy(np.where(brain, np.clip(z, -4, 4) / 4, 0).astype(np.float32))


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
    modes: Sequence[str] = ("max", "zscore"),
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
        Intensity modes, see `scale_run`.
    frames : int, optional
        Read only so many of each run.

    Returns
    -------
    dict
        By ``"<subject> <mode>"``: what `measure_run` returns.
    """
    result = {}
    for path in find_runs(folder):
        run, brain = load_run(path, frames)
        for mode in modes:
            scaled = scale_run(run, brain, mode)
            name = f"{path.name.split('_')[0]} {mode}"
            result[name] = measure_run(codecs, scaled, torch.from_numpy(brain))
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


def _table(measures: dict[str, dict[str, dict[str, float]]], columns: dict[str, str]) -> str:
    """Lay measures out as Markdown, the best codec of every column in bold."""
    lines = [
        f"| images | codec | {' | '.join(columns.values())} |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for name, codecs in measures.items():
        best = {c: max(values[c] for values in codecs.values()) for c in columns}
        for key, values in codecs.items():
            cells = (
                f"**{values[c]:.3f}**" if values[c] == best[c] else f"{values[c]:.3f}"
                for c in columns
            )
            lines.append(f"| {name} | {NAMES[key]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdict(measures: dict[str, dict[str, dict[str, float]]]) -> str:
    """Say in how many cells dcae-tiny is ahead of each baseline."""
    parts = []
    for key in ("pca", "down"):
        won = [v["dcae"][c] > v[key][c] for v in measures.values() for c in v["dcae"]]
        parts.append(f"{sum(won)} of {len(won)} against {NAMES[key]}")
    return ", ".join(parts)


def write_card(folder: Path, fmri: Path) -> str:
    """Measure everything and write ``README.md`` into `folder`.

    Parameters
    ----------
    folder : Path
        Where the weights and ``training.json`` lie.
    fmri : Path
        Where the fMRI runs lie.

    Returns
    -------
    str
        The model card.

    Raises
    ------
    FileNotFoundError
        If there are no fMRI runs to measure on.
    """
    made = json.loads((folder / "training.json").read_text())
    grey, colour = make_codecs(folder, False), make_codecs(folder, True)
    photos = {"grey": measure_photos(grey, held_out_crops(False))}
    photos["colour"] = measure_photos(colour, held_out_crops(True))
    runs = measure_fmri(grey, fmri)
    if not runs:
        raise FileNotFoundError(
            f"fMRI runs in {fmri}: expected *affine1?vols_bold.nii.gz, got none"
        )
    frames = {
        p.name.split("_")[0]: nib.Nifti1Image.from_filename(p).shape[3] for p in find_runs(fmri)
    }
    model = Autoencoder(folder).model
    count = {
        part: sum(p.numel() for p in getattr(model, part).parameters())
        for part in ("encoder", "decoder")
    }
    text = CARD.format(
        **made,
        command=COMMAND.format(**made),
        n_frames=", ".join(f"{k} ({v} volumes)" for k, v in frames.items()),
        photos=", ".join(f"`{name}`" for name in made["train_photos"]),
        unseen=", ".join(f"`{name}`" for name in made["held_out"]),
        minutes=made["train_seconds"] / 60,
        megabytes=(folder / "diffusion_pytorch_model.safetensors").stat().st_size / 1e6,
        encoder=count["encoder"] / 1e6,
        decoder=count["decoder"] / 1e6,
        scaling=model.config["scaling_factor"],
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
        one=time_encoder(folder, 1),
        two=time_encoder(folder, 2),
        photo_table=_table(photos, {"psnr": "PSNR, dB", "ssim": "SSIM"}),
        axis_table=_table(runs, {"psnr": "PSNR, dB", "r_median": "median r", "r_mean": "mean r"}),
        mean_table=_table(
            runs, {"psnr_3": "PSNR, dB", "r_median_3": "median r", "r_mean_3": "mean r"}
        ),
        grey_verdict=_verdict({"grey": photos["grey"]} | runs),
        colour_verdict=_verdict({"colour": photos["colour"]}),
    )
    (folder / "README.md").write_text(text)
    return text


COMMAND = (
    "python tokenizers/dcae_tiny/train.py --out DIR "
    "--steps {steps} --seed {seed} --threads {threads}"
)
CARD = """---
license: apache-2.0
library_name: diffusers
---

# dcae-tiny

A small `AutoencoderDC` f32c32: 32 times smaller along each side, 32 latent channels, so a 96x96
slice becomes (32, 3, 3) = 288 numbers. It ships inside fmritok so that the `vae` tokenizer runs
anywhere at once. It is a **stand-in** for the published DC-AE weights
(`mit-han-lab/dc-ae-f32c32-in-1.0-diffusers`, 323 M parameters), with the same input and output
shapes; use those for results that are meant to compare with the literature.

```python
from diffusers import AutoencoderDC

model = AutoencoderDC.from_pretrained("tokenizers/dcae_tiny").eval()
latent = model.encode(slices).latent  # (n, 3, 96, 96) in [-1, 1] -> (n, 32, 3, 3)
```

This card is written by `evaluate.py`; every measure in it was taken by that script.

## Facts

| | |
|---|---|
| parameters | encoder {encoder:.2f} M, decoder {decoder:.2f} M |
| file | {megabytes:.1f} MB, fp16 safetensors (computes in fp32 once loaded) |
| encoding 288 slices, fp32 | {one:.2f} s on 1 CPU thread, {two:.2f} s on 2 |
| the machine then | {cores} cores, load average {load:.1f} (above {cores}: others were running) |
| `scaling_factor` | {scaling} (1 / latent RMS on training samples; `encode` does not apply it) |
| training | {steps} steps, seed {seed}, {threads} CPU thread(s), {minutes:.0f} min, torch {torch} |
| command | `{command}` |
| licence of the weights | Apache-2.0 |

The same command on the same machine and torch gives the same weights; another CPU or torch rounds
differently.

## Training data

Photographs that lie in the installed wheels of scikit-image (`skimage/data`) and scikit-learn
(`sklearn/datasets/images`); nothing is downloaded, and **no fMRI, MRI or phantom is used**.

- Trained on: {photos}.
- Held out: {unseen}.

Origin, as the two packages state it: `china.jpg` and `flower.jpg` are CC BY 2.0 (danielbuechele and
vultilion, Flickr); the others are CC0, in the public domain, or of no known copyright restriction
(`skimage.data` docstrings). Photographs with no stated licence are left out.

Samples are 96x96 crops at several scales, nine in ten grey with three equal channels, with random
contrast and gamma; two thirds are cut out by a wobbly ellipse on a constant background (-1, or 0
for z-score-like textures). Each comes with a second image that differs by a small blurred texture
(a photograph or noise) or by a shift. The loss is the log squared error of both, the relative error
of their difference, and 1 - SSIM of the plain crops. The linear path starts at a layer-by-layer
regression on principal components.

## Measures

PCA: 32x32 blocks of crops of the same training photographs, 32 components (32x32x3 blocks for
colour). Downsample: 16x18 pixels (8x12x3 for colour), anti-aliased, enlarged by cubic
interpolation. All three codes have 288 numbers a slice. Best in bold.

**Held-out photographs**, crops at all scales:

{photo_table}

**Real fMRI**, {n_frames}. Round trip of each slice; PSNR over brain voxels with a peak of 2 (the
range [-1, 1]); r is the correlation of each brain voxel's time course before and after, its median
and mean over brain voxels. `max`: clamped at 0, divided by the run's maximum, background at -1.
`zscore`: z-scored in time, clipped at 4, divided by 4, background at 0.

One axis at a time (mean of the three axes' measures):

{axis_table}

Mean of the three axes' reconstructions:

{mean_table}

Measures on which dcae-tiny is ahead, grey photographs and fMRI: {grey_verdict}.
On colour photographs: {colour_verdict}.

## Intended use and limits

- Intended for tests, demonstrations and a first run of fmritok without a download.
- Made for 96x96 grey slices in [-1, 1]. Colour is a by-product.
- 288 numbers a slice hold what is smooth over about 5 pixels. Finer detail, and that part of the
  time courses, is lost, as it is in both baselines; r above says how much is kept.
- In `max` mode, part of the lead in PSNR is the outline: the decoder draws a sharp edge against a
  constant background, which no linear code of this length can. The PCA was fitted on plain crops
  alone, not on cut-out ones.
- The runs measured here were never trained on. `sub-sf02` and `sub-rtc1` were both looked at while
  the samples and the loss were being chosen, so they are a test of transfer from photographs, not a
  blind one.
- Not a medical device.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure and write the card."""
    parser = argparse.ArgumentParser(description="Measure dcae-tiny and write its model card.")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the weights lie")
    parser.add_argument("--fmri", type=Path, default=fmri_folder(), help="where the runs lie")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(write_card(options.folder, options.fmri))


if __name__ == "__main__":
    main()
