"""`python -m datus`, and the `datus` command."""

import io
import signal
import sys

from datus.errors import INTERRUPTED


def main() -> None:
    """The command line. Ctrl-C at any moment, also while libraries load, is one line and 130."""
    try:
        from datus.cli import app

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # names of images may hold what it cannot show
                stream.reconfigure(errors="backslashreplace")
        app()
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:
        if _is_interrupt(stop):
            _interrupted()
        raise
    finally:
        # all is said and done: Ctrl-C while Python ends would only take the exit code away
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_interrupt(stop: SystemExit) -> bool:
    """Ctrl-C outside of what a command does: typer turns it into an exit without a word."""
    before = stop.__context__
    return isinstance(before, KeyboardInterrupt) or (
        before is not None and isinstance(before.__cause__, KeyboardInterrupt)
    )


def _interrupted() -> None:
    print(INTERRUPTED, file=sys.stderr)
    raise SystemExit(130) from None


if __name__ == "__main__":
    main()
