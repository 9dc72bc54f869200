"""Recipes and overrides: what is unknown or of the wrong type is refused with what was meant."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, replace
from importlib import resources

import pytest
import yaml

from fmritok.trainer.config import Config
from fmritok.trainer.errors import ConfigError
from fmritok.trainer.objectives.registry import objective_class
from fmritok.trainer.published.cortexmae import recipe_options
from fmritok.trainer.recipe import (
    build_config,
    override,
    read_recipe,
    recipe_names,
    saved_config,
    to_yaml,
)


def test_tiny_states_every_option_and_equals_the_defaults():
    tiny = read_recipe("tiny")
    assert build_config(tiny) == Config()
    assert tiny.keys() == asdict(Config()).keys()
    for section, options in asdict(Config()).items():
        assert tiny[section].keys() == options.keys(), section


def test_tiny_lists_the_options_of_other_objectives_in_comments():
    text = (resources.files("fmritok.trainer.recipes") / "tiny.yaml").read_text()
    listed = dict(re.findall(r"^  #   (\w+): (\S+)$", text, re.MULTILINE))
    defaults = {}
    for name in ("mae", "distill"):
        defaults |= asdict(objective_class(name).Config(name=name))
    shared = asdict(Config().objective)
    assert {option: yaml.safe_load(value) for option, value in listed.items()} == {
        option: value for option, value in defaults.items() if option not in shared
    }


def test_tablet_has_the_published_numbers():
    config = build_config(read_recipe("tablet"))
    model = config.model
    assert (model.width, model.layers, model.heads, model.kv_heads) == (896, 12, 14, 2)
    assert (model.mlp, model.mlp_width, model.norm, model.bias) == ("relu", 4864, "layernorm", True)
    assert (config.data.window, config.objective.mask_ratio) == (256, 0.5)
    assert (config.optim.lr, config.train.epochs, config.train.steps) == (1e-4, 40, None)


def test_cortexmae_has_the_published_numbers():
    config = build_config(read_recipe("cortexmae"))
    model, objective = config.model, config.objective
    assert (model.width, model.layers, model.heads, model.mlp_width, model.patch) == (
        768, 12, 12, 3072, 4,
    )  # fmt: skip
    assert (objective.name, objective.mask_ratio, objective.stride) == ("mae", 0.9, 2)
    decoder = (objective.decoder_width, objective.decoder_layers, objective.decoder_heads)
    assert decoder == (512, 4, 16)
    assert (config.optim.lr, config.optim.beta2, config.train.steps) == (1.25e-4, 0.95, 625_000)


def test_cortexmae_published_is_the_model_of_its_default_configuration():
    kwargs = {
        "decoding": "attn", "pos_embed": "sep", "t_pred_stride": 2, "no_decode_pos": True,
        "class_token": True, "reg_tokens": 0, "no_embed_class": True, "decoder_depth": 4,
    }  # fmt: skip
    theirs = {
        "model": "mae_vit_base", "input_space": "flat", "normalize": "frame", "clip_vmax": 3.0,
        "num_frames": 16, "t_patch_size": 4, "masking": "tube", "mask_ratio": 0.9,
        "model_kwargs": kwargs,
    }  # fmt: skip
    recipe = read_recipe("cortexmae-published")
    for section, options in recipe_options(theirs).items():
        assert {name: recipe[section][name] for name in options} == options, section
    config = build_config(recipe)
    assert (config.optim.lr, config.optim.decay, config.train.steps) == (
        1.25e-4,
        "no_norms",
        625000,
    )


def test_semantoks_has_the_published_numbers():
    config = build_config(read_recipe("semantoks"))
    model, objective = config.model, config.objective
    assert (model.width, model.layers, model.patch, model.layer_scale) == (768, 8, 20, 0.1)
    assert (objective.name, objective.crop, objective.momentum) == ("distill", 100, 0.99)
    assert (objective.head_width, objective.projection, objective.epsilon) == (1024, 128, 0.05)
    assert (objective.slice_low, objective.slice_high) == (0.65, 0.85)
    assert (config.optim.lr, config.optim.final_weight_decay) == (1.4e-3, 0.3)
    assert (config.data.batch_size, config.train.epochs) == (512, 100)


def test_recipe_traits_takes_separate_standardized_views():
    objective = build_config(read_recipe("traits")).objective
    assert (objective.name, objective.summary) == ("distill", "cells")
    assert objective.apart
    assert objective.standardize
    assert objective.centre


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_configuration_is_a_recipe_of_itself(name, tmp_path):
    config = build_config(read_recipe(name))
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert build_config(read_recipe(str(file))) == config


def test_overrides_are_applied_in_order_and_leave_the_recipe_alone():
    tree = {"optim": {"lr": 1.0}}
    changed = override(tree, ["optim.lr=1e-4", "model.position=none", "optim.clip=2"])
    config = build_config(changed)
    assert (config.optim.lr, config.optim.clip, config.model.position) == (1e-4, 2.0, "none")
    assert tree == {"optim": {"lr": 1.0}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.widht=3", r"model\.widht: .*unknown.* Did you mean model\.width\?"),
        ("modle.width=3", r"Option modle: .*Did you mean model\?"),
        ("model.width=wide", r"model\.width: expected int, got 'wide'"),
        ("model.width=1.5", r"model\.width: expected int, got 1\.5"),
        ("model.bias=1", r"model\.bias: expected bool, got 1"),
        ("optim.lr=true", r"optim\.lr: expected float, got True"),
        ("train.steps=many", r"train\.steps: expected int or null, got 'many'"),
        ("model.input=raw", r"model\.input: expected one of residual, absolute, both, got 'raw'"),
        ("model.width=100", r"model\.width: expected an even multiple of model\.heads = 8"),
        ("model.kv_heads=3", r"model\.kv_heads: expected a divisor of model\.heads = 8"),
        ("model.min_period=1e4", r"model\.min_period: .*below model\.max_period"),
        ("objective.mask_ratio=1", r"objective\.mask_ratio: expected above 0 and below 1"),
        ("train.epochs=3", r"either train\.steps or train\.epochs"),
        (
            "data.windows_per_read=3",
            r"windows_per_read: expected a divisor of data.windows_per_run = 4",
        ),
        ("data.read_frames=9", r"data\.read_frames: expected at least 32, the frames of a window"),
        ("data.window=0", r"data\.window: expected 1 or more, got 0"),
        ("optim.lr=0", r"optim\.lr: expected above 0"),
        ("network.lowpas=1", r"Option network: .*an unknown one\. Choose one of them\."),
        ("model.lr=1", r"model\.lr: .*an unknown one\. Did you mean optim\.lr\?"),
        (
            "objective.stride=2",
            r"objective\.stride: expected options of objective mtm, got options of objective mae\. "
            r"Leave them out, or choose --set objective\.name=mae\.",
        ),
        (
            "objective.name=mae objective.summary=cls objective.centre=true",
            r"objective\.summary, objective\.centre: .*objective mae, .*objective distill",
        ),
        ("objective.name=mtn", r"Objective mtn: .*got an unknown name\. Did you mean mtm\?"),
        ("window=3", r"--set: expected SECTION\.OPTION=VALUE, got 'window=3'"),
        ("data.window", r"--set: expected SECTION\.OPTION=VALUE"),
        ("data.window=[", r"expected a YAML value"),
    ],
)
def test_wrong_options_are_refused_with_a_message(assignment, message):
    tree = {"model": {"heads": 8, "kv_heads": 2}}
    with pytest.raises(ConfigError, match=message):
        build_config(override(tree, assignment.split()))


def test_unreadable_recipes_are_refused(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"expected cortexmae, cortexmae-published, semantoks, .* or the path .* got 'small'",
    ):
        read_recipe("small")
    file = tmp_path / "mine.yaml"
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="expected a tree of options, got a list"):
        read_recipe(str(file))
    file.write_text("a: [")
    with pytest.raises(ConfigError, match="expected valid YAML"):
        read_recipe(str(file))
    file.write_bytes(b"\x96")
    with pytest.raises(ConfigError, match="mine.yaml: expected a text file, got 'utf-8' codec"):
        read_recipe(str(file))
    with pytest.raises(ConfigError, match="Section model: expected options by name, got 3"):
        build_config({"model": 3})


def test_a_changed_objective_drops_options_that_it_lacks(caplog):
    caplog.set_level(logging.INFO)
    cortexmae = read_recipe("cortexmae")
    config = build_config(override(cortexmae, ["objective.name=mtm", "objective.chunk=8"]))
    expected = replace(Config().objective, mask_ratio=0.9, chunk=8)
    assert config.objective == expected
    assert caplog.messages == [
        "Objective mtm has no options mask_ratio_of, stride, decoder, decoder_cls, "
        "decoder_position, decoder_width, decoder_layers, decoder_heads: "
        "those of the recipe are left out"
    ]
    assert cortexmae["objective"]["stride"] == 2
    with pytest.raises(ConfigError, match=r"objective\.stride: .*of objective mae"):
        build_config(override(cortexmae, ["objective.stride=3", "objective.name=mtm"]))


def test_old_option_names_are_read_and_the_new_ones_reported(caplog):
    tree = {"train": {"precision": "fp32"}, "objective": {"name": "distill", "precision": 0.1}}
    config = build_config(override(tree, []))
    assert (config.train.dtype, config.objective.epsilon) == ("fp32", 0.1)
    assert caplog.messages == [
        "Option train.precision is now train.dtype",
        "Option objective.precision is now objective.epsilon",
    ]
    assert build_config(override(tree, ["train.dtype=bf16"])).train.dtype == "bf16"
    assert build_config(override({}, ["train.precision=bf16"])).train.dtype == "bf16"


def test_a_model_of_a_release_without_the_option_keeps_its_causal_convolution():
    assert build_config({"model": {}}).model.convolution == "centred"
    assert saved_config({"model": {"width": 64}}).model.convolution == "causal"
    assert saved_config(asdict(Config())).model.convolution == "centred"


def test_a_saved_configuration_with_the_options_of_all_objectives_is_read():
    everything = {"mask_ratio": 0.3, "stride": 2, "precision": 0.05, "noise": 0.1}
    for name, kept in (("mtm", {"mask_ratio": 0.3}), ("mae", {"mask_ratio": 0.3, "stride": 1}),
                       ("distill", {"epsilon": 0.05, "noise": 0.1})):  # fmt: skip
        config = saved_config({"objective": {"name": name, **everything}})
        assert config.objective == objective_class(name).Config(name=name, **kept)
    today = {"name": "mae", "stride": 2, "mask_ratio_of": "cells"}
    assert saved_config({"objective": today}).objective.stride == 2, "its meaning is another today"
    with pytest.raises(ConfigError, match=r"objective\.colour: .*an unknown one"):
        saved_config({"objective": {"name": "mtm", "colour": 3}})
