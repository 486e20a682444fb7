"""Laws of corpora by name: found from any folder, held to their digests, divided as they say, named when missing."""

import gzip
import hashlib
import io
import shutil
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.data import CorpusOptions, Reading, recipes
from textgen.data import sources as pieces
from textgen.data.corpus import scan_corpus, text_of
from textgen.data.sources import find_sources, lasting, read
from textgen.errors import TextgenError, UsageError
from textgen.options import from_mapping

ROOT = Path(__file__).parents[1]
SHIPPED = ["enwik8", "stories", "text8", "tiny-shakespeare", "tinystories", "wikitext-103", "wikitext-2"]
TEXT = "".join(f"{k} é\n" for k in range(500)).encode()


class Response(io.BytesIO):
    """What urlopen gives."""

    def __init__(self, content):
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content))}


@pytest.fixture
def away(tmp_path, monkeypatch):
    """Another folder, with neither data nor a cache nor a network."""

    def refuse(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEXTGEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(recipes.urllib.request, "urlopen", refuse)
    return tmp_path


@pytest.fixture
def own(away, monkeypatch):
    """A folder of recipes of our own, downloaded from files."""
    home = away / "home"
    home.mkdir()
    monkeypatch.setattr(recipes, "home", lambda: home)
    fetched = []

    def urlopen(request, timeout):
        fetched.append(request.full_url)
        content = Path(request.full_url.removeprefix("https://example.org/")).read_bytes()
        return Response(content)

    monkeypatch.setattr(recipes.urllib.request, "urlopen", urlopen)
    packed = zipfile.ZipFile("mini.zip", "w")
    packed.writestr("in/mini", TEXT)
    packed.close()
    return fetched


def write(name, extra="", parts=True):
    shares = "train = [0, 0.9]\nvalidation = [0.9, 0.95]\ntest = [0.95, 1]" if parts else ""
    (recipes.home() / f"{name}.toml").write_text(
        f'about = "a"\nsource = "s"\nlicence = "l"\n[options]\ntokenizer = "char"\n[parts]\n{shares}\n'
        f'[[files]]\npath = "mini/mini"\nurl = "https://example.org/mini.zip"\nmember = "in/mini"\n{extra}\n'
    )


def texts(sources, reading):
    return b"".join(piece for _, piece in read(sources, reading))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_says_where_it_comes_from_and_is_whole(name):
    recipe = recipes.load(name)
    assert recipe.about and recipe.source.startswith("http") and recipe.licence
    from_mapping(CorpusOptions, recipe.options)
    assert recipe.fill(CorpusOptions()).tokenizer == recipe.options.get("tokenizer")
    assert len({file.name for file in recipe.files}) == len(recipe.files)
    assert all(file.url or (ROOT / "corpora" / file.path).exists() for file in recipe.files)
    if recipe.parts:
        assert len(recipe.files) == 1
        ends = [end for _, end in recipe.parts.values()]
        assert [begin for begin, _ in recipe.parts.values()] == [0, *ends[:-1]] and ends[-1] == 1
    assert recipes.names() == SHIPPED


def test_the_stories_are_found_from_any_folder(away):
    corpus = scan_corpus(["stories"], CorpusOptions(), 1)
    assert len(corpus.scan.sizes) == len(list((ROOT / "corpora" / "stories").glob("*.txt"))) == 240
    assert len(corpus.split.cuts) > 20 and not any(corpus.split.cuts.values())


def test_a_file_of_that_name_comes_first(away):
    Path("stories").write_text("just this\n" * 9)
    assert scan_corpus(["stories"], CorpusOptions(), 1).scan.total == 90
    assert lasting("stories") == str(away / "stories") and lasting("text8") == "text8"


def test_a_missing_download_names_the_url_and_the_place(away):
    with pytest.raises(TextgenError) as caught:
        scan_corpus(["enwik8"], CorpusOptions(), 1)
    url = "http://mattmahoney.net/dc/enwik8.zip"
    assert str(caught.value) == f"'enwik8' cannot be downloaded from {url} ([Errno 101] Network is unreachable)."
    place = Path("corpora/data/enwik8/enwik8")
    assert caught.value.hint == (
        f"download it by other means, extract enwik8 and put it at {place}, or at that path in $TEXTGEN_DATA."
    )
    assert not any(path.is_file() for path in away.rglob("*"))


def test_a_download_is_kept_divided_and_held_to_its_first_digest(own):
    write("mini")
    corpus = scan_corpus(["mini"], CorpusOptions(), 1)
    assert own == ["https://example.org/mini.zip"] and corpus.kind == "char" and not corpus.split.cuts
    parts = [texts(corpus.sources, corpus.reading), texts(corpus.validation, corpus.reading)]
    test = texts(*text_of(["mini"], Reading()))
    assert b"".join([*parts, test]) == TEXT
    assert abs(len(parts[0]) - 0.9 * len(TEXT)) <= 4 and abs(len(test) - 0.05 * len(TEXT)) <= 4
    assert scan_corpus(["mini"], CorpusOptions(), 1).key() == corpus.key() and len(own) == 1
    kept = recipes.cache_folder() / "mini" / "mini"
    assert hashlib.sha256(kept.read_bytes()).digest() == hashlib.sha256(TEXT).digest()
    kept.write_bytes(TEXT[:-1] + b"x")
    assert scan_corpus(["mini"], CorpusOptions(), 1).key() == corpus.key() and len(own) == 2


def test_data_that_is_here_is_not_downloaded(own, monkeypatch):
    write("mini")
    for folder, packed in (("corpora/data", ""), ("elsewhere", ".gz")):
        path = Path(folder, "mini", "mini" + packed)
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress(TEXT) if packed else TEXT)
        corpus = scan_corpus(["mini"], CorpusOptions(tokenizer="byte"), 1)
        assert corpus.kind == "byte" and corpus.scan.total == int(0.9 * len(TEXT)) and own == []
        shutil.rmtree("corpora", ignore_errors=True)
        monkeypatch.setenv("TEXTGEN_DATA", "elsewhere")


