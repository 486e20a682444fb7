"""Ways to spoil data: bytes, tables of JSON, files of safetensors, messages of protocol buffers."""

import copy
import json
import pickle
import random
import struct

HUGE = [2**31, 2**53, 2**63, 2**64, 10**30, 10**4000, -1, -(2**63), 1e308, -0.0]
ODD_TEXT = [
    "",
    "..",
    ".",
    "/",
    "\\",
    "../secret.txt",
    "/etc/hostname",
    "a\0b",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "A" * 70_000,
]
ODD_TEXT += [
    "os.system",
    "textgen_cells.lstm",
    "__import__('os').system('id')",
    "lstm:LSTM",
    "LSTM",
    "lstm\n",
    "<U8",
    "O",
]
VALUES = [None, True, False, 0, 1, 2, 3, 255, 1e-9, [], {}, [[]], [None], {"a": 1}, *HUGE, *ODD_TEXT]


class Canary:
    """Unpickled, it leaves a mark in the environment of the process."""

    def __reduce__(self):
        return exec, ("import os; os.environ['CANARY'] = 'dead'; open('canary-was-here', 'w').close()",)


PICKLES = [pickle.dumps(Canary(), protocol) for protocol in (0, 2, 5)]


def spoiled_bytes(data: bytes, chance: random.Random) -> bytes:
    """The same bytes with a few of them changed, lost, added or repeated."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        at = chance.randrange(len(data) + 1)
        size = chance.choice([1, 1, 2, 8, 100])
        what = chance.randrange(7)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif what == 1:
            del data[at : at + size]
        elif what == 2:
            data[at:at] = chance.randbytes(size)
        elif what == 3:
            data[at : at + size] = chance.choice([b"\0", b"\xff", b"9", b"[", b'"', b"\x80"]) * size
        elif what == 4:
            del data[at:]
        elif what == 5:
            data[at:at] = data[at : at + 50]
        else:
            data[at : at + 8] = struct.pack("<Q", chance.choice([0, 1, 2**31, 2**32, 2**63, 2**64 - 1]))
    return bytes(data)


def places(value: object, path: tuple = ()):
    """The path to everything inside a value of JSON."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(inner, (*path, key))


def at(value: object, path: tuple) -> object:
    """What stands at a path."""
    for key in path:
        value = value[key]
    return value


def spoil_json(content: dict, chance: random.Random) -> None:
    """Change one place: another value of any kind, one from elsewhere, something more, something less."""
    found = list(places(content))
    *path, key = chance.choice(found)
    holder, other = at(content, tuple(path)), at(content, chance.choice(found))
    what = chance.randrange(8)
    if what == 0 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(chance.choice([*VALUES, other])))
    elif what == 1:
        del holder[key]
    elif what == 2 and type(holder[key]) is int:
        holder[key] += chance.choice([-1, 1])
    elif what == 3 and isinstance(holder, dict):
        holder[chance.choice(ODD_TEXT)] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(chance.choice([*VALUES, other, other]))


def json_of(content: object) -> bytes:
    """JSON that also holds what JSON does not: lone surrogates, infinities."""
    return json.dumps(content).encode("utf-8", "surrogatepass")


def odd_json(data: bytes, chance: random.Random) -> bytes:
    """A table of JSON that a reader may stumble over."""
    text = data.decode().rstrip()
    inner = text[1:-1].strip() or '"a": 0'
    forms = [
        lambda: f'{{"x": {"[" * 100_000}{"]" * 100_000}, {inner}}}',
        lambda: f'{{"x": {"{" * 0}{chr(34).join(["{", "a", ":"]) * 50_000}1{"}" * 50_000}, {inner}}}',
        lambda: "[" * 1_000_000,
        lambda: f'{{{inner}, "format_version": 2}}',
        lambda: f"{{{inner}, {inner}}}",
        lambda: f'{{"x": NaN, {inner}}}',
        lambda: f'{{"x": -Infinity, {inner}}}',
        lambda: f'{{"x": 1e999, {inner}}}',
        lambda: f'{{"x": {"9" * 5000}, {inner}}}',
        lambda: f'{{"x": 0.{"9" * 3_000_000}, {inner}}}',
        lambda: f'{{"x": [{",".join(["[]"] * 4_000_000)}], {inner}}}',
        lambda: f'{{"x": "{"y" * 5_000_000}", {inner}}}',
        lambda: f'{{"\\ud800": "\\udfff", {inner}}}',
        lambda: f'{{"__proto__": {{"a": 1}}, "auto_map": {{"AutoModel": "evil.Model"}}, {inner}}}',
        lambda: f'{{"trust_remote_code": true, "torch_dtype": "os.system", {inner}}}',
        lambda: "\ufeff" + text,
        lambda: text + text,
        lambda: text + "\0",
        lambda: f"[{text}]",
        lambda: "null",
        lambda: "",
        lambda: '"text"',
        lambda: text.replace('"', "'"),
        lambda: text.replace(": ", ": \x00"),
        lambda: f"/* */ {text}",
    ]
    made = chance.choice(forms)()
    return made.encode("utf-16") if chance.random() < 0.04 else made.encode()


