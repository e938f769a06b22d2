"""What every runner must do (hago.measure.runner)."""

from __future__ import annotations

import numpy as np
import pytest

from ..measure.runner import Runner
from .networks import random_feeds


class RunnerSuite:
    """Override the fixture ``runner``: any model, opened. Close it there if that is needed."""

    @pytest.fixture
    def runner(self) -> Runner:
        """The runner under test."""
        raise NotImplementedError("override the fixture `runner`")

    def test_it_says_what_it_is(self, runner: Runner) -> None:
        assert isinstance(runner, Runner)
        assert isinstance(runner.name, str) and runner.name
        assert runner.threads >= 1 and runner.inputs
        assert all(isinstance(size, int) and size > 0 for info in runner.inputs for size in info.shape)

    def test_outputs_are_contiguous_arrays_of_the_callers_own(self, runner: Runner) -> None:
        first = runner.run(random_feeds(runner.inputs, 1))
        kept = [output.copy() for output in first]
        assert isinstance(first, list) and all(type(output) is np.ndarray for output in first)
        assert all(output.flags.c_contiguous for output in first)
        second = runner.run(random_feeds(runner.inputs, 2))
        for before, output, after in zip(kept, first, second, strict=True):
            np.testing.assert_array_equal(before, output)
            assert not np.shares_memory(output, after)

    def test_the_same_inputs_give_the_same_bits(self, runner: Runner) -> None:
        feeds = random_feeds(runner.inputs)
        first = runner.run(feeds)
        runner.run(random_feeds(runner.inputs, 1))
        for x, y in zip(first, runner.run(feeds), strict=True):
            np.testing.assert_array_equal(x, y)

    def test_inputs_are_found_by_name_and_not_written_to(self, runner: Runner) -> None:
        feeds = random_feeds(runner.inputs)
        kept = {name: x.copy() for name, x in feeds.items()}
        for x in feeds.values():
            x.setflags(write=False)
        for x, y in zip(runner.run(feeds), runner.run(dict(reversed(feeds.items()))), strict=True):
            np.testing.assert_array_equal(x, y)
        for name, x in feeds.items():
            np.testing.assert_array_equal(x, kept[name])

    def test_inputs_need_not_be_contiguous(self, runner: Runner) -> None:
        feeds = random_feeds(runner.inputs)
        strided = {name: np.repeat(x[..., None], 2, axis=-1)[..., 0] for name, x in feeds.items()}
        for x, y in zip(runner.run(feeds), runner.run(strided), strict=True):
            np.testing.assert_array_equal(x, y)
