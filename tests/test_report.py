"""The report: its answer in every outcome, its structure, and that nothing in it can do harm."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import report_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import hago.knobs
from hago.compare import Comparison, ComparisonRow
from hago.errors import StorageError
from hago.knobs import KNOBS, Knob
from hago.measure.latency import Latency
from hago.measure.metric_text import MetricText
from hago.measure.metrics import get_metric
from hago.model import load_model
from hago.record import Record
from hago.report import LayerRow, Measured, MetricInfo, PeerRow, ReportData, SearchFacts, describe_metric, from_search
from hago.report import write_report as write
from hago.report.axis import Scale, decimals, nice_step
from hago.report.data import NOISE_S
from hago.report.facts import facts
from hago.report.from_search import model_name
from hago.report.insights import findings, why
from hago.report.page import make_page
from hago.report.pareto import plot
from hago.report.phrases import layers_phrase, metric_text
from hago.report.sentence import tell
from hago.report.tables import Name, Table, markdown
from hago.search import Blocker, Goal, SearchResult, SearchSpace, Sensitivities, TimeTable
from hago.spec import load_spec
from hago.strategy import Choice, Strategy, uniform
from hago.text import (
    clock,
    count,
    cpu_name,
    duration,
    factor,
    listing,
    no_break,
    pair_of_durations,
    signed,
    significant,
    size,
)
from hago.visible import visible

HEAD = "On this AMD EPYC (1 thread), running 28 of 31 layers in int8 "
FASTER = "makes resnet20 2.9 times faster (0.19 ms instead of 0.55 ms)"
SQNR = MetricInfo("SQNR", "dB", against_float=True)


def on_test(change: float, ratio: float = 0.345, **more: object) -> ReportData:
    """The usual report, with another outcome on the test samples."""
    return samples.report(chosen_test=samples.record(12, "trial 12", ratio, change, part="test", **more))


def with_metric(report: ReportData, metric: MetricInfo, max_drop: float, floats: float, chosen: float) -> ReportData:
    """The same report in another metric."""

    def change(record: Record) -> Record:
        moved = chosen - floats
        ends = {"accuracy_change_interval": (moved - 0.5, moved + 0.5)}
        return replace(
            record, accuracy=chosen, accuracy_interval=(chosen - 0.5, chosen + 0.5), accuracy_change=moved, **ends
        )

    base = replace(report.float_search, accuracy=floats, accuracy_interval=None)
    best = change(report.chosen_search)
    assert report.chosen_test is not None
    return replace(
        report,
        metric=metric,
        goal=replace(report.goal, max_drop=max_drop, higher_is_better=metric.higher_is_better, unit=metric.unit),
        float_search=base,
        float_test=replace(base, part="test"),
        chosen_search=best,
        chosen_test=change(report.chosen_test),
        records=(best,),
        front=(best, base),
    )


# The answer, word for word.


def test_answer_within_the_bound() -> None:
    answer = tell(samples.report())
    assert answer.sentence == (
        f"{HEAD}{FASTER} and costs 0.2 points of top-1 (91.3 % → 91.1 %, 95 % CI −0.8 to +0.4), within the allowed 1.0."
    )
    assert (answer.badge, answer.tone, answer.notes) == ("Within the bound", "good", ())


def test_answer_that_gains() -> None:
    assert tell(on_test(0.004)).sentence == (
        f"{HEAD}{FASTER} and gains 0.4 points of top-1 (91.3 % → 91.7 %, 95 % CI −0.2 to +1.0); "
        "a drop of 1.0 was allowed."
    )


def test_answer_that_changes_nothing() -> None:
    assert tell(on_test(0.0)).sentence == (
        f"{HEAD}{FASTER} and leaves top-1 at 91.3 % (95 % CI of the change −0.6 to +0.6 points); "
        "a drop of 1.0 was allowed."
    )


def test_answer_whose_interval_reaches_beyond_the_bound() -> None:
    answer = tell(on_test(-0.004, accuracy_change_interval=(-0.014, 0.006)))
    assert answer.tone == "good"
    assert answer.notes == (
        "On 452 test samples the measured drop keeps the bound, but the true drop may not: its 95 % interval "
        "reaches 1.4 points.",
    )
    near = tell(on_test(-0.004, accuracy_change_interval=(-0.0104, 0.006))).notes[0]
    assert near.endswith("reaches 1.04 points."), "not 1.0, which is the bound"


def test_answer_out_of_bound_on_the_test_part() -> None:
    answer = tell(on_test(-0.0142))
    assert answer.sentence == (
        f"{HEAD}{FASTER}, but costs 1.4 points of top-1 on the test samples (91.3 % → 89.9 %, 95 % CI −2.0 to "
        "−0.8), more than the allowed 1.0."
    )
    assert (answer.badge, answer.tone) == ("Outside the bound on the test samples", "bad")
    assert answer.notes == (
        "It was chosen on the search samples, where its change was −0.4 points; the best of many looks better "
        "there than it is. A margin (--margin), more samples, or a slower strategy of the front is a safer "
        "choice.",
    )


def test_a_bound_missed_by_little_is_reported_with_more_digits() -> None:
    assert "costs 1.04 points of top-1 on the test samples" in tell(on_test(-0.0104)).sentence
    assert tell(on_test(-0.0104)).sentence.endswith("more than the allowed 1.00.")
    assert tell(on_test(-0.01)).tone == "good"


def test_answer_without_a_test() -> None:
    answer = tell(samples.report(chosen_test=None, float_test=None))
    assert answer.sentence == (
        f"{HEAD}{FASTER} and costs 0.4 points of top-1 on the search samples (91.3 % → 91.0 %, 95 % CI −0.9 to "
        "+0.2), within the allowed 1.0."
    )
    assert (answer.badge, answer.tone) == ("Within the bound, not tested", "mixed")
    assert answer.notes[0].startswith("The search ended before the test samples")


def test_answer_that_is_no_faster_at_length() -> None:
    answer = tell(on_test(-0.002, 0.995))
    assert "leaves resnet20 as fast as float32 within the noise (0.550 ms against 0.553 ms)" in answer.sentence
    assert (answer.badge, answer.tone) == ("No clear gain", "mixed")
    slower = tell(on_test(-0.002, 1.2))
    assert "makes resnet20 1.20 times slower (0.66 ms instead of 0.55 ms)" in slower.sentence
    assert slower.tone == "mixed"


def test_answer_that_stays_in_float() -> None:
    answer = tell(samples.not_faster())
    assert answer.sentence == (
        "int8 does not pay off here: on this AMD EPYC (1 thread) no strategy tried that stays within 1.0 points of "
        "float32's top-1 is faster than float32, so autoencoder stays in float32 (0.55 ms, top-1 91.3 %)."
    )
    assert (answer.badge, answer.tone) == ("float32 stays", "mixed")
    assert answer.notes == (
        "The fastest strategy within the bound (trial 0) takes 1.08 (1.07 to 1.10) times as long as float32.",
        "Main obstacles: conv1 (40 % of float32's time, no faster when quantized) and fc (with 1 more that must "
        "agree) (20 % of float32's time, no faster when quantized).",
    )


def test_answer_with_nothing_to_quantize() -> None:
    assert tell(samples.not_faster(records=(), blockers=())).sentence == (
        "On this AMD EPYC (1 thread) there was nothing to quantize: autoencoder stays in float32 (0.55 ms, "
        "top-1 91.3 %)."
    )


def test_answer_that_misses_the_bound() -> None:
    answer = tell(samples.not_met())
    assert answer.sentence == (
        "No strategy tried keeps resnet20 within 1.0 points of float32's top-1 on this AMD EPYC (1 thread): the "
        "closest, 28 of 31 layers in int8, costs 2.6 points of top-1 (91.3 % → 88.7 %, 95 % CI −3.2 to −2.0) on "
        "the test samples and is 1.64 times faster (0.34 ms instead of 0.55 ms)."
    )
    assert (answer.badge, answer.tone) == ("Bound not met", "bad")
    assert answer.notes == (
        "Main obstacles: layer1.0.conv1 (61 % of the loss) and fc (with 1 more that must agree) (20 % of the loss).",
    )


def test_closest_that_keeps_the_bound_on_the_test_part_alone() -> None:
    answer = tell(samples.not_met(chosen_test=samples.record(20, "t", 0.61, -0.008, part="test")))
    assert answer.badge == "Bound not met"
    assert answer.notes[0] == (
        "On the search samples, where strategies were judged, its change was −2.4 (−3.0 to −1.8) points: the "
        "test samples alone are too few to overrule that."
    )


def test_closest_that_is_slower_names_the_closest_that_is_faster() -> None:
    fast = samples.record(21, "integer programme 3", 0.61, -0.024)
    slow = samples.record(20, "trial 20", 1.2, -0.02, strategy=samples.strategy(samples.resnet_layers()))
    notes = tell(samples.not_met(chosen_search=slow, records=(slow, fast))).notes
    assert (
        "Of those faster than float32, the closest (integer programme 3) changes top-1 by −2.4 points and is "
        "1.64 times faster."
    ) in notes
    assert (
        "No strategy tried is faster than float32." in tell(samples.not_met(chosen_search=slow, records=(slow,))).notes
    )


def test_answer_with_nothing_measured() -> None:
    failed = tuple(
        samples.record(i, f"trial {i}", None, None, state="failed", reason="no space left") for i in range(3)
    )
    floats = samples.floats(samples.resnet_layers())
    report = samples.report(
        outcome="not met", layers=floats, records=failed, chosen_search=samples.float_record(), chosen_test=None,
    )  # fmt: skip
    answer = tell(report)
    assert answer.sentence == (
        "No candidate could be measured on this AMD EPYC (1 thread) (all 3 failed), so resnet20 stays in float32 "
        "(0.55 ms, top-1 91.3 %)."
    )
    assert answer.notes == ("The first failure: no space left",)


def test_a_search_cut_short_says_so() -> None:
    facts = SearchFacts("tpe", 0, 3.0, "the disk or the storage failed", error="the disk is full")
    assert tell(samples.report(search=facts)).notes == ("The search ended early: the disk is full",)


def test_a_resumed_search_does_not_claim_the_time_of_one_run() -> None:
    report = samples.report(search=SearchFacts("tpe", 0, 4.0))
    page = make_page(report)
    assert page.tiles[-1].label == "Last run"
    assert "in more than one run, the last of 4.0 s" in dict(page.facts)["Search"]


def test_batches_are_named() -> None:
    assert tell(samples.report(batch=8)).sentence.startswith("On this AMD EPYC (1 thread, batches of 8), running")


@pytest.mark.parametrize(
    ("metric", "max_drop", "floats", "chosen", "told"),
    [
        (SQNR, 115.0, 150.0, 38.2, "and keeps an SQNR of 38.2 dB to float32's outputs (95 % CI 37.7 to 38.7), "
         "above the required 35.0 dB."),
        (SQNR, 110.0, 150.0, 38.2, ", but has an SQNR of 38.2 dB to float32's outputs (95 % CI 37.7 to 38.7) on the "
         "test samples, below the required 40.0 dB."),
        (MetricInfo("mean squared error", "", False, True), 2.0, 0.0, 1.25,
         "and keeps a mean squared error of 1.250 to float32's outputs (95 % CI 0.750 to 1.750), below the required "
         "2.000."),
        (MetricInfo("error", "", False), 3.0, 12.0, 14.0,
         "and raises the error by 2.000 (12.000 → 14.000, 95 % CI +1.500 to +2.500), within the allowed 3.000."),
        (MetricInfo("error", "", False), 3.0, 12.0, 11.0,
         "and lowers the error by 1.000 (12.000 → 11.000, 95 % CI −1.500 to −0.500); a rise of 3.000 was allowed."),
        (MetricInfo("reward"), 1.0, 5.0, 4.5,
         "and costs 0.500 of reward (5.000 → 4.500, 95 % CI −1.000 to 0.000), within the allowed 1.000."),
    ],
)  # fmt: skip
def test_answers_in_other_metrics(metric: MetricInfo, max_drop: float, floats: float, chosen: float, told: str) -> None:
    report = with_metric(samples.report(), metric, max_drop, floats, chosen)
    assert tell(report).sentence == f"{HEAD}{FASTER}{' ' if told.startswith('and') else ''}{told}"


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (4.25, " and costs 0.500 of reward (5.000 → 4.500, 95 % CI −1.000 to 0.000), above the required 4.250."),
        (4.75, ", but costs 0.500 of reward (5.000 → 4.500, 95 % CI −1.000 to 0.000) on the test samples, below the "
         "required 4.750."),
    ],
)  # fmt: skip
def test_answers_where_a_value_is_asked_for(limit: float, told: str) -> None:
    report = with_metric(samples.report(), MetricInfo("reward"), 5.0 - limit, 5.0, 4.5)
    report = replace(report, goal=replace(report.goal, limit=limit))
    answer = tell(report)
    assert answer.sentence == f"{HEAD}{FASTER}{told}"
    doubt = (
        "On 452 test samples the measured value keeps the bound, but the true value may not: its 95 % interval reaches"
    )
    assert any(note.startswith(doubt) for note in answer.notes) == (limit == 4.25)
    assert "required: 4" in (drawn := plot(report, metric_text(report), 880, 430, "wide")).bound_text, drawn


def test_each_output_is_reported_and_what_to_know_of_the_metric() -> None:
    report = with_metric(samples.report(), MetricInfo("cosine similarity", "", True, True), 0.01, 1.0, 0.995)
    assert report.chosen_test is not None
    parts = {"boxes": 0.9999, "scores": 0.9951}
    told = replace(report, chosen_test=replace(report.chosen_test, accuracy_parts=parts), remarks=("Know this.",))
    assert tell(told).notes[:2] == (
        "By output, cosine similarity is 0.9999 in boxes and 0.9951 in scores; each sample counts by its worst output.",
        "Know this.",
    )
    drawn = plot(told, metric_text(told), 880, 430, "wide")
    assert drawn is not None and drawn.y_title == "cosine similarity" and drawn.bound_text == "required: 0.9900"
    assert not any(tick.second for tick in drawn.y_ticks) and any(tick.text == "1.0000" for tick in drawn.y_ticks)


def test_layers_phrase_counts_precisions_and_leaves_out_what_only_moves_data() -> None:
    def row(precision: str, kind: str = "conv") -> LayerRow:
        return LayerRow("a", kind, "Conv", ((1, 2),), (1, 2), precision=precision)

    mixed = (row("int8"), row("int8"), row("bfloat16"), row("int7"), row("float32"), row("float32", "shape"))
    assert layers_phrase(mixed) == "2 of 5 layers in int8, 1 in bfloat16 and 1 in int7"
    assert layers_phrase((row("int8"), row("int8"))) == "all 2 layers in int8"
    assert layers_phrase((row("int8"),)) == "its only layer in int8"
    assert layers_phrase((row("float32"),)) == "every layer in float32"


# Other goals than the fastest.


def test_answer_of_the_most_accurate_within_a_latency() -> None:
    answer = tell(samples.fast_enough())
    assert answer.sentence == (
        f"{HEAD}brings resnet20 to 0.195 ms (2.8 times faster than float32), within the allowed 0.2 ms, and costs 0.2 "
        "points of top-1 (91.3 % → 91.1 %, 95 % CI −0.8 to +0.4): "
        "the most accurate strategy found."
    )
    assert (answer.badge, answer.tone) == ("Within the bound", "good")


def test_answer_of_the_fastest_within_a_size() -> None:
    answer = tell(samples.small_enough())
    assert answer.sentence == (
        f"{HEAD}{FASTER} and costs 0.4 points of top-1 (91.3 % → 91.0 %, 95 % CI −0.9 to +0.2), within the allowed "
        "1.0; its size of 282 kB keeps the bound of 300 kB."
    )
    assert answer.badge == "Within the bounds"


def test_answer_of_the_smallest() -> None:
    answer = tell(samples.smallest())
    assert answer.sentence == (
        f"{HEAD}makes resnet20 3.9 times smaller (279 kB instead of 1.09 MB) and 2.9 times faster (0.19 ms instead of "
        "0.55 ms), and costs 0.5 points of top-1 (91.3 % → 90.8 %, 95 % CI −1.1 to +0.1), within the allowed 1.0."
    )
    slow = replace(
        samples.smallest().chosen_search, latency_ratio=1.2, latency_ratio_interval=(1.19, 1.21), part="test"
    )
    assert tell(samples.smallest(chosen_test=slow)).badge == "Within the bound", "slower, and as small as was asked for"


def test_answer_beyond_the_latency_in_the_final_measurement() -> None:
    late = replace(samples.fast_enough().chosen_search, latency_s=0.21e-3, part="test")
    answer = tell(samples.fast_enough(chosen_test=late))
    assert answer.sentence.endswith(", but takes 0.210 ms, more than the allowed 0.2 ms.")
    assert (answer.badge, answer.tone) == ("Outside the bound in the final measurement", "bad")
    assert answer.notes == (
        "It was chosen by an earlier measurement, which kept the bound; a result this close to it does not always "
        "repeat. Set a slightly tighter bound than you need.",
    )


def test_float32_that_keeps_a_latency_itself() -> None:
    goal = Goal(math.inf, max_latency_s=1e-3, scale=0.913)
    answer = tell(samples.not_faster(goal=goal))
    assert answer.sentence == (
        "On this AMD EPYC (1 thread), autoencoder stays in float32 (0.55 ms, top-1 91.3 %): float32 stays within 1 ms "
        "itself, and no strategy tried is more accurate beyond the noise."
    )
    assert (answer.badge, answer.notes) == ("float32 keeps the bound", ())


def test_nothing_is_smaller_than_float32() -> None:
    larger = tuple(replace(record, size_bytes=1_200_000) for record in samples.not_faster().records)
    answer = tell(samples.not_faster(goal=Goal(objectives=("size", "accuracy")), records=larger))
    assert "strategy tried that stays within 1.0 points of float32's top-1 is smaller than float32" in answer.sentence
    assert answer.notes == (
        "The smallest strategy within the bound (trial 0) is 1.10 times larger (1.2 MB instead of 1.09 MB).",
    )


def test_a_missed_latency_comes_first_and_accuracy_is_no_obstacle() -> None:
    answer = tell(samples.not_met(goal=Goal(math.inf, max_latency_s=0.1e-3, scale=0.913)))
    assert answer.sentence.startswith("No strategy tried keeps resnet20 within 0.1 ms on ")
    assert "in int8, is 1.64 times faster (0.34 ms instead of 0.55 ms) and costs 2.6 points" in answer.sentence
    assert answer.notes == ()


def test_bounds_that_nothing_keeps_are_all_named() -> None:
    answer = tell(samples.not_met(goal=Goal(0.01, max_latency_s=0.3e-3, max_size=200_000)))
    assert answer.sentence.startswith(
        "No strategy tried keeps resnet20 within 1.0 points of float32's top-1 and within 0.3 ms and 200 kB on "
    )
    assert answer.sentence.endswith(
        "is 1.64 times faster (0.34 ms instead of 0.55 ms) and is 3.9 times smaller (283 kB instead of 1.09 MB)."
    )
    assert answer.badge == "Bounds not met"


@pytest.mark.parametrize(
    ("case", "noun", "better", "first"),
    [
        ("the fastest", "latency", "faster", "Speed"),
        ("the most accurate of 0.2 ms", "latency", "faster", "Top-1"),
        ("the fastest of 300 kB", "latency", "faster", "Speed"),
        ("the smallest", "size", "smaller", "Size"),
    ],
)
def test_the_page_shows_what_was_asked_for(case: str, noun: str, better: str, first: str) -> None:
    report = samples.GOALS[case]()
    page = make_page(report)
    assert page.tiles[0].label == first
    wide = page.plots[0]
    assert (wide.noun, wide.better) == (noun, better) and wide.x_title.startswith(f"{noun} as a part of float32’s")
    html, text = render(report)
    assert f"the further left, the {better}; the further up, the more accurate" in html
    assert f"## {noun.capitalize()} against top-1" in text


def test_bounds_are_drawn_on_the_axis_that_they_bound() -> None:
    drawn = make_page(samples.fast_enough()).plots[0]
    assert drawn.bound_text == "" and drawn.bound_x is not None and drawn.bound_x_text == "at most 0.2 ms"
    chosen = next(mark for mark in drawn.marks if mark.kind == "chosen")
    assert chosen.x <= drawn.bound_x < drawn.float_x
    sized = make_page(samples.small_enough())
    assert sized.plots[0].bound_x is None and sized.plots[0].breaking == sum(
        (r.size_bytes or 0) > 300_000 and r.accuracy_change is not None for r in samples.small_enough().records
    )
    assert "over 300 kB" in render(samples.small_enough())[0].replace("\u00a0", " ")
    assert "no other is faster, more accurate and smaller at once" in render(samples.small_enough())[1]


def test_a_front_of_three_axes_is_drawn_as_a_staircase() -> None:
    drawn = make_page(samples.small_enough()).plots[0]
    places = [tuple(map(float, pair.split(","))) for pair in drawn.front_line.split()]
    assert places == sorted(places) and [y for _, y in places] == sorted((y for _, y in places), reverse=True)


def test_ratios_measured_at_different_times_show_float32_beside_them() -> None:
    page = make_page(samples.measured_again())
    column = page.trials.header.index("float32 alongside")
    beside = {row[column] for row in page.trials.rows}
    assert {"0.553 ms", "0.498 ms"} <= beside
    for row in page.trials.rows:
        if row[column] != "–":
            ratio, spent = (row[page.trials.header.index(name)] for name in ("latency / float32", "latency"))
            floats = float(row[column].split()[0])
            assert float(ratio.split()[0]) * floats == pytest.approx(float(spent.split()[0]), rel=0.01)
    assert page.ratio_note in render(samples.measured_again())[0]
    assert make_page(samples.report()).ratio_note == "", "float32 took the same time beside all"


# What the layers show.


def test_each_knob_that_was_turned_has_a_column_and_a_sentence() -> None:
    rows = samples.resnet_layers()
    report = samples.report(layers=rows)
    assert [knob.name for knob in report.knobs] == ["granularity", "calibrator"]
    header = make_page(report).layer_table.header
    assert header[3:6] == ("precision", "scales of weights", "ranges of activations")
    changed = [row for row in rows if row.macs and row.is_quantized]
    corrected = tuple(
        replace(row, knobs=(*row.knobs, ("correction", "bias"))) if row in changed else row for row in rows
    )
    report = samples.report(layers=corrected)
    assert [knob.name for knob in report.knobs] == ["granularity", "calibrator", "correction"]
    html, text = render(report)
    assert "Correction of biases" in html and "| correction of biases |" in text
    assert f"Correction of biases: bias in {len(changed)} layers." in findings(report)[-1]


def test_a_knob_that_the_search_tried_is_shown_though_the_answer_leaves_it() -> None:
    tried = Strategy("f" * 64, "x86-avx512-vnni", {"conv1": Choice("int8", methods=(("correction", "bias"),))})
    records = (*samples.report().records, samples.record(40, "trial 40", 0.4, -0.01, strategy=tried))
    assert [knob.name for knob in samples.report(records=records).knobs][-1] == "correction"


def test_a_new_knob_needs_no_change_in_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Knob("toy", "off", ("off", "fast_mode"), "Toys of layers", lambda weights, numbers, granularity: weights)
    for module in ("hago.knobs", "hago.choice", "hago.report.data"):
        monkeypatch.setattr(f"{module}.KNOBS", (*KNOBS, toy))
    monkeypatch.setitem(hago.knobs._BY_NAME, "toy", toy)  # type: ignore[index]
    chosen = Choice("int8", methods=(("toy", "fast_mode"),))
    assert chosen.values(weighted=True)["toy"] == "fast_mode" and "toy" not in chosen.values(weighted=False)
    rows = tuple(
        replace(row, knobs=tuple(list(chosen.values(True).items())[1:])) if row.macs else row
        for row in samples.resnet_layers()
    )
    html, text = render(samples.report(layers=rows))
    assert ">Toys of layers<" in html and ">fast mode<" in html
    assert "| toys of layers |" in text and "Toys of layers: fast mode in " in text


def test_slower_layers_are_flagged_and_reported() -> None:
    report = samples.report()
    page = make_page(report)
    assert [view.row.name for view in page.layers if view.slow] == ["pool"]
    assert page.findings[0].startswith("int8 is slower than float32 in 1 layer: pool (+0.50 µs).")
    assert page.findings[1] == "Left in float32 and slower when quantized: fc (0.90 µs against 0.60 µs)."
    assert why(report, next(row for row in report.layers if row.name == "pool")) == "slower than in float32 by 0.50 µs"
    html = render(report)[0]
    assert html.count("▲ slower") == 1


def test_several_precisions_are_slower_and_one_is() -> None:
    def row(name: str, precision: str, chosen_s: float) -> LayerRow:
        return LayerRow(name, "conv", "Conv", ((1, 2),), (1, 2), precision=precision, float_s=1e-5, chosen_s=chosen_s)

    both = (row("a", "int8", 2e-5), row("b", "int7", 3e-5))
    assert findings(samples.report(layers=both))[0].startswith("int7 and int8 are slower than float32 in 2 layers:")
    faster = tuple(row(name, "int8", 5e-6) for name in "abcd")
    assert any("µs), 75 % of all that quantized" in text for text in findings(samples.report(layers=faster)))
    alone = (*faster[:3], row("d", "int8", 1.01e-5))
    assert any("µs), all that quantized layers save" in text for text in findings(samples.report(layers=alone)))


def test_differences_within_the_noise_are_not_flagged() -> None:
    row = LayerRow("a", "conv", "Conv", ((1, 2),), (1, 2), precision="int8", float_s=1e-5, chosen_s=1.02e-5)
    assert not row.is_slower and replace(row, chosen_s=1.1e-5).is_slower
    tiny = replace(row, float_s=1e-8, chosen_s=1e-8 + NOISE_S)
    assert not tiny.is_slower
    assert not replace(row, float_s=0.0).is_slower, "of a fused layer nothing can be told"


def test_no_layer_slower_is_said() -> None:
    rows = tuple(
        replace(row, chosen_s=row.float_s, quantized_s=row.float_s) if row.name in ("pool", "fc") else row
        for row in samples.resnet_layers()
    )
    assert findings(samples.report(layers=rows))[0].startswith("No quantized layer is slower than it was")


def test_times_of_layers_that_other_work_disturbed_are_said_to_be() -> None:
    """Kernels of the chosen network that take twice as long one by one as in a whole call; float32's add up."""
    base = samples.report(float_other_s=None, chosen_other_s=None)
    assert base.float_search.latency_s is not None and base.chosen_search.latency_s is not None
    count = len(base.layers)

    def timed(chosen: float) -> list[str]:
        calls = base.float_search.latency_s / count, chosen * base.chosen_search.latency_s / count
        rows = tuple(replace(row, float_s=calls[0], chosen_s=calls[1]) for row in base.layers)
        return [text for text in findings(replace(base, layers=rows)) if "one by one" in text]

    assert timed(1.0) == timed(1.4) == []
    (said,) = timed(2.2)
    assert said.endswith("Other work disturbed the times of layers: rely on those of whole calls.")


