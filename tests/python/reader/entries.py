"""Entries without keys: form, order, chain, tags, feature level, catalogue."""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from reader.keys import BUCKETS, ERASURE, EVIDENCE, ITEM, RECORD, USE, chain_hash, keyed
from reader.wire import Message, check, decode_fields, encode, enum_name

FORMAT_VERSION, LEVEL = 2, 1
# Bodies whose entries have no MAC: they are sealed, or open the ledger.
WITHOUT_MAC = ("ledger_opened", "persons", "uses", "confidential")
KEY = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class NewerVersion(Exception):
    """A newer version of the program wrote the ledger: what follows is not judged."""


@dataclass
class Version:
    """A version of a purpose, and the entry that put it there first."""

    put: Message
    index: int


@dataclass
class Purpose:
    """A purpose: its versions, and its standing as of the newest entry."""

    number: int
    key: str
    versions: dict[int, Version] = field(default_factory=dict)
    # Index and content of each entry about it.
    puts: list[tuple[int, Message]] = field(default_factory=list)

    @property
    def now(self) -> Message:
        return self.puts[-1][1]


@dataclass
class Catalogue:
    """The catalogue as of some entry."""

    purposes: dict[str, Purpose] = field(default_factory=dict)
    channels: dict[str, Message] = field(default_factory=dict)
    namespaces: dict[str, Message] = field(default_factory=dict)
    parties: dict[str, Message] = field(default_factory=dict)
    corrections: list[Message] = field(default_factory=list)

    def purpose(self, number: int) -> str:
        check(1 <= number <= len(self.purposes), f"purpose {number} is in the catalogue")
        return list(self.purposes)[number - 1]

    def channel(self, number: int) -> str:
        check(1 <= number <= len(self.channels), f"channel {number} is in the catalogue")
        return list(self.channels)[number - 1]

    def fold(self, entry: Message) -> None:
        put = getattr(entry, entry.which("body"))
        match entry.which("body"):
            case "purpose_put":
                purpose = self.purposes.setdefault(
                    put.key, Purpose(len(self.purposes) + 1, put.key)
                )
                purpose.versions.setdefault(put.version, Version(put, entry.index))
                purpose.puts.append((entry.index, put))
            case "channel_put":
                self.channels[put.key] = put
            case "namespace_put":
                self.namespaces[put.key] = put
            case "party_put":
                self.parties[put.key] = put
            case "clock_corrected":
                self.corrections.append(put)


