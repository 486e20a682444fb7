"""Runs commands as if on a machine without POSIX: modules, signals and functions that Windows does not have are gone.

Other libraries are imported beforehand, since each chooses its own way by the platform. Usage:
`python without_posix.py COMMAND...`, each command a JSON list of arguments of `textgen`; the first that fails ends it.
"""

import importlib
import json
import os
import signal
import sys
from enum import IntEnum

LIBRARIES = ("torch", "torch._dynamo", "torch._inductor.utils", "torch.onnx", "numpy", "safetensors.torch")
LIBRARIES += ("sentencepiece", "datasets", "click", "pluggy", "rich.live", "rich.progress", "threadpoolctl")
LIBRARIES += ("asyncio", "cProfile", "getpass", "subprocess", "tempfile")

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty", "_curses"}

SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
OF_SIGNAL = {"Signals", "Handlers", "SIG_DFL", "SIG_IGN", "NSIG", "signal", "getsignal", "raise_signal", "strsignal"}
OF_SIGNAL |= {"valid_signals", "set_wakeup_fd", "default_int_handler"}

OF_OS = """
abort access add_dll_directory altsep chdir chmod close closerange cpu_count curdir defpath devnull device_encoding
DirEntry dup dup2 environ error execl execle execlp execlpe execv execve execvp execvpe extsep fdopen fsdecode fsencode
fspath fstat fsync ftruncate get_exec_path get_handle_inheritable get_inheritable get_terminal_size getcwd getcwdb
getenv getlogin getpid getppid isatty kill linesep link listdir lseek lstat makedirs mkdir name open pardir path
PathLike pathsep pipe process_cpu_count putenv read readlink remove removedirs rename renames replace rmdir scandir
sep set_handle_inheritable set_inheritable spawnl spawnle spawnv spawnve startfile stat stat_result statvfs_result
strerror supports_bytes_environ supports_dir_fd supports_effective_ids supports_fd supports_follow_symlinks symlink
system terminal_size times times_result truncate umask uname_result unlink unsetenv urandom utime waitpid
waitstatus_to_exitcode walk write F_OK R_OK W_OK X_OK O_RDONLY O_WRONLY O_RDWR O_APPEND O_CREAT O_EXCL O_TRUNC
P_NOWAIT P_NOWAITO P_WAIT SEEK_SET SEEK_CUR SEEK_END EX_OK
statvfs
"""
"""All but `statvfs`, without which the standard library cannot measure a disk here, exist on Windows."""


class NoPosix:
    """An importer that has none of them."""

    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def remove():
    """Take away what Windows does not have."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, NoPosix())
    kept = {name: int(getattr(signal, name)) for name in SIGNALS}
    for module, names in ((signal, OF_SIGNAL | SIGNALS), (os, set(OF_OS.split()))):
        for name in [name for name in vars(module) if not name.startswith("_") and name not in names]:
            if not isinstance(getattr(module, name), type(sys)):
                delattr(module, name)
    signal.Signals = IntEnum("Signals", kept)


def main(commands):
    remove()
    from textgen.cli import main as textgen

    return next((code for command in commands if (code := textgen(json.loads(command)))), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
