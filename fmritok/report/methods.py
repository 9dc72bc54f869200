"""A paragraph on methods with citations, written from the facts of store, trainings and scores."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fmritok.quantities import counted
from fmritok.report.cohort import Cohort
from fmritok.trainer.report.scores import TaskScores
from fmritok.trainer.report.trainings import TrainingFacts

__all__ = ["CITATIONS", "Methods", "write_methods"]

#: What is cited, by key.
CITATIONS: dict[str, str] = {
    "hcp": "Van Essen DC et al. The WU-Minn Human Connectome Project: an overview. NeuroImage 80, "
           "62-79 (2013).",
    "ukb": "Miller KL et al. Multimodal population brain imaging in the UK Biobank prospective "
           "epidemiological study. Nat Neurosci 19, 1523-1536 (2016).",
    "adhd200": "The ADHD-200 Consortium. A model to advance the translational potential of "
               "neuroimaging in clinical neuroscience. Front Syst Neurosci 6, 62 (2012).",
    "abide": "Di Martino A et al. The autism brain imaging data exchange. Mol Psychiatry 19, "
             "659-667 (2014).",
    "bids": "Esteban O et al. fMRIPrep: a robust preprocessing pipeline for functional MRI. Nat "
            "Methods 16, 111-116 (2019).",
    "vae": "TABLeT: image autoencoders as tokenizers of fMRI volumes. arXiv:2604.03619 (2026).",
    "dcae": "Chen J et al. Deep compression autoencoder for efficient high-resolution diffusion "
            "models. arXiv:2410.10733 (2024).",
    "flatmap": "Lane C et al. Flat maps of cortical activity (CortexMAE). arXiv:2510.13768 (2025).",
    "network": "Gijsen S et al. Brain-Semantoks. arXiv:2512.11582 (2025).",
    "seitzman300": "Seitzman BA et al. A set of functionally-defined brain regions with improved "
                   "representation of the subcortex and cerebellum. NeuroImage 206, 116290 (2020).",
    "fsaverage5": "Fischl B et al. High-resolution intersubject averaging and a coordinate system "
                  "for the cortical surface. Hum Brain Mapp 8, 272-284 (1999).",
    "mae": "He K et al. Masked autoencoders are scalable vision learners. CVPR (2022).",
    "mtm": "Devlin J et al. BERT: pre-training of deep bidirectional transformers for language "
           "understanding. NAACL (2019).",
    "distill": "Wu Z et al. Simplifying DINO via coding rate regularization. arXiv:2502.10385 "
               "(2025).",
    "transformer": "Vaswani A et al. Attention is all you need. NeurIPS (2017).",
    "adamw": "Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR (2019).",
    "bootstrap": "Efron B. Bootstrap methods: another look at the jackknife. Ann Stat 7, 1-26 "
                 "(1979).",
    "permutation": "Ojala M, Garriga GC. Permutation tests for studying classifier performance. "
                   "J Mach Learn Res 11, 1833-1863 (2010).",
    "sklearn": "Pedregosa F et al. Scikit-learn: machine learning in Python. J Mach Learn Res 12, "
               "2825-2830 (2011).",
    "nilearn": "Abraham A et al. Machine learning for neuroimaging with scikit-learn. Front "
               "Neuroinform 8, 14 (2014).",
}  # fmt: skip
_OBJECTIVES = {"mtm": "masked-token modelling", "mae": "a masked autoencoder",
               "distill": "self-distillation"}  # fmt: skip
_SPLITS = {"family": "families", "subject": "subjects", "site": "sites",
           "leave-site-out": "sites, each left out once"}  # fmt: skip


class Methods:
    """Sentences with numbered citations, in the order of their first use."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self._keys: list[str] = []

    def say(self, text: str, *cited: str) -> None:
        """Add a sentence without its full stop; unknown keys are not cited."""
        numbers = [self._number(key) for key in cited if key in CITATIONS]
        marks = f" [{', '.join(map(str, numbers))}]" if numbers else ""
        sentence = f"{text}{marks}."
        if sentence not in self.sentences:  # a training and its exported encoder are one
            self.sentences.append(sentence)

    @property
    def text(self) -> str:
        """The paragraph."""
        return " ".join(self.sentences)

    @property
    def references(self) -> list[str]:
        """The citations, in the order of their numbers."""
        return [CITATIONS[key] for key in self._keys]

    def _number(self, key: str) -> int:
        if key not in self._keys:
            self._keys.append(key)
        return self._keys.index(key) + 1


def write_methods(
    cohort: Cohort, trainings: Sequence[TrainingFacts], scores: Sequence[TaskScores]
) -> Methods:
    """Write the paragraph. What is not known is left out."""
    methods = Methods()
    _on_data(methods, cohort)
    for group in cohort.groups:
        _on_group(methods, group)
    for training in trainings:
        _on_training(methods, training)
    if scores:
        _on_scores(methods, scores)
    methods.say(f"All steps were done with fmritok {version('fmritok')}")
    return methods


