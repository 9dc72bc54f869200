"""The package stays out of other packages' way, starts fast, and its parts depend one way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fmritok
from fmritok.cli import COMMANDS, EXTRAS, main
from fmritok.errors import StoreError, in_python_words, python_words

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, cwd: Path = ROOT, **more: str) -> str:
    """Run code in a new interpreter that has the working folder on its path, as users do."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | more
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_huggingface_tokenizers_is_not_shadowed_at_the_root():
    """Without an ``__init__.py`` our folder is only a namespace candidate, and theirs wins."""
    assert not (ROOT / "tokenizers" / "__init__.py").exists()
    found = Path(python("import tokenizers; print(tokenizers.__file__)"))
    assert "site-packages" in found.parts
    assert python("import tokenizers; print(tokenizers.Encoding.__name__)") == "Encoding"


@pytest.mark.parametrize("safe", ["", "1"])
@pytest.mark.parametrize("at_root", [True, False])
def test_all_parts_are_found_from_anywhere(tmp_path, at_root, safe):
    """An editable install alone does not find the folder without an ``__init__.py``."""
    code = """
import fmritok, fmritok.errors, fmritok.tokenizers.registry, fmritok.cli
import tokenizers
print(fmritok.tokenizers.registry.__file__, tokenizers.__file__, sep="\\n")
"""
    ours, theirs = python(code, ROOT if at_root else tmp_path, PYTHONSAFEPATH=safe).splitlines()
    assert Path(ours) == ROOT / "tokenizers" / "registry.py"
    assert "site-packages" in Path(theirs).parts


def test_importing_the_package_is_cheap_and_its_names_are_there():
    code = """
import json, sys, fmritok
print(json.dumps([name for name in ("torch", "numpy", "pandas", "zarr") if name in sys.modules]))
"""
    assert json.loads(python(code)) == []
    assert [name for name in fmritok.__all__ if getattr(fmritok, name, None) is None] == []
    assert sorted(fmritok.__all__) == fmritok.__all__
    assert set(fmritok.__all__) <= set(dir(fmritok))
    with pytest.raises(AttributeError, match="no attribute 'tokenise'"):
        _ = fmritok.tokenise