class Ledger:
    """The entries of a ledger, each checked as far as that needs no keys."""

    def __init__(self, payloads: list[bytes]):
        self.bytes = payloads
        self.entries: list[Message] = []
        self.tags: set[bytes] = set()
        self.level = 0
        for payload in payloads:
            self.entries.append(self.read(payload))

    @property
    def id(self) -> bytes:
        opened: bytes = self.entries[0].ledger_opened.ledger_id
        return opened

    def catalogue(self, size: int) -> Catalogue:
        """The catalogue as of the first entries."""
        catalogue = Catalogue()
        for entry in self.entries[:size]:
            catalogue.fold(entry)
        return catalogue

    def read(self, payload: bytes) -> Message:
        index, name = len(self.entries), f"entry {len(self.entries)}"
        check(len(payload) <= 65_535, f"{name}: at most 65,535 bytes")
        entry = decode_fields("consent.ledger.v2.Entry", payload)
        body = entry.which("body")
        if index == 0:
            check(body == "ledger_opened", f"{name} opens the ledger")
            check(entry.ledger_opened.format_version == FORMAT_VERSION, f"{name}: format 2")
            self.raise_level(entry.ledger_opened.feature_level)
        check(encode(entry) == payload, f"{name} is in the canonical form")
        check(body and (body == "ledger_opened") == (index == 0), f"{name}: a body in its place")
        check(entry.index == index, f"{name}: its index")
        before = chain_hash(self.bytes[index - 1]) if index else bytes(32)
        check(entry.prev_hash == before, f"{name} continues the chain")
        if index and body != "clock_corrected":
            check(entry.recorded_at_s >= self.entries[-1].recorded_at_s, f"{name}: its time")
        wanted = 0 if body in WITHOUT_MAC else 16
        check(len(entry.mac) == wanted, f"{name}: a MAC of {wanted} bytes")
        getattr(self, f"check_{body}")(name, getattr(entry, body))
        return entry

    def check_macs(self, key: bytes) -> int:
        """With the ledger's key: that the ledger wrote what is in clear. How many entries that were."""
        in_clear = [entry for entry in self.entries if entry.mac]
        for entry in in_clear:
            fields = {name: value for name, value in entry.values.items() if name != "mac"}
            expected = keyed(key, encode(Message(entry.type_name, fields)))[:16]
            check(entry.mac == expected, f"entry {entry.index}: the ledger has written it")
        return len(in_clear)

    def raise_level(self, level: int) -> None:
        check(level > self.level, "a feature level is higher than the one before")
        self.level = level
        if level > LEVEL:
            raise NewerVersion(f"feature level {level}: a newer version wrote the ledger")

    def check_ledger_opened(self, name: str, opened: Message) -> None:
        check(len(opened.ledger_id) == 16 and opened.origin, f"{name}: id and origin")

    def check_persons(self, name: str, persons: Message) -> None:
        check(persons.slots, f"{name}: a slot")
        for slot in persons.slots:
            check(len(slot.salt) == 16 and len(slot.record_commit) == 32, f"{name}: sizes")
            check_size(name, RECORD, slot.record)
            if len(persons.slots) == 1:
                check(len(slot.evidence_commit) == 32, f"{name}: sizes")
                check_size(name, EVIDENCE, slot.evidence)
            else:
                check(not slot.evidence and not slot.evidence_commit, f"{name}: records only")
        self.check_tags(name, [slot.tag for slot in persons.slots])
        if persons.shared is not None:
            check_sealed(name, ERASURE, persons.shared)

    def check_uses(self, name: str, uses: Message) -> None:
        tags = split_tags(uses)
        check(len(tags) in range(8, 2001, 8), f"{name}: how many tags")
        self.check_tags(name, tags)
        check(uses.shared is not None, f"{name}: a use")
        check_sealed(name, USE, uses.shared)

    def check_tags(self, name: str, tags: list[bytes]) -> None:
        check(all(len(tag) == 16 for tag in tags), f"{name}: a tag has 16 bytes")
        check(all(low < high for low, high in pairwise(tags)), f"{name}: tags ascend")
        check(self.tags.isdisjoint(tags), f"{name}: a tag is there once")
        self.tags.update(tags)

    def check_confidential(self, name: str, confidential: Message) -> None:
        check(confidential.items, f"{name}: an item")
        for item in confidential.items:
            check_sealed(name, ITEM, item)

    def check_purpose_put(self, name: str, put: Message) -> None:
        check_key(name, put)
        check(
            put.version >= 1 and 1 <= put.oldest_compatible_version <= put.version,
            f"{name}: versions",
        )
        check(put.legal_basis, f"{name}: a legal basis")
        regions = [basis.region for basis in put.basis_by_region]
        check(regions == sorted(set(regions)), f"{name}: regions ascend")
        check(all(basis.legal_basis for basis in put.basis_by_region), f"{name}: a legal basis")
        for one in put.obligations:
            check((one.frequency_cap is None) != (one.quiet_span is None), f"{name}: one of two")

    def check_channel_put(self, name: str, put: Message) -> None:
        check_key(name, put)

    def check_namespace_put(self, name: str, put: Message) -> None:
        check_key(name, put)
        check(put.kind, f"{name}: a kind")

    def check_party_put(self, name: str, put: Message) -> None:
        check_key(name, put)
        check(put.version >= 1 and all(put.roles), f"{name}: version and roles")

    def check_key_transition(self, name: str, change: Message) -> None:
        check(change.new_key, f"{name}: a key")

    def check_format_level(self, name: str, change: Message) -> None:
        self.raise_level(change.level)

    def check_clock_corrected(self, name: str, correction: Message) -> None:
        check(
            1 <= correction.first_index < correction.end_index <= len(self.entries),
            f"{name}: a range of entries before it",
        )
        check(correction.right_again_ms >= correction.right_until_ms, f"{name}: a span")


