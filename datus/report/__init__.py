"""The report of a run: `build_report(ReportInputs) -> {file name: bytes}`. No disk is touched.

records    what goes in
summary    report.json
markdown   report.md
view       what the page shows, in order; pictures and figures make its parts
page       report.html
"""

from datus.report.build import build_report
from datus.report.records import (
    Baselines,
    Compared,
    Distribution,
    Example,
    GalleryItem,
    KResult,
    ReportInputs,
)

__all__ = [
    "Baselines",
    "Compared",
    "Distribution",
    "Example",
    "GalleryItem",
    "KResult",
    "ReportInputs",
    "build_report",
]
