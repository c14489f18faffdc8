"""`python -m datus`, and the `datus` command."""

import atexit
import io
import os
import signal
import sys
import threading

from datus.errors import INTERRUPTED


def command() -> None:
    """`main` as a process of its own: it ends without needless work."""
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    if code is None or isinstance(code, int):
        _end(code or 0)
    raise SystemExit(code)


def _end(code: int) -> None:
    """Leave at once, if nothing is under way: to take apart what torch and timm have loaded, piece
    by piece, took a second and more. What was registered for the end is done before.

    Returns where Python must end in its own way: a thread still works, somebody measures (profiles,
    coverage), or what was said cannot be written.
    """
    if "datus.threads" in sys.modules:
        from datus.threads import end_waiting

        end_waiting()
    others = set(threading.enumerate()) - {threading.current_thread()}
    if not all(thread.daemon for thread in others) or sys.getprofile() or sys.gettrace():
        return
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed before the program began
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


def main() -> None:
    """The command line. Ctrl-C at any moment, also while libraries load, is one line and 130."""
    try:
        from datus.memory import be_frugal

        be_frugal()
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
    command()
