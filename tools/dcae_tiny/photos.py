"""Make the training samples of `dcae-tiny` from photographs of two wheels.

Nothing is downloaded and no fMRI is used. Samples are crops of the photographs in scikit-image and
scikit-learn. Most are grey; some are masked by a smooth outline on a constant background. Each has
a second image with a small perturbation.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import skimage
import sklearn.datasets
import torch
from skimage.io import imread
from skimage.transform import rescale
from torch import Tensor

SIZE = 96  # side of a slice, pixels
TRAIN_PHOTOS = (
    "astronaut.png brick.png cell.png chelsea.png clock_motion.png coins.png grass.png gravel.png "
    "hubble_deep_field.jpg ihc.png retina.jpg rocket.jpg china.jpg"
).split()
HELD_OUT_PHOTOS = ("camera.png", "coffee.png", "flower.jpg")


def load_photo(name: str) -> np.ndarray:
    """Read one photograph from the installed wheels.

    Parameters
    ----------
    name : str
        File name, in ``skimage/data`` or ``sklearn/datasets/images``.

    Returns
    -------
    ndarray of float32, shape (height, width, 3)
        Colours in [0, 1]; a grey photograph has three equal channels.

    Raises
    ------
    FileNotFoundError
        If neither package carries the file.
    """
    folders = (
        Path(skimage.__file__).parent / "data",
        Path(sklearn.datasets.__file__).parent / "images",
    )
    for folder in folders:
        if (folder / name).is_file():
            photo = imread(folder / name).astype(np.float32) / 255.0
            return photo[..., :3] if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)
    raise FileNotFoundError(f"photograph {name}: expected in one of {[str(f) for f in folders]}")


def build_pyramid(name: str, step: float = 0.7) -> list[Tensor]:
    """Make an image pyramid of one photograph, down to just above the size of a crop.

    Parameters
    ----------
    name : str
        File name of the photograph.
    step : float
        Ratio between the sides of two levels.

    Returns
    -------
    list of Tensor, each (3, height, width) float32 in [0, 1]
    """
    photo, levels, scale = load_photo(name), [], 1.0
    while min(photo.shape[:2]) * scale >= SIZE + 8:
        small = photo if scale == 1 else rescale(photo, scale, anti_aliasing=True, channel_axis=2)
        levels.append(torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))).float())
        scale *= step
    return levels


class SampleSource:
    """Endless random pairs of 96x96 images from photographs.

    Parameters
    ----------
    seed : int
        Everything drawn follows from it.
    """

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.pyramids = [build_pyramid(name) for name in TRAIN_PHOTOS]
        axis = torch.arange(SIZE, dtype=torch.float32)
        self.y, self.x = axis[:, None], axis[None, :]
        fy, fx = torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE)[None, :]
        self.frequency2 = fy**2 + fx**2

    def _uniform(self, n: int, low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(n, generator=self.rng)).view(n, 1, 1, 1)

    def _coin(self, n: int, chance: float) -> Tensor:
        return (torch.rand(n, generator=self.rng) < chance).view(n, 1, 1, 1)

    def _integer(self, high: int) -> int:
        return int(torch.randint(high, (1,), generator=self.rng))

    def crops(self, n: int) -> Tensor:
        """Cut `n` crops (n, 3, 96, 96) in [0, 1] at random scales, flips and quarter turns."""
        out = []
        for _ in range(n):
            pyramid = self.pyramids[self._integer(len(self.pyramids))]
            level = pyramid[self._integer(len(pyramid))]
            top = self._integer(level.shape[1] - SIZE + 1)
            left = self._integer(level.shape[2] - SIZE + 1)
            crop = level[:, top : top + SIZE, left : left + SIZE]
            turn = self._integer(8)
            crop = torch.rot90(crop, turn % 4, (1, 2))
            out.append(crop.flip(2) if turn >= 4 else crop)
        return torch.stack(out)

    def grey(self, n: int) -> Tensor:
        """Cut `n` crops (n, 1, 96, 96) in [0, 1], a random mixture of the colours each."""
        weights = torch.rand(n, 3, 1, 1, generator=self.rng)
        return (self.crops(n) * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)

    def fields(self, n: int) -> Tensor:
        """Make `n` blurred textures (n, 1, 96, 96), mean 0 and deviation 1 (photo or noise)."""
        noise = torch.randn(n, 1, SIZE, SIZE, generator=self.rng)
        texture = torch.where(self._coin(n, 0.4), self.grey(n), noise)
        spectrum = torch.fft.rfft2(texture - texture.mean((2, 3), keepdim=True))
        sigma = torch.exp(self._uniform(n, math.log(0.6), math.log(3.0)))
        wide = self._uniform(n, 8.0, 30.0)
        keep = torch.exp(-2 * (math.pi * sigma) ** 2 * self.frequency2)
        keep = keep * (1 - torch.exp(-2 * (math.pi * wide) ** 2 * self.frequency2))
        field = torch.fft.irfft2(spectrum * keep, s=(SIZE, SIZE))
        return field / field.std((2, 3), keepdim=True).clamp_min(1e-4)

    def outlines(self, n: int) -> Tensor:
        """Draw `n` wobbly ellipses (n, 1, 96, 96): 1 inside, 0 outside, the edge sharp or soft."""
        dy = self.y - self._uniform(n, 40.0, 56.0)
        dx = self.x - self._uniform(n, 40.0, 56.0)
        angle, radius = torch.atan2(dy, dx), torch.sqrt(dy**2 + dx**2)
        a, b = 46 * self._uniform(n, 0.03, 1.0).sqrt(), self._uniform(n, 0.65, 1.0)
        turn = self._uniform(n, 0.0, math.pi)
        b = a * b
        edge = a * b / torch.sqrt((b * (angle - turn).cos()) ** 2 + (a * (angle - turn).sin()) ** 2)
        for k in range(2, 7):
            phase = self._uniform(n, 0.0, 2 * math.pi)
            edge = edge * (1 + self._uniform(n, 0.0, 0.2 / k) * torch.cos(k * angle + phase))
        width = torch.where(self._coin(n, 0.7), 0.2, self._uniform(n, 0.5, 5.0))
        return ((edge - radius) / width + 0.5).clamp(0.0, 1.0)

    def pairs(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Make `n` pairs of images and where they count.

        Parameters
        ----------
        n : int
            Number of pairs.

        Returns
        -------
        first, second : Tensor, each (n, 3, 96, 96)
            Images in [-1, 1] that differ a little.
        weight : Tensor, (n, 1, 96, 96)
            1 inside the outline (everywhere for a plain crop), 0 on the background.
        """
        plain, scored = max(1, round(0.35 * n)), max(1, round(0.2 * n))
        colour = max(1, round(0.1 * n))
        image = self.grey(n).expand(-1, 3, -1, -1).clone()
        image[:colour] = self.crops(colour)
        image = image.clamp(0, 1) ** torch.exp(self._uniform(n, -0.6, 0.6))
        low = self._uniform(n, 0.0, 0.4)
        high = low + (1 - low) * self._uniform(n, 0.25, 1.0)
        image = torch.where(self._coin(n, 0.3), image, low + (high - low) * image)
        weight = self.outlines(n)
        weight[:plain] = 1.0
        image = image * weight  # intensities in [0, 1], the background at 0
        # what changes: a texture, half of them in proportion to intensity, or a shift below a pixel
        change = self.fields(n) * torch.where(self._coin(n, 0.5), image, weight)
        moved = torch.roll(image, (1, 0), (2, 3)) - torch.roll(image, (-1, 0), (2, 3))
        change = torch.where(self._coin(n, 0.1), moved * self._uniform(n, -4.0, 4.0), change)
        first = 2 * image - 1
        second = first + 2 * torch.exp(self._uniform(n, math.log(0.005), math.log(0.05))) * change
        # z-scored images: textures on a background at 0, and a pair differs by far more
        inside = (weight[-scored:] > 0.5).float()
        base, other = self.fields(scored), self.fields(scored)
        share = self._uniform(scored, 0.2, 1.0)
        mixed = torch.sqrt(1 - share**2) * base + share * other
        first[-scored:] = (base * inside / 4).clamp(-1, 1)
        second[-scored:] = (mixed * inside / 4).clamp(-1, 1)
        weight[-scored:] = inside
        return first, second.clamp(-1, 1), (weight > 0.05).float()
