"""Tokenizers: trained on documents, loaded from a model folder; byte pair encoding and unigram tokens by sentencepiece.

The options of sentencepiece make it lossless on every text. `textgen.data.tokenizers.base` has the other kinds.

Sentencepiece is given stretches of a line. Newlines never reach it, so that no token crosses lines, nor do U+2581
(its own sign for a space), U+2585 (for which it drops the line when training) and bytes that are not UTF-8: these
are spelled in byte tokens. A long line is cut before its first space past 2,000 characters, or else at 4,000,
counted from the last cut: beyond its own limit of bytes sentencepiece drops a line when training.

Encoding goes word by word, and common words are encoded once: no token that sentencepiece learns has a space after
another character. A run of spaces can be one token: spelled space by space, indented text taught models to
generate spaces without end.

Byte pair encoding for text: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units";
unigram: Kudo 2018, "Subword Regularization"; sentencepiece: Kudo and Richardson 2018.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Self

import numpy as np

from textgen import options
from textgen.data import TOKENIZER_KINDS
from textgen.data.tokenizers.base import (
    CONFIG_FILE,
    TOKENIZER_CLASS,
    ByteTokenizer,
    CharTokenizer,
    Ids,
    TextDecoder,
    Tokenizer,
    WordTokenizer,
    regroup,
    setting,
    texts,
)
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.options import displayed, named
from textgen.storage import parse_json

__all__ = ["BpeTokenizer", "ByteTokenizer", "CharTokenizer", "Ids", "TextDecoder", "Tokenizer"]
__all__ += ["UnigramTokenizer", "WordTokenizer", "load_tokenizer", "train_tokenizer"]

LONGEST = 40  # characters; longer words rarely recur
MOST_IDS = 1 << 20  # of all cached words
MODEL_FILE = "tokenizer.model"
UNKNOWN, BOUNDARY, FIRST_BYTE = 0, 1, 2
SPECIALS = FIRST_BYTE + 256
SMALLEST = SPECIALS + 2
SOFT_CUT = HARD_CUT = 2000  # characters; the second is counted from the first
SAMPLE_CHARACTERS = 20_000_000
UNDIVIDED = 5  # times the memory for characters in words that never recur
SPELLED = frozenset(map(chr, [0x0A, 0x2581, 0x2585, *range(0xDC80, 0xDD00)]))
_CLASS = r"\n\u2581\u2585\udc80-\udcff"
_WORD = re.compile(rf" {{0,{SOFT_CUT}}}[^ {_CLASS}]{{1,{SOFT_CUT}}}| {{1,{SOFT_CUT}}}|[{_CLASS}]{{1,{SOFT_CUT}}}")
_PROBE = "  a\u00a0 \u1e9b\u0323 \ufb01\r\t\x00\U0001f600 "


class WordMemory:
    """Words to ids: `encode_word` is called once for each common word."""

    def __init__(self, encode_word: Callable[[str], Sequence[int]]) -> None:
        self._encode_word = encode_word
        self._ids: dict[str, bytes] = {}  # as int32
        self._size = 0

    def encode(self, words: list[str]) -> Ids:
        """The ids of all words, in order."""
        if self._size > MOST_IDS:
            self._ids, self._size = {}, 0
        new = [word for word in set(words) if word not in self._ids]
        for word in new:
            ids = self._encode_word(word)
            self._ids[word] = array("i", ids).tobytes()
            self._size += len(ids)
        found = bytearray().join(map(self._ids.__getitem__, words))
        for word in new:
            if len(word) > LONGEST:
                del self._ids[word]
        return np.frombuffer(found, np.int32)


_STRETCH = re.compile(rf"[^{_CLASS}]{{1,{SOFT_CUT}}}[^ {_CLASS}]{{0,{HARD_CUT}}}|[{_CLASS}]{{1,{SOFT_CUT}}}")

LOSSLESS: dict[str, Any] = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "byte_fallback": True,
    "allow_whitespace_only_pieces": True,
    "required_chars": "\u2581",  # without a token for it, a space would be spelled as U+2581
    "hard_vocab_limit": False,
    "max_sentence_length": 4 * (SOFT_CUT + HARD_CUT),
    "num_threads": 1,  # the scores of unigram pieces depend on it
    "unk_id": UNKNOWN,
    "eos_id": BOUNDARY,
    "bos_id": -1,
    "pad_id": -1,
    "minloglevel": 2,
}


class SubwordTokenizer(Tokenizer):
    """Id 0 is the unknown token, which never occurs, 1 the boundary, 2 to 257 the bytes, then the learned pieces.

    `kind` is sentencepiece's name for the algorithm that learns them.
    """

    in_bulk = divides_words = True

    def __init__(self, model: bytes) -> None:
        """`model`: what sentencepiece wrote. Raises TextgenError if it is invalid or not lossless."""
        self._model = model
        self._processor = _processor(model)
        pieces = (_piece(self._processor, number) for number in range(SPECIALS, self._processor.get_piece_size()))
        learned = [piece.replace("\u2581", " ").encode() for piece in pieces]
        symbols = [b"", b"", *(bytes([byte]) for byte in range(256)), *learned]
        self._memory = WordMemory(self._encode_stretch)
        crosses_words = any(b" " in piece.lstrip(b" ") for piece in learned)  # a space after another character
        self._apart = _STRETCH if crosses_words else _WORD
        super().__init__(symbols, boundary=BOUNDARY, unsampled=(UNKNOWN,))
        if self.decode_bytes(self.encode(_PROBE)) != _PROBE.encode():
            raise TextgenError(f"{MODEL_FILE} changes the text that it encodes.")

    @classmethod
    def train(cls, documents: Iterable[Iterable[bytes]], vocab_size: int) -> Self:
        """A tokenizer for the documents with at most `vocab_size` tokens, fewer if their text does not have as many.

        It learns from at most 20 million characters, an even sample of stretches. Single characters take at most half
        of the vocabulary (and one token, the space); rarer ones are spelled in bytes.
        """
        if vocab_size < SMALLEST:
            raise UsageError(f"vocab_size must be at least {SMALLEST} for {cls.kind}, not {vocab_size}.")
        stretches = chain.from_iterable(chain.from_iterable(_found(_STRETCH, regroup(d)) for d in documents))
        sentences = _sample(stretch for stretch in stretches if stretch[0] not in SPELLED)
        sentences = _without_rare_characters(sentences, (vocab_size - SPECIALS) // 2)
        if not sentences:
            raise TextgenError(
                f"there is no text to learn {cls.kind} pieces from.",
                hint=f"{named('tokenizer', 'byte')} works with any text.",
            )
        return cls(_learn(sentences, cls.kind, vocab_size))

    @classmethod
    def load(cls, config: dict[str, Any], files: Mapping[str, bytes]) -> Self:
        """The tokenizer in `tokenizer.model`. Raises TextgenError if it is missing, damaged or another model."""
        digest = setting(config, "model_sha256", str)
        if MODEL_FILE not in files:
            raise TextgenError(f"{MODEL_FILE} is missing.")
        model = bytes(files[MODEL_FILE])
        if hashlib.sha256(model).hexdigest() != digest:
            raise TextgenError(f"{MODEL_FILE} is not the file that {CONFIG_FILE} was written for (SHA-256 differs).")
        return cls(model)

    @property
    def scores(self) -> list[float]:
        """The score of each learned piece, by which sentencepiece chooses among them."""
        return [self._processor.get_score(number) for number in range(SPECIALS, self._processor.get_piece_size())]

    def files(self) -> dict[str, bytes]:
        return {**super().files(), MODEL_FILE: self._model}

    def _settings(self) -> dict[str, Any]:
        return {"model_sha256": hashlib.sha256(self._model).hexdigest()}

    def _encode_blocks(self, blocks: Iterator[bytes]) -> Iterator[Ids]:
        for words in _found(self._apart, blocks):
            yield self._memory.encode(words)

    def _encode_stretch(self, stretch: str) -> list[int]:
        """The ids of a stretch or word. For a list, sentencepiece would start a thread on every call."""
        if stretch[0] in SPELLED:
            return _spell(stretch)
        ids: list[int] = self._processor.encode(stretch, out_type=int)
        return ids

    def cut(self, text: bytes) -> int:
        """After the last newline, or else where the last word (or stretch) of a very long line begins."""
        if after := text.rfind(b"\n") + 1:
            return after
        decoded, _ = codecs.utf_8_decode(text, "surrogateescape", False)
        *done, _ = self._apart.findall(decoded) or [""]
        return len("".join(done).encode("utf-8", "surrogateescape"))


class BpeTokenizer(SubwordTokenizer):
    """Pieces from repeatedly merging the most frequent pair."""

    kind = "bpe"


class UnigramTokenizer(SubwordTokenizer):
    """Pieces with probabilities, kept if they make the text likelier; a text is segmented in the likeliest way."""

    kind = "unigram"


def _spell(stretch: str) -> list[int]:
    return [FIRST_BYTE + byte for byte in stretch.encode("utf-8", "surrogateescape")]


def _found(pattern: re.Pattern[str], blocks: Iterable[bytes]) -> Iterator[list[str]]:
    """The stretches or words of a document, independent of the blocks: each for sentencepiece, or to be spelled."""
    rest = ""  # the last one of a block may continue in the next
    for text in texts(blocks):
        found = pattern.findall(rest + text)
        rest = found.pop() if found else ""
        yield found
    if rest:
        yield [rest]


def _sample(stretches: Iterable[str]) -> list[str]:
    """All stretches, or an even sample of at most `SAMPLE_CHARACTERS`.

    The key of a stretch is its index times the golden ratio modulo one (Fibonacci hashing). Stretches with keys below a
    limit are kept; the limit halves when there are too many. So no period in the text, such as alternating languages,
    biases the sample.
    """
    limit, size = 1 << 32, 0
    kept: list[tuple[int, str]] = []
    for place, stretch in enumerate(stretches):
        key = place * 2654435769 % (1 << 32)
        if key < limit:
            kept.append((key, stretch))
            size += _weight(stretch)
        if size > SAMPLE_CHARACTERS:
            limit //= 2
            kept = [(key, stretch) for key, stretch in kept if key < limit]
            size = sum(_weight(stretch) for _, stretch in kept)
    return [stretch for _, stretch in kept]


def _weight(stretch: str) -> int:
    """The characters of a stretch; more for one without a space, which sentencepiece treats as one very long word."""
    return len(stretch) * (1 if " " in stretch else UNDIVIDED)


def _without_rare_characters(sentences: list[str], most: int) -> list[str]:
    """Sentences of the `most` common characters: cut at every other character, which is dropped."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence)
    rare = sorted(counts, key=lambda character: (-counts[character], character))[most:]
    if not rare:
        return sentences
    cut = str.maketrans(dict.fromkeys(rare, "\n"))
    return [part for sentence in sentences for part in sentence.translate(cut).split("\n") if part]


