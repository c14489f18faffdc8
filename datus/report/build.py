"""One finished run to its report: JSON for programs, Markdown in short, a page to look at.

In: `ReportInputs`. Out: file name -> bytes. No disk, no clock, no host: same inputs, same bytes.
"""

from datus.report.markdown import to_markdown
from datus.report.page import to_html
from datus.report.records import ReportInputs
from datus.report.summary import to_json


def build_report(inputs: ReportInputs) -> dict[str, bytes]:
    """The three files of a report, UTF-8: "report.json", "report.md" and "report.html"."""
    return {
        "report.json": to_json(inputs),
        "report.md": to_markdown(inputs),
        "report.html": to_html(inputs),
    }
