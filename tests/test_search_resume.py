"""Nothing finished is lost: Ctrl-C, SIGKILL at any moment, a full disk, a lost file; and resuming goes on."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.trial import TrialState
from search_harness import FakeEvaluator, residual_space

from hago.errors import HagoWarning, SearchError, StorageError
from hago.folder_lock import filled_folder
from hago.interrupts import Stopped
from hago.record_file import read_records
from hago.result_files import RECORDS_FILE, STUDY_FILE
from hago.search import trial_store as store_module
from hago.search.progress import SilentProgress, Status
from hago.search.result import SearchResult
from hago.search.study import run_search
from hago.search.worker import is_alive, this_worker

LOSSES = {"stem": 6.0, "b0.conv1": 1.0, "b1.conv1": 12.0, "b1.conv2": 2.0, "b2.conv1": 0.5, "fc": 5.0}
FORK = multiprocessing.get_context("fork")  # a child that need not import everything again
TRIALS = 9


def search(folder: Path, evaluator: FakeEvaluator | None = None, **more: object) -> SearchResult:
    evaluator = evaluator or FakeEvaluator(residual_space(), LOSSES)
    arguments = {"folder": folder, "trials": TRIALS, "patience": None, "resume": True, **more}
    return run_search(evaluator.space, evaluator, **arguments)  # type: ignore[arg-type]


def load(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="hago", storage=f"sqlite:///{folder / STUDY_FILE}")


@pytest.fixture(scope="module")
def uninterrupted() -> list[str]:
    """The strategies of a search that nothing disturbs, in their order."""
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    run_search(evaluator.space, evaluator, trials=TRIALS, patience=None)
    return evaluator.proposed()


def keys(result: SearchResult) -> list[str]:
    return [record.strategy.key() for record in result.records]


@pytest.mark.parametrize("first", [1, 3, 6, 8])
def test_a_resumed_search_goes_on_as_if_it_had_never_stopped(tmp_path, uninterrupted, first):
    before = FakeEvaluator(residual_space(), LOSSES, noise=0.05, seed=1)
    search(tmp_path, before, trials=first)
    after = FakeEvaluator(residual_space(), LOSSES, noise=0.05, seed=2)
    result = search(tmp_path, after)
    assert before.proposed() + after.proposed() == uninterrupted
    assert keys(result) == uninterrupted
    assert [record.id for record in result.records] == list(range(TRIALS))


def test_a_finished_search_measures_nothing_again(tmp_path, uninterrupted):
    first = search(tmp_path)
    again = FakeEvaluator(residual_space(), LOSSES)
    result = search(tmp_path, again)
    assert again.evaluated == [] and keys(result) == uninterrupted
    assert result.best == first.best and result.stopped == f"{TRIALS} trials"


class Interrupted(FakeEvaluator):
    """Ctrl-C in the middle of the third candidate."""

    def evaluate(self, strategy, *, stop_below=None, time_left_s=None):
        if len(self.evaluated) == 2:
            self.evaluated.append(strategy)
            signal.raise_signal(signal.SIGINT)
        return super().evaluate(strategy)


def test_ctrl_c_gives_what_is_there_and_says_how_to_go_on(tmp_path, uninterrupted):
    result = search(tmp_path, Interrupted(residual_space(), LOSSES))
    assert result.stopped == "Ctrl-C; nothing is lost: continue with --resume (resume=True)"
    assert keys(result) == uninterrupted[:2] and result.error is None
    assert result.test is not None and result.signum == signal.SIGINT
    assert [t.state for t in load(tmp_path).trials] == [TrialState.COMPLETE] * 2 + [TrialState.FAIL]
    result = search(tmp_path)
    assert keys(result) == uninterrupted
    assert [record.id for record in result.records] == [0, 1, *range(3, TRIALS + 1)]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_signals_that_ask_for_the_end_are_like_ctrl_c(tmp_path, name):
    class Asked(FakeEvaluator):
        def evaluate(self, strategy, *, stop_below=None, time_left_s=None):
            if len(self.evaluated) == 2:
                signal.raise_signal(getattr(signal, name))
            return super().evaluate(strategy)

    evaluator = Asked(residual_space(), LOSSES)
    result = search(tmp_path, evaluator)
    assert result.stopped == f"{name}; nothing is lost: continue with --resume (resume=True)"
    assert result.signum == getattr(signal, name) and len(result.records) == 2
    assert result.test is not None and set(evaluator.calls[-2:]) == {"test"}


def test_a_second_signal_ends_it_at_once(tmp_path, uninterrupted):
    class Twice(Interrupted):
        def test(self, strategy):
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("not reached")

    with pytest.raises(Stopped):
        search(tmp_path, Twice(residual_space(), LOSSES))
    assert keys(search(tmp_path)) == uninterrupted


def test_a_signal_while_the_test_is_run_gives_the_answer_without_it(tmp_path):
    class Late(FakeEvaluator):
        def test(self, strategy):
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("not reached")

    result = search(tmp_path, Late(residual_space(), LOSSES), trials=3)
    assert result.test is None and result.test_within is None and result.signum == signal.SIGTERM
    assert result.stopped.endswith("(a signal came before the test samples were done)")


def test_ctrl_c_before_float32_is_measured_is_just_ctrl_c(tmp_path):
    class AtOnce(FakeEvaluator):
        def float_record(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, AtOnce(residual_space(), LOSSES))
    assert len(search(tmp_path).records) == TRIALS


class Reporting(SilentProgress):
    """Says in a file which trials are finished, as they are."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def trial(self, status: Status) -> None:
        assert status.last is not None and status.last.strategy is not None
        with self._path.open("a") as file:
            file.write(status.last.strategy.key() + "\n")


