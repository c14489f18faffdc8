"""What people should know of a finished stage: its reports -> sentences, or none.

Stages of many shards hand their reports over one at a time: each is read once.
"""

from collections.abc import Iterable

from datus.method.drift import warning
from datus.store.store import ShardReport

WEAK_MODULARITY = 0.03

LOW_VALID_SHARE = 0.2
"""Share of the patches in valid segments below which clusters rest on too little: with a density
of 9 % it was 0.5 to 1 on keys of every strength that was tried (docs/decisions.md 70)."""


def degenerate(reports: Iterable[ShardReport]) -> list[str]:
    from datus.method.affinity import DEGENERATE_DENSITY

    densities = _figures(reports, "density")
    dense = [value for value in densities if value > DEGENERATE_DENSITY]
    if not dense:
        return []
    return [
        f"{len(dense)} of {len(densities)} graphs are degenerate (over "
        f"{100 * DEGENERATE_DENSITY:.0f} % of patch pairs linked): their segments say little; "
        "try a lower graphs.density, --set graphs.center=image or another backbone"
    ]


def weak(reports: Iterable[ShardReport]) -> list[str]:
    values = _figures(reports, "modularity")
    weak = [value for value in values if value < WEAK_MODULARITY]
    if 2 * len(weak) <= len(values):
        return []
    return [
        f"{len(weak)} of {len(values)} images have modularity below {WEAK_MODULARITY}: "
        "their communities may be noise"
    ]


def invalid(reports: Iterable[ShardReport]) -> list[str]:
    shares, n_empty, n_images = 0.0, 0, 0
    for row in (row for report in reports for row in report.numbers.values()):
        shares += row["valid_patch_share"]
        n_empty += row["n_valid"] == 0
        n_images += 1
    said = few_valid(shares / n_images) if n_images else []
    if n_empty:
        said.append(
            f"{n_empty} of {n_images} images have no valid segment: their masks are all 255"
        )
    return said


def few_valid(share: float) -> list[str]:
    """What to do where too small a share of the patches lies in valid segments."""
    if share >= LOW_VALID_SHARE:
        return []
    return [
        f"valid segments cover {100 * share:.1f} % of the patches, expected "
        f"{100 * LOW_VALID_SHARE:.0f} % or more: the segments are smaller than "
        "embeddings.min_patches. Link more patches (a higher graphs.density, and no "
        "graphs.threshold), give the ViT larger images (a larger features.image_px), accept "
        "smaller segments (a lower embeddings.min_patches), or use another backbone"
    ]


def few_labelled(share: float) -> list[str]:
    """Labels of a few sure pixels stay, whatever the others would do."""
    if share >= LOW_VALID_SHARE:
        return []
    return [
        f"{100 * share:.1f} % of all pixels have a label, expected {100 * LOW_VALID_SHARE:.0f} % "
        "or more: see masks.min_confidence and masks.noise"
    ]


def corrections(reports: Iterable[ShardReport]) -> list[str]:
    found, said = list(reports), []  # of a dataset stage: one
    if n_unused := sum(_figures(found, "n_unused")):
        said.append(f"{n_unused:.0f} corrected images are not in this run: they were left out")
    if 0 < sum(_figures(found, "n_images")) == sum(_figures(found, "n_corrected")):
        said.append(
            "every image of the run is corrected, so every mask is as it was given: "
            "give only the images that a person looked at"
        )
    return said


def dropped(reports: Iterable[ShardReport]) -> list[str]:
    found = list(reports)  # of a dataset stage: one
    dropped, trained = _figures(found, "n_dropped"), _figures(found, "n_trained")
    if sum(dropped) <= sum(trained):
        return []
    return [
        f"de-noising left out {sum(dropped):.0f} of {sum(dropped) + sum(trained):.0f} images, "
        "whose masks are nearly all one cluster: the model knows the others only; try more "
        "clusters, or --set denoise.drop_share=1"
    ]


def conflicts(reports: Iterable[ShardReport]) -> list[str]:
    left_out = sum(_figures(reports, "n_conflicts"))
    if not left_out:
        return []
    return [f"{left_out:.0f} edits could not be done again on these clusters: the report says why"]


def drift(reports: Iterable[ShardReport]) -> list[str]:
    rows = (row for report in reports for row in report.numbers.values())
    return [text for text in map(warning, rows) if text]


def _figures(reports: Iterable[ShardReport], name: str) -> list[float]:
    return [row[name] for report in reports for row in report.numbers.values() if name in row]
