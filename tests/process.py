"""Fresh processes: the command with its own signals and its own three files, and functions that die.

They are forked from a server that has imported torch and computed nothing, never from here: after autograd has run, a
process may hold threads that a fork does not copy, and a build of torch with CUDA refuses gradients in the child.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest import mock

SERVER = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
"""Windows has no fork; what needs signals or numbered files is skipped there."""
if os.name != "nt":
    SERVER.set_forkserver_preload(
        ["pytest", "hypothesis", "rich.progress", "torch._dynamo", "torch._inductor.utils", "torch.onnx"]
        + ["textgen.cli.train", "textgen.cli.sample", "textgen.training.start", "textgen.tracing"]
    )


class Ended(NamedTuple):
    """What a process leaves behind."""

    code: int
    out: bytes
    err: str


class Inherited:
    """An open file of this process, as a number that a fresh process can use."""

    def __init__(self, handle):
        self.handle = handle

    def __reduce__(self):
        return _received, (DupFd(self.handle),)


def _received(file):
    return file.detach()


def place(number, handle):
    """Put an open file at 0, 1 or 2, or nothing."""
    if handle is None:
        with suppress(OSError):
            os.close(number)
    else:
        os.dup2(handle, number)


def text_file(number, handle, mode, encoding):
    """Python's own idea of standard input, output or error."""
    if handle is None:
        return None
    errors = "backslashreplace" if number == 2 else "strict"
    return open(number, mode, encoding=encoding, errors=errors, closefd=False)


def start(function, *arguments, handles=(0, 1, 2), encoding="utf-8"):
    """A fresh process that calls a function of a module, in this folder and environment, with these files as standard
    input, output and error; it ends with what the function returns (None counts as 0), or with 70."""
    given = [None if handle is None or os.name == "nt" else Inherited(handle) for handle in handles]
    call = partial(_call, function, arguments, given, encoding, Path.cwd(), dict(os.environ))
    child = SERVER.Process(target=call, daemon=True)
    with mock.patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):  # which the child need not import
        child.start()
    return child


def _call(function, arguments, handles, encoding, folder, environment):
    """What the fresh process does; it does not return."""
    code = 70
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        if os.name != "nt":
            for number, handle in enumerate(handles):
                place(number, handle)
            for handle in handles:
                handle is None or handle < 3 or os.close(handle)
            streams = zip(range(3), handles, "rww", strict=True)
            sys.stdin, sys.stdout, sys.stderr = (text_file(n, h, mode, encoding) for n, h, mode in streams)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = function(*arguments) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, AttributeError):
            sys.stderr.flush()
        os._exit(code)


def wait(child):
    """The exit code of a process, or minus the signal that ended it."""
    child.join()
    return child.exitcode


def in_child(function, *arguments):
    """Call a function of a module in a fresh process; returns its exit code, or minus the signal that ended it."""
    return wait(start(function, *arguments))


def begin(arguments, handles, encoding="utf-8", prepare=None):
    """A fresh process that runs `textgen ARGUMENTS` with these files as standard input, output and error, after
    `prepare()`."""
    return start(_command, [*map(str, arguments)], prepare, handles=handles, encoding=encoding)


def _command(arguments, prepare):
    sys.argv = ["textgen", *arguments]
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