def test_findings_without_times_and_probes_say_nothing_of_them() -> None:
    bare = tuple(
        replace(row, float_s=None, chosen_s=None, quantized_s=None, sensitivity=None, knobs=())
        for row in samples.resnet_layers()
    )
    report = samples.report(layers=bare)
    assert findings(report) == ()
    page = make_page(report)
    assert not page.has_times and not page.has_noise and not page.strips and not page.totals
    assert "Sensitivity" not in render(report)[0]


def test_float_layers_say_why() -> None:
    report = samples.report()
    told = {row.name: why(report, row) for row in report.layers}
    assert told["softmax"] == "Softmax runs in float"
    assert told["conv1"].startswith("if quantized: saves 4.5 µs, adds ")
    assert told["fc"].startswith("if quantized: slower, 0.90 µs, adds ")
    assert told["layer2.0.pad"] == "moves data"


def test_totals_add_up() -> None:
    report = samples.report()
    name, old, new, _, _ = make_page(report).totals[-1]
    assert (name, old, new) == (
        "all kernels",
        duration(sum(row.float_s or 0 for row in report.layers) + 3e-6),
        duration(sum(row.chosen_s or 0 for row in report.layers) + 9e-6),
    )


# The plot.


def test_axes_hold_the_answer_and_mark_what_lies_outside() -> None:
    wild = (samples.record(50, "wild", 0.3, -0.6), samples.record(51, "slow", 9.0, -0.002))
    report = samples.report(records=(*samples.report().records, *wild))
    drawn = plot(report, MetricText.of(report.metric, 0.01, 452, 0.9), 880, 430, "wide")
    assert drawn is not None
    left, top, right, bottom = drawn.frame
    for mark in drawn.marks:
        assert left <= mark.x <= right and top <= mark.y <= bottom
    off = {mark.title.splitlines()[0]: mark.off for mark in drawn.marks if mark.off}
    assert off["wild"] == "down" and off["slow"] == "right"
    assert drawn.outside == len(off)
    by_kind = {mark.kind: mark for mark in drawn.marks}
    assert by_kind["chosen"].x < by_kind["float"].x and by_kind["chosen"].y > by_kind["float"].y
    assert by_kind["chosen"].arms is not None
    assert drawn.bound_y > drawn.float_y