def split_tags(uses: Message) -> list[bytes]:
    return [uses.tags[at : at + 16] for at in range(0, len(uses.tags), 16)]


def check_size(name: str, part: int, ciphertext: bytes) -> None:
    check(len(ciphertext) - 16 in BUCKETS[part], f"{name}: the size of a bucket")


def check_sealed(name: str, part: int, sealed: Message) -> None:
    check(len(sealed.salt) == 16 and len(sealed.commitment) == 32, f"{name}: sizes")
    check_size(name, part, sealed.ciphertext)


def check_key(name: str, put: Message) -> None:
    check(len(put.key) <= 128 and KEY.fullmatch(put.key), f"{name}: the form of a key")


# What one record must be, by its kind: actor, fewest and most changes, fields that it must have,
# fields that it may have.
RECORD_RULES: dict[str, tuple[str, int, int, set[str], set[str]]] = {
    "ACT": (
        "needed",
        0,
        100,
        set(),
        {"preferences", "confirmation", "authority_ends_at_ms", "proof_missing", "not_asked"},
    ),
    "CONFIRMATION": (
        "needed",
        1,
        100,
        {"confirms", "requested_at_ms"},
        {"authority_ends_at_ms", "proof_missing", "not_asked"},
    ),
    "EXPIRY": ("none", 1, 100, set(), set()),
    "LINK": ("free", 0, 0, {"confidence", "peer"}, set()),
    "UNLINK": ("free", 0, 0, {"peer"}, set()),
    "ERASURE_REQUESTED": ("needed", 0, 0, set(), set()),
    "ERASED": ("none", 0, 0, set(), set()),
    "DISCLOSED": ("none", 0, 0, set(), set()),
}
# Fields that every kind may have.
COMMON = {
    "kind",
    "recorded_ms",
    "actor",
    "effective_at_ms",
    "changes",
    "idempotency",
    "request_digest",
    "door",
    "text",
    "import",
    "next",
    "identity_commit",
}
STOPS = ("REFUSE", "WITHDRAW", "OBJECT")


def check_record(name: str, record: Message, is_first: bool, entry: Message) -> str:
    """The rules for a record; answers its kind."""
    kind = enum_name("RecordKind", record.kind)
    check(kind in RECORD_RULES, f"{name}: a kind")
    actor, fewest, most, must, may = RECORD_RULES[kind]
    there = {
        key
        for key, value in record.values.items()
        if value not in (0, "", b"", [], False) or key == "peer"
    }
    check(
        there <= COMMON | must | may, f"{name}: fields of a {kind}: {there - COMMON - must - may}"
    )
    check(must <= there, f"{name}: all fields of a {kind}")
    check(actor == "free" or (actor == "needed") == (record.actor != 0), f"{name}: an actor")
    check(fewest <= len(record.changes) <= most, f"{name}: how many changes")
    check(kind != "ACT" or record.changes or record.preferences is not None, f"{name}: a change")
    check(record.recorded_ms < 1000 and len(record.next) == 32, f"{name}: time and next tag")
    check(len(record.identity_commit) == (32 if is_first else 0), f"{name}: identity")
    marks = {len(record.idempotency), len(record.request_digest)}
    check(marks in ({0}, {16}), f"{name}: marks of idempotency")
    check(
        "authority_ends_at_ms" not in there or enum_name("Actor", record.actor) == "GUARDIAN",
        f"{name}: authority of a guardian",
    )
    if origin := record.values.get("import"):
        check(enum_name("Door", record.door) == "IMPORT" and origin.row >= 1, f"{name}: an import")
    if record.confirmation is not None:
        sizes = (len(record.confirmation.nonce), len(record.confirmation.token_hash))
        check(sizes == (16, 32), f"{name}: a confirmation")
    check(kind != "CONFIRMATION" or len(record.confirms) == 16, f"{name}: a reference")
    check((kind == "ERASED") == (entry.persons.shared is not None), f"{name}: totals of an erasure")
    if kind in ("LINK", "UNLINK"):
        slots = len(entry.persons.slots)
        check(slots == 2 and record.peer < 2, f"{name}: two slots, and one of them the peer")
    if record.preferences is not None:
        check_preferences(name, record.preferences)
    for change in record.changes:
        check_change(name, kind, change)
    return kind


