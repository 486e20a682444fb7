"""Laws of durable writing: old or new and never a mix, whatever fails and whenever; what is damaged is refused."""

import errno
import gc
import hashlib
import itertools
import json
import math
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from faults import Disk, Dying, Failing, Quick, Short, Watched, plant, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from process import in_child

from textgen import storage
from textgen.errors import TextgenError
from textgen.storage import FORMAT_VERSION, MANIFEST, DamagedError, filesystem

OLD, NEW = b"old" * 40_000, b"newer" * 40_000  # several pieces each
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


def commit(folder, **contents):
    with filesystem.new_folder(folder) as new:
        for name, content in contents.items():
            new.write(name, content)
    return folder


class Create:
    """A file that was not there."""

    def prepare(self, root):
        (root / "other").write_bytes(b"other")

    def act(self, root, content=NEW):
        filesystem.write_file(root / "name", content)

    def is_old(self, root):
        return not (root / "name").exists()

    def is_new(self, root, content=NEW):
        return (root / "name").read_bytes() == content


class Replace(Create):
    """A file that was there."""

    def prepare(self, root):
        super().prepare(root)
        (root / "name").write_bytes(OLD)

    def is_old(self, root):
        return (root / "name").read_bytes() == OLD


class Folder(Create):
    """A folder, one of its files written in pieces."""

    def act(self, root, content=NEW):
        with filesystem.new_folder(root / "folder") as new:
            pieces = new.create("pieces")
            new.write("whole", content)
            pieces.write(content[:5])
            pieces.write(content[5:])
            new.about = {"kind": "test"}

    def is_old(self, root):
        return not (root / "folder").exists()

    def is_new(self, root, content=NEW):
        folder = root / "folder"
        whole = storage.verify(folder)["kind"] == "test" and sorted(tree(folder)) == [MANIFEST, "pieces", "whole"]
        return whole and all((folder / name).read_bytes() == content for name in ("pieces", "whole"))


class InFolder(Create):
    """A file of a committed folder."""

    def prepare(self, root):
        super().prepare(root)
        commit(root / "folder", name=OLD, beside=b"beside")

    def act(self, root, content=NEW):
        filesystem.replace_in_folder(root / "folder", "name", content)

    def is_old(self, root):
        return self.holds(root, OLD)

    def is_new(self, root, content=NEW):
        return self.holds(root, content)

    def holds(self, root, content):
        manifest = storage.verify(root / "folder")
        beside = storage.verified(root / "folder", "beside", manifest) == b"beside"
        return beside and storage.verified(root / "folder", "name", manifest) == content


class NewInFolder(InFolder):
    """A file that a committed folder did not have."""

    def prepare(self, root):
        Create.prepare(self, root)
        commit(root / "folder", beside=b"beside")

    def is_old(self, root):
        return list(storage.verify(root / "folder")["files"]) == ["beside"]


@pytest.fixture(params=[Create, Replace, Folder, InFolder, NewInFolder], ids=lambda kind: kind.__name__)
def write(request):
    return request.param()


@pytest.fixture
def root(tmp_path, write):
    root = tmp_path / "root"
    root.mkdir()
    write.prepare(root)
    return root


def calls(monkeypatch, write, root):
    """How many calls a write makes."""
    counter = Watched()
    monkeypatch.setattr(filesystem, "system", counter)
    write.act(root)
    return counter.count


def open_files():
    gc.collect()  # files that other tests have left to the collector
    return {path.name for path in Path("/dev/fd").iterdir()}


def temporaries(root):
    return [path for path in root.rglob("*") if filesystem._TEMPORARY in path.name]


