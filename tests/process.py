"""The command as a process: its own signals and its own three files, forked from here, where everything is imported."""

import os
import signal
import sys
import tempfile
import traceback
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """What a process leaves behind."""

    code: int
    out: bytes
    err: str


def place(number, handle):
    """Put an open file at 0, 1 or 2, or nothing."""
    if handle is None:
        os.close(number)
    elif handle != number:
        os.dup2(handle, number)


def text_file(number, handle, mode, encoding):
    """Python's own idea of standard input, output or error."""
    if handle is None:
        return None
    errors = "backslashreplace" if number == 2 else "strict"
    return open(number, mode, encoding=encoding, errors=errors, closefd=False)


def fork(function):
    """A child that calls a function and leaves with what it returns (None counts as 0), or with 70; its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads; they are idle
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, AttributeError):
            sys.stderr.flush()
        os._exit(code)


def begin(arguments, handles, encoding="utf-8", prepare=None):
    """Fork a child that runs `textgen ARGUMENTS` with these files as standard input, output and error."""

    def command():
        for number, handle in enumerate(handles):
            place(number, handle)
        streams = zip(range(3), handles, "rww", strict=True)
        sys.stdin, sys.stdout, sys.stderr = (text_file(n, h, mode, encoding) for n, h, mode in streams)
        sys.argv = ["textgen", *map(str, arguments)]
        if prepare is not None:
            prepare()
        from textgen.__main__ import run

        try:
            run()
        except SystemExit as end:
            try:
                for stream in (sys.stdout, sys.stderr):
                    stream is None or stream.flush()
            except OSError:
                return 120  # as Python does
            return end.code

    return fork(command)


def wait(child):
    """The exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def a_file(content=b""):
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


def process(*arguments, stdin=b"", out=-1, err=-1, **how):
    """Run `textgen ARGUMENTS` to its end. `out` and `err` may be open files, or None for none at all; what
    goes to -1 is kept."""
    with a_file(stdin or b"") as typed, a_file() as kept_out, a_file() as kept_err:
        handles = [
            None if stdin is None else typed.fileno(),
            kept_out.fileno() if out == -1 else out,
            kept_err.fileno() if err == -1 else err,
        ]
        code = wait(begin(arguments, handles, **how))
        kept_out.seek(0), kept_err.seek(0)
        return Ended(code, kept_out.read(), kept_err.read().decode("utf-8", "replace"))


def as_nobody():
    """Become someone who owns nothing, where this is root."""
    if os.geteuid() == 0:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)


def sentence(ended, code=1):
    """The one sentence with which a process ended, without a traceback."""
    lines = ended.err.splitlines()
    assert ended.code == code and "Traceback" not in ended.err and "ignored" not in ended.err, ended
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1 and errors[0].endswith((".", "?", ")")), ended
    return errors[0].removeprefix("Error: ")


def unfinished(root):
    """What stands in a folder under the names of files that are being written."""
    return [path.name for path in Path(root).rglob(".*.tmp-*")]
