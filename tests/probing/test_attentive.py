"""The attentive probe follows Brainmarks' protocol and finds what is planted."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from people import a_task, some_units
from torch import nn

from fmritok.trainer.evaluation.crossval import cross_validate
from fmritok.trainer.evaluation.heads import Problem
from fmritok.trainer.probing.attention_grid import AttentionGrid, GridAdamW
from fmritok.trainer.probing.attentive import Attentive, AttentiveOptions, TokenSets, sides
from fmritok.trainer.tasks.splits import folds_of
from fmritok.trainer.tasks.task import SplitRule

CPU = torch.device("cpu")
QUICK = AttentiveOptions(learning_rates=(1e-4, 1e-3, 1e-2, 1e-1), epochs=4, steps=20, warmup=1,
                         batch_size=16)  # fmt: skip


class Published(nn.Module):
    """The head as it is published: keys and values of every token, one query."""

    def __init__(self, width, n_outputs):
        super().__init__()
        inner = 64 * (width // 64)
        self.query, self.n_heads = nn.Parameter(torch.zeros(inner)), inner // 64
        self.kv, self.linear = nn.Linear(width, 2 * inner), nn.Linear(inner, n_outputs)
        nn.init.zeros_(self.kv.bias)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        key, value = self.kv(x).unflatten(2, (2, self.n_heads, 64)).permute(2, 0, 3, 1, 4)
        query = self.query.view(1, self.n_heads, 1, 64).expand(len(x), -1, -1, -1)
        return self.linear(F.scaled_dot_product_attention(query, key, value).flatten(1))

    def take(self, grid, point):
        with torch.no_grad():
            self.query.copy_(grid.query[point].flatten())
            both = torch.cat([grid.key[point].flatten(0, 1), grid.value[point].flatten(0, 1)])
            self.kv.weight.copy_(both)
            self.linear.weight.copy_(grid.output[point])
        return self


def test_all_grid_points_train_as_published_heads_of_their_own(one_thread):
    """Outputs and weights after steps with clipping, decay, warm-up: as by torch's AdamW."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 7, 128), torch.arange(40) % 3
    rates = torch.tensor([1e-3, 3e-2])
    grid = AttentionGrid(128, 3, 2, seed=1)
    assert torch.equal(grid.query[0], grid.query[1])
    heads = [Published(128, 3).take(grid, point) for point in range(2)]
    ours = GridAdamW(grid, rates, 0.05, 0.01)
    theirs = []
    for head, rate in zip(heads, rates.tolist(), strict=True):
        of_kind = [
            {"params": [p for n, p in head.named_parameters() if n.endswith("bias") == is_bias],
             "weight_decay": 0.0 if is_bias else 0.05} for is_bias in (False, True)
        ]  # fmt: skip
        theirs.append((torch.optim.AdamW(of_kind), rate))
    for step in range(6):
        share = AttentiveOptions(epochs=2, steps=3, warmup=1).rate(step)
        own = slice(6 * step, 6 * step + 10)
        outputs = grid(x[own])
        losses = torch.stack([F.cross_entropy(out, y[own]) for out in outputs])
        ours.step(losses, share)
        for point, (head, (optimizer, rate)) in enumerate(zip(heads, theirs, strict=True)):
            out = head(x[own])
            torch.testing.assert_close(out, outputs[point].detach(), rtol=1e-3, atol=1e-5)
            optimizer.zero_grad()
            (F.cross_entropy(out, y[own]) / 2).backward()  # the mean over the two grid points
            nn.utils.clip_grad_norm_(head.parameters(), 0.01)
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
    for point, head in enumerate(heads):
        torch.testing.assert_close(head.linear.weight, grid.output[point], rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(head.query, grid.query[point].flatten(), rtol=1e-2, atol=1e-4)
    assert not torch.allclose(grid.output[0], grid.output[1], atol=1e-3)


def test_defaults_are_the_published_grid_and_schedule():
    options = AttentiveOptions()
    assert len(options.learning_rates) == 49
    assert options.learning_rates[24] == pytest.approx(3e-4)
    assert options.learning_rates[-1] / options.learning_rates[0] == pytest.approx(10**3.4)
    assert (options.rate(0), options.rate(999)) == (0.0, 1.0)
    assert options.rate(1000) == 1.0
    assert options.rate(3999) == pytest.approx(0.0, abs=1e-12)


def test_padding_has_no_effect():
    x = torch.randn(4, 6, 64)
    grid = AttentionGrid(64, 2, 3, seed=0)
    there = torch.ones(4, 6, dtype=torch.bool)
    there[:, 4:] = False
    torch.testing.assert_close(grid(x, there), grid(x[:, :4]))
    changed = x.clone()
    changed[:, 4:] = 100.0
    torch.testing.assert_close(grid(changed, there), grid(x, there))


def test_a_grid_point_that_diverges_stops_and_the_others_go_on():
    grid = AttentionGrid(64, 2, 2, seed=0)
    optimizer = GridAdamW(grid, torch.tensor([1e-3, 1e-3]), 0.05, 1.0)
    x = torch.randn(8, 5, 64)
    losses = grid(x).square().mean((1, 2))
    optimizer.step(losses * torch.tensor([1.0, torch.nan]), 1.0)
    grid.stop(torch.tensor([False, True]))
    before = grid.output[0].clone()
    optimizer.step((grid(x) - 1).square().mean((1, 2)), 1.0)
    assert not torch.equal(grid.output[0], before)
    assert all(not weights[1].any() for weights in grid.parameters())


def _tokens(units, strength, seed=0, windows=2):
    """Tokens of noise; one of six, at a place of its own, has the label's sign in a feature."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(len(units)), windows)
    x = rng.standard_normal((len(unit), 3, 2, 64)).astype(np.float16)
    values = units.labels.values if units.task.kind == "regression" else units.codes
    sign = (values - values.mean()) / values.std()
    place = rng.integers(0, 6, len(unit))
    x.reshape(len(unit), 6, 64)[np.arange(len(unit)), place, 0] = strength * sign[unit]
    x.reshape(len(unit), 6, 64)[np.arange(len(unit)), place, 1] = 6.0  # where to attend
    return TokenSets(x, np.full(len(unit), 3), unit)


@pytest.mark.parametrize("task", [a_task(), a_task("age", "regression")])
def test_what_one_token_says_is_found_and_nothing_else(task):
    units = some_units(task, 60)
    folds = folds_of(units, SplitRule("family", 3, 1))
    metric = "auroc" if task.kind == "binary" else "r"
    found = [
        np.mean([
            one.metrics[metric]
            for one in cross_validate(units, folds, _tokens(units, strength),
                                      head=Attentive(QUICK, CPU), permutations=3)
        ]) for strength in (3.0, 0.0)
    ]  # fmt: skip
    assert found[0] > (0.9 if task.kind == "binary" else 0.7)
    assert abs(found[1] - (0.5 if task.kind == "binary" else 0.0)) < 0.3


def _problem(units, fold, group=None):
    values = units.labels.values if units.task.kind == "regression" else units.codes
    return Problem(units, fold, values[:, None], units.labels.family if group is None else group)


@pytest.mark.parametrize("task", [a_task(), a_task("age", "regression")])
def test_the_validation_side_is_of_the_training_side_and_keeps_groups_together(task):
    units = some_units(task)
    for by in ("family", "site"):
        group = units.labels.family if by == "family" else units.site
        for fold in folds_of(units, SplitRule(by, 3, 2)):
            train, validation = sides(_problem(units, fold, group))
            assert sorted([*train, *validation]) == np.flatnonzero(fold.train).tolist()
            assert not set(group[train]) & set(group[validation])
            assert len(validation) > 0
    given = replace(fold, train=fold.train & (np.arange(24) < 12),
                    validation=fold.train & (np.arange(24) >= 12))  # fmt: skip
    train, validation = sides(_problem(units, given))
    assert train.tolist() == np.flatnonzero(given.train).tolist()
    assert validation.tolist() == np.flatnonzero(given.validation).tolist()


@pytest.mark.parametrize("task", [a_task(), a_task("age", "regression")])
def test_tested_units_change_nothing_that_is_trained(task):
    units = some_units(task)
    (fold, *_) = folds_of(units, SplitRule("family", 3, 1))
    tokens, head = _tokens(units, 1.0), Attentive(replace(QUICK, epochs=1), CPU)
    (before,) = head(_problem(units, fold), tokens)
    changed = tokens.tokens.copy()
    changed[np.isin(tokens.unit, np.flatnonzero(fold.test)[:1])] = 100
    (after,) = head(_problem(units, fold), tokens._replace(tokens=changed))
    np.testing.assert_array_equal(after[1:], before[1:])
    assert not np.array_equal(after[0], before[0])
    own = units.labels.values[fold.test].copy()
    units.labels.values[fold.test] = 2 * own if own.dtype.kind == "f" else "M"
    (after,) = head(_problem(units, fold), tokens)
    np.testing.assert_array_equal(after, before)


#: What Brainmarks' command imports from modules that its heads do not need.
_IMPORTED = ("DictConfig", "OmegaConf", "S3Path", "HFDataset", "create_dataset", "list_datasets",
             "create_model", "list_models")  # fmt: skip


@pytest.mark.slow
def test_scores_are_those_of_brainmarks_on_the_same_features(monkeypatch):
    """Needs Brainmarks (``make test-brainmarks``); what its command imports beside is left out."""
    pytest.importorskip("brainmarks.classifiers")  # our plug-in alone makes a package `brainmarks`
    for name in ("wandb", "omegaconf", "cloudpathlib", "brainmarks.datasets.base",
                 "brainmarks.datasets.registry", "brainmarks.models.registry"):  # fmt: skip
        stub = types.ModuleType(name)
        for wanted in _IMPORTED:
            setattr(stub, wanted, object)
        monkeypatch.setitem(sys.modules, name, stub)
    from brainmarks import main_probe as theirs

    units = some_units(n_subjects=600)
    x = np.random.default_rng(0).standard_normal((600, 3, 2, 64))
    x[..., :4] += 0.35 * (2 * units.codes - 1)[:, None, None, None]
    tokens = TokenSets(x.astype(np.float16), np.full(600, 3), np.arange(600))
    order = np.random.default_rng(1).permutation(600)
    train, validation, test = order[:200], order[200:260], order[260:]
    options = AttentiveOptions(epochs=4, steps=25, warmup=1, batch_size=64)
    accuracy = {"ours": [], "theirs": []}
    for seed in range(2):
        head = Attentive(options, CPU)
        grid = head.fit(tokens, units.codes, np.sort(train), np.sort(validation), 2, seed)
        found = head._predict(grid, tokens, np.sort(test))[0].argmax(1)
        accuracy["ours"].append(np.mean(found == units.codes[np.sort(test)]))
        accuracy["theirs"].append(_by_brainmarks(theirs, tokens, units.codes, train, validation,
                                                 test, options, seed))  # fmt: skip
    one, other = (np.mean(values) for values in accuracy.values())
    print(accuracy)
    assert abs(one - other) < 0.04, accuracy
    assert min(one, other) > 0.7, accuracy


def _by_brainmarks(theirs, tokens, labels, train, validation, test, options, seed):
    """Train and choose by Brainmarks' own functions, and return the accuracy of the test side."""

    class Settings(dict):
        __getattr__ = dict.__getitem__

    class Frozen(nn.Module):
        def forward(self, batch):
            return None, None, batch["x"]

    torch.manual_seed(seed)
    args = Settings(
        classifier="attn", num_classes=2, classifier_kwargs={}, wd_scale_grid=[1.0], amp=False,
        lr_scale_grid=np.logspace(-1.7, 1.7, 49).tolist(), lr=3e-4, weight_decay=0.05,
        representation="patch", accum_iter=1, steps_per_epoch=options.steps, clip_grad=1.0,
        metrics=["acc"], cv_metric="acc", debug=False, wandb=False, print_freq=1000,
    )  # fmt: skip

    def loader(units, *, shuffle):
        x = torch.from_numpy(tokens.tokens[units].astype(np.float32)).flatten(1, 2)
        items = [{"x": a, "target": int(b)} for a, b in zip(x, labels[units], strict=True)]
        return torch.utils.data.DataLoader(items, batch_size=options.batch_size, shuffle=shuffle,
                                           drop_last=shuffle)  # fmt: skip

    classifiers, groups = theirs.make_classifiers(args, 64)
    model = theirs.ClassifierGrid(Frozen(), "patch", classifiers)
    theirs.ut.update_lr(groups, args.lr)
    theirs.ut.update_wd(groups, args.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    schedule = theirs.make_lr_schedule(args.lr, options.epochs * options.steps,
                                       options.warmup * options.steps)  # fmt: skip
    criterion, best = nn.CrossEntropyLoss(reduction="none"), (-1.0, 0.0)
    batches = loader(train, shuffle=True)
    for epoch in range(options.epochs):
        theirs.train_one_epoch(args, model, criterion, batches, optimizer, schedule, epoch, CPU)
        stats, *_ = theirs.evaluate(args, model, criterion, loader(validation, shuffle=False),
                                    epoch, CPU, "validation")  # fmt: skip
        number, _, score = theirs.get_best_hparams(args, model, stats)
        if score > best[0]:
            _, found, truth = theirs.evaluate(args, model, criterion, loader(test, shuffle=False),
                                              epoch, CPU, "test")  # fmt: skip
            best = score, float(np.mean(found[:, number] == truth))
    return best[1]
