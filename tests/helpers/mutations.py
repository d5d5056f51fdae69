"""Small changes of a file, as bytes, JSON or an archive, to see what a reader makes of one that is almost right."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

VALUES = [None, True, False, -1, 0, 1, 1.5, 2**60, 1e301, float("inf"), "", "x", "\x00", [], {}, [1], {"a": 1}]
"""What a place is replaced with; ``json.dumps`` writes the infinity as ``Infinity``."""

CHANGES = ["replace", "delete", "add", "twice"]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield every place of a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def change_at(content: Any, path: tuple, change: str, value: Any) -> None:
    """Change a value in place: one of :data:`CHANGES`, at a place of :func:`places` other than the whole."""
    for key in path[:-1]:
        content = content[key]
    if change == "replace":
        content[path[-1]] = value
    elif change == "delete":
        del content[path[-1]]
    elif change == "twice" and isinstance(content, list):
        content.append(content[path[-1]])
    elif isinstance(content, dict):
        content["new"] = value


NUMBERS = [b"-1", b"0", b"1e309", b"-0.0", b"2147483648", b"9" * 30, b"0.5", b"NaN", b"1e-320", b"[]", b"null"]


def mutated_bytes(random: Random, content: bytes) -> bytes:
    """One to three changes: a byte, a piece that goes, comes twice or moves, a number that is another, an early end."""
    result = bytearray(content)
    for _ in range(random.randint(1, 3)):
        at, length = random.randrange(len(result) or 1), random.choice([1, 1, 2, 8, 64])
        change = random.choice(["byte", "bit", "delete", "insert", "twice", "move", "number", "number", "cut"])
        piece = bytes(result[at : at + length])
        if change == "byte":
            result[at : at + 1] = bytes([random.randrange(256)])
        elif change == "bit" and piece:
            result[at] ^= 1 << random.randrange(8)
        elif change == "delete":
            del result[at : at + length]
        elif change == "insert":
            result[at:at] = random.randbytes(length)
        elif change == "twice":
            result[at:at] = piece * random.choice([1, 1, 100])
        elif change == "move":
            to = random.randrange(len(result) or 1)
            result[to:to] = piece
        elif change == "number":
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(result[at : at + 4000])))
            if numbers:
                number = random.choice(numbers[:20])
                result[at + number.start() : at + number.end()] = random.choice(NUMBERS)
        elif random.random() < 0.3:
            del result[at:]
    return bytes(result)


def mutated_value(random: Random, value: Any) -> Any:
    """One to three changes of a JSON value."""
    result = deepcopy(value)
    for _ in range(random.randint(1, 3)):
        path = random.choice([path for path in places(result) if path] or [()])
        if path:
            change_at(result, path, random.choice(CHANGES), deepcopy(random.choice(VALUES)))
    return result


def mutated_json(random: Random, content: bytes) -> bytes:
    """A JSON file, changed as bytes or as a value."""
    if random.random() < 0.5:
        return mutated_bytes(random, content)
    return json.dumps(mutated_value(random, json.loads(content))).encode()


def mutated_zip(random: Random, content: bytes) -> bytes:
    """An archive, changed as bytes; or one of its members, within an archive that is sound."""
    if random.random() < 0.3:
        return mutated_bytes(random, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member: archive.read(member) for member in archive.infolist()}
    chosen = random.choice(list(members))
    head = random.choice([128, len(members[chosen])])  # most of what a reader believes stands at the beginning
    members[chosen] = mutated_bytes(random, members[chosen][:head]) + members[chosen][head:]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data, compress_type=member.compress_type)
    return stream.getvalue()
