"""Everything that decides the result of a training, as a tree of frozen dataclasses.

What does not decide the result (device, loader workers, folders) is not here. The recipes in
``trainer/recipes`` explain every option in prose; the defaults here are those of ``tiny``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fmritok.errors import expected
from fmritok.trainer.errors import ConfigError

__all__ = [
    "Backend",
    "Config",
    "DataConfig",
    "Decay",
    "InputForm",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "Position",
    "TrainConfig",
    "require",
]

Backend = Literal["auto", "sdpa", "varlen", "xformers", "flex", "math"]
InputForm = Literal["residual", "absolute", "both"]
Decay = Literal["matrices", "no_norms", "all"]
Position = Literal["auto", "space_time", "time", "index", "learned", "sincos", "none"]


def require(fits: bool, option: str, wanted: str, got: Any) -> None:
    """Refuse a value of an option, such as ``model.width``, that does not fit.

    Raises
    ------
    ConfigError
    """
    if not fits:
        raise ConfigError(
            expected("Option", option, wanted, got, f"Change it with --set {option}=VALUE.")
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read from the store.

    Attributes
    ----------
    window : int
        Frames of a sample; shorter runs are taken whole.
    windows_per_run : int
        Random windows of each training run in an epoch.
    windows_per_read, read_frames : int
        ``windows_per_read`` consecutive windows are drawn from the same ``read_frames`` frames
        (null: ``training_window``), so one disk read serves all of them.
    tr_scale : float or None
        Stretch the windows of training in time at random: between ``tr_scale * window`` and
        ``window / tr_scale`` frames are interpolated to ``window`` frames. None: not.
    batch_size : int
        Windows of a step, over all processes and all parts (``train.accumulate``) of it.
    validation_fraction : float
        Share of the subjects held out, families kept together.
    hold_out : str or None
        ``COLUMN=VALUE,...``: hold out the subjects who have a run with one of these values, such as
        ``site=NYU,UCLA_1``, instead of a share.
    split_seed : int
        Selects the held-out subjects, and the order of ``subjects``; ``train.seed`` does not.
    subjects : int or None
        Number of the other subjects to train on; None for all.
    max_validation_windows : int
        Largest number of validation windows, spread evenly over the held-out runs.
    """

    window: int = 32
    windows_per_run: int = 4
    windows_per_read: int = 1
    read_frames: int | None = None
    tr_scale: float | None = None
    batch_size: int = 6
    validation_fraction: float = 0.2
    hold_out: str | None = None
    split_seed: int = 0
    subjects: int | None = None
    max_validation_windows: int = 64

    def __post_init__(self) -> None:
        counts = ("window", "windows_per_run", "windows_per_read", "batch_size")
        for name in (*counts, "max_validation_windows"):
            require(getattr(self, name) >= 1, f"data.{name}", "1 or more", getattr(self, name))
        require(self.split_seed >= 0, "data.split_seed", "0 or more", self.split_seed)
        fits = self.subjects is None or self.subjects >= 1
        require(fits, "data.subjects", "1 or more, or null", self.subjects)
        fits = self.windows_per_run % self.windows_per_read == 0
        wanted = f"a divisor of data.windows_per_run = {self.windows_per_run}"
        require(fits, "data.windows_per_read", wanted, self.windows_per_read)
        fits = self.tr_scale is None or 0 < self.tr_scale < 1
        require(fits, "data.tr_scale", "above 0 and below 1, or null", self.tr_scale)
        least = self.training_window
        fits = self.read_frames is None or self.read_frames >= least
        wanted = f"at least {least}, the frames of a window in training, or null"
        require(fits, "data.read_frames", wanted, self.read_frames)
        fits = 0 <= self.validation_fraction < 1
        require(fits, "data.validation_fraction", "0 or more and below 1", self.validation_fraction)

    @property
    def training_window(self) -> int:
        """Frames that are read for a window of training."""
        return self.window if self.tr_scale is None else round(self.window / self.tr_scale)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The Transformer; see :class:`fmritok.trainer.model.model.TokenTransformer`.

    Attributes
    ----------
    convolution : {"centred", "causal"}
        Long convolution in the embedding of networks; ``causal`` is that of release 0.1, see
        :class:`fmritok.trainer.model.embeddings.LongConvolution`.
    frame_clip : float or None
        Standard deviations at which standardised frames are clipped; None: not.
    norm_eps : float or None
        Added to variances by norms. None: 1e-6 in rmsnorm, 1e-5 in layernorm.
    qkv_bias : bool
        Whether queries, keys and values have biases, if other layers do (``bias``).
    position : {"auto", "space_time", "time", "index", "learned", "sincos", "none"}
        Rotary embedding of time, of time and space, or of the token's number in the sequence (base
        10,000). ``learned`` and ``sincos`` have no rotation: a learned or a fixed embedding of each
        patch's number is added.
    cell_embedding : bool
        Add a learned embedding of each cell.
    init : {"scaled", "xavier", "torch"}
        Initial weights. scaled: normal, by the number of inputs, smaller for what is added to the
        residual stream. xavier: Xavier uniform, and 0.02 for all learned embeddings. torch: those
        of torch's layers, and 0.02 for embeddings.
    input_dropout, mlp_dropout, attention_dropout : float
        Shares that are set to 0 in training: features of embedded tokens; features of the MLP,
        after its nonlinearity and of its output; weights of attention.
    drop_path : float
        Share of the windows that skip the attention, and of those that skip the MLP, of the
        encoder's last layer in training; from 0 in the first layer it rises evenly.
    cls_std : float
        Standard deviation of CLS and registers at the start; xavier has its own.
    """

    input: InputForm = "both"
    frame_norm: bool = True
    frame_clip: float | None = 3.0
    patch: int | None = None
    width: int = 128
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    mlp: Literal["swiglu", "gelu", "relu"] = "swiglu"
    mlp_width: int = 352
    convolution: Literal["centred", "causal"] = "centred"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float | None = None
    bias: bool = False
    qkv_bias: bool = True
    qk_norm: bool = True
    input_norm: bool = False
    embedding_norm: bool = False
    final_norm: bool = True
    layer_scale: float = 0.0
    input_dropout: float = 0.0
    mlp_dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    registers: int = 0
    position: Position = "auto"
    min_period: float = 2.0
    max_period: float = 1000.0
    locality: float = 1.0
    cell_embedding: bool = True
    init: Literal["scaled", "xavier", "torch"] = "scaled"
    cls_std: float = 0.02
    attention: Backend = "auto"
    packing: bool = True
    checkpointing: Literal["none", "selective", "full"] = "none"

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "kv_heads", "mlp_width"):
            require(getattr(self, name) >= 1, f"model.{name}", "1 or more", getattr(self, name))
        for name in ("registers", "layer_scale", "cls_std"):
            require(getattr(self, name) >= 0, f"model.{name}", "0 or more", getattr(self, name))
        for name in ("input_dropout", "mlp_dropout", "attention_dropout", "drop_path"):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name}", "0 or more and below 1", value)
        fits = not self.attention_dropout or self.attention in ("auto", "sdpa")
        wanted = "auto or sdpa, for model.attention_dropout above 0"
        require(fits, "model.attention", wanted, self.attention)
        for name in ("norm_eps", "frame_clip"):
            value = getattr(self, name)
            require(value is None or value > 0, f"model.{name}", "above 0, or null", value)
        fits = self.patch is None or self.patch >= 1
        require(fits, "model.patch", "1 or more, or null", self.patch)
        require(
            self.width % (2 * self.heads) == 0,
            "model.width",
            f"an even multiple of model.heads = {self.heads}",
            self.width,
        )
        require(
            self.position != "space_time" or self.width >= 8 * self.heads,
            "model.width",
            f"at least 8 times model.heads = {self.heads} for model.position = space_time",
            self.width,
        )
        require(
            self.heads % self.kv_heads == 0,
            "model.kv_heads",
            f"a divisor of model.heads = {self.heads}",
            self.kv_heads,
        )
        require(self.locality >= 0, "model.locality", "0 or more", self.locality)
        require(
            0 < self.min_period < self.max_period,
            "model.min_period",
            f"seconds above 0 and below model.max_period = {self.max_period}",
            self.min_period,
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Options of an objective; each objective has a class of its own, derived from this one.

    Attributes
    ----------
    name : str
        Name of the objective; see :mod:`fmritok.trainer.objectives.registry`.
    """

    name: str