def finished_in(report: Path) -> list[str]:
    return [line for line in report.read_text().split("\n")[:-1] if line] if report.exists() else []


def child_search(folder: Path, report: Path, storage: str | None, delay_s: float) -> None:
    evaluator = FakeEvaluator(residual_space(), LOSSES, delay_s=delay_s)
    search(folder, evaluator, storage=storage, progress=Reporting(report))


@pytest.mark.parametrize("journal", [False, True])
def test_sigkill_at_random_moments_loses_no_finished_trial(tmp_path, uninterrupted, journal):
    rng = random.Random(4)
    report, storage = tmp_path / "report", str(tmp_path / "study.journal") if journal else None
    folder = tmp_path / "out"
    for _ in range(6):
        child = FORK.Process(target=child_search, args=(folder, report, storage, 0.02))
        child.start()
        child.join(rng.uniform(0.05, 0.8))
        child.kill()
        child.join()
        told = finished_in(report)
        written = {r.strategy.key() for r in read_records(folder / RECORDS_FILE) if r.strategy} if told else set()
        assert set(told) <= written
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    result = search(folder, evaluator, storage=storage)
    assert not set(finished_in(report)) & set(evaluator.proposed())  # what was finished is not measured again
    measured = [k for k, record in zip(keys(result), result.records, strict=True) if record.state == "ok"]
    if len(measured) == TRIALS:  # no candidate was killed so often that it was given up
        assert keys(result) == uninterrupted
    assert set(finished_in(report)) <= set(keys(result))