def test_help_imports_nothing_heavy():
    code = """
import json, sys
from click.testing import CliRunner
from fmritok.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
heavy = ["torch", "numpy", "pandas", "zarr", "dask", "diffusers", "nibabel", "matplotlib"]
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    assert json.loads(python(code)) == []


@pytest.mark.parametrize(
    ("part", "unwanted"),
    [
        ("fmritok.pipeline.commands.tokenize", ["fmritok.trainer"]),
        ("fmritok.pipeline.tokenization.execute", ["fmritok.trainer"]),
        ("fmritok.pipeline.store.reader", ["fmritok.tokenizers", "torch", "nibabel", "dask"]),
        ("fmritok.device", ["torch", "numpy"]),
        ("fmritok.trainer.recipe", ["torch", "numpy"]),
        (
            "fmritok.tokenizers.vae.tokenizer",
            ["fmritok.pipeline.store", "fmritok.trainer", "nibabel"],
        ),
    ],
)
def test_dependencies_point_one_way(part, unwanted):
    """Of the training loop, ``tests/training/test_command.py`` proves it with a whole training."""
    code = f"import sys, json, {part}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(python(code))
    assert [name for name in unwanted if name in loaded] == []


def test_the_commands_are_these():
    """New commands are a decision, not an accident."""
    assert list(COMMANDS) == [
        "catalog", "plan", "tokenize", "inspect", "verify", "decode", "fetch", "demo-data", "train",
        "probe", "embed", "export", "import",
        "baseline", "finetune", "compare", "saliency", "report", "list",
    ]  # fmt: skip
    for name in COMMANDS:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, name
        assert result.output.startswith("Usage:")


def test_weights_are_never_unpickled():
    """No module can load a pickle; weights of others go through torch's weights-only loader."""
    for folder in ("pipeline", "tokenizers", "trainer"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            for word in ("import pickle", "allow_pickle=True"):
                assert word not in text, f"{word} in {path}"
            loads = re.findall(r"torch\.load\([^)]*\)", text)
            where = path.relative_to(ROOT).as_posix()
            assert not loads or where == "trainer/published/reading.py", f"torch.load in {path}"
            assert all("weights_only=True" in call for call in loads), loads


#: Packages that come with an extra only; yaml comes with zarr, too.
EXTRA = ["torch", "scipy", "nibabel", "nilearn", "sklearn", "diffusers", "dask", "distributed",
         "matplotlib", "tensorboard", "safetensors", "isal", "huggingface_hub", "jinja2",
         "pyarrow", "captum"]  # fmt: skip


def without_extras(code: str) -> str:
    """Run code in an interpreter that has no package of an extra."""
    return python(
        f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
{code}
"""
    )


def test_the_base_install_reads_inspects_and_verifies_stores(make_store):
    location, written = make_store([20, 12], n_tokens=3, dim=4)
    found = without_extras(f"""
import fmritok
from click.testing import CliRunner
from fmritok.cli import main
store = fmritok.open_store({location.url!r})
print(store["vae"]["demo_100_run0"].shape, len(store.runs), len(store.phenotypes))
for command in ("inspect", "verify"):
    result = CliRunner().invoke(main, [command, "--store", {location.url!r}])
    print(result.exit_code, result.exception)
""")
    assert found.splitlines() == ["(20, 3, 4) 2 0", "0 None", "0 None"]


@pytest.fixture(scope="module")
def told_without_extras() -> dict[str, str]:
    """Return what each command says in an interpreter without any extra."""
    return json.loads(
        without_extras(f"""
import json
from click.testing import CliRunner
from fmritok.cli import main
more = {{
    "catalog": ["--dataset", "bids", "--root", "x"],
    "fetch": ["weights"], "demo-data": ["x"],
    "decode": ["--store", "x", "--run", "x", "--out", "x.nii"],
    "list": ["tokenizers"], "train": ["--store", "x"],
    "probe": ["--store", "x", "--training", ".", "--target", "sex"],
    "embed": ["--store", "x", "--from", ".", "--out", "x.parquet"],
    "export": [".", "--out", "x"], "import": ["tablet", ".", "--out", "x"],
    "baseline": ["--store", "x", "--task", "hcp-sex", "--kind", "dummy"],
    "finetune": ["--store", "x", "--task", "hcp-sex", "--from", "none"],
    "compare": ["--store", "x", "--task", "hcp-sex", "--group", "vae"],
    "saliency": ["--store", "x", "--from", "."],
    "report": ["--store", "x"],
}}
cohort = ["--dataset", "bids", "--root", "x", "--store", "x"]
told = {{}}
for command in {list(EXTRAS)}:
    result = CliRunner().invoke(main, [command, *more.get(command, cohort)])
    told[command] = f"{{result.exit_code}} {{result.output}}"
print(json.dumps(told))
""")
    )


@pytest.mark.parametrize("command", list(EXTRAS))
def test_a_command_without_its_extra_says_which(command, told_without_extras):
    told = told_without_extras[command]
    assert told.startswith("1 Error: "), told
    assert f"pip install 'fmritok[{EXTRAS[command]}]'" in told


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Switch it off with --set a.band=null.", 'Switch it off with options={"band": None}.'),
        ("Change it with --set network.tr=SECONDS.", 'Change it with options={"tr": SECONDS}.'),
        ("Give --set a.b=[0.01,0.1], or not.", 'Give options={"b": [0.01,0.1]}, or not.'),
        ("Choose one with --group NAME.", 'Choose one with store["NAME"].'),
        ("Tokenize it with --intensity zscore (and --group NAME, for a group of its own), or take",
         'Tokenize it with options={"intensity": "zscore"}, or take'),
        ("Repair the header, or give it with --tr SECONDS.",
         "Repair the header, or give it with tr=SECONDS."),
        ("Option --where: expected", "Option where: expected"),
        ("List the runs with `fmritok inspect --runs`.",
         "List the runs with `fmritok inspect --runs`."),
    ],
)  # fmt: skip
def test_options_of_commands_become_arguments(said, wanted):
    assert python_words(said) == wanted


def test_an_error_keeps_its_class_and_its_status():
    error = StoreError("Check --store.")
    error.exit_status = 2
    with pytest.raises(StoreError, match="^Check store.$") as caught, in_python_words():
        raise error
    assert caught.value is error
    assert caught.value.exit_status == 2