def _learn(sentences: list[str], kind: str, vocab_size: int) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            **LOSSLESS,
        )
    except RuntimeError as error:
        raise TextgenError(
            f"the text is too short to learn {kind} from.",
            hint=f"{named('tokenizer', 'byte')} works with any text.",
        ) from error
    return model.getvalue()


def _piece(processor: Any, number: int) -> str:
    """A piece of a model, with U+2581 for a space. Raises TextgenError for one that is not text."""
    try:
        piece: str = processor.id_to_piece(number)
        return piece
    except UnicodeDecodeError:
        raise TextgenError(f"{MODEL_FILE} has a piece that is not text.") from None


def _processor(model: bytes) -> Any:
    """Sentencepiece's object for a model, after checking that the special tokens and bytes have their ids."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, UnicodeDecodeError) as error:  # its message may not be text either
        raise TextgenError(f"{MODEL_FILE} is not a model of sentencepiece.") from error
    size = processor.get_piece_size()
    in_place = size >= SPECIALS and processor.is_unknown(UNKNOWN) and processor.is_control(BOUNDARY)
    if not in_place or any(_piece(processor, FIRST_BYTE + b) != f"<0x{b:02X}>" for b in range(256)):
        raise TextgenError(f"{MODEL_FILE} does not have the tokens of a tokenizer that textgen wrote.")
    return processor


_SIZED = {cls.kind: cls for cls in (BpeTokenizer, UnigramTokenizer, WordTokenizer)}
_LOADERS = {cls.kind: cls.load for cls in (CharTokenizer, ByteTokenizer, *_SIZED.values())}


def train_tokenizer(kind: str, documents: Iterable[Iterable[bytes]], vocab_size: int = 8000) -> Tokenizer:
    """A tokenizer learned from documents, each a series of chunks cut at any byte. Same text, same tokenizer.

    `kind` is a name in `textgen.data.TOKENIZER_KINDS`. `vocab_size` is the largest vocabulary of a learned kind; `char`
    and `byte` ignore it. Raises UsageError for an unknown kind or an invalid vocabulary size, TextgenError if there is
    no text.

    Example:
        >>> tokenizer = train_tokenizer("char", [[b"ab", b"ba"]])
        >>> tokenizer.encode("abba").tolist(), tokenizer.decode([3, 2])
        ([2, 3, 3, 2], 'ba')
    """
    kind = options.text("kind", kind)
    vocab_size = options.whole_number("vocab_size", vocab_size, 1, 1_000_000)
    documents = _checked(documents)
    if kind == "char":
        return CharTokenizer.train(documents)
    if kind == "byte":
        return ByteTokenizer()
    if kind in _SIZED:
        return _SIZED[kind].train(documents, vocab_size)
    raise UsageError(
        f"unknown tokenizer kind {kind!r}.{did_you_mean(kind, TOKENIZER_KINDS)}",
        hint=f"kinds: {', '.join(TOKENIZER_KINDS)}.",
    )


def _checked(documents: Iterable[Iterable[bytes]]) -> Iterator[Iterator[bytes]]:
    """Documents, checked as they are consumed. Raises UsageError for anything but a series of chunks of bytes."""
    for document in _series(documents, documents):
        yield (options.content("documents", chunk) for chunk in _series(document, documents))


def _series(value: Any, documents: object) -> Iterable[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UsageError(f"{named('documents')} must be lists of chunks of bytes, not {displayed(documents)}.")
    return value


def load_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer that `Tokenizer.files` stored; other files are ignored, and no code is run from any of them.

    Raises TextgenError naming a file that is missing, damaged, or contradicts the other.
    """
    if CONFIG_FILE not in files:
        raise TextgenError(f"{CONFIG_FILE} is missing.")
    config = parse_json(files[CONFIG_FILE], CONFIG_FILE)
    if (found := config.get("tokenizer_class")) != TOKENIZER_CLASS:
        raise TextgenError(f"{CONFIG_FILE}: 'tokenizer_class' must be {TOKENIZER_CLASS!r}, not {found!r}.")
    kind = setting(config, "kind", str)
    if kind not in _LOADERS:
        raise TextgenError(f"{CONFIG_FILE}: 'kind' must be one of {', '.join(TOKENIZER_KINDS)}, not {kind!r}.")
    vocab_size = setting(config, "vocab_size", int)
    tokenizer = _LOADERS[kind](config, files)
    if tokenizer.vocab_size != vocab_size:
        raise TextgenError(f"{CONFIG_FILE}: 'vocab_size' is {vocab_size}, but there are {tokenizer.vocab_size} tokens.")
    return tokenizer
