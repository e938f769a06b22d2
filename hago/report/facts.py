"""How the report was measured, and the files in its folder: pairs of a term and its explanation."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from statistics import median

from ..measure.metric_text import MetricText
from ..result_files import LIBRARY_FILE, PURPOSES, QDQ_FILE
from ..strategy import Strategy
from ..text import clock, count, listing, percent, plural, ratio_interval, size
from .data import ReportData


def facts(report: ReportData, metric: MetricText) -> tuple[tuple[str, str], ...]:
    """Term and text of everything needed to assess the numbers, or to reproduce them."""
    found = [
        ("Goal", _goal(report)),
        ("Model", _model(report)),
        ("Hardware spec", f"{report.hw_name}: {report.hw_description}"),
        ("Machine", report.environment.sentence() + "."),
        ("Processor", _processor(report)),
        ("Software", ", ".join(f"{name} {v}" for name, v in report.environment.packages.items())),
        ("Samples", _samples(report)),
        ("Accuracy", _accuracy(report, metric)),
        ("Latency", _latency(report)),
        ("Times of layers", _layer_times(report)),
        ("Sensitivity", _sensitivity(report)),
        ("Search", _search(report)),
    ]
    return tuple((term, text) for term, text in found if text)


def _goal(report: ReportData) -> str:
    """The goal in full."""
    sentence = report.goal.sentence
    return "; ".join([sentence[:1].upper() + sentence[1:], *report.asked]) + "."


def files(report: ReportData) -> tuple[tuple[str, str], ...]:
    """Name and purpose of each file next to the report."""
    return tuple((name, PURPOSES.get(PurePath(name).name, "")) for name in report.files)


def python_snippet(report: ReportData) -> str:
    """How to run the chosen model from Python, compiling it first if there was no linker to save it."""
    names = [f"x{i}" if len(report.inputs) > 1 else "x" for i in range(len(report.inputs))] or ["x"]
    shapes = [f"{name}: {i.dtype} {list(i.shape)}" for name, i in zip(names, report.inputs, strict=False)]
    comment = f"  # {', '.join(shapes)}" if shapes else ""
    opened = f'load("{LIBRARY_FILE}")' if _is_saved(report) else f'compile("{QDQ_FILE}")'
    return f"import hago\n\nnet = hago.{opened}{comment}\noutputs = net({', '.join(names)})"


def shell_snippet(report: ReportData) -> str:
    """How to run the chosen model from a shell."""
    if report.where:
        return "python run.py samples.npz  # on the device, next to model.so"
    run = "hago run model.so --data samples.npz"
    return run if _is_saved(report) else f"hago compile model.qdq.onnx --out model.so  # needs a linker\n{run}"


def _is_saved(report: ReportData) -> bool:
    return any(PurePath(name).name == LIBRARY_FILE for name in report.files)


def precisions(strategy: Strategy | None) -> str:
    """How many layers a strategy runs in which precision: ``18 int8, 2 bfloat16``."""
    if strategy is None:
        return ""
    counted = Counter(c.precision for c in strategy.choices.values() if c.precision != "float32")
    return ", ".join(f"{n} {name}" for name, n in counted.most_common()) or "none"


def _model(report: ReportData) -> str:
    layers = report.layers
    macs, params = sum(row.macs for row in layers), sum(row.params for row in layers)
    moving = sum(row.moves_data for row in layers)
    moves = f", {moving} of which only {'moves' if moving == 1 else 'move'} data (not counted above)" if moving else ""
    return (
        f"{report.model_source}, SHA-256 {report.model_hash[:16]}…, {plural(len(layers), 'layer')}{moves}, "
        f"{count(macs)} multiply-adds, {count(params)} parameters, batch {report.batch}."
    )


def _processor(report: ReportData) -> str:
    environment, parts = report.environment, []
    if environment.features:
        parts.append(" ".join(environment.features))
    if environment.caches:
        told = [f"{name} {bytes_ // 1024} KiB" for name, bytes_ in environment.caches.items()]
        parts.append(f"caches {', '.join(told)}")
    if environment.governor:
        parts.append(f"frequency governor {environment.governor}")
    if environment.load is not None:
        parts.append(f"load average {environment.load:.2f} on {plural(environment.cores, 'core')} at the start")
    return "; ".join(parts) + "." if parts else ""


def _samples(report: ReportData) -> str:
    split = report.split
    sizes = [f"{split.sizes[part]:,} for {part}" for part in ("calibration", "search", "test")]
    drawn = [part for part in ("calibration", "search", "test") if part not in split.given]
    how = ""
    if split.given:
        how += f" The {listing(split.given)} samples were given separately."
    if len(drawn) > 1:
        spread = ", balanced over the classes" if split.stratified else ""
        how += f" The {listing(drawn)} samples were drawn from one set with seed {split.seed}{spread}."
    if any(split.left_out.values()):
        left = [f"{count:,} of the {part} samples" for part, count in split.left_out.items() if count]
        how += f" {listing(left)} were left out to meet the time budget."
    if split.duplicates:
        how += f" {plural(split.duplicates, 'sample')} repeat another of their set; equal samples share a part."
    return (
        f"{listing(sizes)}; the parts share no sample. Calibration finds ranges, search chooses, and the test "
        f"part, which the search never sees, gives the final accuracy.{how}"
    )


def _accuracy(report: ReportData, metric: MetricText) -> str:
    if report.metric.whole_set:
        return (
            f"{report.metric.name}, of all samples of the part at once, from the outputs of the compiled model. "
            "Intervals are 95 %, from at most 200 resamples, the same for float32 and for every candidate (none if "
            "they would take too long)." + _checked(report)
        )
    text = (
        f"{report.metric.name}, from the outputs of the compiled model, on every sample of the part. Intervals "
        "are 95 %. "
    )
    if metric.is_share:
        text += "For shares they are Wilson's; for changes against float32, paired by sample, Bonett and Price's"
        p_value = report.chosen.p_value
        if p_value is not None and not report.is_float:
            text += f"; McNemar's exact test of “no change” gives p = {p_value:.2g}"
        if report.chosen_search.expected_change is not None:
            text += (
                ". A strategy counts as within the bound only if it is so as measured and is likely to be on other "
                "samples, judged by float32's confidence in each answer that changed"
            )
        return text + "." + _checked(report)
    return (
        text
        + "For values and for changes against float32, paired by sample, they come from the bootstrap."
        + _checked(report)
    )


def _latency(report: ReportData) -> str:
    if report.joint:
        return (
            f"Every candidate ran on each device, {report.where}. Ratios are to float32 on the same device, timed in "
            "turns there, or of counted instructions (estimated) if the device is emulated."
        )
    if report.estimated:
        return (
            "Estimated: no board was attached. An emulator runs the compiled network and counts all instructions of "
            "one call, including the runtime's; ratios are of such counts. Counts are exact and reproducible, but "
            "they are not times: caches, latencies and parallel issue are not included."
        )
    rounds = "" if report.rounds is None else f" of {report.rounds} rounds"
    calls = "one sample" if report.batch == 1 else f"a batch of {report.batch}"
    return (
        f"One call with {calls}, {_from_to(report)}, on "
        f"{plural(report.chosen.threads or report.environment.threads or 1, 'thread')}. Each candidate and "
        "float32, compiled by the same compiler, take turns round by round in random order after a warm-up, so "
        f"that whatever disturbs the machine disturbs both. Times are medians{rounds} with distribution-free "
        "95 % intervals; ratios compare medians of the same rounds, with paired bootstrap intervals, widened by the "
        f"variation between processes.{_clock(report)}"
    )


def _clock(report: ReportData) -> str:
    """What kind of time the latency is, and how quiet the machine was."""
    record, told = report.chosen, ""
    if record.clock is not None:
        told += f" Latency is {record.clock}."
    if record.disturbed is not None:
        told += f" Other work interrupted {percent(record.disturbed)} of the calls."
    if report.baseline.aa_ratio is not None:
        times = ratio_interval(report.baseline.aa_ratio, report.baseline.aa_ratio_interval)
        told += f" A/A test: float32 took {times} times as long as a second network with the same kernels."
    return told


def _from_to(report: ReportData) -> str:
    if report.where:
        return f"timed by the device itself ({report.where})"
    return "from numpy arrays in to numpy arrays out"


def _checked(report: ReportData) -> str:
    """How the device's outputs were compared with this machine's, if there is a device."""
    checked = report.chosen.checked
    if not report.where or report.chosen.device is None:
        return ""
    if not checked:
        return " The network has float layers, which may round differently elsewhere, so its outputs were not compared."
    return (
        f" The network is all integers, with one right answer on every machine: accuracy was measured here, and the "
        f"outputs of {plural(checked, 'sample')} on the device were the same, bit for bit."
    )


def _layer_times(report: ReportData) -> str:
    if all(row.float_s is None for row in report.layers):
        return ""
    each = "The instructions of each kernel are counted" if report.estimated else "Each kernel is timed"
    return (
        f"{each} separately, so their sum is not exactly the time of the whole. A layer that is fused into a "
        "neighbour's kernel (an addition after a convolution) shows no time."
    )


def _sensitivity(report: ReportData) -> str:
    if all(row.sensitivity is None for row in report.layers):
        return ""
    return (
        "One group of layers at a time is quantized while all others stay in float32: error power over signal power "
        "of the final outputs, on calibration samples. The errors of groups approximately add up."
    )


def _search(report: ReportData) -> str:
    search, records = report.search, report.records
    states = Counter(record.state for record in records)
    told = [f"{states['pruned']} stopped early as hopeless"] if states["pruned"] else []
    told += [f"{states['failed']} failed"] if states["failed"] else []
    more = f" ({listing(told)})" if told else ""
    spent = [record.trial_s for record in records if record.trial_s is not None]
    per_trial = f", {clock(median(spent))} for a trial (median)" if spent else ""
    took = f" in {clock(search.seconds)}"
    if report.resumed:
        took = f" in more than one run, the last of {clock(search.seconds)}"
    first = ""
    if search.first_within_s is not None:
        first = f" The first strategy within the bound was found after {clock(search.first_within_s)}."
    stopped = f" Reason for stopping: {search.stopped}." if search.stopped else ""
    sizes = [size(r.size_bytes) for r in (report.float_search, report.chosen_search) if r.size_bytes]
    weights = f" Constants as deployed: float32 {sizes[0]}, chosen {sizes[1]}." if len(sizes) == 2 else ""
    return (
        f"{plural(len(records), 'trial')}{more}{took}{per_trial}; sampler {search.sampler}, "
        f"seed {search.seed}, objectives {listing(search.objectives)}.{first}{stopped}{weights}"
    )
