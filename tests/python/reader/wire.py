"""Messages of protobuf in the one form that docs/format.md allows, by what the .proto files say.

A message is canonical if decoding and encoding it gives the same bytes: fields ascend, each is
there once, defaults are left out, numbers are short, repeated numbers are packed. Unknown fields
and unknown values of enums are refused.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Wrong(Exception):
    """Something is not as it must be."""


def check(holds: object, name: str) -> None:
    if not holds:
        raise Wrong(name)


VARINT, BYTES = 0, 2
NUMBERS = {"uint32": 1 << 32, "uint64": 1 << 64, "int64": 1 << 64, "bool": 2}


@dataclass(frozen=True)
class Field:
    """A field as a .proto file declares it."""

    number: int
    name: str
    type: str
    repeated: bool
    optional: bool
    oneof: str

    @property
    def is_number(self) -> bool:
        return self.type not in ("string", "bytes") and self.type not in SCHEMA.messages

    @property
    def has_presence(self) -> bool:
        """Whether the field can be absent, apart from having its default."""
        return self.optional or self.oneof != "" or self.type in SCHEMA.messages

    @property
    def default(self) -> Any:
        if self.repeated:
            return []
        if self.has_presence:
            return None
        return {"string": "", "bytes": b"", "bool": False}.get(self.type, 0)


@dataclass
class Schema:
    """Messages and enums by their full names."""

    messages: dict[str, dict[int, Field]] = field(default_factory=dict)
    enums: dict[str, dict[int, str]] = field(default_factory=dict)

    def load(self, directory: Path) -> None:
        """Reads the files that the messages of a ledger need."""
        texts = []
        for path in [
            *sorted(directory.glob("consent/ledger/v2/*.proto")),
            *(directory / "consent/v1" / f"{name}.proto" for name in ("types", "watch_service")),
        ]:
            text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
            package = re.search(r"^package ([\w.]+);", text, re.M)
            assert package is not None
            texts += [(package[1], *block) for block in blocks(text)]
        for package_name, kind, name, body in texts:
            full = f"{package_name}.{name}"
            if kind == "enum":
                values = re.findall(r"(\w+) = (\d+);", body)
                self.enums[full] = {int(number): value for value, number in values}
            else:
                self.messages[full] = {}
        for package_name, kind, name, body in texts:
            if kind == "message":
                fields = self.fields(package_name, body)
                self.messages[f"{package_name}.{name}"] = {one.number: one for one in fields}

    def fields(self, package: str, body: str) -> list[Field]:
        found, oneof = [], ""
        line = r"oneof (\w+) \{|(\})|(repeated |optional |)([\w.]+) (\w+) = (\d+);"
        for match in re.finditer(line, body):
            begins, ends, label, type_name, name, number = match.groups()
            if begins or ends:
                oneof = begins or ""
                continue
            local = f"{package}.{type_name}"
            full = local if local in self.messages or local in self.enums else type_name
            found.append(
                Field(int(number), name, full, label == "repeated ", label == "optional ", oneof)
            )
        return found

    def values(self, enum: str) -> dict[int, str]:
        """The values of an enum, without the enum's own name: `GRANT` of `ACTION_GRANT`."""
        own = re.sub(r"(?<!^)(?=[A-Z])", "_", enum).upper() + "_"
        packages = ("consent.ledger.v2", "consent.v1")
        values = next(
            self.enums[f"{package}.{enum}"]
            for package in packages
            if f"{package}.{enum}" in self.enums
        )
        return {number: name.removeprefix(own) for number, name in values.items()}


def blocks(text: str) -> list[tuple[str, str, str]]:
    """The messages and enums at the top of a file: kind, name and body."""
    found = []
    for match in re.finditer(r"^(message|enum) (\w+) \{", text, re.M):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found.append((match[1], match[2], text[match.end() : end - 1]))
    return found


SCHEMA = Schema()