def _on_data(methods: Methods, cohort: Cohort) -> None:
    for kind in cohort.kinds:
        if not kind["runs"]:
            continue
        of = " ".join(part for part in (kind["dataset"], kind["task"], kind["site"]) if part)
        simulated = " (simulated)" if kind["dataset"] == "demo" else ""
        methods.say(
            f"We used {counted(kind['runs'], 'run')} of {counted(kind['subjects'], 'subject')} "
            f"({of}{simulated}; "
            f"TR of the tokens {kind['tr']} s; {kind['minutes']} min a run)", kind["dataset"],
        )  # fmt: skip
    left_out = sum(one["count"] for one in cohort.excluded)
    if left_out:
        methods.say(f"We left out {counted(left_out, 'run')}, for the reasons listed above")


def _on_group(methods: Methods, group: dict[str, Any]) -> None:
    settings = dict(group["settings"])
    kind, name = group["tokenizer"], group["name"]
    shape = (f"{counted(group['tokens'], 'token')} of {counted(group['dim'], 'feature')} a frame, "
             f"stored as {group['dtype']}")  # fmt: skip
    resampled = [f"resampled to {settings['tr.seconds']} s"] if "tr.seconds" in settings else []
    if kind == "vae":
        weights = settings.get("notes.weights.id", settings.get("weights.id", "an autoencoder"))
        methods.say(
            f"Group {name}: volumes on a grid of 2 mm in MNI space were sliced along three axes "
            f"and encoded by the frozen 2D image autoencoder {weights} "
            f"(intensity {settings.get('intensity.mode', 'unknown')}; {shape})", "vae", "dcae",
        )  # fmt: skip
    elif kind == "flatmap":
        template = settings.get("template.space", "a template")
        steps = [f"standardized at each vertex of {template}", "interpolated onto a flat map of "
                 "both hemispheres"]  # fmt: skip
        if settings.get("standardized", "").startswith("each pixel"):
            steps = [f"taken at the vertices of {template}", steps[1], "standardized at each pixel"]
        steps += resampled
        methods.say(
            f"Group {name}: cortical activity was {', '.join(steps)} and cut into cells of 16 x 16 "
            f"pixels ({shape})", "flatmap", template,
        )  # fmt: skip
    elif kind == "network":
        atlas = settings.get("notes.atlas", "an atlas")
        steps = []
        if "band_hz.low" in settings:
            steps.append(f"band-pass filtered ({settings['band_hz.low']} to "
                         f"{settings['band_hz.high']} Hz)")  # fmt: skip
        steps += [*resampled, "standardized over each run"]
        methods.say(
            f"Group {name}: mean time courses of the parcels of {atlas.rsplit('/', 1)[-1]} were "
            f"{', '.join(steps)} ({shape})", "network", atlas,
        )  # fmt: skip
    else:
        methods.say(f"Group {name} was made by the tokenizer {kind or 'unknown'} ({shape})")


def _on_training(methods: Methods, training: TrainingFacts) -> None:
    config, facts = training.config, dict(training.facts)
    objective = config.objective.name
    if training.origin is not None:
        methods.say(
            f"A Transformer ({facts['model']}) had the released weights of {training.origin}, "
            f"pretrained without labels by {_OBJECTIVES.get(objective, objective)}",
            "transformer", objective,
        )  # fmt: skip
        return
    methods.say(
        f"A Transformer ({facts['model']}) was pretrained without labels by "
        f"{_OBJECTIVES.get(objective, objective)} for {facts['length']} of {facts['window']}, with "
        f"{facts['optimizer']}; positions are in seconds, and "
        f"{config.data.validation_fraction:.0%} of the subjects, by family, were held out",
        "transformer", objective, "adamw",
    )  # fmt: skip


def _on_scores(methods: Methods, scores: Sequence[TaskScores]) -> None:
    for task in scores:
        tree, folds = task.tree, task.tree["folds"]
        seeds = len({fold["seed"] for fold in folds})
        each = len(folds) // max(seeds, 1)
        by = tree.get("split", {}).get("by") if isinstance(tree.get("split"), dict) else None
        kept = f", divided by {_SPLITS[by]}" if by in _SPLITS else ""
        methods.say(
            f"Task {tree['task']}: {tree['target']} of {counted(tree['n_units'], tree['unit'])} "
            f"({tree['kind']}) was predicted in {counted(each, 'fold')} of "
            f"{counted(seeds, 'division')}{kept}; models are compared by "
            f"{task.metric.replace('_', ' ')}"
        )
    methods.say(
        "Scores are computed in each fold and averaged over folds, then over divisions; 95 % "
        "intervals are from bootstrap draws of families, those of differences from draws of "
        "subjects, the same for both rows", "bootstrap",
    )  # fmt: skip
    if any(row.figure(task.metric)["chance"] for task in scores for row in task.rows):
        methods.say("Chance was measured by permuted labels within the same folds", "permutation")
    methods.say("Linear baselines are ridge or logistic regression whose penalty is chosen within "
                "the training side of each fold", "sklearn", "nilearn")  # fmt: skip