def test_a_write_writes_and_is_durable_when_it_returns(monkeypatch, root, write):
    disk = Disk(root)
    assert write.is_old(root)
    monkeypatch.setattr(filesystem, "system", disk)
    write.act(root)
    assert write.is_new(root) and not temporaries(root) and not disk.unsynced and not disk.unnamed
    assert (root / "other").read_bytes() == b"other"


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_fault_at_any_call_leaves_old_or_new_and_nothing_else(monkeypatch, tmp_path, root, write, error, lasting):
    before = tree(root)
    for at in range(1, calls(monkeypatch, write, plant(tmp_path / "count", before)) + 1):
        faulty = plant(tmp_path / str(at), before)
        handles = open_files()
        monkeypatch.setattr(filesystem, "system", Failing(at, error, lasting))
        with pytest.raises(OSError, match=os.strerror(error)):
            write.act(faulty)
        assert open_files() == handles
        assert write.is_old(faulty) or write.is_new(faulty)
        assert not temporaries(faulty)
        monkeypatch.setattr(filesystem, "system", Quick())
        if write.is_old(faulty) or not isinstance(write, Folder):
            write.act(faulty)
        assert write.is_new(faulty)


def test_short_writes_are_continued(monkeypatch, root, write):
    monkeypatch.setattr(filesystem, "system", Short())
    write.act(root, NEW[:5000])
    assert write.is_new(root, NEW[:5000])


def test_a_crash_at_any_call_leaves_old_or_new_and_the_next_writer_goes_on(monkeypatch, tmp_path, root, write):
    disk = Disk(root)
    monkeypatch.setattr(filesystem, "system", disk)
    write.act(root)
    monkeypatch.setattr(filesystem, "system", Quick())
    seen = set()
    for number, state in enumerate(disk.states):
        crashed = plant(tmp_path / str(number), state)
        seen.add("old" if write.is_old(crashed) else "new" if write.is_new(crashed) else "mix")
        for folder in (crashed, crashed / "folder"):
            filesystem.clean(folder)
        assert not temporaries(crashed)
        if write.is_old(crashed) or not isinstance(write, Folder):
            write.act(crashed, b"again")
            assert write.is_new(crashed, b"again")
    assert seen == {"old", "new"}


def test_crash_after_crash_leaves_something_whole(monkeypatch, tmp_path):
    """Two replacements, each cut off at any call: the content is one that was there, and it verifies."""
    contents, numbers = [b"first", b"second!"], itertools.count()

    def crashes(state, left):
        if not left:
            return
        folder = plant(tmp_path / str(next(numbers)), state)
        disk = Disk(folder)
        monkeypatch.setattr(filesystem, "system", disk)
        filesystem.replace_in_folder(folder, "name", left[0])
        monkeypatch.setattr(filesystem, "system", Quick())
        for crashed in {repr(sorted(state.items())): state for state in disk.states}.values():
            place = plant(tmp_path / str(next(numbers)), crashed)
            storage.verify(place)
            assert (place / "name").read_bytes() in [b"zeroth", *contents[: contents.index(left[0]) + 1]]
            crashes(_without_temporaries(crashed), left[1:])

    crashes(tree(commit(tmp_path / "start", name=b"zeroth")), contents)
    assert next(numbers) > 100


def _without_temporaries(state):
    return {name: content for name, content in state.items() if filesystem._TEMPORARY not in name}


def test_a_killed_process_leaves_old_or_new(monkeypatch, tmp_path, root, write):
    before = tree(root)
    for at in range(1, calls(monkeypatch, write, plant(tmp_path / "count", before)) + 1):
        killed = plant(tmp_path / str(at), before)
        assert in_child(act_on, Dying(at), write, killed) == -signal.SIGKILL
        assert write.is_old(killed) or write.is_new(killed)


def act_on(disk, write, root):
    """Write, on a disk that fails."""
    filesystem.system = disk
    write.act(root)


def test_an_error_of_the_caller_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), filesystem.new_folder(tmp_path / "folder") as new:
        new.write("name", NEW)
        raise KeyboardInterrupt
    assert tree(tmp_path) == {}


def test_a_committed_folder_is_never_rewritten(tmp_path):
    before = tree(commit(tmp_path / "folder", name=OLD))
    with pytest.raises(FileExistsError, match="folder"):
        commit(tmp_path / "folder", name=NEW)
    assert tree(tmp_path / "folder") == before and not temporaries(tmp_path)


