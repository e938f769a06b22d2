"""What a search found, as one HTML page that needs nothing else, and the same as Markdown.

    data = from_search(result, Measured(model, spec, space, ...))
    write_report(data, "out")

Nothing here measures or decides: `ReportData` holds the facts, and the templates (``*.j2``) show them.
"""

from ..measure.metric_text import describe_metric
from .data import BlockerRow, LayerRow, MetricInfo, PeerRow, ReportData, SearchFacts
from .from_search import Measured, from_search
from .write import write_report

__all__ = [
    "BlockerRow",
    "LayerRow",
    "Measured",
    "MetricInfo",
    "PeerRow",
    "ReportData",
    "SearchFacts",
    "describe_metric",
    "from_search",
    "write_report",
]
