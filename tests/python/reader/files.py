"""The files of a data directory: frames and segments, tree, checkpoint.json. No keys."""

import json
import re
from pathlib import Path

from blake3 import blake3

from reader.wire import check, decode
from verify_log import Key, leaf, mth, node, open_note, parse_checkpoint, parse_note, unbase64

SEGMENT_HEADER, FRAME_HEADER = 60, 25


def crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


class FrameLog:
    """The payloads of all frames of a log, in order."""

    def __init__(self, directory: Path, kind: bytes):
        self.kind, self.payloads = kind, []  # type: bytes, list[bytes]
        self.log_id = b""
        before = (0, 0)
        paths = sorted(directory.glob("*.seg"))
        check(paths, f"{directory} has a segment")
        for path in paths:
            before = self.read_segment(path, before)

    def read_segment(self, path: Path, before: tuple[int, int]) -> tuple[int, int]:
        """Reads a segment; answers what the header of the next one must say of it."""
        data, first = path.read_bytes(), len(self.payloads)
        head = data[:SEGMENT_HEADER]
        check(len(head) == SEGMENT_HEADER and head[:8] == b"FRAMELOG", f"{path}: a segment")
        check(number(head[56:60]) == crc32c(head[:56]), f"{path}: the checksum of the header")
        check(number(head[8:12]) == 1, f"{path}: a format that is known")
        check(head[12:16] == self.kind, f"{path}: the kind of the log")
        check(self.log_id in (b"", head[16:32]), f"{path}: the id of the log")
        self.log_id = head[16:32]
        check(number(head[32:40]) == first, f"{path}: its first index")
        check(path.name == f"{first:020}.seg", f"{path}: its name")
        check((number(head[40:48]), number(head[48:56])) == before, f"{path}: the one before")
        at = SEGMENT_HEADER
        while at < len(data):
            at = self.read_frame(data, at, f"{path}, offset {at}")
        check(len(self.payloads) > first, f"{path}: a frame")
        self.check_index(path.with_suffix(".idx"), first, len(data))
        return first, len(data)

    def read_frame(self, data: bytes, at: int, name: str) -> int:
        head = data[at : at + FRAME_HEADER]
        check(len(head) == FRAME_HEADER and head[0] == 0x46, f"{name}: a frame")
        bound = self.kind + self.log_id
        check(
            number(head[21:25]) == crc32c(bound + head[:21]), f"{name}: the checksum of the header"
        )
        length, index = number(head[1:5]), number(head[5:13])
        check(length > 0, f"{name}: a payload")
        check(index == len(self.payloads), f"{name}: the number of the frame")
        check(number(head[13:17]) <= index, f"{name}: its place in the batch")
        start, end = at + FRAME_HEADER, at + FRAME_HEADER + length
        payload = data[start:end]
        check(data[end : end + 1] == b"\n", f"{name}: the end mark")
        check(
            number(head[17:21]) == crc32c(bound + head[5:13] + payload),
            f"{name}: the checksum of the payload",
        )
        self.payloads.append(payload)
        return end + 1

    def check_index(self, path: Path, first: int, length: int) -> None:
        """The index of a full segment, where there is one."""
        if not path.exists():
            return
        data = path.read_bytes()
        head, pairs = data[:72], data[72:]
        check(head[:8] == b"FRAMEIDX" and number(head[8:12]) == 1, f"{path}: an index")
        check(head[12:32] == self.kind + self.log_id, f"{path}: kind and id of the log")
        says = [number(head[place : place + 8]) for place in range(32, 64, 8)]
        check(says == [first, len(self.payloads), length, len(pairs) // 16], f"{path}: its segment")
        check(number(head[64:68]) == crc32c(pairs), f"{path}: the checksum of the pairs")
        check(number(head[68:72]) == crc32c(head[:68]), f"{path}: the checksum of the header")


class Tree:
    """The tree of RFC 6962 over all entries, with a root for each size."""

    def __init__(self, entries: list[bytes]):
        self.leaves = [leaf(entry) for entry in entries]

    def root(self, size: int) -> bytes:
        return mth(self.leaves[:size])

    def check_files(self, directory: Path, size: int) -> int:
        """Every hash of tree/ under a checkpoint of that size; answers how many there were."""
        count, level, row = 0, 0, self.leaves[:size]
        while row:
            data = (directory / f"{level}.hashes").read_bytes()[: 32 * len(row)]
            check(data == b"".join(row), f"tree/{level}.hashes is that of the entries")
            count, level = count + len(row), level + 1
            row = [mth(row[at : at + 256]) for at in range(0, len(row) - 255, 256)]
        return count


def root_from_path(index: int, size: int, leaf_hash: bytes, path: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162, section 2.1.3.2)."""
    check(index < size, "the index is in the tree")
    place, last, root = index, size - 1, leaf_hash
    for sibling in path:
        check(last, "no more hashes than such a path has")
        if place & 1 or place == last:
            root = node(sibling, root)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            root = node(root, sibling)
        place, last = place >> 1, last >> 1
    check(last == 0, "the path leads to the root")
    return root


def parse_proof(text: str) -> tuple[int, bytes | None, list[bytes], str]:
    """A C2SP tlog-proof: index, extra, path and checkpoint."""
    head, _, checkpoint = text.partition("\n\n")
    header, *lines = head.split("\n")
    check(header == "c2sp.org/tlog-proof@v1", "the first line of a tlog-proof")
    extra = unbase64(lines.pop(0)[len("extra ") :]) if lines[0].startswith("extra ") else None
    place = re.fullmatch(r"index (0|[1-9]\d*)", lines.pop(0))
    check(place, "the index of a tlog-proof")
    assert place is not None
    return int(place[1]), extra, [unbase64(line) for line in lines], checkpoint


def check_inclusion(entry: bytes, proof: str, keys: list[Key]) -> int:
    """A tlog-proof of an entry under a key of the log; answers the index."""
    index, extra, path, checkpoint = parse_proof(proof)
    check(extra in (None, entry), "the tlog-proof is of this entry")
    size, root = open_checkpoint(checkpoint, keys)
    check(
        root_from_path(index, size, leaf(entry), path) == root, "the entry is under the checkpoint"
    )
    return index


def open_checkpoint(note: str, keys: list[Key]) -> tuple[int, bytes]:
    """Size and root of a checkpoint that one of the keys has signed."""
    _, signatures = parse_note(note)
    signers = [key for key in keys if (key.name, key.id) in [one[:2] for one in signatures]]
    check(signers, "a key that is trusted has signed the checkpoint")
    size, root = parse_checkpoint(open_note(note, signers[0]), signers[0].name)
    return size, root


class CheckpointFile:
    """checkpoint.json: what was signed and released last, and the changes of the key."""

    def __init__(self, path: Path, ledger_id: bytes):
        text = path.read_text(encoding="utf-8").rstrip("\n")
        content = json.loads(text)
        needed = {"format", "ledger_id", "signed", "released", "checksum"}
        check(set(content) - {"key_changes"} == needed, "the members of checkpoint.json")
        check(content["format"] == 1, "checkpoint.json: a format that is known")
        check(content["ledger_id"] == ledger_id.hex(), "checkpoint.json is this ledger's")
        said = content["checksum"]
        summed = text.replace(f',"checksum":"{said}"', "")
        check(blake3(summed.encode()).hexdigest() == said, "checkpoint.json: its checksum")
        self.notes = [content[name]["note"] for name in ("signed", "released") if content.get(name)]
        self.key_changes: list[str] = content.get("key_changes", [])

    def check(self, entries: list[bytes], tree: Tree, key: Key | None) -> tuple[int, list[Key]]:
        """Each checkpoint is of these entries, and signed by a key that the given one leads to;
        without a key, nobody's signature is verified. Answers the largest size and the keys."""
        keys, largest = [] if key is None else [key], 0
        for proof in self.key_changes if keys else []:
            follow_key_change(proof, keys)
        for note in self.notes:
            if keys:
                open_checkpoint(note, keys)
            text, _ = parse_note(note)
            size, root = parse_checkpoint(text, text.split("\n", 1)[0])
            check(size <= len(entries), f"the ledger has the {size} entries of its checkpoint")
            check(tree.root(size) == root, f"the root of the checkpoint of {size} entries")
            largest = max(largest, size)
        return largest, keys


def follow_key_change(proof: str, keys: list[Key]) -> None:
    """A change of the signing key, proven under the key before, adds the key after."""
    index, entry, _, checkpoint = parse_proof(proof)
    check(entry, "the proof of a change of the key has the entry")
    assert entry is not None
    change = decode("Entry", entry).key_transition
    check(change is not None, "the proof of a change of the key is of such an entry")
    before, after = Key(change.old_key), Key(change.new_key)
    check((before.name, before.id) in [(key.name, key.id) for key in keys], "a trusted key before")
    check(
        check_inclusion(entry, proof, [before]) == decode("Entry", entry).index == index,
        "the proof is of the entry's own index",
    )
    open_note(checkpoint, after)
    keys.append(after)
