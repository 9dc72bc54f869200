"""Make the batches of a training: random windows, and fixed windows for validation."""

from __future__ import annotations

from collections.abc import Iterable

from fmritok.pipeline.store.reader import TokenGroup
from fmritok.trainer.config import Config
from fmritok.trainer.data.drawing import WindowOptions, random_windows, validation_windows
from fmritok.trainer.data.mixing import MixedGroup, mixed_windows
from fmritok.trainer.data.reading import Batch, WindowReader
from fmritok.trainer.data.split import Split
from fmritok.trainer.data.windows import Request, RunIndex, WindowBatches, Windows
from fmritok.trainer.parallel.distributed import Ranks, ShareOfBatches
from fmritok.trainer.training.progress import Position

__all__ = ["Feed"]


class Feed:
    """Makes the loaders of a training.

    Parameters
    ----------
    config : Config
    group : TokenGroup or MixedGroup
    split : Split
    ranks : Ranks
        Every rank gets its share of each batch.
    workers : int
        Loader workers; batches do not depend on their number.
    pin_memory : bool
        Pin host memory, for a GPU.

    Attributes
    ----------
    index, validation_index : RunIndex
        The runs of both sides.
    """

    def __init__(
        self,
        config: Config,
        group: TokenGroup | MixedGroup,
        split: Split,
        *,
        ranks: Ranks,
        workers: int,
        pin_memory: bool,
    ) -> None:
        self.config, self.group, self.ranks = config, group, ranks
        self.workers, self.pin_memory = workers, pin_memory
        self.index = RunIndex.of(group.runs, split.train)
        self.validation_index = RunIndex.of(group.runs, split.validation)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self._batches().steps_per_epoch

    def training(self, position: Position) -> Iterable[Batch]:
        """Return the batches after a position; the iterator never ends."""
        return self._loader(self.index, self._batches(position.epoch, position.seen))

    def validation(self) -> Iterable[Batch]:
        """Return the batches of a validation; can be iterated repeatedly."""
        data = self.config.data
        windows = validation_windows(
            self.validation_index,
            window=data.window,
            at_most=data.max_validation_windows,
            seed=self.config.train.seed,
        )
        return self._loader(self.validation_index, list(windows.batches(data.batch_size)))

    def _windows(self, epoch: int) -> Windows:
        """Return the windows of an epoch; with weights, each store gets its share."""
        data, seed = self.config.data, self.config.train.seed
        options: WindowOptions = {
            "window": data.training_window,
            "windows_per_run": data.windows_per_run,
            "windows_per_read": data.windows_per_read,
            "read_frames": data.read_frames,
        }
        weights = self.group.weights if isinstance(self.group, MixedGroup) else None
        if weights is None:
            return random_windows(self.index, seed=seed, epoch=epoch, **options)
        return mixed_windows(self.index, weights, seed=seed, epoch=epoch, **options)

    def _batches(self, epoch: int = 0, seen: int = 0) -> WindowBatches:
        size = self.config.data.batch_size
        return WindowBatches(self._windows, batch_size=size, epoch=epoch, seen=seen)

    def _loader(self, index: RunIndex, batches: Iterable[list[Request]]) -> Iterable[Batch]:
        if self.ranks.size > 1:
            batches = ShareOfBatches(batches, self.ranks)
        reader = WindowReader(self.group, index)
        return reader.loader(batches, workers=self.workers, pin_memory=self.pin_memory)
