"""What a process does besides computing: files opened, code run, programs started, as Python's audit events tell it."""

import os
import sys
from pathlib import Path

CODE = {"exec", "compile", "code.__new__", "function.__new__", "pickle.find_class", "marshal.loads", "import"}
CODE |= {"ctypes.dlopen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen"}
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown"}
CHANGES |= {"os.truncate", "os.putenv", "os.unsetenv", "os.kill", "shutil.rmtree", "shutil.move", "shutil.copyfile"}
METADATA = ("METADATA", "entry_points.txt", "PKG-INFO")
"""Files of installed packages by which plugins are found; reading them is no reach out of a folder."""


class Watch:
    """Records everything that opening a folder of data must not do. It cannot be taken off: watch a child process."""

    def __init__(self) -> None:
        self._folder = ""
        self._seen: list[str] = []
        self._busy = True
        sys.addaudithook(self._hear)

    def enter(self, folder: Path) -> None:
        """From now on only files in this folder may be opened."""
        self._folder, self._seen, self._busy = os.path.realpath(folder), [], False

    def leave(self) -> list[str]:
        """Look away; returns what was seen."""
        self._busy = True
        return self._seen

    def _hear(self, event: str, arguments: tuple) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            if event == "open":
                self._opened(*arguments)
            elif event in CODE or event in CHANGES or event.startswith("socket."):
                self._seen.append(f"{event} {str(arguments)[:200]}")
        finally:
            self._busy = False

    def _opened(self, path: object, mode: object, flags: int) -> None:
        if not isinstance(path, (str, bytes)):
            return
        name = Path(os.fsdecode(path))
        linked = flags & os.O_NOFOLLOW and name.is_symlink()  # which the system refuses to open
        real = os.path.realpath(name.parent) + os.sep + name.name if linked else os.path.realpath(name)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        found = tuple(filter(None, sys.path))
        installed = str(name) in found or (name.name in METADATA and str(name).startswith(found))
        if writes or not (installed or real.startswith(self._folder + os.sep)):
            self._seen.append(f"open {name} ({mode}, {flags:o})")