def test_lower_is_better_is_drawn_upside_down() -> None:
    report = with_metric(samples.report(), MetricInfo("error", "", False), 3.0, 12.0, 14.0)
    drawn = plot(report, MetricText.of(report.metric, 3.0, 452, 14.0), 880, 430, "wide")
    assert drawn is not None
    by_kind = {mark.kind: mark for mark in drawn.marks}
    assert by_kind["chosen"].y > by_kind["float"].y, "more error lies lower"
    assert drawn.bound_text == "allowed: +3.000"


def test_trials_show_where_float_stays() -> None:
    drawn = make_page(samples.not_faster()).plots[0]
    assert drawn.outside == 0 and len([m for m in drawn.marks if m.kind == "trial"]) == 6


def test_nothing_to_draw_is_left_out() -> None:
    report = samples.not_faster(records=(), front=())
    assert make_page(report).plots == ()
    assert "<figure>" in render(report)[0]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 12))
def test_ticks_are_round_and_few(low: float, span: float, most: int) -> None:
    axis = Scale(low, low + span, 0.0, 100.0)
    if axis.high - axis.low < 1e-9 * max(1.0, abs(low)):
        return
    ticks = axis.ticks(most)
    assert 1 <= len(ticks) <= most
    assert all(0.0 <= axis(tick) <= 100.0 for tick in ticks)


