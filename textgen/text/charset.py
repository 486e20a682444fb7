"""Which encoding some bytes are written in, where they are not UTF-8: charset-normalizer, and the letters of languages.

charset-normalizer measures how plausible a text looks in each encoding. In short texts with few letters beyond ASCII
several Latin encodings look alike; of these the one is taken in which the letters are those of a language.
"""

from __future__ import annotations

import codecs
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING

from textgen.errors import TextgenError

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

WESTERN = (
    "àâæçèéêëîïôœùûüÿ",  # French
    "äöüß",
    "áéíñóúü",  # Spanish
    "àáâãçéêíóôõúü",  # Portuguese
    "àèéìíîòóùú",  # Italian
    "àçèéíïòóúü",  # Catalan
    "åäöé",  # Swedish, Finnish
    "æøåé",  # Danish, Norwegian
    "áæðéíóöþúý",  # Icelandic
    "éëïóöü",  # Dutch
)
CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ćčđšž", "ăâîşţ")
TURKISH, BALTIC = ("âçğıi̇îöşüû",), ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž")
LETTERS = {
    "cp1252": WESTERN,
    "iso8859_15": WESTERN,
    "cp850": WESTERN,
    "cp865": WESTERN,
    "mac_roman": WESTERN,
    "cp1250": CENTRAL,
    "iso8859_2": CENTRAL,
    "cp852": CENTRAL,
    "cp1254": TURKISH,
    "cp1257": BALTIC,
}
"""The Latin encodings, the most common first, and the letters beyond ASCII of languages that are written in them."""

JAPANESE, KOREAN = ("shift_jis", "cp932", "euc_jp"), ("euc_kr", "cp949")
CANDIDATES = [*LETTERS, "cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866", "cp1253", "iso8859_7", "cp1255", "cp1256"]
CANDIDATES += [*JAPANESE, *KOREAN, "gb18030", "big5"]
"""What text files are written in. More candidates would mean more wrong answers for short texts."""

ALIKE_CHAOS, ALIKE_COHERENCE = 0.03, 0.1
"""Texts whose measures are this near to the best one's look alike."""

HANDICAP, LIKE_A_LANGUAGE = 0.03, 0.3
"""By how much of its letters another encoding must be better than the most common one, and the share that is enough."""

INSIDE_WORDS = "’‘·-­"
CHUNK = 1024


def charset_of(sample: bytes, name: str) -> str:
    """Python's name of the encoding of some whole lines. Raises TextgenError if they are text in none that is known."""
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise TextgenError("--encoding auto needs charset-normalizer.", hint="pip install charset-normalizer") from None
    found = [] if b"\0" in sample else list(from_bytes(sample, chunk_size=CHUNK, cp_isolation=CANDIDATES))
    if not found:
        raise TextgenError(
            f"{name!r} is not text in any encoding that --encoding auto knows.",
            hint="name its encoding with --encoding NAME if it is text; otherwise leave the file out.",
        )
    alike = [
        match
        for match in found
        if match.chaos <= found[0].chaos + ALIKE_CHAOS and match.coherence >= found[0].coherence - ALIKE_COHERENCE
    ]
    latin = _latin(sample) if any(match.encoding in LETTERS for match in alike) else None
    return codecs.lookup(latin or _eastern(alike)).name


def _eastern(alike: list[CharsetMatch]) -> str:
    """The first of some encodings; of Japanese and Korean ones that which has most of its own script."""
    scripts = {match.encoding: str(match) for match in alike if match.encoding in JAPANESE + KOREAN}
    if alike[0].encoding not in scripts:
        return alike[0].encoding
    return max(scripts, key=lambda encoding: _share(scripts[encoding], encoding in JAPANESE))


def _share(text: str, japanese: bool) -> float:
    """The share of kana, or of the Korean syllables that are in use, among the characters of a text."""
    if japanese:
        return sum("\u3041" <= character <= "\u30ff" for character in text) / max(1, len(text))
    syllables = (character.encode("cp949") for character in text if "\uac00" <= character <= "\ud7a3")
    return sum(first >= 0xB0 and second >= 0xA1 for first, second in syllables) / max(1, len(text))


def _latin(sample: bytes) -> str | None:
    """The Latin encoding whose letters are most like those of a language, the more common of equal ones; None where
    they are unlike in every one."""
    scores = {}
    for encoding, alphabets in LETTERS.items():
        with suppress(UnicodeDecodeError):
            scores[encoding] = latin_score(sample.decode(encoding), alphabets)
    likely = max(scores, key=lambda encoding: scores[encoding] + HANDICAP * (encoding == next(iter(LETTERS))))
    return likely if scores[likely] >= LIKE_A_LANGUAGE else None


def latin_score(text: str, alphabets: tuple[str, ...]) -> float:
    """The share of the characters beyond ASCII that are letters of one language, the language with the most of them.
    Punctuation does not count, but for what stands inside a word."""
    letters: dict[str, int] = {}
    for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False):
        inside = before.isalpha() and after.isalpha() and character not in INSIDE_WORDS
        if not character.isascii() and (inside or unicodedata.category(character)[0] not in "PZ"):
            letters[character.lower()] = letters.get(character.lower(), 0) + 1
    total = sum(letters.values())
    if not total:
        return 1.0
    return max(sum(letters.get(letter, 0) for letter in alphabet) for alphabet in alphabets) / total
