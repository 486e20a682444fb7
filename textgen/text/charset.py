"""Detecting the encoding of bytes that are not UTF-8, with charset-normalizer and the alphabets of languages.

charset-normalizer measures how plausible a text looks in each encoding. Short texts with few letters beyond ASCII look
alike in several Latin encodings; the encoding in which those letters belong to one language wins.
"""

from __future__ import annotations

import codecs
import unicodedata
from contextlib import suppress

from textgen.dependencies import needed
from textgen.errors import TextgenError
from textgen.parameters import named

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
"""Latin encodings, the most common first, and the letters beyond ASCII of the languages written in them."""

JAPANESE, KANA = ("cp932", "euc_jp"), 0.2
EASTERN = [*JAPANESE, "shift_jis", "euc_kr", "cp949", "gb18030", "big5"]
CANDIDATES = [*LETTERS, "cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866", "cp1253", "iso8859_7", "cp1255", "cp1256"]
CANDIDATES += EASTERN
"""Encodings of text files. More candidates would mean more wrong answers for short texts."""

ALIKE_CHAOS, ALIKE_COHERENCE = 0.03, 0.1
"""Candidates whose scores are this close to the best look alike."""

HANDICAP, LIKE_A_LANGUAGE = 0.03, 0.3
"""How much better than the most common encoding another one must score, and the lowest score that is accepted."""

INSIDE_WORDS = "’‘·-­"
CHUNK = 1024


def charset_of(sample: bytes, name: str) -> str:
    """Python's name for the encoding of some whole lines. Raises TextgenError if no known encoding fits."""
    with needed("charset_normalizer", named("encoding", "auto")):
        from charset_normalizer import from_bytes
    found = [] if b"\0" in sample else list(from_bytes(sample, chunk_size=CHUNK, cp_isolation=CANDIDATES))
    if not found:
        raise TextgenError(
            f"{name!r} is not text in any encoding that {named('encoding', 'auto')} knows.",
            hint=f"name its encoding with {named('encoding', 'NAME')} if it is text; otherwise leave the file out.",
        )
    alike = [
        match
        for match in found
        if match.chaos <= found[0].chaos + ALIKE_CHAOS and match.coherence >= found[0].coherence - ALIKE_COHERENCE
    ]
    own = _japanese(sample) if found[0].encoding in EASTERN else None
    if own is None and any(match.encoding in LETTERS for match in alike):
        own = _latin(sample)
    return codecs.lookup(own or found[0].encoding).name


def _japanese(sample: bytes) -> str | None:
    """The Japanese encoding in which a text has kana, as all Japanese text does; None if there are few."""
    shares = {}
    for encoding in JAPANESE:
        with suppress(UnicodeDecodeError):
            text = sample.decode(encoding)
            shares[encoding] = sum("\u3041" <= character <= "\u30ff" for character in text) / len(text)
    likely = max(shares, key=lambda encoding: shares[encoding], default="")
    return likely if shares.get(likely, 0.0) >= KANA else None


def _latin(sample: bytes) -> str | None:
    """The Latin encoding in which the letters fit one language best, the more common one in a tie; None if they fit
    in none."""
    scores = {}
    for encoding, alphabets in LETTERS.items():
        with suppress(UnicodeDecodeError):
            scores[encoding] = latin_score(sample.decode(encoding), alphabets)
    likely = max(scores, key=lambda encoding: scores[encoding] + HANDICAP * (encoding == next(iter(LETTERS))))
    return likely if scores[likely] >= LIKE_A_LANGUAGE else None


def latin_score(text: str, alphabets: tuple[str, ...]) -> float:
    """The share of the characters beyond ASCII that belong to the alphabet that covers most of them. Punctuation does
    not count, except inside a word."""
    letters: dict[str, int] = {}
    for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False):
        inside = before.isalpha() and after.isalpha() and character not in INSIDE_WORDS
        if not character.isascii() and (inside or unicodedata.category(character)[0] not in "PZ"):
            letters[character.lower()] = letters.get(character.lower(), 0) + 1
    total = sum(letters.values())
    if not total:
        return 1.0
    return max(sum(letters.get(letter, 0) for letter in alphabet) for alphabet in alphabets) / total
