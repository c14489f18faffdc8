"""How the process of a command ends: at once, and with nothing left unsaid or undone."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

BEFORE = """
import os, sys
import datus.cli.app, datus.__main__ as program

class Held:
    def __del__(self, write=os.write):
        write(1, b"taken apart\\n")

held = Held()  # as what libraries keep: Python comes to it in the end

def app():
    {app}

datus.cli.app.app = app
program.command()
"""


def ended(app: str, *options: str) -> tuple[int, list[str], list[str]]:
    """(exit code, stdout, stderr) of a process whose command does this."""
    script = BEFORE.format(app=textwrap.dedent(app).strip().replace("\n", "\n    "))
    done = subprocess.run(
        [sys.executable, *options, "-c", script], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.parametrize(
    ("app", "code"),
    [("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(1)", 1), ("sys.exit(2)", 2), ("pass", 0)],
)
def test_a_process_leaves_without_taking_apart_what_it_loaded(app: str, code: int) -> None:
    assert ended(f"sys.stdout.write('said')\n{app}") == (code, ["said"], [])


def test_what_is_registered_for_the_end_is_done() -> None:
    app = """
    import atexit
    atexit.register(print, "done at last")
    print("said")
    """
    assert ended(app) == (0, ["said", "done at last"], [])


def test_threads_that_wait_for_work_keep_nobody_from_leaving() -> None:
    app = """
    from datus.compute.threads import map_threads
    print(map_threads(abs, [-1, -2, -3], 2))
    """
    assert ended(app) == (0, ["[1, 2, 3]"], [])


def test_a_thread_that_works_is_waited_for() -> None:
    app = """
    import threading, time
    threading.Thread(target=lambda: (time.sleep(0.3), print("worked"))).start()
    """
    assert ended(app) == (0, ["worked", "taken apart"], [])


def test_who_measures_sees_the_end() -> None:
    code, said, _ = ended("sys.setprofile(lambda *_: None)")
    assert (code, said) == (0, ["taken apart"])


def test_words_for_an_exit_code_are_said() -> None:
    code, _, said = ended("sys.exit('no')")
    assert (code, said) == (1, ["no"])


def test_ctrl_c_is_one_line() -> None:
    code, said, errors = ended("raise KeyboardInterrupt")
    assert (code, said) == (130, [])
    assert errors == ["interrupted: the same command goes on where it stopped"]


def test_an_error_of_ours_has_its_traceback() -> None:
    code, said, errors = ended("raise RuntimeError('a bug')")
    assert (code, said, errors[-1]) == (1, ["taken apart"], "RuntimeError: a bug")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_before_the_start_are_no_failure(
    closed: str, tmp_path: Path
) -> None:
    """Nor does a file get their numbers, and what is said."""
    app = """
    file = open(sys.argv[1], "w")
    print("said"), print("said", file=sys.stderr), os.write(1, b"said"), os.write(2, b"said")
    sys.exit(0 if file.fileno() > 2 and sys.stderr.isatty() is False else 3)
    """
    script = BEFORE.format(app=textwrap.dedent(app).strip().replace("\n", "\n    "))
    command = ["sh", "-c", f'exec "$0" -c "$1" "$2" {closed}', sys.executable, script]
    done = subprocess.run([*command, tmp_path / "file"], capture_output=True, check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("app", ["print('said')", "print('x' * 100_000)"])
def test_a_full_disk_under_what_is_said_is_one_line(app: str) -> None:
    with open("/dev/full", "w") as full:
        script = BEFORE.format(app=app)
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=-1, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == ("error: cannot write what this command says: No space left on device\n")


def test_a_pipe_that_was_closed_is_no_clean_end() -> None:
    script = BEFORE.format(app="print('x' * 100_000)")
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
