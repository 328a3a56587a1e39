"""Keys, tags and seals: "Keys", "Tags and commitments" and "Seals" of docs/format.md."""

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reader.wire import Message, Wrong, check, decode, enum_number

RECORD, EVIDENCE, ERASURE, USE, ITEM = 1, 2, 3, 4, 5
NO_TAG = bytes(16)

# The sizes that a text may have, by its part.
BUCKETS = {
    RECORD: [192 << k for k in range(9)],
    EVIDENCE: [256 << k for k in range(8)] + [49_152],
    ERASURE: [128 << k for k in range(9)],
    USE: [128 << k for k in range(9)],
    ITEM: [128 << k for k in range(9)],
}
VAULT_BUCKETS = [512 << k for k in range(7)]


def derive(context: str, material: bytes) -> bytes:
    """D of the document."""
    return blake3(material, derive_key_context=f"consent-ledger v2 {context}").digest()


def keyed(key: bytes, data: bytes) -> bytes:
    """K of the document."""
    check(len(key) == 32, "a key has 32 bytes")
    return blake3(data, key=key).digest()


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def chain_hash(entry: bytes) -> bytes:
    return derive("chain", entry)


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


class NotThisKey(Wrong):
    """A sealed text does not open."""


def open_aead(key: bytes, aad: bytes, ciphertext: bytes, name: str) -> bytes:
    try:
        return AESGCM(key).decrypt(bytes(12), ciphertext, aad)
    except InvalidTag as error:
        raise NotThisKey(f"{name} does not open") from error


def unpad(text: bytes, buckets: list[int], name: str) -> bytes:
    """The message of a padded text, which has the smallest bucket and zeros behind the message."""
    length = int.from_bytes(text[:2], "little")
    check(2 + length <= len(text), f"{name}: the message is whole")
    smallest = next((bucket for bucket in buckets if bucket >= 2 + length), 0)
    check(len(text) == smallest, f"{name}: the smallest bucket")
    check(not any(text[2 + length :]), f"{name}: zeros up to the bucket")
    return text[2 : 2 + length]


@dataclass(frozen=True)
class Place:
    """Where a sealed text stands; bound into it."""

    ledger_id: bytes
    index: int
    part: int
    tag: bytes = NO_TAG
    item: int = 0

    def aad(self) -> bytes:
        return (
            b"consent-ledger v2\0"
            + self.ledger_id
            + u64(self.index)
            + self.tag
            + bytes([self.part])
            + u32(self.item)
        )

    def __str__(self) -> str:
        part = {
            RECORD: "record",
            EVIDENCE: "evidence",
            ERASURE: "totals of the erasure",
            USE: "use",
            ITEM: f"item {self.item}",
        }[self.part]
        return f"entry {self.index}: {part}"


def one_time_key(key: bytes, salt: bytes) -> bytes:
    return derive("sealing key", key + salt)


def reference_of(record_key: bytes) -> bytes:
    return derive("reference", record_key)[:16]


def open_sealed(place: Place, key: bytes, ciphertext: bytes, commitment: bytes) -> bytes:
    """The message in a sealed text, by its one-time key."""
    aad = place.aad()
    text = open_aead(key, aad, ciphertext, str(place))
    committed = derive("commitment", key + u64(len(aad)) + aad + text)
    check(committed == commitment, f"{place}: the commitment")
    return unpad(text, BUCKETS[place.part], str(place))


def next_commitment(blind: bytes, tag_after: bytes) -> bytes:
    return derive("next tag", blind + tag_after)


class KeyTree:
    """What is left of a tree of keys over the numbers below 2^32."""

    def __init__(self, nodes: Iterable[Message]):
        self.nodes = [(node.depth, node.path, node.key) for node in nodes]
        check(len(self.nodes) <= 256, "a tree has at most 256 nodes")
        end = 0
        for depth, path, key in self.nodes:
            check(depth <= 32 and path < 1 << depth and len(key) == 32, "the form of a node")
            check(path << 32 - depth >= end, "nodes ascend and do not overlap")
            end = path + 1 << 32 - depth

    def first(self) -> int:
        """The first number that is not forgotten."""
        check(self.nodes, "a tree with a node")
        depth, path, _ = self.nodes[0]
        return int(path) << 32 - depth

    def leaf(self, number: int) -> bytes | None:
        key: bytes
        for depth, path, key in self.nodes:
            if number >> 32 - depth == path:
                for level in range(31 - depth, -1, -1):
                    key = keyed(key, bytes([number >> level & 1]))
                return key
        return None


