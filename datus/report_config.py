"""Settings of the report: what people look at."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """report.html, and browse.html beside it (docs/report.md)."""

    baselines: bool = True
    """k-means on colour, and on colour and position, is shown beside the masks and, with truth,
    scored on the same pixels of 24 images."""
    browse: int = 10_000
    """Images in browse.html, 15 to 24 KB each; of more, an even sample: the page has to stay quick
    and the disk small. 0 = no browse.html."""


REPORT_RANGES: tuple[tuple[str, float, float], ...] = (("report.browse", 0, 1_000_000),)
