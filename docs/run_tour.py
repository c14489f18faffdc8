"""Execute docs/tour.ipynb in a kernel and keep its outputs, small ones only.

    python docs/run_tour.py                  in place
    python docs/run_tour.py --out FILE       elsewhere
    jupyter lab docs/tour.ipynb              by hand

Needs nbclient and ipykernel (pip install 'datus[dev]'). Of pictures that come as JPEG and as PNG
the JPEG stays; of one that comes as HTML too, the HTML.
"""

import argparse
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).with_name("tour.ipynb")


def execute(notebook: Any) -> None:
    """Run all cells in the folder of the docs. Raises CellExecutionError."""
    place = {"metadata": {"path": str(TOUR.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()


def slim(notebook: Any) -> None:
    """One form of each picture; no times of cells, no version of the kernel."""
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data or "image/jpeg" in data:
                data.pop("image/png", None)
            output.get("metadata", {}).clear()
    notebook.metadata.language_info = {"name": "python"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=TOUR)
    given = parser.parse_args()
    notebook = nbformat.read(TOUR, as_version=4)
    execute(notebook)
    slim(notebook)
    nbformat.write(notebook, given.out)
    print(f"{given.out}: {given.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