def test_an_entry_is_the_size_and_digest_of_what_is_there(tmp_path):
    assert filesystem.write_file(tmp_path / "name", NEW) == {
        "size": len(NEW),
        "sha256": hashlib.sha256(NEW).hexdigest(),
    }


def test_files_have_the_rights_that_the_user_gives_to_files(tmp_path):
    (tmp_path / "plain").touch()
    filesystem.write_file(tmp_path / "name", NEW)
    commit(tmp_path / "folder", name=NEW)
    rights = {p.stat().st_mode for p in tmp_path.rglob("*") if p.is_file()}
    assert rights == {(tmp_path / "plain").stat().st_mode}


class Leaving(Quick):
    """Ends its process where the first file would be removed."""

    def unlink(self, path):
        os._exit(3)


def remove_and_leave(folder):
    filesystem.system = Leaving()
    filesystem.remove_folder(folder)


def test_a_folder_is_removed_in_one_step(tmp_path):
    commit(tmp_path / "folder", name=OLD)
    assert in_child(remove_and_leave, tmp_path / "folder") == 3
    assert not (tmp_path / "folder").exists() and len(temporaries(tmp_path)) == 1
    filesystem.clean(tmp_path)
    assert tree(tmp_path) == {}


def test_cleaning_removes_what_writes_left_behind_and_follows_no_link(tmp_path):
    kept = tmp_path / "kept"
    commit(kept, name=OLD)
    (tmp_path / ".hidden").touch()
    before = tree(tmp_path)
    (tmp_path / ".name.tmp-0a").touch()
    (tmp_path / ".folder.tmp-0a").mkdir()
    (tmp_path / ".folder.tmp-0a" / "name").touch()
    (tmp_path / ".link.tmp-0a").symlink_to(kept)
    filesystem.clean(tmp_path)
    assert tree(tmp_path) == before


# --- reading ---


@pytest.fixture
def folder(tmp_path):
    folder = commit(tmp_path / "folder", weights=bytes(range(256)), text="où l'eau va\n".encode(), empty=b"")
    filesystem.replace_in_folder(folder, "text", b"The miller's daughter.\n")
    return folder


def refused(folder, name, error=DamagedError):
    return pytest.raises(error, match=re.escape(str(folder / name)))


@pytest.mark.parametrize("name", [MANIFEST, "weights", "text"])
def test_any_flipped_bit_is_refused_by_name(folder, name):
    storage.verify(folder)
    content = (folder / name).read_bytes()
    for bit in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(flipped)
        with refused(folder, name, TextgenError):
            storage.verify(folder)
        with refused(folder, name, TextgenError):
            storage.verified(folder, "text" if name == MANIFEST else name)