def test_steps_and_decimals() -> None:
    assert [nice_step(span, 6) for span in (1.0, 0.7, 12.0)] == pytest.approx([0.2, 0.2, 5.0])
    assert decimals([0.3, 0.4]) == 1 and decimals([0.95, 1.0]) == 2 and decimals([5.0, 10.0]) == 0


# The files.


def render(report: ReportData, folder: Path | None = None) -> tuple[str, str]:
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        html, text = write(report, folder or made)
        return html.read_text("utf-8"), text.read_text("utf-8")


CASES = {
    **samples.GOALS,
    "not faster": samples.not_faster,
    "not told": lambda: samples.not_faster(outcome="not told"),
    "not met": samples.not_met,
    "not tested": lambda: samples.report(chosen_test=None, float_test=None),
    "deep": lambda: samples.report(layers=samples.resnet_layers(9)),
    "no trials": lambda: samples.not_faster(records=(), front=(), blockers=()),
}


class Checker(HTMLParser):
    """Takes note of open elements, attributes and text."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self.headings: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what is not open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.mark.parametrize("case", CASES)
def test_html_is_whole_and_needs_nothing_else(case: str) -> None:
    report = CASES[case]()
    html, _ = render(report)
    page = Checker()
    page.feed(html)
    page.close()
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert name not in ("src", "href", "action", "xlink:href", "srcset"), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
    assert "://" not in html and "@import" not in html
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html
    assert len(set(page.ids)) == len(page.ids)
    labelled = [v for _, name, v in page.attributes if name == "aria-labelledby"]
    assert {part for value in labelled for part in (value or "").split()} <= set(page.ids)
    assert page.headings[0] == 1 and page.headings.count(1) == 1 and set(page.headings[1:]) == {2}
    text = " ".join(page.text.split())
    assert " ".join(no_break(tell(report).sentence).split()) in text
    for row in report.layers:
        assert row.name in text
    assert "None" not in text and "nan" not in text.lower().split()


@pytest.mark.parametrize("case", CASES)
def test_drawings_are_well_formed(case: str) -> None:
    html, _ = render(CASES[case]())
    for drawing in re.findall(r"<svg.*?</svg>", html, flags=re.S):
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img" or root.get("aria-hidden") == "true"


@pytest.mark.parametrize("case", CASES)
def test_markdown_tables_are_well_formed(case: str) -> None:
    report = CASES[case]()
    _, text = render(report)
    assert tell(report).sentence in text.replace("\\", "")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 2
    for table in tables:
        lines = table.strip().splitlines()
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, table
        assert re.fullmatch(r"\|( -{3}:? \|)+", lines[1])
    for row in report.layers:
        assert f"| `{row.name}` |" in text
    assert "\n\n\n" not in text


HOSTILE = "<script>alert('x')</script>|`b`\n[a](javascript:1) & \"q\" {{ 7*7 }} ../\\\x1b[2J\u202e\x9b"


def hostile_report() -> ReportData:
    """Names and texts that come from models and errors, meant to break out."""
    rows = samples.resnet_layers()
    rows = (replace(rows[0], name=HOSTILE, op_type=HOSTILE), replace(rows[-1], reason=HOSTILE), *rows[1:-1])
    failed = samples.record(1, HOSTILE, None, None, state="failed", reason=HOSTILE)
    return samples.report(
        layers=rows, records=(failed, samples.report().chosen_search), model_name=HOSTILE, model_source=HOSTILE,
        metric=MetricInfo(HOSTILE), hw_description=HOSTILE, peers=(PeerRow(HOSTILE, 1e-3, note=HOSTILE),),
        search=SearchFacts(HOSTILE, 0, 1.0, HOSTILE, HOSTILE),
        environment=replace(samples.ENVIRONMENT, cpu=HOSTILE),
    )  # fmt: skip


def test_nothing_that_is_not_seen_is_written() -> None:
    for page in render(hostile_report()):
        assert "\\x1b[2J" in page.replace("\\[", "[").replace("\\\\", "\\")
        assert not {char for char in page if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")} - {"\n"}


def test_everything_is_escaped_in_html() -> None:
    html, _ = render(hostile_report())
    page = Checker()
    page.feed(html)
    page.close()
    assert page.open == [] and "script" not in page.tags
    assert "<script" not in html
    assert "{{ 7*7 }}" in page.text
    assert not any(name.startswith("on") or name == "href" for _, name, _ in page.attributes)


def test_everything_is_escaped_in_markdown() -> None:
    _, text = render(hostile_report())
    outside_code = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text.replace("\\`", ""))
    assert "<script" not in outside_code
    assert "](javascript" not in outside_code.replace("\\]", "")
    for table in (block for block in text.split("\n\n") if block.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}) == 1


@given(st.text(max_size=40))
def test_code_cells_hold_any_name(name: str) -> None:
    cell = markdown(Name(name))
    assert "\n" not in cell and not re.search(r"(?<!\\)\|", cell)
    shown = visible(name).strip()
    if shown:
        fence = re.match("`+", cell)
        assert fence is not None
        inner = cell[len(fence[0]) : -len(fence[0])].replace("\\|", "|")
        assert fence[0] not in re.findall("`+", inner)
        assert inner.strip(" ") == shown or inner == shown


@settings(max_examples=60)
@given(st.text(max_size=40))
def test_plain_cells_hold_any_text(text: str) -> None:
    table = Table.of(("a", "b"), [(text, "x")])
    lines = table.markdown().splitlines()
    assert len(lines) == 3 and {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    html, text = write(samples.report(), tmp_path)
    assert (html.name, text.name) == ("report.html", "report.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]
    before = html.read_bytes()
    write(samples.report(), tmp_path)
    assert html.read_bytes() == before, "the same report is the same page"
    with pytest.raises(StorageError, match="cannot be written"):
        write(samples.report(), tmp_path / "absent")


def test_page_stays_small() -> None:
    html, _ = render(samples.report(layers=samples.resnet_layers(9), records=samples.trials(40)))
    assert len(html) < 400_000


def test_trials_table_shows_states_and_reasons() -> None:
    report = samples.report()
    table = make_page(report).trials
    states = [row[table.header.index("state")] for row in table.rows]
    assert states.count("chosen") == 1 and "front" in states and "stopped early" in states
    assert "failed: layer2.0.conv1: the kernel needs 33 registers, the hardware has 32" in states
    assert [row[0] for row in table.rows] == [str(n + 1) for n in range(38)]
    assert "38 trials, 1 of them failed" in render(report)[0]


def test_peers_are_shown() -> None:
    peers = (
        PeerRow("TVM float32", 5.5e-4, (5.4e-4, 5.6e-4), 1.0, (1.0, 1.0), 0.913, (0.885, 0.936)),
        PeerRow("OpenVINO int8", note="needs the extra peers"),
    )
    html, text = render(samples.report(peers=peers))
    assert "Other engines" in html and "Other engines" in text
    assert "| TVM float32 | 0.550 ms (0.540 to 0.560) | 1.00 | 91.3 % (88.5 to 93.6) |" in text
    assert "needs the extra peers" in text


def test_outcome_is_checked() -> None:
    with pytest.raises(ValueError, match="outcome must be one of met, not faster, not told, not met, not 'fine'"):
        samples.report(outcome="fine")


# Numbers.


def test_numbers_read_well() -> None:
    assert [significant(x) for x in (0, 0.5, 123.4, 0.001234, 9.999, 12345)] == [
        "0", "0.500", "123", "0.00123", "10.0", "12,300",
    ]  # fmt: skip
    assert significant(math.inf) == "∞" and significant(-2.5e-9, 2) == "−2.5e−09"
    assert [signed(x, 1) for x in (-0.24, 0.31, -0.01)] == ["−0.2", "+0.3", "0.0"]
    assert [duration(x) for x in (None, 0.0, 2e-9, 1.21e-5, 1.94e-4, 0.5, 2.0)] == [
        "–", "0 ns", "2.00 ns", "12.1 µs", "0.194 ms", "500 ms", "2.00 s",
    ]  # fmt: skip
    assert pair_of_durations(5.50e-4, 5.53e-4) == ("0.550 ms", "0.553 ms")
    assert [clock(x) for x in (0.42, 58.4, 725, 4800)] == ["0.4 s", "58 s", "12 min 5 s", "1 h 20 min"]
    assert [factor(x) for x in (1.064, 2.898, 14.2)] == ["1.06", "2.9", "14"]
    assert [size(x) for x in (None, 0, 12, 1500, 268_123, 4.2e6, 3.47e9)] == [
        "–", "0 B", "12 B", "1.5 kB", "268 kB", "4.2 MB", "3.47 GB",
    ]  # fmt: skip
    assert size(1_234_000, 4) == "1.234 MB"
    assert [count(x) for x in (12, 2320, 40_551_040)] == ["12", "2.32 k", "40.6 M"]
    assert listing("abcdef", 3) == "a, b, c and 3 more" and listing(["a"]) == "a" and listing([]) == ""


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("AMD EPYC (family 25, model 17)", "AMD EPYC"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz (family 6, model 143)", "Intel Xeon Platinum 8481C"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "AMD Ryzen 9 7950X 16-Core"),
        ("aarch64", "aarch64"),
    ],
)
def test_processors_are_named_shortly(name: str, short: str) -> None:
    assert cpu_name(name) == short


def test_digits_follow_bound_and_samples() -> None:
    top1 = samples.TOP1
    assert MetricText.of(top1, 0.01, 500, 0.9).places == 1
    assert MetricText.of(top1, 0.0025, 500, 0.9).places == 2
    assert MetricText.of(top1, 0.01, 50_000, 0.9).places == 2
    assert MetricText.of(MetricInfo("mse", "", False, True), 1e-3, 500, 2.3e-4).value(2.3e-4) == "0.00023"
    assert MetricText.of(MetricInfo("mse", "", False, True), 0.0, 500, 0.0).value(1e-12) == "1.00e−12"
    cosine = MetricInfo("cosine similarity", "", True, True)
    near = MetricText.of(cosine, 0.01, 500, 0.99994)
    assert near.value(0.99994) == "0.999940" and near.change(-6e-5) == "−0.000060"
    assert MetricText.of(cosine, 0.01, 500, 1 - 1e-12).places == 6, "float32's last bits are not told"
    assert MetricText.of(cosine, 0.01, 500, 1.0).places == 3
    assert MetricText.of(MetricInfo("reward"), 0.01, 500, 0.99994).places == 3, "1 is no limit of other metrics"


def test_texts_of_ticks_have_room_beside_the_title() -> None:
    cosine = with_metric(samples.report(), MetricInfo("cosine similarity", "", True, True), 1e-4, 1.0, 0.999941)
    for report in (cosine, samples.report()):
        for width, name in ((880, "wide"), (420, "narrow")):
            drawn = plot(report, metric_text(report), width, 400, name)
            assert drawn is not None
            left, _, right, _ = drawn.frame
            assert all(left - 8 - 7 * len(tick.text) > 20 for tick in drawn.y_ticks)  # a title ends at 20 pixels
            if name == "wide":
                assert all(right + 8 + 7 * len(tick.second) < width - 20 for tick in drawn.y_ticks if tick.second)


def test_metrics_are_described() -> None:
    assert describe_metric(get_metric("top1")) == samples.TOP1
    assert describe_metric(get_metric("sqnr")) == SQNR
    assert describe_metric(get_metric("mse")) == MetricInfo("mean squared error", "", False, True)

    def reward(outputs: object, labels: object) -> float:
        return 1.0

    assert describe_metric(get_metric(reward)) == MetricInfo("reward")
    reward.whole_set = True  # type: ignore[attr-defined]
    whole = describe_metric(get_metric(reward))
    assert whole == MetricInfo("reward", whole_set=True)
    told = dict(facts(replace(samples.report(), metric=whole), MetricText.of(whole, 0.01, 452, 0.9)))
    assert "all samples of the part at once" in told["Accuracy"] and "McNemar" not in told["Accuracy"]
    assert describe_metric(get_metric("cosine:boxes")).name == "cosine similarity of boxes"


# From a search.


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    """Convolution, residual add, softmax."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=(8, 8, 3, 3)).astype(np.float32), "w1"),
        numpy_helper.from_array(random.normal(size=(8, 8, 3, 3)).astype(np.float32), "w2"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "b"], ["c"], name="add"),
        helper.make_node("Softmax", ["c"], ["y"], name="softmax", axis=1),
    ]
    shape = ["N", 8, 6, 6]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_report_of_a_search(net: onnx.ModelProto, tmp_path: Path) -> None:
    model, spec = load_model(net), load_spec("x86-avx512-vnni")
    space = SearchSpace.from_model(model, spec)
    chosen = uniform(model, spec).with_("conv2", uniform(model, spec, calibrator="entropy").choice("conv2"))
    scheme = space.groups[0].options[0]
    probes = {(group.name, scheme, "minmax"): 1e-4 for group in space.groups}
    probes[(space.groups[0].name, scheme, "mse")] = 5e-5
    probes["", scheme, "minmax"] = 9.0
    floats, best = samples.float_record(), samples.record(3, "trial 4", 0.4, -0.002, strategy=chosen)
    result = SearchResult(
        float=floats,
        best=best,
        front=(best, floats),
        records=(best,),
        outcome="met",
        goal=Goal(0.01),
        test=replace(best, part="test"),
        float_test=replace(floats, part="test"),
        blockers=(Blocker(("conv1",), "accuracy", 0.5, 1e-6),),
        sensitivities=Sensitivities(probes),
        times=TimeTable({"float32": {"conv1": 9e-6}, scheme: {"conv1": 2e-6, "conv2": 3e-6}}),
        stopped="1 trials",
        seconds=12.0,
    )
    measured = Measured(
        model, spec, space, get_metric("top1"), samples.SPLIT, samples.ENVIRONMENT, seed=7,
        peers=Comparison((ComparisonRow("TVM", Latency("TVM", 1, 1e-3, 9e-4, 2e-3, 1, 1, 1, (1e-3,), 3)),
                          ComparisonRow("OpenVINO", note="absent")), "net", "top1", 9, 1, samples.ENVIRONMENT),
    )  # fmt: skip
    report = from_search(
        result,
        measured,
        chosen,
        float_times={"conv1": 9e-6, "conv2": 8e-6, "softmax": 1e-6, "": 2e-6},
        chosen_times={"conv1": 2e-6, "conv2": 3e-6, "softmax": 1e-6, "": 4e-6},
    )
    rows = {row.name: row for row in report.layers}
    assert list(rows) == ["conv1", "conv2", "add", "softmax"]
    conv1, conv2, add, softmax = rows.values()
    assert (conv1.precision, conv1.knobs) == (
        "int8",
        (("granularity", "per_channel"), ("calibrator", "minmax"), ("rounding", "nearest"), ("correction", "none")),
    )
    assert (conv1.float_s, conv1.chosen_s, conv1.quantized_s) == (9e-6, 2e-6, 2e-6)
    assert ("calibrator", "entropy") in conv2.knobs and conv1.name in conv1.group
    assert add.knobs == (("calibrator", "minmax"),), "an add has no weights"
    assert (add.float_s, add.chosen_s) == (0.0, 0.0), "it runs in a neighbour's kernel"
    assert (softmax.precision, softmax.quantizable) == ("float32", False) and softmax.reason
    assert softmax.sensitivity is None and softmax.group == ()
    assert min(row.sensitivity for row in (conv1, conv2, add) if row.sensitivity is not None) == 5e-5
    assert (report.float_other_s, report.chosen_other_s, report.search.seed) == (2e-6, 4e-6, 7)
    assert [peer.label for peer in report.peers] == ["TVM", "OpenVINO"]
    assert report.peers[0].latency_ratio == 1 and report.peers[1].note == "absent"
    html, _ = write(report, tmp_path)
    assert "2.5 times faster" in html.read_text("utf-8").replace("\u00a0", " ")


