"""Disks that fail and processes that die: what tests put in the place of `textgen.storage.filesystem.system`."""

import os
import signal

from textgen.storage import filesystem

CALLS = ("open", "append", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir", "sync_folder")


class Quick(filesystem.System):
    """A disk that is not really synced, which takes time and which no test can see."""

    def fsync(self, handle):
        pass

    def sync_folder(self, path):
        pass


class Watched(Quick):
    """Tells `before` and `after` of each call; `count` is its number, from 1."""

    def __init__(self):
        self.count = 0

    def before(self, name, *args):
        pass

    def after(self, name, result, *args):
        pass


def _watched(name):
    plain = getattr(Quick, name)

    def call(self, *args):
        self.count += 1
        self.before(name, *args)
        result = plain(self, *args)
        self.after(name, result, *args)
        return result

    return call


for _name in CALLS:
    setattr(Watched, _name, _watched(_name))


class Short(Quick):
    """Writes at most seven bytes at a time."""

    def write(self, handle, data):
        return super().write(handle, data[:7])


class Failing(Watched):
    """Raises OSError at call `at`, and at all later ones if `lasting`, but for those that remove; a write that fails
    does half its work."""

    def __init__(self, at, error, lasting=False):
        super().__init__()
        self.at, self.error, self.lasting = at, error, lasting

    def before(self, name, *args):
        lasting = self.lasting and self.count > self.at and name not in ("unlink", "rmdir")
        if self.count == self.at or lasting:
            if name == "write":
                os.write(args[0], bytes(args[1][: len(args[1]) // 2]))
            if name == "close":
                os.close(args[0])
            raise OSError(self.error, os.strerror(self.error))


class Dying(Watched):
    """Kills its process at call `at`: before it is made, or when it has been."""

    def __init__(self, at, done=False):
        super().__init__()
        self.at, self.done = at, done

    def before(self, name, *args):
        if self.count == self.at and not self.done:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, name, result, *args):
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class Disk(Watched):
    """Collects in `states` what a crash before each call could leave under `root`.

    A killed process leaves what it wrote. A power cut may also empty a file that was written and not synced
    (`unsynced`), and undo the last change of a name whose folder was not synced (`unnamed`).
    """

    def __init__(self, root):
        super().__init__()
        self.root, self.states = root, []
        self.unsynced, self.unnamed = set(), {}
        self._path_of, self._replaced = {}, {}

    def _name(self, path):
        return path.relative_to(self.root).as_posix()

    def before(self, name, *args):
        now = tree(self.root)
        self.states.append(now)
        self.states += [{**now, path: b""} for path in self.unsynced]
        self.states += [{**_outside(now, path), **earlier} for path, earlier in self.unnamed.items()]
        if name == "rename":
            self._replaced = _inside(now, self._name(args[1]))

    def after(self, name, result, *args):
        if name in ("open", "append"):
            self._path_of[result] = self._name(args[0])
        if name in ("open", "mkdir"):
            self.unnamed[self._name(args[0])] = {}
        if name == "write":
            self.unsynced.add(self._path_of[args[0]])
        if name == "fsync":
            self.unsynced.discard(self._path_of[args[0]])
        if name == "rename":
            old, new = map(self._name, args)
            self.unsynced = {_moved(path, old, new) for path in self.unsynced}
            self.unnamed = {_moved(path, old, new): earlier for path, earlier in self.unnamed.items() if path != old}
            self.unnamed.setdefault(new, self._replaced)
        if name == "sync_folder":
            self.unnamed = {p: e for p, e in self.unnamed.items() if (self.root / p).parent != args[0]}


def _inside(state, path):
    return {name: content for name, content in state.items() if name == path or name.startswith(path + "/")}


def _outside(state, path):
    return {name: content for name, content in state.items() if name not in _inside(state, path)}


def _moved(path, old, new):
    return new + path.removeprefix(old) if path == old or path.startswith(old + "/") else path


def tree(root):
    """All below a folder, by relative path: the bytes of files, None for folders."""
    found = sorted(root.rglob("*"))
    return {path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes() for path in found}


def plant(root, state):
    """A new folder with what `tree` returned."""
    root.mkdir()
    for name, content in state.items():
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)
    return root