def killed_search(folder: Path, report: Path, at: int, blocks: int = 3, trials: int = 5) -> None:
    """A search whose process is killed at the at-th write to the study or the records, before or after it."""
    space = residual_space(blocks=blocks)
    count = [0]

    def deadly(function):
        def wrapped(*args, **kwargs):
            count[0] += 1
            if count[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*args, **kwargs)
            count[0] += 1
            if count[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return wrapped

    for name in ("create_new_trial", "set_trial_user_attr", "set_trial_state_values", "set_study_user_attr"):
        setattr(RDBStorage, name, deadly(getattr(RDBStorage, name)))
    store_module.append_record = deadly(store_module.append_record)
    search(folder, FakeEvaluator(space, LOSSES), progress=Reporting(report), trials=trials)


@pytest.mark.parametrize("at", range(1, 40, 3))
def test_sigkill_at_every_step_of_writing_loses_no_finished_trial(tmp_path, uninterrupted, at):
    report = tmp_path / "report"
    child = FORK.Process(target=killed_search, args=(tmp_path / "out", report, at))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    result = search(tmp_path / "out", evaluator, trials=5)
    assert not set(finished_in(report)) & set(evaluator.proposed())
    assert keys(result) == uninterrupted[:5]
    stored = [r for r in read_records(tmp_path / "out" / RECORDS_FILE) if r.id >= 0 and r.part == "search"]
    assert sorted(r.strategy.key() for r in stored) == sorted(uninterrupted[:5])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_a_hundred_sigkills_lose_no_finished_trial(tmp_path, seed):
    """25 of each search, each at another write after it went on: trials, records, tables, the study's own data."""
    rng, report, folder = random.Random(seed), tmp_path / "report", tmp_path / "out"
    for kill in range(25):
        at = rng.randint(1, 24)
        child = FORK.Process(target=killed_search, args=(folder, report, at, 1, 10_000))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"kill {kill}, at write {at}"
    told = finished_in(report)
    assert len(told) > 10 and len(set(told)) == len(told)  # none was measured again
    space = residual_space(blocks=1)
    evaluator = FakeEvaluator(space, LOSSES)
    result = search(folder, evaluator, trials=len(told) + 2)
    assert not set(told) & set(evaluator.proposed()) and set(told) <= set(keys(result))
    written = [r.strategy.key() for r in read_records(folder / RECORDS_FILE) if r.id >= 0 and r.part == "search"]
    assert set(told) <= set(written) and len(set(written)) == len(written)


def test_a_candidate_that_takes_the_process_down_is_given_up_in_the_end(tmp_path, uninterrupted):
    class Deadly(FakeEvaluator):
        def evaluate(self, strategy, *, stop_below=None, time_left_s=None):
            if strategy.key() == uninterrupted[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().evaluate(strategy)

    for _ in range(3):
        child = FORK.Process(target=search, args=(tmp_path, Deadly(residual_space(), LOSSES)))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    result = search(tmp_path, Deadly(residual_space(), LOSSES), trials=4)
    poisoned = next(record for record in result.records if record.strategy.key() == uninterrupted[1])
    assert poisoned.state == "failed" and "died 3 times" in poisoned.reason
    assert len(result.records) == 4


def test_a_trial_of_a_living_process_is_left_alone(tmp_path):
    search(tmp_path, trials=2)
    space = residual_space()
    other = FORK.Process(target=time.sleep, args=(60,))
    other.start()
    try:
        # It measures what would be next here.
        following = FakeEvaluator(space, LOSSES)
        search(tmp_path / "same", following, trials=3)
        params = space.params(following.evaluated[2])
        alive = this_worker().split(":")
        started = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        worker = f"{alive[0]}:{other.pid}:{started}"
        assert is_alive(worker, None)
        load(tmp_path).add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions={n: optuna.distributions.CategoricalDistribution(c) for n, c in space.parameters.items()},
                user_attrs={"worker": worker},
            )
        )
        here = FakeEvaluator(space, LOSSES)
        search(tmp_path, here, trials=4)
        assert load(tmp_path).trials[2].state == TrialState.RUNNING
        assert len(here.evaluated) == 2 and following.proposed()[2] not in here.proposed()
    finally:
        other.kill()
        other.join()
    assert not is_alive(worker, None)
    search(tmp_path, trials=5)
    assert load(tmp_path).trials[2].state == TrialState.FAIL
    assert not is_alive(this_worker(), None)  # what this process left, it is not at any more


