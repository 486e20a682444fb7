"""Models on the Hub, against a stand-in for it: pulled, pushed, named wherever a model is named, and not trusted."""

import json

import pytest
from hub_server import hub_server
from test_runtime import made, saved

import textgen
from textgen import hub, storage
from textgen.cli import main
from textgen.errors import TextgenError, UsageError
from textgen.hub import HubError, parse, pull
from textgen.storage import DamagedError

pytest.importorskip("huggingface_hub")
NAME = "hub:me/fox"


@pytest.fixture
def there(tmp_path, monkeypatch):
    """The stand-in, with an empty cache."""
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.chdir(tmp_path)
        hub.cached.cache_clear()
        yield server
    hub.cached.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path / "model", *made())


def held(folder):
    manifest = storage.read_manifest(folder)
    return {name: (folder / name).read_bytes() for name in [*manifest["files"], storage.MANIFEST]}


def test_names():
    assert parse("hub:a/b-c.d") == ("a/b-c.d", None) and parse("hub:a/b@v1.0") == ("a/b", "v1.0")
    for wrong in ("hub:a", "hub:", "hub:a/b/c", "hub:../b", "hub:a/b@", "hub:a/b c"):
        if wrong != "hub:../b":
            with pytest.raises(UsageError, match="is not the name of a model on the Hub"):
                parse(wrong)


def test_a_model_is_pulled_and_used_by_its_name(there, folder, capfd):
    there.repositories["me/fox"] = held(folder)
    wanted = textgen.generate(textgen.load(folder), "abc", seed=1, max_new_tokens=20)
    assert textgen.generate(textgen.load(NAME), "abc", seed=1, max_new_tokens=20) == wanted
    assert main(["sample", "-m", NAME, "-p", "abc", "--seed", "1", "-n", "20"]) == 0
    assert capfd.readouterr().out.rstrip("\n") == wanted.rstrip("\n")
    assert main(["pull", NAME, "here"]) == 0
    said = capfd.readouterr()
    assert said.out == "here\n" and there.commit("me/fox")[:12] in said.err
    assert held(folder).keys() == held(pull(NAME).folder).keys()
    with pytest.raises(TextgenError, match="here' exists already"):
        pull(NAME, folder.parent / "here")


def test_it_can_be_used_again_without_a_connection(there, folder):
    there.repositories["me/fox"] = held(folder)
    first = textgen.load(NAME)
    fetched = len(there.asked)
    hub.cached.cache_clear()
    textgen.load(NAME)
    assert len(there.asked) == fetched + 1, "only the commit is asked for"
    hub.cached.cache_clear()
    there.refuse = 503
    assert textgen.load(NAME).digest == first.digest


def test_what_is_not_there_is_one_sentence(there, folder):
    there.repositories["me/empty"] = {"README.md": b"# nothing"}
    there.repositories["me/fox"] = held(folder)
    for name, said in {
        "hub:me/nothing": "there is no model hub:me/nothing on the Hub",
        "hub:me/empty": "hub:me/empty holds no textgen model",
        "hub:me/fox@other": "there is no such revision",
    }.items():
        with pytest.raises(HubError, match=said):
            pull(name)
    there.refuse = 503
    with pytest.raises(HubError, match="hub:me/fox cannot be reached"):
        pull(NAME)


def test_a_downloaded_folder_is_not_trusted(there, folder):
    good = held(folder)
    weights = bytearray(good["model.safetensors"])
    weights[-1] ^= 1
    for files in ({"model.safetensors": bytes(weights)}, {"manifest.json": b"{}"}):
        there.repositories["me/fox"] = {**good, **files}
        with pytest.raises((DamagedError, TextgenError), match=r"damaged|manifest"):
            pull(NAME)
    manifest = json.loads(good["manifest.json"])
    manifest["files"]["../../evil"] = manifest["files"]["config.json"]
    del manifest["sha256"]
    del manifest["format_version"]
    there.repositories["me/fox"] = {**good, "manifest.json": storage.seal(manifest)}
    with pytest.raises(DamagedError, match="is not a file name"):
        pull(NAME)
    there.repositories["me/fox"] = {**good, "code.py": b"raise SystemExit"}
    assert not (pull(NAME).folder / "code.py").exists(), "only what the manifest lists is fetched"
    with pytest.raises(TextgenError, match="at most 10 are downloaded"):
        pull(NAME, folder.parent / "other", most=10)
    assert not [path for path in hub.cache_folder().iterdir() if path.name.startswith(".")], "nothing is left behind"


def test_a_commit_is_no_path(there, folder, monkeypatch):
    there.repositories["me/fox"] = held(folder)
    monkeypatch.setattr(there.__class__, "commit", lambda self, name: "../../../evil")
    with pytest.raises(HubError, match="names no commit"):
        pull(NAME)


def test_a_connection_that_ends_halfway_is_not_a_missing_model(there, folder, monkeypatch):
    there.repositories["me/fox"] = held(folder)
    there.refuse_files = True
    with pytest.raises(HubError, match="hub:me/fox cannot be reached"):
        pull(NAME)
    assert not hub.cache_folder().exists() or not list(hub.cache_folder().iterdir())


def test_a_run_is_pushed_without_what_is_private(there, tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("the fox ran to the den\n" * 60)
    run = textgen.train(
        tmp_path / "notes.txt",
        output_dir="run",
        max_steps=4,
        hidden_size=8,
        threads=1,
        sample_steps=0,
        tokenizer="char",
    )
    assert main(["push", "run", NAME]) == 1
    assert "names no license" in capfd.readouterr().err
    assert main(["push", "run", NAME, "--license", "mit", "--dry-run"]) == 0
    shown = capfd.readouterr().out
    assert "model.safetensors" in shown and "training_args" not in shown and "me/fox" not in there.repositories
    assert main(["push", "run", NAME, "--license", "mit", "--private"]) == 0
    assert capfd.readouterr().out.startswith(f"{there.url}/me/fox/commit/")
    files = there.repositories["me/fox"]
    assert {"model.safetensors", "step.json", "README.md"} <= files.keys() and "me/fox" in there.private
    assert not {name for name in files if "checkpoint" in name or name in ("training_args.json", "metrics.jsonl")}
    assert b"license: mit" in files["README.md"] and str(tmp_path).encode() not in b"".join(files.values())
    assert textgen.generate(textgen.load(NAME), "the", seed=1) == textgen.generate(textgen.load(run), "the", seed=1)
    assert main(["push", "run", "me/fox", "--license", "mit"]) == 2