class PersonKeys:
    """Keys that follow from a person's three secrets."""

    def __init__(self, master: bytes, evidence: KeyTree, uses: KeyTree):
        check(len(master) == 32, "a master key has 32 bytes")
        self.tag_key = derive("tag", master)
        self.record_key = derive("record", master)
        self.identity_key = derive("identity", master)
        self.confirmation_key = derive("confirmation", master)
        self.evidence, self.uses = evidence, uses

    def tag(self, number: int) -> bytes:
        return keyed(self.tag_key, b"\x00" + u64(number))[:16]

    def blind(self, number: int) -> bytes:
        return keyed(self.tag_key, b"\x01" + u64(number))

    def token_hash(self, nonce: bytes) -> bytes:
        token = base64.urlsafe_b64encode(keyed(self.confirmation_key, nonce)).rstrip(b"=")
        return hashlib.sha256(token).digest()

    def use_tag(self, number: int) -> bytes | None:
        leaf = self.uses.leaf(number)
        return None if leaf is None else keyed(leaf, b"use")[:16]


def identity_commitment(identity_key: bytes, identity: str) -> bytes:
    return derive("identity commitment", identity_key + identity.encode())


# The order in which a reader tries the kinds of items.
ITEM_KINDS = {
    "DELIVERY": ["delivery"],
    "FAILURE": ["failure"],
    "LATENESS": ["lateness"],
    "SUBSCRIPTION": ["subscription_created", "subscription_deleted"],
    "WEBHOOK": ["webhook_address"],
    "PRINCIPAL": ["principal"],
    "DISCLOSURE": ["disclosure"],
    "VAULT": ["vault"],
}


def epoch_of(index: int) -> int:
    return index >> 20


class ConfidentialKeys:
    """Opens confidential texts: by the ledger's secret, or by what a disclosure gives."""

    def __init__(self, ledger_secret: bytes | None = None):
        root = None if ledger_secret is None else derive("confidential", ledger_secret)
        self.root = root
        self.keys: dict[tuple[int, int], bytes] = {}
        self.one_time: dict[tuple[int, int, int], bytes] = {}

    def one_time_key(self, kind: int, place: Place, salt: bytes) -> bytes | None:
        given = self.one_time.get((place.index, place.item, kind))
        if given is not None:
            return given
        epoch = epoch_of(place.index)
        if self.root is not None and (kind, epoch) not in self.keys:
            self.keys[kind, epoch] = derive("confidential", self.root + bytes([kind]) + u64(epoch))
        key = self.keys.get((kind, epoch))
        return None if key is None else one_time_key(key, salt)

    def open_shared(self, place: Place, sealed: Message) -> Message | None:
        """A shared part; none if no key for it is known."""
        name, kind = {USE: ("Use", "USE"), ERASURE: ("Erasure", "ERASURE")}[place.part]
        key = self.one_time_key(enum_number("ConfidentialKind", kind), place, sealed.salt)
        if key is None:
            return None
        message = decode(name, open_sealed(place, key, sealed.ciphertext, sealed.commitment))
        check(message.recorded_ms < 1000, f"{place}: milliseconds")
        return message

    def open_item(self, place: Place, sealed: Message) -> Message | None:
        """An item; none if no key that is known opens it."""
        for name, contents in ITEM_KINDS.items():
            key = self.one_time_key(enum_number("ConfidentialKind", name), place, sealed.salt)
            if key is None:
                continue
            try:
                text = open_sealed(place, key, sealed.ciphertext, sealed.commitment)
            except NotThisKey:
                continue
            item = decode("Item", text)
            check(item.which("content") in contents, f"{place}: a {name} under the key of its kind")
            check(item.recorded_ms < 1000, f"{place}: milliseconds")
            return item
        return None