def _default_objective() -> ObjectiveConfig:
    from fmritok.trainer.objectives.registry import DEFAULT, objective_class

    return objective_class(DEFAULT).Config(name=DEFAULT)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay; weight decay may follow a cosine, too.

    Attributes
    ----------
    from_zero : bool
        The warm-up starts with a step of rate 0, and both cosines end one step after the last one.
        Without it, the first rate is above 0, and the last step has the final values.
    decay : {"matrices", "no_norms", "all"}
        Weights that decay: the matrices of linear and dense layers; all but biases, norms and layer
        scale; all.
    clip : float or None
        Largest norm of the gradient; None: not clipped.
    """

    lr: float = 2e-3
    final_lr_ratio: float = 0.05
    warmup: float = 0.05
    from_zero: bool = False
    decay: Decay = "matrices"
    weight_decay: float = 0.05
    final_weight_decay: float | None = None
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", "above 0", self.lr)
        fits = self.clip is None or self.clip > 0
        require(fits, "optim.clip", "above 0, or null", self.clip)
        for name in ("beta1", "beta2", "warmup"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optim.{name}", "0 or more and below 1", value)
        fits = 0 <= self.final_lr_ratio <= 1
        require(fits, "optim.final_lr_ratio", "between 0 and 1", self.final_lr_ratio)
        for name in ("weight_decay", "final_weight_decay"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"optim.{name}", "0 or more", value)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length of a training, data type and intervals; intervals are counted in steps.

    Attributes
    ----------
    compile : bool or None
        Compile every layer. None: on a GPU with Triton and a C compiler, not on a CPU.
    deterministic : bool
        On a GPU, use deterministic kernels. Without them two trainings of one seed, or a training
        and its resumption, differ in the order of sums.
    graphs : bool
        Replay compiled layers as CUDA graphs, which helps where the host limits small batches.
        Only with one process, ``accumulate`` 1 and windows of one length.
    """

    seed: int = 0
    steps: int | None = 300
    epochs: int | None = None
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: int = 1
    compile: bool | None = None
    deterministic: bool = True
    graphs: bool = False
    log_every: int = 10
    validate_every: int = 50
    checkpoint_every: int = 100
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        require(self.seed >= 0, "train.seed", "0 or more", self.seed)
        require(
            (self.steps is None) != (self.epochs is None),
            "train.steps",
            "either train.steps or train.epochs, the other null",
            f"steps {self.steps} and epochs {self.epochs}",
        )
        intervals = ("log_every", "validate_every", "checkpoint_every", "keep_checkpoints")
        for name in ("steps", "epochs", "accumulate", *intervals):
            value = getattr(self, name)
            require(value is None or value >= 1, f"train.{name}", "1 or more", value)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole tree; saved as ``config.yaml`` beside every result and in every checkpoint."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=_default_objective)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