def enum_name(enum: str, value: int) -> str:
    return SCHEMA.values(enum)[value]


def enum_number(enum: str, name: str) -> int:
    return next(number for number, value in SCHEMA.values(enum).items() if value == name)


class Message:
    """A decoded message: its fields are attributes; one that is absent has its default."""

    def __init__(self, type_name: str, values: dict[str, Any]):
        self.type_name = type_name
        self.values = values

    def __getattr__(self, name: str) -> Any:
        for one in SCHEMA.messages[self.type_name].values():
            if one.name == name:
                return self.values.get(name, one.default)
        raise AttributeError(f"{self.type_name} has no field {name}")

    def which(self, oneof: str) -> str:
        """The name of the field of a oneof that is there; empty if none is."""
        names = [one.name for one in SCHEMA.messages[self.type_name].values() if one.oneof == oneof]
        return next((name for name in names if name in self.values), "")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        check(at < len(data) and shift < 70, "a number is whole")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at


def varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def number_from(one: Field, value: int) -> Any:
    if one.type in SCHEMA.enums:
        check(value in SCHEMA.enums[one.type], f"{one.name}: a value that {one.type} has")
        return value
    check(value < NUMBERS[one.type], f"{one.name}: a number of its size")
    if one.type == "bool":
        return value == 1
    return value - (1 << 64) if one.type == "int64" and value >> 63 else value


def decode_fields(kind: str, data: bytes) -> Message:
    """Decodes without asking for the canonical form."""
    values: dict[str, Any] = {}
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        one = SCHEMA.messages[kind].get(key >> 3)
        check(one, f"{kind} has no field {key >> 3}")
        assert one is not None
        wanted = VARINT if one.is_number and not one.repeated else BYTES
        check(key & 7 == wanted, f"{one.name}: its type on the wire")
        value, at = read_varint(data, at)
        if wanted == VARINT:
            values[one.name] = number_from(one, value)
            continue
        check(at + value <= len(data), f"{one.name}: all of its bytes")
        content, at = data[at : at + value], at + value
        if one.is_number:
            place = 0
            while place < len(content):
                number, place = read_varint(content, place)
                values.setdefault(one.name, []).append(number_from(one, number))
        elif one.repeated:
            values.setdefault(one.name, []).append(value_from(one, content))
        else:
            values[one.name] = value_from(one, content)
    bodies = [
        one.oneof for one in SCHEMA.messages[kind].values() if one.name in values and one.oneof
    ]
    check(len(bodies) == len(set(bodies)), f"{kind}: one of several fields, and not two")
    return Message(kind, values)


def value_from(one: Field, content: bytes) -> Any:
    if one.type == "bytes":
        return content
    if one.type == "string":
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise Wrong(f"{one.name}: a text is UTF-8") from error
    return decode_fields(one.type, content)


def encode(message: Message) -> bytes:
    parts = []
    for number, one in sorted(SCHEMA.messages[message.type_name].items()):
        value = message.values.get(one.name, one.default)
        if value == one.default and not (one.name in message.values and one.has_presence):
            continue
        if one.is_number and one.repeated:
            packed = b"".join(varint(item % (1 << 64)) for item in value)
            parts.append(varint(number << 3 | BYTES) + varint(len(packed)) + packed)
        elif one.is_number:
            parts.append(varint(number << 3 | VARINT) + varint(int(value) % (1 << 64)))
        else:
            for item in value if one.repeated else [value]:
                content = item.encode() if one.type == "string" else item
                content = encode(content) if isinstance(content, Message) else content
                parts.append(varint(number << 3 | BYTES) + varint(len(content)) + content)
    return b"".join(parts)


def decode(name: str, data: bytes) -> Message:
    """A message of the ledger, in its canonical form and no other."""
    message = decode_fields(f"consent.ledger.v2.{name}", data)
    check(encode(message) == data, f"{name} is in the canonical form")
    return message