@pytest.mark.parametrize("name", [MANIFEST, "weights", "text"])
def test_any_other_length_is_refused_by_name(folder, name):
    content = (folder / name).read_bytes()
    last = len(content.rstrip(b"\n"))  # a manifest without its last newline says the same
    for length in (0, 1, len(content) // 2, last - 1):
        (folder / name).write_bytes(content[:length])
        with refused(folder, name):
            storage.verify(folder)
    for more in (b"\0", b"{}", content):
        (folder / name).write_bytes(content + more)
        with refused(folder, name):
            storage.verify(folder)


def put_nothing(path):
    path.unlink()


def put_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def put_broken_link(path):
    path.unlink()
    path.symlink_to("nowhere")


def put_pipe(path):
    path.unlink()
    os.mkfifo(path)


def put_folder(path):
    path.unlink()
    path.mkdir()


def put_huge_file(path):
    os.truncate(path, 1 << 40)  # sparse: it takes no space, but reading it would never end


@pytest.mark.parametrize("put", [put_nothing, put_link, put_broken_link, put_pipe, put_folder, put_huge_file])
@pytest.mark.parametrize("name", [MANIFEST, "weights", "text", "empty"])
def test_anything_but_the_file_itself_is_refused_by_name(folder, name, put):
    manifest = storage.read_manifest(folder)
    put(folder / name)
    with refused(folder, name):
        storage.verify(folder)
    if name != MANIFEST:
        with refused(folder, name):
            storage.verified(folder, name, manifest)
        with refused(folder, name):
            storage.check_file(folder, name, manifest)


ENTRY = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
NONSENSE = [
    {},
    {"files": {}},
    {"format_version": FORMAT_VERSION},
    *({"format_version": FORMAT_VERSION, "files": nonsense} for nonsense in ([], None, "name", 1)),
    *({"format_version": version, "files": {}}
      for version in (0, -1, "1", True, 1.0, None, 1, FORMAT_VERSION + 1, 10**400)),
    *({"format_version": FORMAT_VERSION, "files": {name: ENTRY}}
      for name in ("", ".", "..", "../name", "/name", "a/b", "a\\b", "a\0b", "a\nb", "\ud800")),
    *({"format_version": FORMAT_VERSION, "files": {"name": entry}}
      for entry in (None, 1, "x", [], {}, {"size": 1}, {**ENTRY, "size": True}, {**ENTRY, "size": 1.0},
                    {**ENTRY, "size": "1"}, {**ENTRY, "sha256": None}, {**ENTRY, "before": ENTRY},
                    {**ENTRY, "before": None}, {**ENTRY, "before": [1]}, {**ENTRY, "before": [{}]})),
]  # fmt: skip


@pytest.mark.parametrize("manifest", NONSENSE, ids=repr)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path, manifest):
    signed = {**manifest, "sha256": hashlib.sha256(json.dumps(manifest).encode()).hexdigest()}
    (tmp_path / MANIFEST).write_text(json.dumps(signed))
    with refused(tmp_path, MANIFEST, TextgenError):
        storage.read_manifest(tmp_path)