@pytest.mark.parametrize("known", [f'sha256 = "{"0" * 64}"', "bytes = 7"])
def test_another_text_than_the_recipe_says_is_refused(own, known):
    write("mini", known)
    with pytest.raises(TextgenError, match=r"is not the file of 'mini' \("):
        scan_corpus(["mini"], CorpusOptions(), 1)


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: data.replace(b"in/mini", b"in/mina")])
def test_a_damaged_download_leaves_nothing(own, damage):
    write("mini")
    Path("mini.zip").write_bytes(damage(Path("mini.zip").read_bytes()))
    with pytest.raises(TextgenError, match=r"'mini' cannot be downloaded from https://example.org/mini.zip \("):
        scan_corpus(["mini"], CorpusOptions(), 1)
    assert not any(path.is_file() for path in recipes.cache_folder().rglob("*"))


def test_what_the_user_says_and_what_a_recipe_says(own):
    write("mini")
    assert scan_corpus(["mini"], CorpusOptions(vocab_size=300), 1).kind == "bpe"
    with pytest.raises(UsageError, match="validation_split does not go with 'mini', which has a validation part"):
        scan_corpus(["mini"], CorpusOptions(validation_split=0.2), 1)
    with pytest.raises(UsageError, match="'mini' is a corpus with its own parts; name it alone"):
        scan_corpus(["mini", "mini"], CorpusOptions(), 1)
    with pytest.raises(UsageError, match=r"corpus 'mimi' does not exist\. Did you mean 'mini'\?"):
        find_sources(["mimi"])


def test_a_recipe_that_is_none_is_named(own):
    (recipes.home() / "odd.toml").write_text("about = 1\nfiles = [{url = 2}]")
    with pytest.raises(TextgenError, match=r"the recipe '.*odd\.toml' is damaged: "):
        recipes.load("odd")


@given(
    text=st.text(),
    places=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    size=st.integers(1, 9),
    raw=st.booleans(),
)
def test_spans_that_meet_share_and_lose_nothing(text, places, size, raw):
    data = text.encode()
    blocks = [data[k : k + size] for k in range(0, len(data), size)]
    bounds = [0, *sorted(places), max(len(data), *places)]
    parts = [b"".join(pieces.span(iter(blocks), a, b, not raw)) for a, b in pairwise(bounds)]
    assert b"".join(parts) == data
    if raw:
        assert [len(part) for part in parts[:1]] == [min(bounds[1], len(data))]
    else:
        assert all(part.decode() or not part for part in parts)


@pytest.mark.data
def test_real_recipes_are_divided_as_published(data_folder, monkeypatch):
    monkeypatch.setenv("TEXTGEN_DATA", str(data_folder))
    corpus = scan_corpus(["tiny-shakespeare"], CorpusOptions(), 1)
    assert (corpus.scan.total, corpus.validation_scan.total, corpus.kind) == (1_003_854, 111_540, "char")
    corpus = scan_corpus(["wikitext-2"], CorpusOptions(), 1)
    assert (corpus.scan.total, corpus.validation_scan.total) == (10_797_148, 1_121_681)
    assert len(texts(*text_of(["wikitext-2"], Reading()))) == 1_256_449
