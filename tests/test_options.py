"""Options: declared once, given by name or as values, on the command line and in Python, and checked when made."""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import hago
from hago.cli import parser
from hago.cli.flags import from_arguments
from hago.errors import SearchError
from hago.options import (
    KINDS,
    OF_ONE_SEARCH,
    Default,
    GoalOptions,
    JobOptions,
    SearchOptions,
    each_option,
    read_options,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import option_table  # noqa: E402

# What scripts rely on: flags may be added, none may go.
TUNE = (
    "--batch --budget --cache --calibration --data --device --devices --devices-file --hw --input-shape --joint "
    "--margin --max --max-drop --metric --min --objectives --out --patience --progress --resume --sampler --seed "
    "--storage --test --threads --trials"
)
REPORT = (
    "--batch --budget --cache --calibration --data --devices --devices-file --input-shape --margin --max --max-drop "
    "--metric --min --objectives --out --patience --progress --sampler --seed --test --threads --trials --gpu"
)
NEW = "--keep --knob --max-latency --max-size --start"


def command(*words: str) -> dict[str, Any]:
    return from_arguments(parser().parse_args([*words, "model.onnx", "--data", "x.npz"]))


def flags(name: str) -> set[str]:
    chosen = parser()._subparsers._group_actions[0].choices[name]
    return {flag for action in chosen._actions for flag in action.option_strings if flag.startswith("--")}


@pytest.mark.parametrize(("name", "promised"), [("tune", TUNE), ("report", REPORT)])
def test_the_flags_are_those_of_before_and_the_new_ones(name: str, promised: str) -> None:
    assert flags(name) == {*promised.split(), *NEW.split(), "--help"}


def test_every_option_has_one_name_and_a_help() -> None:
    names = [item.name for item in each_option()]
    assert len(names) == len(set(names))
    assert all(item.metadata["help"] for item in each_option())


def test_a_command_without_flags_means_the_defaults() -> None:
    shell = {"out": "hago-out", "progress": "auto"}
    expected = replace(read_options({}), job=JobOptions(**shell))
    assert read_options(command("tune") | {"devices": None}) == expected
    assert read_options(command("report", "--devices", "a") | {"devices": None}) == expected


def test_a_command_means_the_same_as_keywords() -> None:
    words = (
        "tune --max-drop 1% --margin 0.1 --objectives size,latency --trials 3 --patience 0 --seed 7 --budget 10m "
        "--keep float32 head.* --keep int8 Conv --knob calibrator=mse --metric sqnr --joint mean --resume"
    )
    given = read_options(command(*words.split()) | {"devices": None, "out": None, "progress": "silent"})
    assert given == read_options(
        {
            "max_drop": "1%", "margin": 0.1, "objectives": ("size", "latency"), "trials": 3, "patience": None,
            "seed": 7, "budget": 600, "keep": [["float32", "head.*"], ["int8", "Conv"]], "knobs": {"calibrator": "mse"},
            "metric": "sqnr", "joint": "mean", "resume": True,
        }
    )  # fmt: skip


def test_options_may_be_given_as_values() -> None:
    values = {
        "goal": GoalOptions(max_drop=0.02),
        "search": SearchOptions(trials=np.int64(3)),
        "job": JobOptions(hw="x"),
    }
    assert read_options(values) == read_options({"max_drop": 0.02, "trials": 3, "hw": "x"})
    assert read_options({"goal": values["goal"], "trials": 3}).search.trials == 3


def test_a_checked_value_can_be_checked_again() -> None:
    options = read_options({"budget": "10m", "metric": "sqnr", "keep": {"int8": "a"}, "devices": "a+b", "knobs": None})
    assert options == replace(
        options, goal=replace(options.goal), search=replace(options.search), job=replace(options.job)
    )


def test_a_default_is_distinguished_from_the_same_value_given() -> None:
    assert isinstance(GoalOptions().max_drop, Default) and not isinstance(GoalOptions(max_drop=0.01).max_drop, Default)
    assert command("tune")["max_drop"] == 0.01 and isinstance(command("tune")["max_drop"], Default)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trails": 3}, "tune takes no 'trails'\n  hint: did you mean 'trials'?"),
        ({"goal": GoalOptions(), "max_drop": 0.1}, "max_drop is given beside goal=\n  hint: give it in GoalOptions"),
        ({"search": {"trials": 3}}, "search must be of type SearchOptions, got {'trials': 3}"),
        ({"knobs": ["correction"]}, "knobs must be NAME=VALUE, got 'correction'"),
        ({"joint": "nonsense"}, "a joint search judges by worst or mean, not 'nonsense'"),
        ({"sampler": "nonsense"}, "there is no sampler 'nonsense'"),
        ({"study_name": ""}, "study_name must be a name, got ''"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError) as caught:
        read_options(given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", OF_ONE_SEARCH)
@pytest.mark.parametrize("as_value", [False, True])
def test_several_searches_take_no_option_of_one(name: str, as_value: bool, tmp_path: Path) -> None:
    values = {
        "hw": "x86-avx2",
        "storage": "sqlite:///x.db",
        "resume": True,
        "joint": "mean" if as_value else "nonsense",
    }
    kind = next(kind for kind, cls in KINDS.items() if name in {item.name for item in fields(cls)})
    given = {kind: KINDS[kind](**{name: values[name]})} if as_value else {name: values[name]}
    with pytest.raises(SearchError, match=f"compare_devices takes no {name}: "):
        hago.compare_devices(tiny.network(), devices=["a"], data=tiny.samples(), out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_signatures_show_every_option_but_those_that_are_not_taken() -> None:
    names = {item.name for item in each_option()}
    assert set(inspect.signature(hago.tune).parameters) == {"model", "data", *KINDS, *names}
    several = set(inspect.signature(hago.compare_devices).parameters)
    assert several == {"model", "data", "say", "gpu", *KINDS, *names} - set(OF_ONE_SEARCH)
    of_goal = {item.name for item in fields(GoalOptions)}
    assert set(inspect.signature(hago.answer).parameters) == {"folder", "model", "out", "cache", "goal", *of_goal}


def test_a_finished_search_takes_no_option_of_a_new_one(tmp_path: Path) -> None:
    for given in ({"trials": 3}, {"search": SearchOptions(trials=3)}):
        with pytest.raises(SearchError, match=r"^answer takes no trials: the search is finished"):
            hago.answer(tmp_path, **given)
    with pytest.raises(SearchError, match=r"^answer takes no 'max_dorp'"):
        hago.answer(tmp_path, max_dorp=0.1)


def test_the_table_in_the_docs_is_up_to_date() -> None:
    text = option_table.FILE.read_text(encoding="utf-8")
    assert option_table.page(text) == text, "run scripts/option_table.py"
