"""Windows in the training loops of others: plain PyTorch, Lightning and HuggingFace's Trainer."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import fmritok
from fmritok.pipeline.store.tables.annotations import write_annotations

WINDOW, N_TOKENS, DIM = 8, 3, 4


@pytest.fixture
def group(make_store):
    """Open a store in which the sex of a subject decides the first feature."""

    def values(i, n):
        noise = np.random.default_rng(i).standard_normal((n, N_TOKENS, DIM))
        noise[:, :, 0] += 3 * (i % 2)
        return noise

    location, _ = make_store([40] * 10, n_tokens=N_TOKENS, dim=DIM, values=values)
    people = pd.DataFrame(
        {"dataset": "demo", "subject": [f"{100 + i}" for i in range(10)], "session": "",
         "sex": ["F", "M"] * 5}
    )  # fmt: skip
    write_annotations(location, {"phenotypes": people})
    return fmritok.open_store(location.url)["vae"]


@pytest.fixture
def windows(group):
    """Take both sides of one split."""
    return {
        side: fmritok.WindowDataset(
            group, window=WINDOW, labels="sex", form="absolute", split=side, validation_fraction=0.4
        )
        for side in ("train", "validation")
    }


class Classifier(nn.Module):
    """Tells the sex of a subject from the mean of a window."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(N_TOKENS * DIM, 2)

    def forward(self, tokens, valid, sex, **_):
        mean = (tokens * valid[:, :, None, None]).sum(1) / valid.sum(1)[:, None, None]
        logits = self.head(mean.flatten(1))
        return {"loss": nn.functional.cross_entropy(logits, sex), "logits": logits}


def accuracy(model, windows):
    with torch.no_grad():
        hits = [
            (model(**batch)["logits"].argmax(1) == batch["sex"]).float()
            for batch in DataLoader(windows, batch_size=16)
        ]
    return float(torch.cat(hits).mean())


def train(model, optimizer, batches):
    for batch in batches:
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()


def test_a_plain_loop_learns_and_goes_on_exactly_after_a_stop(windows):
    def start():
        model = Classifier()
        loader = fmritok.window_loader(windows["train"], batch_size=4, seed=1)
        return model, torch.optim.Adam(model.parameters(), lr=0.05), loader

    model, optimizer, loader = start()
    for _ in range(3):
        train(model, optimizer, loader)
    assert accuracy(model, windows["validation"]) > 0.9

    stopped, its_optimizer, its_loader = start()
    train(stopped, its_optimizer, its_loader)
    train(stopped, its_optimizer, islice(its_loader, 2))
    state = its_loader.state_dict()
    again = fmritok.window_loader(windows["train"], batch_size=4, seed=1)
    again.load_state_dict(state)
    for _ in range(2):
        train(stopped, its_optimizer, again)
    for name, value in model.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]), name


def test_lightning_trains_on_them(windows, tmp_path):
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch, _):
            return self.model(**batch)["loss"]

        def validation_step(self, batch, _):
            self.log("loss", self.model(**batch)["loss"])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.05)

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(
        module,
        fmritok.window_loader(windows["train"], batch_size=4),
        fmritok.window_loader(windows["validation"], batch_size=16, shuffle=False),
    )
    assert trainer.global_step == 3 * len(fmritok.window_loader(windows["train"], batch_size=4))
    assert accuracy(module.model, windows["validation"]) > 0.9


def test_huggingfaces_trainer_trains_on_them(windows, tmp_path):
    import transformers

    model = Classifier()
    options = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=4,
        learning_rate=0.05, report_to=[], save_strategy="no", remove_unused_columns=False,
        label_names=["sex"], use_cpu=True, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=options, train_dataset=windows["train"],
        eval_dataset=windows["validation"],
    )  # fmt: skip
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_loss"] < 0.3
    assert accuracy(model, windows["validation"]) > 0.9