def check_preferences(name: str, preferences: Message) -> None:
    cleared = preferences.cleared
    check(cleared == sorted(set(cleared)) and all(cleared), f"{name}: what is cleared ascends")
    for value in cleared:
        said = getattr(preferences, enum_name("PreferenceField", value).lower())
        check(not said, f"{name}: a preference is set or cleared, not both")


def check_change(name: str, kind: str, change: Message) -> None:
    action = enum_name("Action", change.action)
    outcome = enum_name("Outcome", change.outcome)
    allowed = {"EXPIRY": ("EXPIRE",), "CONFIRMATION": ("GRANT",)}.get(kind, ("GRANT", *STOPS))
    check(action in allowed, f"{name}: an action of a {kind}")
    stops = action in STOPS
    check(stops or (change.purpose and change.channel), f"{name}: exactly one cell")
    check(not change.purpose_class or (stops and not change.purpose), f"{name}: a class")
    check((change.purpose_version >= 1) != stops, f"{name}: a version of what is granted")
    check(
        not stops or (change.expires_at_ms is None and not change.data_categories),
        f"{name}: a stop has no terms",
    )
    check(outcome not in ("UNSPECIFIED", "NOT_RECORDED", "STANDS_ALREADY"), f"{name}: an outcome")
    has_cause = action == "EXPIRE" or outcome in ("BLOCKED_BY_STOP", "SUPERSEDED_BY_LATER")
    causes = (len(change.cause) == 16) + change.cause_is_linked
    # A change of the same record in the way is not named: then both are empty.
    check(
        causes == 1 or (causes == 0 and not (has_cause and action == "EXPIRE")), f"{name}: a cause"
    )
    check(has_cause or causes == 0, f"{name}: no cause")
    check(
        action != "EXPIRE" or not (change.linked_subjects or change.cause_is_linked),
        f"{name}: an expiry is of one person",
    )
    reasons = ("EXPIRED", "RECONSENT_REQUIRED") if action == "EXPIRE" else ("UNSPECIFIED",)
    check(enum_name("Reason", change.reason) in reasons, f"{name}: a reason")


def check_evidence(name: str, evidence: Message) -> None:
    for texts in (evidence.attributes, evidence.unreadable):
        names = [text.name.encode() for text in texts]
        check(names == sorted(set(names)), f"{name}: names ascend")


def check_item(name: str, item: Message) -> None:
    """Form of what an item says of deliveries."""
    if item.delivery is not None:
        shards = [shard.shard for shard in item.delivery.shards]
        check(
            shards and shards == sorted(set(shards)) and shards[-1] < 64, f"{name}: shards ascend"
        )
        for shard in item.delivery.shards:
            edges: list[Any] = [
                edge for one in shard.ranges for edge in (one.start_index, one.end_index)
            ]
            check(
                all(low < high for low, high in zip(edges[::2], edges[1::2], strict=True))
                and edges == sorted(edges),
                f"{name}: ranges ascend without overlap",
            )
    if item.failure is not None:
        indexes = [failed.index for failed in item.failure.failed]
        check(indexes and indexes == sorted(set(indexes)), f"{name}: failures ascend")
    if item.disclosure is not None:
        check(len(item.disclosure.digest) == 32, f"{name}: a digest")