def full_disk(folder: Path, results: object) -> None:
    class Filling(FakeEvaluator):
        """No file may grow from the fourth candidate on."""

        def evaluate(self, strategy, *, stop_below=None, time_left_s=None):
            if len(self.evaluated) == 3:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
            return super().evaluate(strategy)

    result = search(folder, Filling(residual_space(), LOSSES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    results.put((keys(result), repr(result.error), result.stopped))  # type: ignore[attr-defined]


@pytest.mark.parametrize("storage", [None, "study.journal"])
def test_a_full_disk_ends_the_search_clearly_and_loses_nothing(tmp_path, uninterrupted, storage, monkeypatch):
    if storage is not None:
        monkeypatch.setattr("hago.search.storage.STUDY_FILE", storage)
    results = FORK.Queue()
    child = FORK.Process(target=full_disk, args=(tmp_path, results))
    child.start()
    found, error, stopped = results.get(timeout=60)
    child.join()
    assert found == uninterrupted[:4]  # the fourth was measured, and is part of the answer
    assert error.startswith("StorageError") and "resume" in error
    assert stopped == "the disk or the storage failed; resume once it is repaired"
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    result = search(tmp_path, evaluator)
    assert keys(result) == uninterrupted
    assert evaluator.proposed() in (uninterrupted[3:], uninterrupted[4:])


def test_either_file_is_enough_to_go_on(tmp_path, uninterrupted):
    search(tmp_path, trials=5)
    (tmp_path / RECORDS_FILE).unlink()
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    search(tmp_path, evaluator, trials=8)
    assert evaluator.proposed() == uninterrupted[5:8]
    trials = [r for r in read_records(tmp_path / RECORDS_FILE) if r.id >= 0 and r.part == "search"]
    assert [r.strategy.key() for r in trials] == uninterrupted[:8]
    (tmp_path / STUDY_FILE).unlink()
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    result = search(tmp_path, evaluator, trials=10)
    assert len(evaluator.evaluated) == 2 and not set(evaluator.proposed()) & set(uninterrupted[:8])
    assert set(keys(result)) >= set(uninterrupted[:8])


@pytest.mark.parametrize(
    ("garbage", "place"),
    [(b"\x00\xff garbage", 0), (b'{"hago_record": 1}', 2), (b'{"a": [', 5), (b"[" * 5000, 3), (b"null", 4)],
)
def test_a_damaged_line_of_the_records_is_passed_over(tmp_path, uninterrupted, garbage, place):
    search(tmp_path, trials=5)
    lines = (tmp_path / RECORDS_FILE).read_bytes().split(b"\n")
    lines[place] = garbage  # in the place of float32, a trial, the last line
    (tmp_path / RECORDS_FILE).write_bytes(b"\n".join([*lines[:-1], b""]))
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    with pytest.warns(HagoWarning, match=rf"records\.jsonl: line {place + 1} is .*taken from the study"):
        result = search(tmp_path, evaluator, trials=7)
    assert evaluator.proposed() == uninterrupted[5:7] and keys(result) == uninterrupted[:7]
    with pytest.warns(HagoWarning):
        assert keys(search(tmp_path, trials=7)) == uninterrupted[:7]


def shorten(data: bytes) -> bytes:
    return data[: len(data) // 2]


def overwrite(data: bytes) -> bytes:
    return data[:4096] + b"\x5a" * 4096 + data[8192:]


def replace_text(data: bytes) -> bytes:
    return data.replace(b'{"hago_record"', b'{!hago_record"')


@pytest.mark.parametrize("harm", [shorten, overwrite, replace_text, lambda data: b"no database at all " * 500])
def test_a_damaged_study_is_rebuilt_from_the_records(tmp_path, uninterrupted, harm):
    search(tmp_path, trials=5)
    (tmp_path / STUDY_FILE).write_bytes(harm((tmp_path / STUDY_FILE).read_bytes()))
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    with pytest.warns(HagoWarning, match=r"study\.db is damaged \(.*\): moved to damaged-study\.db"):
        result = search(tmp_path, evaluator, trials=7)
    assert len(evaluator.evaluated) == 2 and keys(result)[:5] == uninterrupted[:5]
    assert (tmp_path / f"damaged-{STUDY_FILE}").exists()
    search(tmp_path, trials=7)  # whole again: no warning


NAMES = [
    "run?lr=1&x=2",
    "a#b",
    "50% {off}",
    'it\'s "here"',
    "späße 日本語",
    "-dash",
    "a:b;c",
    "tab\there",
    "\udcff\udc80",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder_holds_its_own_study(tmp_path, name):
    space, folder = residual_space(blocks=1), tmp_path / name
    for resume in (False, True):
        result = run_search(space, FakeEvaluator(space), folder=folder, trials=1, resume=resume)
        assert len(result.records) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / STUDY_FILE).stat().st_size > 0
    neighbour = tmp_path / f"{name.split('?')[0]}?lr=2"  # of the same name up to what ends a URL's path
    assert len(run_search(space, FakeEvaluator(space), folder=neighbour, trials=1).records) == 1


def test_a_path_too_long_for_sqlite_is_reported(tmp_path):
    with pytest.raises(StorageError, match="sqlite opens no path of more than 500 bytes"):
        search(tmp_path / ("a" * 200) / ("b" * 200) / ("c" * 200))


def hold(folder: Path, held: object, until: object) -> None:
    with filled_folder(folder):
        held.set()  # type: ignore[attr-defined]
        until.wait(60)  # type: ignore[attr-defined]


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_is_filled_by_one_process_at_a_time(tmp_path, killed):
    held, until = FORK.Event(), FORK.Event()
    other = FORK.Process(target=hold, args=(tmp_path, held, until))
    other.start()
    assert held.wait(60)
    told = rf"another run of hago \(process {other.pid}\) is filling this folder"
    with pytest.raises(StorageError, match=told), filled_folder(tmp_path):
        pass
    if killed:
        other.kill()
    else:
        until.set()  # would wait for ever for a killed process to wake up
    other.join()
    for _ in range(2):  # again and again, and by one thread of this process at a time
        with filled_folder(tmp_path), pytest.raises(StorageError, match=str(os.getpid())), filled_folder(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_half_a_line_of_a_journal_is_cut_off(tmp_path):
    storage = tmp_path / "study.journal"
    search(tmp_path, storage=storage, trials=2)
    with storage.open("ab") as file:
        file.write(b'{"op_code": 5, "worker_')
    result = search(tmp_path, storage=storage, trials=3)
    assert len(result.records) == 3
    assert isinstance(result.records[2].id, int)
    text = storage.read_text()
    assert text.endswith("\n") and '"worker_{' not in text


def test_a_second_search_in_the_same_place_is_refused(tmp_path):
    search(tmp_path, trials=1)
    with pytest.raises(SearchError, match=r"study\.db: there is a search already\n.*resume it"):
        search(tmp_path, resume=False)
    (tmp_path / STUDY_FILE).unlink()
    with pytest.raises(SearchError, match="there is a search already"):
        search(tmp_path, resume=False)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"seed": 3}, "seed was '0', is '3'"),
        ({"objectives": ("latency",)}, "objectives was 'latency, accuracy', is 'latency'"),
        ({"evaluator": {"model": "feed"}}, "model was '.*', is 'feed'"),
        ({"evaluator": {"metric": "top5", "hw": "x86-amx"}}, "hw was .*; metric was 'top1', is 'top5'"),
        ({"evaluator": {"split": "b"}}, "split was None, is 'b'"),
    ],
)
def test_resuming_another_search_says_what_differs(tmp_path, more, told):
    search(tmp_path, trials=1)
    evaluator = FakeEvaluator(residual_space(), LOSSES, identity=more.pop("evaluator", {}))
    with pytest.raises(SearchError, match=f"the search there was a different one: {told}") as caught:
        search(tmp_path, evaluator, **more)
    assert caught.value.hint == "resume it with its own options, or choose another folder for this one"


