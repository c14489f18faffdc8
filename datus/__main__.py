"""`python -m datus`, and the `datus` command: arguments in, an exit code out.

command()    a process of its own: closed streams are opened, and it leaves at once
main()       the same in a process that goes on, for tests
"""

import atexit
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TextIO

from datus.errors import INTERRUPTED

STDERR = 2
"""Its number."""


def command() -> None:
    """`main` as a process of its own: it ends without needless work."""
    code: object = 0
    _open_streams()
    try:
        main(own_process=True)
    except SystemExit as stop:
        code = stop.code
    if code is None or isinstance(code, int):
        _end(code or 0)
    raise SystemExit(code)


def _end(code: int) -> None:
    """Leave at once, if nothing is under way: to take apart what torch and timm have loaded, piece
    by piece, took a second and more. What was registered for the end is done before.

    Returns where Python must end in its own way: a thread still works, or somebody measures
    (profiles, coverage).
    """
    if "datus.compute.threads" in sys.modules:
        from datus.compute.threads import end_waiting

        end_waiting()
    others = set(threading.enumerate()) - {threading.current_thread()}
    if not all(thread.daemon for thread in others) or sys.getprofile() or sys.gettrace():
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError) as error:
        code = _unsaid(error)
    os._exit(code)


def _unsaid(error: Exception) -> int:
    """What a command says cannot be written: the reason in one line, and 1. Nothing to a pipe whose
    reader left."""
    with suppress(OSError, ValueError):  # or Python would try again, and fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        with suppress(OSError, ValueError):
            reason = getattr(error, "strerror", None) or error
            print(f"error: cannot write what this command says: {reason}", file=sys.stderr)
    return 1


def _open_streams() -> None:
    """Cron jobs and daemons start programs with closed streams. What is opened next would take
    their place, and get what libraries print."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def main(own_process: bool = False) -> None:
    """The command line. Ctrl-C at any moment, also while libraries load, is one line and 130."""
    try:
        if own_process:
            from datus.compute.memory import tune_allocator

            tune_allocator()
        from datus.cli.app import app

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
    except OSError as error:
        if not _fails(sys.stdout):
            raise
        raise SystemExit(_unsaid(error)) from None
    finally:
        # all is said and done: Ctrl-C while Python ends would only take the exit code away
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fails(stream: TextIO) -> bool:
    """Nothing more can be written to it; what failed once is not kept, so a line end is tried."""
    try:
        stream.write("\n")
        stream.flush()
    except (OSError, ValueError):
        return True
    return False


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
