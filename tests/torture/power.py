"""A power cut at any moment: what was synced is there, anything else may be lost or kept, each piece by itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from faults import Quick

from torture.rows import Outcome, Row
from torture.tools import STEPS, begin, draws, go_on, newest, outcome, scratch, some
from torture.tools import whole_run as undisturbed


@dataclass
class File:
    """What is in a file, and how much of it a power cut must leave: `synced`, and any of the later `pieces`."""

    synced: bytes = b""
    pieces: list = field(default_factory=list)


@dataclass
class Folder:
    """The names that a power cut must leave, and the later changes of names: (name, what it now means or None)."""

    names: dict = field(default_factory=dict)
    changes: list = field(default_factory=list)


class Recorder(Quick):
    """Does what is asked of a disk and keeps, as a list of functions on a model of it, all that was done."""

    def __init__(self, root):
        self.root, self.done, self._path_of, self._moved = root, [], {}, {}

    def _parts(self, path):
        return path.relative_to(self.root).parts

    def open(self, path):
        handle = super().open(path)
        self._path_of[handle] = self._parts(path)
        self.done.append(("create", self._parts(path)))
        return handle

    def append(self, path):
        new = not path.exists()
        handle = super().append(path)
        self._path_of[handle] = self._parts(path)
        self.done += [("create", self._parts(path))] if new else []
        return handle

    def write(self, handle, data):
        written = super().write(handle, data)
        self.done.append(("write", self._path_of[handle], bytes(data[:written])))
        return written

    def fsync(self, handle):
        self.done.append(("fsync", self._path_of[handle]))

    def rename(self, old, new):
        super().rename(old, new)
        self.done.append(("rename", self._parts(old), self._parts(new)))

    def mkdir(self, path):
        super().mkdir(path)
        self.done.append(("mkdir", self._parts(path)))

    def unlink(self, path):
        super().unlink(path)
        self.done.append(("remove", self._parts(path)))

    def rmdir(self, path):
        super().rmdir(path)
        self.done.append(("remove", self._parts(path)))

    def sync_folder(self, path):
        self.done.append(("sync_folder", self._parts(path)))


class Model:
    """A disk as the operating system shows it, and what of it is durable."""

    def __init__(self):
        self.root = Folder()

    def find(self, parts):
        place = self.root
        for name in parts:
            place = self.seen(place)[name]
        return place

    @staticmethod
    def seen(folder):
        names = dict(folder.names)
        for change in folder.changes:
            names |= change
        return {name: place for name, place in names.items() if place is not None}

    def change(self, parts, place):
        self.find(parts[:-1]).changes.append({parts[-1]: place})

    def do(self, kind, *args):
        getattr(self, f"_{kind}")(*args)

    def _create(self, parts):
        self.change(parts, File())

    def _mkdir(self, parts):
        self.change(parts, Folder())

    def _write(self, parts, data):
        self.find(parts).pieces.append(data)

    def _fsync(self, parts):
        file = self.find(parts)
        file.synced, file.pieces = file.synced + b"".join(file.pieces), []

    def _rename(self, old, new):
        assert old[:-1] == new[:-1], "one folder's change of names is one change"
        self.find(old[:-1]).changes.append({old[-1]: None, new[-1]: self.find(old)})

    def _remove(self, parts):
        self.change(parts, None)

    def _sync_folder(self, parts):
        folder = self.find(parts)
        folder.names, folder.changes = self.seen(folder), []

    def after_power_cut(self, folder, draw):
        """What may be found: of each change since the last sync, chance decides."""
        names, keep = dict(folder.names), draw.random()
        for change in folder.changes:
            if draw.random() < keep:
                names |= change
        return {
            name: self.after_power_cut(place, draw) if isinstance(place, Folder) else torn(place, draw)
            for name, place in names.items()
            if place is not None
        }


def torn(file, draw):
    """A file after a power cut: its pieces kept, zeroed or cut short, each as chance has it."""
    content = file.synced
    for piece in file.pieces:
        fate = draw.randrange(4)
        if fate == 0:
            return content + piece[: draw.randrange(len(piece) + 1)]
        content += bytes(len(piece)) if fate == 1 else piece
    return content


def plant(place, found):
    place.mkdir()
    for name, content in found.items():
        if isinstance(content, dict):
            plant(place / name, content)
        else:
            (place / name).write_bytes(content)


def existing(folder):
    """A folder that has been on the disk for long."""
    return Folder({p.name: existing(p) if p.is_dir() else File(p.read_bytes()) for p in folder.iterdir()})


def recorded(root):
    """All that a run does to the disk, from reading its corpus on: (what was done, [(how much of it, step saved)])."""
    from textgen.storage import filesystem
    from textgen.training import Saved

    (root / "text.txt").touch()
    model = Model()
    recorder = filesystem.system = Recorder(root)
    (root / "text.txt").unlink()
    session = begin(root)
    model.root.names["text.txt"] = File((root / "text.txt").read_bytes())
    told = [(len(recorder.done), 0)]
    for event in session.events():
        if isinstance(event, Saved):
            told.append((len(recorder.done), event.step))
    filesystem.system = Quick()
    return model, recorder.done, told


def power_cuts(seed):
    """States that a power cut may leave; whatever was said to be saved is there, whole, and the run goes on."""
    from textgen import storage
    from textgen.storage import filesystem

    draw = draws(seed, "power")
    with scratch() as root:
        filesystem.system = Quick()
        wanted = undisturbed(root)
        (root / "first").mkdir()
        model, done, told = recorded(root / "first")
        moments = sorted(draw.choices(range(len(done) + 1), k=some(300)))
        at = resumed = 0
        for number, moment in enumerate(moments):
            for step in done[at:moment]:
                model.do(*step)
            at, place = moment, root / f"state-{number}"
            plant(place, model.after_power_cut(model.root, draw))
            case = f"seed {seed}, after {moment} of {len(done)} operations"
            for store in (place / ".tokens").glob("[!.]*"):
                storage.verify(store)
            saved = max((step for count, step in told if count <= moment), default=None)
            if saved is None and not (place / "run").exists():
                continue
            newest(place / "run", {saved or 0, min((saved or 0) + 3, STEPS)})
            if number % 12 == 0:
                resumed += 1
                go_on(place / "run")
                assert outcome(place / "run") == wanted, f"{case}: other bits"
    return Outcome(
        f"{len(moments)} states, {len(done)} operations: old or new, whole; {resumed} went on", len(done) > 300
    )


ROWS = [
    Row("R3", "power cuts: any unsynced byte range or name lost or kept", "300 states, each an old or a new whole "
        "checkpoint, nothing said to be saved lost", power_cuts, "ci"),
]  # fmt: skip