def test_another_bound_or_sampler_may_be_taken_when_resuming(tmp_path):
    search(tmp_path, trials=4)
    result = search(tmp_path, trials=8, max_drop=0.05, sampler="random")
    assert len(result.records) == 8 and result.goal.max_drop == 0.05


def test_files_that_are_no_study_are_reported(tmp_path):
    (tmp_path / STUDY_FILE).write_text("this is no database, however long it may be " * 100)
    with pytest.raises(StorageError, match=r"study\.db: the study cannot be read or written: file is not a database"):
        search(tmp_path)
    other = tmp_path / "other.db"
    study = optuna.create_study(storage=f"sqlite:///{other}", study_name="hago")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(SearchError, match="the study 'hago' there was not created by hago"):
        search(tmp_path / "out", storage=other)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be created"):
        search(tmp_path / "file" / "out")


def test_two_studies_stand_in_one_database(tmp_path):
    storage = tmp_path / "shared.db"
    a = search(tmp_path / "a", storage=storage, study_name="a", trials=2)
    b = search(tmp_path / "b", storage=storage, study_name="b", trials=3)
    assert (len(a.records), len(b.records)) == (2, 3)


def test_storages_of_optuna_are_taken_as_they_are(tmp_path):
    path = str(tmp_path / "own.log")
    storage = JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    result = search(tmp_path / "out", storage=storage, trials=2)
    assert len(result.records) == 2
