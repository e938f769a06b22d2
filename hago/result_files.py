"""The files in the folder of a tuning job, by name: what each is for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

LIBRARY_FILE = "model.so"
SCRIPT_FILE = "run.py"
QDQ_FILE = "model.qdq.onnx"
STRATEGY_FILE = "strategy.yaml"
RECORDS_FILE = "records.jsonl"
STUDY_FILE = "study.db"
JOB_FILE = "search.json"
ENVIRONMENT_FILE = "environment.json"
CALIBRATION_FILE = "calibration.npz"
HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
ANSWER_FILE = "answer.md"

PURPOSES: Mapping[str, str] = MappingProxyType({
    LIBRARY_FILE: "the chosen model, compiled: one file that needs only TVM's runtime",
    SCRIPT_FILE: "runs model.so on samples, on the device, with only numpy and TVM's runtime",
    QDQ_FILE: "the chosen model as standard ONNX (QuantizeLinear and DequantizeLinear): opens in Netron, runs in ONNX "
    "Runtime, OpenVINO and TensorRT",
    STRATEGY_FILE: "the answer itself, layer by layer: the precision, and how it is quantized",
    RECORDS_FILE: "everything that was measured, one JSON record per line",
    STUDY_FILE: "the Optuna study: view it with optuna-dashboard, continue it with hago tune --resume",
    JOB_FILE: "the job of the search, from which hago answer answers other goals",
    ENVIRONMENT_FILE: "the machine and the software used for measuring",
    CALIBRATION_FILE: "the ranges of all activations, found in calibration",
    HTML_FILE: "this report",
    MARKDOWN_FILE: "this report as Markdown",
})  # fmt: skip
"""What a report says of each, in the order of use."""

ANSWER_FILES = (LIBRARY_FILE, QDQ_FILE, STRATEGY_FILE)
SEARCH_FILES = (RECORDS_FILE, STUDY_FILE, JOB_FILE, ENVIRONMENT_FILE, CALIBRATION_FILE, HTML_FILE, MARKDOWN_FILE)
"""What stays of the search besides the answer."""
