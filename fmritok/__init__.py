"""Encode fMRI runs once into a token store, and train on the tokens many times.

The names in ``__all__`` are stable: they change only in a new major version, after a release with
a warning. Everything else may change.

::

    import fmritok

    store = fmritok.open_store("tokens.zarr")
    group = store["network"]
    windows = fmritok.WindowDataset(group, window=32, labels=["sex", "age"], split="train")
    loader = fmritok.window_loader(windows, batch_size=8, seed=0)
    for batch in loader:
        print(batch["tokens"].shape, batch["sex"])
    tokens = fmritok.tokenize("sub-01_bold.nii.gz", "network", options={"band": None})
    encoder = fmritok.load_encoder("trainings/first")
    out = encoder.embed("sub-01_bold.nii.gz")
    print(out.cls.shape, out.tokens.shape, out.pooled.shape)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmritok.encoder import Encoder, load_encoder
    from fmritok.errors import FmritokError
    from fmritok.pipeline.store.reader import TokenGroup, TokenStore, open_store
    from fmritok.pipeline.tokenization.one_run import TokenizedRun, tokenize
    from fmritok.trainer.data.dataset import WindowDataset
    from fmritok.trainer.data.window_loader import WindowLoader, window_loader

__all__ = [
    "Encoder",
    "FmritokError",
    "TokenGroup",
    "TokenStore",
    "TokenizedRun",
    "WindowDataset",
    "WindowLoader",
    "__version__",
    "load_encoder",
    "open_store",
    "tokenize",
    "window_loader",
]

__version__ = version("fmritok")

#: Module of each name. Modules are imported at first use: commands start fast.
_MODULES = {
    "Encoder": "fmritok.encoder",
    "FmritokError": "fmritok.errors",
    "TokenGroup": "fmritok.pipeline.store.reader",
    "TokenStore": "fmritok.pipeline.store.reader",
    "TokenizedRun": "fmritok.pipeline.tokenization.one_run",
    "WindowDataset": "fmritok.trainer.data.dataset",
    "WindowLoader": "fmritok.trainer.data.window_loader",
    "load_encoder": "fmritok.encoder",
    "open_store": "fmritok.pipeline.store.reader",
    "tokenize": "fmritok.pipeline.tokenization.one_run",
    "window_loader": "fmritok.trainer.data.window_loader",
}

# In a checkout, the other folders are beside this one. An editable install does not find
# ``tokenizers``, which has no ``__init__.py``: with one, it would hide HuggingFace's package.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "tokenizers").is_dir():
    __path__.append(str(_root))


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fmritok' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
