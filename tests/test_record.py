"""Records survive the way to disk and back, whatever happens to the process that writes them."""

from __future__ import annotations

import getpass
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hago.errors import StorageError
from hago.measure.accuracy import Accuracy
from hago.measure.environment import read_environment
from hago.measure.latency import Latency
from hago.record import Record
from hago.record_file import append_record, read_records, write_records
from hago.scheme import Granularity
from hago.strategy import Choice, Strategy

STRATEGY = Strategy("ab" * 32, "x86-avx512-vnni", {"конв 1": Choice("int8", Granularity("per_group", 32), "mse")})
FULL = Record(
    id=3,
    label="trial 3",
    strategy=STRATEGY,
    metric="top1",
    accuracy=0.9,
    accuracy_interval=(0.88, 0.92),
    accuracy_change=-0.01,
    accuracy_change_interval=(-0.02, 0.0),
    p_value=0.3,
    n_samples=1000,
    latency_s=50e-6,
    latency_interval=(49e-6, 52e-6),
    latency_ratio=0.5,
    latency_ratio_interval=(0.48, 0.52),
    size_bytes=1234,
    build_s=0.05,
    trial_s=1.5,
    layer_times={"конв 1": 1e-5},
    threads=2,
    environment="0123456789abcdef",
)
TEXT = st.text(max_size=8).filter(lambda t: "\ud800" not in t)
REAL = st.none() | st.floats(allow_nan=False)
INTERVAL = st.none() | st.tuples(st.floats(-1, 0), st.floats(0, 1))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


@given(
    record=st.builds(
        Record,
        id=st.integers(-5, 10**6),
        label=TEXT,
        strategy=st.sampled_from([None, STRATEGY]),
        state=st.sampled_from(["ok", "failed", "pruned"]),
        reason=st.none() | TEXT,
        accuracy=REAL,
        accuracy_change=REAL,
        latency_interval=INTERVAL,
        layer_times=st.dictionaries(TEXT, st.floats(0, 1), max_size=3),
        n_samples=st.none() | st.integers(0, 10**9),
    )
)
@settings(max_examples=80)
def test_any_record_comes_back_equal_from_one_line(record):
    line = record.to_line()
    assert "\n" not in line
    assert Record.from_dict(json.loads(line, parse_constant=pytest.fail)) == record


def test_a_full_record_comes_back_equal_and_what_is_none_is_not_written(path):
    append_record(path, FULL)
    append_record(path, Record(id=4, label="trial 4", state="failed", reason="no kernel\nfor conv"))
    first, second = read_records(path)
    assert first == FULL and first.strategy.choices["конв 1"].granularity.group_size == 32
    assert second.reason == "no kernel\nfor conv"
    assert "latency_s" not in path.read_text().splitlines()[1]


def test_infinite_scores_are_kept_without_breaking_json(path):
    append_record(path, replace(FULL, accuracy=math.inf, accuracy_interval=(1.0, math.inf)))
    assert "Infinity" not in path.read_text()
    (found,) = read_records(path)
    assert found.accuracy == math.inf and found.accuracy_interval == (1.0, math.inf)


def test_measurements_fill_in_a_record():
    accuracy = Accuracy("top1", 0.9, 0.8, 0.95, 100, False, np.ones(100), -0.02, -0.05, 0.01, 0.4)
    latency = Latency("a", 2, 1e-3, 9e-4, 2e-3, 0.5, 0.4, 0.6, (1e-3,), 3)
    found = Record(id=0, label="x").with_accuracy(accuracy, "test").with_latency(latency)
    assert (found.accuracy, found.accuracy_change_interval, found.part) == (0.9, (-0.05, 0.01), "test")
    assert (found.latency_s, found.interval, found.latency_ratio) == (1e-3, (9e-4, 2e-3), 0.5)
    assert (found.n_samples, found.threads, found.metric) == (100, 2, "top1")
    alone = replace(accuracy, change=None, change_low=None, change_high=None, p_value=None)
    assert Record(id=0, label="x").with_accuracy(alone).accuracy_change_interval is None


def test_an_accuracy_that_was_stopped_early_makes_a_pruned_record():
    stopped = Accuracy("top1", 0.5, 0.4, 0.6, 64, True, np.full(1000, np.nan), -0.4, -0.5, -0.3, 1e-9)
    found = Record(id=0, label="x").with_accuracy(stopped)
    assert (found.state, found.reason) == ("pruned", "accuracy out of reach after 64 of 1000 samples")
    assert found.n_samples == 64


def test_numpy_scalars_become_plain_numbers():
    found = Record(id=np.int64(1), label="x", accuracy=np.float32(0.5), latency_interval=[np.float64(0), 1])
    assert type(found.id) is int and type(found.accuracy) is float
    assert json.loads(found.to_line())["latency_interval"] == [0, 1]


def test_not_a_number_is_no_measurement():
    with pytest.raises(StorageError, match="accuracy must be a number, not nan"):
        Record(id=0, label="x", accuracy=math.nan)


