"""New images against the run that the clusters were taken from: for JSON, tables and two plots.

In: `drift.Drift`. Figures are lengths of unit vectors' differences, 0 to 2, or percent.
"""

from typing import Any

from datus.method.drift import FAR, VERY_FAR, Drift
from datus.report import figures
from datus.report.numbers import percent as percent_text
from datus.report.numbers import short, significant

SHOWN = (5, 25, 50, 75, 95, 99)
"""Percentiles in tables."""

HEAD = (
    "measure",
    *(f"{percent} %" for percent in SHOWN),
    f"% beyond the old {FAR} %",
    f"% beyond the old {VERY_FAR} %",
    "% of images mostly beyond",
)

CLUSTER_HEAD = (
    *("cluster", "segments then", "now", "median then", "now"),
    f"% beyond the old {FAR} %",
)

ALL_KNOWN = "The clusters were made from all of these images: none is new, so there is no drift."


def sentence(drift: Drift) -> str:
    """What the tables are about."""
    if not drift.n_segments:
        return ALL_KNOWN
    unsure = " and ".join(measure.name for measure in drift.measures if not measure.sure)
    return (
        f"The clusters come from an earlier run. {drift.n_images:,} images with "
        f"{drift.n_segments:,} segments were not part of it. Each segment is held against the old "
        f"ones of its cluster: if nothing has changed, {100 - FAR} % lie beyond {FAR} % of them. "
        "Of what lies outside the clusters' space (their PCA dropped it) k-means knows nothing."
    ) + (f" Too few old segments to judge by the {unsure}: its shares are too high." * bool(unsure))


def rows(drift: Drift) -> list[tuple[str, ...]]:
    """Under HEAD: two lines a measure, the old run and the new images."""
    rows = []
    for measure in drift.measures:
        then = (short(float(measure.before[percent])) for percent in SHOWN)
        now = (short(float(measure.now[percent])) for percent in SHOWN)
        rows.append((f"{measure.name}, then", *then, *(str(100 - p) for p in (FAR, VERY_FAR)), "–"))
        shares = (measure.far, measure.very_far, measure.images)
        rows.append((f"{measure.name}, now", *now, *map(percent_text, shares)))
    return rows


def cluster_rows(drift: Drift) -> list[tuple[str, ...]]:
    """Under CLUSTER_HEAD, in order of number; the last cell has a share for each measure."""
    return [
        (
            str(number),
            f"{cluster.n_before:,}",
            f"{cluster.n_now:,}",
            short(cluster.median_before),
            short(cluster.median_now),
            " / ".join(map(percent_text, cluster.far)),
        )
        for number, cluster in enumerate(drift.clusters)
    ]


def charts(drift: Drift) -> list[figures.Chart]:
    """For each measure, how many segments lie within a length, then and now."""
    if not drift.n_segments:
        return []
    return [
        figures.cumulative(
            f"percent of segments up to this {measure.name}",
            {"then": measure.before.tolist(), "now": measure.now.tolist()},
        )
        for measure in drift.measures
    ]


def as_json(drift: Drift) -> dict[str, Any]:
    """For report.json; not defined is null."""
    return {
        "n_new_images": drift.n_images,
        "n_new_segments": drift.n_segments,
        "warning": drift.words,
        "measures": [
            {
                "name": measure.name,
                "sure": measure.sure,
                "before": {str(p): significant(float(measure.before[p])) for p in SHOWN},
                "now": {str(p): significant(float(measure.now[p])) for p in SHOWN},
                f"percent_beyond_{FAR}": significant(measure.far),
                f"percent_beyond_{VERY_FAR}": significant(measure.very_far),
                "percent_of_images_mostly_beyond": significant(measure.images),
            }
            for measure in drift.measures
        ],
        "clusters": [
            {
                "segments_before": cluster.n_before,
                "segments_now": cluster.n_now,
                "median_before": significant(cluster.median_before),
                "median_now": significant(cluster.median_now),
                f"percent_beyond_{FAR}": [significant(share) for share in cluster.far],
            }
            for cluster in drift.clusters
        ],
    }