def write_as_version(folder, version):
    """Give a sealed folder another format version, or none (None)."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"], manifest["format_version"]
    manifest = {**({} if version is None else {"format_version": version}), **manifest}
    sealed = {**manifest, "sha256": hashlib.sha256(json.dumps(manifest).encode()).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(sealed))


@pytest.mark.parametrize(
    ("version", "found"),
    [
        (1, "format version 1"),
        (None, "no format version"),
        (FORMAT_VERSION + 1, f"format version {FORMAT_VERSION + 1}"),
    ],
)
def test_a_folder_of_another_version_says_which_version_is_read_and_what_to_do(folder, version, found):
    write_as_version(folder, version)
    with pytest.raises(TextgenError) as caught:
        storage.verify(folder)
    assert not isinstance(caught.value, DamagedError)
    assert str(caught.value) == f"{folder / MANIFEST} has {found}; this textgen reads version {FORMAT_VERSION}."
    assert caught.value.hint == "train again with this textgen, or install the textgen-lm that wrote it."


@pytest.mark.parametrize("version", [1, None])
def test_a_cached_folder_of_an_older_version_is_rebuilt_silently(folder, version, recwarn, capsys):
    write_as_version(folder, version)

    def write():
        with filesystem.new_folder(folder) as new:
            new.write("rebuilt", b"x")

    assert list(filesystem.cached(folder, storage.verify, write)["files"]) == ["rebuilt"]
    assert storage.read_manifest(folder)["format_version"] == FORMAT_VERSION
    assert not recwarn.list and capsys.readouterr() == ("", "")


def test_a_file_that_is_not_listed_is_refused(folder):
    (folder / "stranger").write_bytes(b"x")
    with refused(folder, MANIFEST):
        storage.verified(folder, "stranger")
    storage.verify(folder)


@pytest.mark.parametrize("text", [
    b"", b"{", b'{"a": 1}x', b"[]", b"1", b"null", b'"a"', b"{'a': 1}", b'{"a": 1,}',
    *(b'{"a": [%s]}' % number for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 5000)),
    b'{"a": 1, "a": 1}', b'{"b": {"a": 1, "a": 2}}', b'{"a": 1, "\\u0061": 2}',
    b'{"a": ' + b"[" * 100_000, b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":' * 100_000,
    b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16"), b'{"a": "\xff"}', b'{"a": "\n"}',
], ids=lambda text: ascii(text[:20]))  # fmt: skip
def test_json_that_could_mean_two_things_is_refused(tmp_path, text):
    (tmp_path / "name.json").write_bytes(text)
    with refused(tmp_path, "name.json"):
        storage.read_json(tmp_path / "name.json")


@settings(deadline=None, max_examples=50)
@given(content=st.dictionaries(st.text(), JSON, max_size=5))
def test_json_comes_back_and_is_written_one_way(content):
    data = filesystem.to_json(content)
    assert storage.parse_json(data, "name") == content
    assert filesystem.to_json(storage.parse_json(data, "name")) == data and data.endswith(b"\n")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_not_written(number):
    with pytest.raises(ValueError, match="JSON"):
        filesystem.to_json({"a": number})


# --- the lock ---


def test_a_folder_has_one_holder(tmp_path):
    with filesystem.lock(tmp_path):
        for taken in (lambda: filesystem.lock(tmp_path).__enter__(), lambda: hold(tmp_path)):
            with pytest.raises(TextgenError, match=re.escape(repr(str(tmp_path)))):
                taken()
        assert in_child(expect_refusal, tmp_path) == 0
    hold(tmp_path)


def hold(folder):
    with filesystem.lock(folder):
        pass


def expect_refusal(folder):
    with pytest.raises(TextgenError, match="another process"):
        hold(folder)


def die_holding(folder):
    with filesystem.lock(folder):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_holder_holds_nothing(tmp_path):
    assert in_child(die_holding, tmp_path) == -signal.SIGKILL
    hold(tmp_path)


def test_an_error_inside_frees_the_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), filesystem.lock(tmp_path):
        raise KeyboardInterrupt
    hold(tmp_path)


def test_a_file_that_is_replaced_while_it_is_read_is_not_called_damaged(tmp_path):
    """A reader that knows the manifest of before finds the weights of after."""
    with filesystem.new_folder(tmp_path / "folder") as new:
        new.write("name", b"before")
    manifest = storage.read_manifest(tmp_path / "folder")
    filesystem.replace_in_folder(tmp_path / "folder", "name", b"after, and longer")
    assert storage.verified(tmp_path / "folder", "name", manifest) == b"after, and longer"
    (tmp_path / "folder" / "name").write_bytes(b"damaged")
    with pytest.raises(storage.DamagedError):
        storage.verified(tmp_path / "folder", "name", manifest)


def test_a_cached_folder_is_written_once_and_again_if_it_is_damaged(tmp_path):
    folder, written = tmp_path / "cache" / "key", []

    def write():
        written.append(folder)
        with filesystem.new_folder(folder) as new:
            new.write("name", b"content")

    def read():
        return filesystem.cached(folder, lambda found: storage.verified(found, "name"), write)

    assert (read(), read(), len(written)) == (b"content", b"content", 1)
    (folder / "name").write_bytes(b"damaged")
    assert (read(), read(), len(written)) == (b"content", b"content", 2)


def test_a_folder_that_another_process_cached_meanwhile_is_opened(tmp_path):
    folder = tmp_path / "key"

    def write():
        for _ in range(2):
            with filesystem.new_folder(folder) as new:
                new.write("name", b"content")

    assert filesystem.cached(folder, lambda found: storage.verified(found, "name"), write) == b"content"


def test_a_cache_key_depends_on_every_value_and_shape():
    arrays = [np.zeros(4, dtype) for dtype in ("<i4", "<i8", "<f8", "?")]
    parts = [(), ("a",), ("b",), (["a"],), ("a", None), (b"a",), (b"b",), ({"a": b"b"},), ({"a": b"c"},)]
    parts += [(array,) for array in [*arrays, arrays[0].reshape(2, 2), arrays[0][:0], arrays[0] + 1]]
    keys = [filesystem.cache_key(*each) for each in parts]
    assert len(set(keys)) == len(keys)
    assert keys == [filesystem.cache_key(*each) for each in parts]
    assert filesystem.cache_key(np.arange(6).reshape(2, 3).T) == filesystem.cache_key(
        np.arange(6).reshape(2, 3).T.copy()
    )
