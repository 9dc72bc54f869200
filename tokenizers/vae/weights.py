"""Weights of 2D image autoencoders: find, check and load them. Safetensors only, offline."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmritok.errors import WeightsError, expected, wrong_usage
from fmritok.hub.snapshots import HubError, fetched_snapshot
from fmritok.regular import check_regular, open_regular

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_HUB_ID", "EMBEDDED", "Weights", "fetch_weights", "load_autoencoder",
           "resolve_weights"]  # fmt: skip

#: The small autoencoder shipped with fmritok.
EMBEDDED = "dcae-tiny"
#: The recommended autoencoder.
DEFAULT_HUB_ID = "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers"

_FILES = ("config.json", "diffusion_pytorch_model*.safetensors*")
_CLASSES = ("AutoencoderDC", "AutoencoderKL", "AutoencoderTiny")
_DECODING = ("decoder", "post_quant_conv")


@dataclass(frozen=True)
class Weights:
    """A folder with the configuration and safetensors of an autoencoder.

    Attributes
    ----------
    id : str
        Reference given by the user: ``dcae-tiny``, a folder or a hub id.
    revision : str
        Commit of the hub id; empty for folders.
    folder : Path
    """

    id: str
    revision: str
    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Configuration of the model, as saved by diffusers."""
        path = self.folder / "config.json"
        try:
            check_regular(path)
            config = json.loads(path.read_text())
            name = config["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                expected("Weights", self.folder, "config.json of a diffusers autoencoder",
                         f"{type(error).__name__}: {error}",
                         "Save the model with save_pretrained().")
            ) from error  # fmt: skip
        if name not in _CLASSES:
            raise WeightsError(
                expected("Autoencoder", self.folder, f"one of {', '.join(_CLASSES)}", name,
                         "Choose a 2D image autoencoder.")
            )  # fmt: skip
        return config

    @cached_property
    def files(self) -> list[Path]:
        """The safetensors files, sorted by name."""
        found = sorted(self.folder.glob("diffusion_pytorch_model*.safetensors"))
        if not found:
            pickled = {".bin", ".pt", ".pth", ".ckpt"}
            others = sorted(p.name for p in self.folder.iterdir() if p.suffix in pickled)
            raise WeightsError(
                expected("Weights", self.folder, "diffusion_pytorch_model.safetensors",
                         ", ".join(others) or "no weights at all",
                         "Pickled files are never loaded: convert them with "
                         "save_pretrained(..., safe_serialization=True).")
            )  # fmt: skip
        return found

    @cached_property
    def sha256(self) -> str:
        """Hex digest of all safetensors files, sorted by name."""
        digest = hashlib.sha256()
        for path in self.files:
            with open_regular(path) as file:
                while block := file.read(1 << 24):
                    digest.update(block)
        return digest.hexdigest()


def resolve_weights(reference: str, revision: str | None = None) -> Weights:
    """Find weights on this machine, without the network.

    Parameters
    ----------
    reference : str
        ``dcae-tiny``, a local folder, or a hub id fetched with ``fmritok fetch weights``.
    revision : str, optional
        Commit, tag or branch of the hub id. Default: ``main`` as last fetched.

    Raises
    ------
    WeightsError
        If they are not on this machine.
    """
    if reference == EMBEDDED:
        return Weights(EMBEDDED, "", Path(__file__).parent / "dcae_tiny")
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return Weights(reference, "", folder.absolute())
    if folder.exists() or reference.count("/") != 1 or reference.startswith((".", "/", "~")):
        raise wrong_usage(WeightsError(
            expected("Weights", reference,
                     f"a folder, a hub id such as {DEFAULT_HUB_ID}, or {EMBEDDED}",
                     "a file" if folder.exists() else "nothing of that name",
                     "Give the folder that holds config.json.")
        ))  # fmt: skip
    return _from_hub(reference, revision, offline=True)


def fetch_weights(hub_id: str, revision: str | None = None) -> Weights:
    """Download weights to the cache of the hub. The only function here that uses the network."""
    return _from_hub(hub_id, revision, offline=False)


def load_autoencoder(weights: Weights, *, decoder: bool) -> torch.nn.Module:
    """Build the autoencoder in float32 on the CPU, optionally without its decoder.

    The model is built on the ``meta`` device and reads only its own tensors from the mapped file.
    An omitted decoder costs neither time nor memory.

    Raises
    ------
    WeightsError
        If the tensors do not fit the configuration.
    """
    from safetensors import SafetensorError, safe_open

    model = build_on_meta(weights, decoder=decoder)
    wanted = model.state_dict()
    state: dict[str, torch.Tensor] = {}
    for path in weights.files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in wanted.keys() & file.keys():
                    state[key] = file.get_tensor(key).float()
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                expected("Weights file", path, "a whole safetensors file", error,
                         "Fetch or copy it again.")
            ) from error  # fmt: skip
    for key in sorted(wanted):
        needed = tuple(wanted[key].shape)
        shape = tuple(state[key].shape) if key in state else "no such tensor"
        if shape != needed:
            raise WeightsError(
                expected(f"Tensor {key} of", weights.folder, f"shape {needed}", shape,
                         "Weights and config.json belong to different models.")
            )  # fmt: skip
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def build_on_meta(weights: Weights, *, decoder: bool) -> torch.nn.Module:
    """Build the model on the ``meta`` device, without memory, to get its shapes."""
    import diffusers
    import torch

    with torch.device("meta"):
        model: torch.nn.Module = getattr(diffusers, weights.config["_class_name"]).from_config(
            weights.config
        )
    if not decoder:
        for part in _DECODING:
            if hasattr(model, part):
                setattr(model, part, None)
    return model.eval()


def _from_hub(hub_id: str, revision: str | None, *, offline: bool) -> Weights:
    try:
        path = fetched_snapshot(hub_id, revision, files=_FILES, offline=offline)
    except HubError as error:
        wanted = hub_id + (f" at {revision}" if revision else "")
        raise WeightsError(
            expected("Weights", wanted, "a fetched copy" if offline else "an answer of the hub",
                     error,
                     f"Run `fmritok fetch weights {hub_id}` where there is a network, "
                     "or give a local folder.")
        ) from error  # fmt: skip
    return Weights(hub_id, path.name, path)