def tensors_of(content: bytes) -> tuple[dict, bytes]:
    """The header and the numbers of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def tensors_file(header: dict, numbers: bytes) -> bytes:
    """The inverse of `tensors_of`, whatever the header says."""
    stored = json_of(header)
    return struct.pack("<Q", len(stored)) + stored + numbers


def odd_tensors(content: bytes, chance: random.Random) -> bytes:
    """A file of weights that lies."""
    header, numbers = tensors_of(content)
    name = chance.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    begin, end = entry["data_offsets"]

    def changed(**values: object) -> bytes:
        entry.update(values)
        return tensors_file(header, numbers)

    def renamed(other: str) -> bytes:
        header[other] = header.pop(name)
        return tensors_file(header, numbers)

    def noise(value: bytes) -> bytes:
        return tensors_file(header, numbers[:begin] + (value * len(numbers))[: end - begin] + numbers[end:])

    def many() -> bytes:
        header.update({f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(100_000)})
        return tensors_file(header, numbers)

    huge = chance.choice([2**20, 2**31, 2**40, 2**62, 2**63, 2**64, 10**30, -1, -(2**62)])
    forms = [
        lambda: changed(data_offsets=[begin + huge, end + huge]),
        lambda: changed(data_offsets=[begin, huge]),
        lambda: changed(data_offsets=[end, begin]),
        lambda: changed(data_offsets=[0, end - begin]),
        lambda: changed(data_offsets=[begin + 1, end + 1]),
        lambda: changed(data_offsets=[float(begin), float(end)]),
        lambda: changed(data_offsets=[True, end]),
        lambda: changed(data_offsets=[begin, end, end]),
        lambda: changed(shape=[huge, huge]),
        lambda: changed(shape=[huge]),
        lambda: changed(shape=[0, huge]),
        lambda: changed(shape=[*entry["shape"], 1]),
        lambda: changed(shape=entry["shape"][::-1]),
        lambda: changed(shape=[1] * 100 + entry["shape"]),
        lambda: changed(shape=[]),
        lambda: changed(shape=None),
        lambda: changed(shape="12"),
        lambda: changed(
            dtype=chance.choice(["F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "U64"])
        ),
        lambda: changed(
            dtype=chance.choice(["O", "object", "F4", "F6_E2M3", "F8_E8M0", "float32", 7, None, ["F32"], ""])
        ),
        lambda: changed(extra="x" * 100_000),
        lambda: renamed(chance.choice(ODD_TEXT)),
        lambda: renamed("../../" + name),
        lambda: renamed(chance.choice([other for other in header if other != name])),
        lambda: noise(struct.pack("<f", float("nan"))),
        lambda: noise(struct.pack("<f", float("inf"))),
        lambda: noise(struct.pack("<f", 3e38)),
        lambda: noise(chance.randbytes(1024)),
        many,
        lambda: tensors_file({"__metadata__": {"format": "pt", "x": "y" * 1_000_000}, **header}, numbers),
        lambda: tensors_file({"__metadata__": {"a": [1, {"b": None}]}, **header}, numbers),
        lambda: tensors_file({"__metadata__": None, **header}, numbers),
        lambda: tensors_file(dict.fromkeys(header, entry), numbers),
        lambda: tensors_file({}, b""),
        lambda: tensors_file(header, numbers + b"\0" * chance.choice([1, 4, 1_000_000])),
        lambda: tensors_file(header, numbers[: -chance.choice([1, 4, 1000])]),
        lambda: struct.pack("<Q", abs(huge) % 2**64) + content[8:],
        lambda: struct.pack("<Q", 0) + content[8:],
        lambda: content[:8] + odd_json(json_of(header), chance) + numbers,
        lambda: (odd := odd_json(json_of(header), chance)) and struct.pack("<Q", len(odd)) + odd + numbers,
        lambda: chance.choice(PICKLES),
        lambda: b"PK\x03\x04" + chance.choice(PICKLES),
    ]
    return chance.choice(forms)()


def _varint(value: int) -> bytes:
    value %= 1 << 64
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def fields_of(message: bytes) -> list[tuple[int, int, object]]:
    """The fields of a protocol buffer, (number, wire type, value), in order."""
    found, place = [], 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place, value, shift = place + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while place < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            found.append((number, kind, varint()))
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        found.append((number, kind, message[place : place + size]))
        place += size
    return found


def message_of(fields: list[tuple[int, int, object]]) -> bytes:
    """The inverse of `fields_of`."""
    parts = []
    for number, kind, value in fields:
        parts.append(_varint(number << 3 | kind))
        parts.append(_varint(value) if kind == 0 else (_varint(len(value)) if kind == 2 else b"") + value)
    return b"".join(parts)


PIECES, TRAINER, NORMALIZER, SELF_TEST, DENORMALIZER = 1, 2, 3, 4, 5


def odd_pieces(model: bytes, chance: random.Random) -> bytes:
    """A model of sentencepiece that is not as its trainer would write it."""
    fields = fields_of(model)
    pieces = [place for place, field in enumerate(fields) if field[0] == PIECES]
    place = chance.choice(pieces[258:] if chance.random() < 0.7 else pieces)
    piece = fields_of(fields[place][2])

    def with_piece(*changed: tuple[int, int, object]) -> bytes:
        fields[place] = (PIECES, 2, message_of(list(changed)))
        return message_of(fields)

    def with_part(number: int, *more: tuple[int, int, object]) -> bytes:
        old = next((fields_of(value) for key, _, value in fields if key == number), [])
        replaced = [field for field in old if field[0] not in [each[0] for each in more]] + list(more)
        rest = [field for field in fields if field[0] != number]
        return message_of([*rest, (number, 2, message_of(replaced))])

    odd = [
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xe2\x96\x81" * 3,
        b"a" * 100_000,
        b"<0x41>",
        b"<s>",
        b"</s>",
        b"\n",
        b" ",
        b"a b",
    ]
    floats = [struct.pack("<f", value) for value in (float("nan"), float("inf"), float("-inf"), 1e38, -1e38, 0.0)]
    trie = struct.pack("<I", chance.choice([4, 8, 1024, 2**31, 2**32 - 4, 2**32 - 1])) + chance.randbytes(
        chance.choice([4, 1024, 4096])
    )
    forms = [
        lambda: with_piece((1, 2, chance.choice(odd)), *piece[1:]),
        lambda: with_piece(piece[0], (2, 5, chance.choice(floats)), *piece[2:]),
        lambda: with_piece(*piece[:2], (3, 0, chance.choice([0, 1, 2, 3, 4, 5, 6, 7, 2**31, 2**63]))),
        lambda: with_piece(*piece, *piece),
        lambda: with_piece(*fields_of(fields[chance.choice(pieces)][2])),
        lambda: message_of(fields[:place] + fields[place + 1 :]),
        lambda: message_of(chance.sample(fields, len(fields))),
        lambda: message_of(fields + [(PIECES, 2, message_of([(1, 2, b"q%d" % k)])) for k in range(300_000)]),
        lambda: message_of(
            [
                fields[k]
                if k not in pieces
                else (PIECES, 2, message_of([*fields_of(fields[k][2])[:1], (2, 5, floats[0])]))
                for k in range(len(fields))
            ]
        ),
        lambda: with_part(NORMALIZER, (2, 2, trie)),
        lambda: with_part(NORMALIZER, (1, 2, b"nmt_nfkc"), (2, 2, trie)),
        lambda: with_part(NORMALIZER, (3, 0, 1)),
        lambda: with_part(NORMALIZER, (4, 0, 1)),
        lambda: with_part(NORMALIZER, (5, 0, 0)),
        lambda: with_part(NORMALIZER, (6, 2, b"/etc/hostname")),
        lambda: with_part(DENORMALIZER, (1, 2, b"x"), (2, 2, trie)),
        lambda: with_part(SELF_TEST, (1, 2, message_of([(1, 2, b"a"), (2, 2, b"b")]))),
        lambda: with_part(TRAINER, (1, 2, b"/etc/hostname"), (2, 2, b"../secret"), (3, 0, chance.randrange(0, 6))),
        lambda: with_part(TRAINER, (3, 0, chance.choice([0, 1, 2, 3, 4, 5, 2**31]))),
        lambda: with_part(TRAINER, *[(key, 0, chance.choice([0, 1, 2**31 - 1, 2**64 - 1])) for key in range(40, 44)]),
        lambda: with_part(TRAINER, (24, 0, 1), (35, 0, 0)),
        lambda: with_part(TRAINER, (53, 2, b"\xe2\x96\x81"), (54, 2, b"a" * 10_000)),
        lambda: message_of(fields) * 2,
        lambda: message_of([*fields, (99, 2, b"x" * 1_000_000)]),
        lambda: message_of([*fields, (3, 2, b"\x0a" * 10_000)]),
        lambda: _nested(50_000) + model,
        lambda: chance.choice(PICKLES),
    ]
    return spoiled_bytes(model, chance) if chance.random() < 0.4 else chance.choice(forms)()


def _nested(depth: int) -> bytes:
    inner = b""
    for _ in range(min(depth, 2000)):
        inner = message_of([(3, 2, inner)])
    return inner
