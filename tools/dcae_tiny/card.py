"""Measure `dcae-tiny` and write its model card.

Run ``python tools/dcae_tiny/card.py``: every number in ``README.md`` comes from here.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from evaluate import (
    HERE,
    NAMES,
    Autoencoder,
    find_runs,
    fmri_folder,
    held_out_crops,
    make_codecs,
    measure_fmri,
    measure_photos,
    time_encoder,
)

from fmritok.pipeline.headers.run_header import read_header


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
    """Count the table cells in which dcae-tiny is better than each baseline."""
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
    frames = {p.name.split("_")[0]: read_header(p).n_frames for p in find_runs(fmri)}
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
    "python tools/dcae_tiny/train.py --out DIR --steps {steps} --seed {seed} --threads {threads}"
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

model = AutoencoderDC.from_pretrained("tokenizers/vae/dcae_tiny").eval()
latent = model.encode(slices).latent  # (n, 3, 96, 96) in [-1, 1] -> (n, 32, 3, 3)
```

This card is written by `card.py`; every measure in it was taken by that script.

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