def test_records_are_frozen_and_hashable():
    with pytest.raises(TypeError):
        FULL.layer_times["x"] = 1.0
    assert len({FULL, replace(FULL)}) == 1
    assert Record(id=0, label="x").created.endswith("+00:00")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "3"}, "id must be a whole number"),
        ({"id": True}, "id must be a whole number"),
        ({"id": None}, "id must be a whole number"),
        ({"n_samples": 1.5}, "n_samples must be a whole number"),
        ({"accuracy": math.nan}, "is damaged: NaN is not JSON"),
        ({"accuracy": "high"}, "accuracy must be a number"),
        ({"latency_interval": [2, 1]}, r"latency_interval must be \[low, high\]"),
        ({"latency_interval": [1]}, r"latency_interval must be \[low, high\]"),
        ({"state": "fine"}, "state must be one of ok, failed, pruned, not 'fine'"),
        ({"part": "train"}, "part must be one of search, test"),
        ({"label": None}, "label must be text"),
        ({"layer_times": [1]}, "layer_times must map"),
        ({"layer_times": {"a": "x"}}, "layer_times must be a number"),
        ({"strategy": {"hago_strategy": 99}}, "is not a record: .*hago_strategy must be 1"),
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
        ({"hago_record": 2}, "is not a record of version 1"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(path, change, message):
    append_record(path, FULL)
    path.write_text(path.read_text() + json.dumps({**FULL.to_dict(), **change}) + "\n")
    with pytest.raises(StorageError, match=f"line 2: {message}"):
        read_records(path)


# -- damage


@pytest.mark.parametrize("kept", [1, 20, 300])
def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next_append(path, kept):
    append_record(path, FULL)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    assert read_records(path) == [FULL]
    append_record(path, replace(FULL, id=9))
    assert [record.id for record in read_records(path)] == [3, 9]


def test_a_torn_line_longer_than_one_read_is_cut_off(path):
    long = replace(FULL, layer_times={f"layer {i}": 1.0 for i in range(20_000)})
    append_record(path, FULL)
    path.write_bytes(path.read_bytes() + long.to_line().encode()[:-1])
    append_record(path, replace(FULL, id=9))
    assert [record.id for record in read_records(path)] == [3, 9]


def test_a_file_that_is_one_torn_line_is_empty(path):
    path.write_bytes(b'{"hago_record":1,"id"')
    assert read_records(path) == []
    append_record(path, FULL)
    assert read_records(path) == [FULL]


def test_a_whole_last_line_without_its_end_is_kept(path):
    path.write_text(FULL.to_line())
    assert read_records(path) == [FULL]
    append_record(path, replace(FULL, id=9))
    assert [record.id for record in read_records(path)] == [3, 9]


@pytest.mark.parametrize("damage", [b"not json", b'{"hago_record":1', b'{"a":NaN}', b"\xff\xfe", b"[" * 100_000])
def test_damage_before_the_last_line_is_said_and_not_passed_over(path, damage):
    path.write_bytes(damage + b"\n" + FULL.to_line().encode() + b"\n")
    with pytest.raises(StorageError, match="line 1: is damaged"):
        read_records(path)


def test_files_that_cannot_be_used_are_said(tmp_path):
    with pytest.raises(StorageError, match="cannot be read: No such file"):
        read_records(tmp_path / "absent.jsonl")
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        append_record(tmp_path / "absent" / "records.jsonl", FULL)


def test_a_full_disk_leaves_no_half_line(path, monkeypatch):
    append_record(path, FULL)
    before, write = path.read_bytes(), os.write

    def half(handle, payload):
        if len(payload) > 100:
            return write(handle, payload[:100])
        raise OSError(28, "No space left on device")

    def no_room_after_one(handle, payload, calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(28, "No space left on device")
        return half(handle, payload)

    monkeypatch.setattr(os, "write", no_room_after_one)
    with pytest.raises(StorageError, match=r"cannot be written: No space left.*\n.*free some space"):
        append_record(path, replace(FULL, id=9))
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_write_records_replaces_the_whole_file(path):
    append_record(path, FULL)
    write_records(path, [replace(FULL, id=1), replace(FULL, id=2)])
    assert [record.id for record in read_records(path)] == [1, 2]


WRITER = """
import sys
from dataclasses import replace
from hago.record import Record
from hago.record_file import append_record
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    append_record(sys.argv[1], Record(id=i, label="x" * 5000))
    print(i, flush=True)
"""


def test_a_writer_killed_at_any_moment_loses_no_finished_record(path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), "0", "1000000"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    finished = [0, *(int(line) for line in process.stdout.read().splitlines() if line)]
    process.wait()
    ids = [record.id for record in read_records(path)]
    assert ids == list(range(len(ids))) and len(ids) >= len(finished)


def test_two_writers_at_once_do_not_disturb_each_other(path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(begin), str(begin + 40)], stdout=subprocess.DEVNULL
        )
        for begin in (0, 1000)
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    ids = [record.id for record in read_records(path)]
    assert sorted(ids) == [*range(40), *range(1000, 1040)]


# -- environment


def test_the_environment_names_no_person_no_host_and_no_path():
    found = read_environment(threads=1)
    text = json.dumps(found.to_dict())
    assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", text)
    assert os.path.expanduser("~") not in text and getpass.getuser() not in text
    assert found.cores >= 1 and found.threads == 1 and found.packages["numpy"] == np.__version__
    assert found.cpu in found.sentence() and "1 thread used" in found.sentence()


def test_the_key_of_an_environment_does_not_move_with_the_load():
    found = read_environment(threads=1)
    assert replace(found, load=99.0).key() == found.key()
    assert replace(found, threads=2).key() != found.key()