def test_report_of_a_search_cut_short(net: onnx.ModelProto) -> None:
    model, spec = load_model(net), load_spec("x86-avx512-vnni")
    floats = samples.float_record()
    result = SearchResult(
        floats, floats, (floats,), (), "not met", Goal(0.01), error=StorageError("the disk is full")
    )  # fmt: skip
    space = SearchSpace.from_model(model, spec)
    report = from_search(result, Measured(model, spec, space, get_metric("top1"), samples.SPLIT, samples.ENVIRONMENT))
    assert report.is_float and all(row.precision == "float32" and row.float_s is None for row in report.layers)
    answer = tell(report)
    assert "(none was tried)" in answer.sentence and answer.notes == ("The search ended early: the disk is full",)
    render(report)


def test_a_layer_that_the_hardware_offers_no_integers_for_says_so(net: onnx.ModelProto) -> None:
    model, spec = load_model(net), load_spec("x86-avx512-vnni")
    ops = {kind: ways for kind, ways in spec.ops.items() if kind != "add"}
    spec = replace(spec, ops={**ops, "add": tuple(w for w in spec.ops["add"] if w.precision == "float32")})
    floats, space = samples.float_record(), SearchSpace.from_model(model, spec)
    report = from_search(
        SearchResult(floats, floats, (floats,), (), "not faster", Goal(0.01)),
        Measured(model, spec, space, get_metric("top1"), samples.SPLIT, samples.ENVIRONMENT),
        Strategy(model.hash, spec.name),
    )
    add = next(row for row in report.layers if row.name == "add")
    assert not add.quantizable and why(report, add) == "x86-avx512-vnni runs add in float32 only"


@pytest.mark.parametrize(
    ("source", "name"),
    [("a/b/resnet8.onnx", "resnet8"), ("a/cifar10/model.onnx", "cifar10"), ("model.onnx", "model"), ("", "the model")],
)
def test_models_are_named_after_their_files(source: str, name: str) -> None:
    assert model_name(source) == name


def test_snippet_names_all_inputs() -> None:
    info = SimpleNamespace(name="a", dtype="float32", shape=(1, 4))
    page = make_page(samples.report(inputs=(info, info)))
    assert "net(x0, x1)" in page.python and "x1: float32 [1, 4]" in page.python
    compile(page.python, "snippet", "exec")
