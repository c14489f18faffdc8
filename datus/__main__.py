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


def command() -> None:
    """`main` in a process of its own."""
    code: object = 0
    _open_streams()
    try:
        main(own_process=True)
    except SystemExit as stop:
        code = stop.code
    if code is None or isinstance(code, int):
        _exit_at_once(code or 0)
    raise SystemExit(code)


def _exit_at_once(code: int) -> None:
    """End the process without taking apart what torch and timm loaded, which takes a second or
    more. Functions that were registered with atexit run first.

    Returns where Python must end in its own way: a thread still works, or a profiler or a coverage
    tool is measuring.
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
        code = _report_lost_output(error)
    os._exit(code)


def _report_lost_output(error: Exception) -> int:
    """Say in one line why the output cannot be written, unless the reader of a pipe left. The exit
    code, 1."""
    with suppress(OSError, ValueError):  # otherwise Python tries to write it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        with suppress(OSError, ValueError):
            reason = getattr(error, "strerror", None) or error
            print(f"error: cannot write what this command says: {reason}", file=sys.stderr)
    return 1


def _open_streams() -> None:
    """Open the standard streams that are closed, as in cron jobs and daemons. Otherwise the next
    file to be opened takes their number, and receives what libraries print."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # stderr
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
            if isinstance(stream, io.TextIOWrapper):  # its encoding may lack characters of a name
                stream.reconfigure(errors="backslashreplace")
        app()
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:
        if _is_interrupt(stop):
            _interrupted()
        raise
    except OSError as error:
        if not _is_lost(sys.stdout):
            raise
        raise SystemExit(_report_lost_output(error)) from None
    finally:
        # Ctrl-C while Python ends would only change the exit code
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_lost(stream: TextIO) -> bool:
    """Nothing more can be written. What failed before is not kept, so a line end is tried."""
    try:
        stream.write("\n")
        stream.flush()
    except (OSError, ValueError):
        return True
    return False


def _is_interrupt(stop: SystemExit) -> bool:
    """Ctrl-C outside of a command, which typer turns into an exit without a message."""
    error = stop.__context__
    return isinstance(error, KeyboardInterrupt) or (
        error is not None and isinstance(error.__cause__, KeyboardInterrupt)
    )


def _interrupted() -> None:
    print(INTERRUPTED, file=sys.stderr)
    raise SystemExit(130) from None


if __name__ == "__main__":
    command()
