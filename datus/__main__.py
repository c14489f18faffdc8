"""`python -m datus`, and the `datus` command."""

import io
import sys

from datus.cli import app


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of images may hold what it cannot show
            stream.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
