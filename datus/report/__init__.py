"""The report of a run: `build_report(ReportInputs) -> {file name: bytes}`.

records    what goes in
summary    report.json
view       what the others show, in order; pictures, figures and drift make its parts
page       report.html and report.md

No disk, no clock, no host: same inputs, same bytes.
"""

from datus.report.page import rendered
from datus.report.records import ReportInputs
from datus.report.summary import to_json


def build_report(inputs: ReportInputs) -> dict[str, bytes]:
    """The three files of a report, UTF-8: "report.json", "report.md" and "report.html"."""
    return {"report.json": to_json(inputs), **rendered(inputs)}
