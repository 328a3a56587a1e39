"""The vault, and whose each tag is: "The vault" and "Whose is it?" of docs/format.md."""

from dataclasses import dataclass, field

from reader.entries import Ledger, check_evidence, check_item, check_record, split_tags
from reader.files import FrameLog
from reader.keys import (
    ERASURE,
    EVIDENCE,
    ITEM,
    RECORD,
    USE,
    VAULT_BUCKETS,
    ConfidentialKeys,
    KeyTree,
    PersonKeys,
    Place,
    derive,
    identity_commitment,
    keyed,
    next_commitment,
    one_time_key,
    open_aead,
    open_sealed,
    reference_of,
    u32,
    u64,
    unpad,
)
from reader.wire import Message, Wrong, check, decode


@dataclass
class Person:
    """A person of the vault, and what was found of them in the ledger."""

    identity: str
    keys: PersonKeys
    landed: int = 0
    # The number of the next use, and how many were met.
    next_use: int = 0
    uses: int = 0
    erased: bool = False


@dataclass
class Opened:
    """A record that was opened: whose it is, where it stands, and its name for other records."""

    person: str
    index: int
    slot: int
    reference: bytes
    kind: str
    record: Message
    evidence: Message | None = None


@dataclass
class OpenedUse:
    """A use of data, and the persons in it."""

    index: int
    use: Message
    persons: list[str] = field(default_factory=list)


class Vault:
    """All frames of a vault, opened with the key-encryption key."""

    def __init__(self, log: FrameLog, key_encryption_key: bytes):
        self.ledger_id = log.log_id
        self.persons: list[Person] = []
        self.tombstones: set[tuple[int, bytes]] = set()
        frames = [decode("VaultFrame", payload) for payload in log.payloads]
        opened = frames[0].opened
        check(opened is not None and opened.ledger_id == self.ledger_id, "the vault is opened")
        check(opened.format_version == 2, "the format of the vault")
        self.generation: int = frames[0].generation
        self.vault_key = self.unwrap(opened, key_encryption_key)
        secrets = decode("VaultSecrets", self.open_frame(frames[0]))
        self.check_secrets(secrets)
        self.ledger_secret: bytes = secrets.ledger_secret
        self.check_chain(frames)
        for frame in frames[1:]:
            check(frame.opened is None, "frame 0 alone opens the vault")
            self.read_content(decode("VaultContent", self.open_frame(frame)))
        identities = [person.identity for person in self.persons]
        check(len(identities) == len(set(identities)), "an identity has one frame")
        check(len({frame.id for frame in frames}) == len(frames), "an id has one frame")

    def unwrap(self, opened: Message, key_encryption_key: bytes) -> bytes:
        wrapping_key = derive("vault key wrapping", key_encryption_key + opened.wrap_salt)
        aad = (
            b"consent-ledger v2\0"
            + self.ledger_id
            + u64(self.generation)
            + u32(opened.format_version)
        )
        key_fits = derive("vault key check", key_encryption_key)[:16] == opened.key_check
        try:
            vault_key = open_aead(wrapping_key, aad, opened.wrapped_key, "the vault key")
        except Wrong as error:
            reason = "frame 0 is damaged" if key_fits else "another key-encryption key"
            raise Wrong(f"the vault does not open: {reason}") from error
        check(key_fits, "the check of the key-encryption key is damaged")
        return vault_key

    def open_frame(self, frame: Message) -> bytes:
        key = derive("vault frame", self.vault_key + frame.salt)
        aad = (
            b"consent-ledger v2\0"
            + self.ledger_id
            + u64(frame.generation)
            + u64(frame.number)
            + frame.id
        )
        name = f"frame {frame.number} of the vault"
        return unpad(open_aead(key, aad, frame.ciphertext, name), VAULT_BUCKETS, name)

    def check_secrets(self, secrets: Message) -> None:
        numbers = [key.number for key in secrets.suppression_keys]
        keys = [
            secrets.ledger_secret,
            secrets.lookup_key,
            secrets.view_key,
            *(key.key for key in secrets.suppression_keys),
        ]
        check(all(len(key) == 32 for key in keys), "a secret has 32 bytes")
        check(numbers and numbers == sorted(set(numbers)), "keys of tombstones ascend")
        self.suppression_keys = set(numbers)

    def check_chain(self, frames: list[Message]) -> None:
        """Each frame continues the one before, by a keyed hash."""
        key, before = derive("vault chain", self.ledger_secret), bytes(32)
        for number, frame in enumerate(frames):
            name = f"frame {number} of the vault"
            check((frame.generation, frame.number) == (self.generation, number), f"{name}: place")
            check(len(frame.id) == 16 and len(frame.salt) == 16, f"{name}: sizes")
            before = keyed(
                key,
                before
                + u64(frame.generation)
                + u64(frame.number)
                + frame.id
                + frame.salt
                + frame.ciphertext,
            )
            check(before == frame.mac, f"{name} continues the one before")

    def read_content(self, content: Message) -> None:
        if content.person is not None:
            person = content.person
            check(
                ":" in person.identity and 1 <= len(person.identity.encode()) <= 385, "an identity"
            )
            keys = PersonKeys(person.master, KeyTree(person.evidence), KeyTree(person.uses))
            self.persons.append(Person(person.identity, keys))
            return
        tombstone = content.tombstone
        check(tombstone is not None, "a frame has a person or a tombstone")
        check(tombstone.key_number in self.suppression_keys, "a tombstone has its key")
        hashed = (tombstone.key_number, tombstone.digest)
        check(len(tombstone.digest) == 32 and hashed not in self.tombstones, "one tombstone a hash")
        self.tombstones.add(hashed)


class Rebuild:
    """One pass over a ledger with the persons of its vault: all that the keys open."""

    def __init__(self, ledger: Ledger, vault: Vault):
        check(ledger.id == vault.ledger_id, "the vault is this ledger's")
        self.ledger, self.vault = ledger, vault
        self.keys = ConfidentialKeys(vault.ledger_secret)
        self.in_clear = ledger.check_macs(derive("clear entry", self.keys.root))
        self.records: list[Opened] = []
        self.uses: list[OpenedUse] = []
        self.items: list[tuple[int, str, Message]] = []
        self.next = {person.keys.tag(0): person for person in vault.persons}
        self.next_use: dict[bytes, Person] = {}
        for person in vault.persons:
            if person.keys.uses.nodes:
                person.next_use = person.keys.uses.first()
                self.expect_use(person)
        self.unknown, self.unknown_uses, self.accounted = 0, 0, (0, 0)
        self.first_unknown = ""
        self.generation, self.tombstones = 0, 0
        for entry in ledger.entries:
            self.read(entry)
        self.finish()

    def expect_use(self, person: Person) -> None:
        tag = person.keys.use_tag(person.next_use)
        if tag is not None:
            self.next_use[tag] = person

    def read(self, entry: Message) -> None:
        match entry.which("body"):
            case "persons":
                self.read_persons(entry)
            case "uses":
                self.read_uses(entry)
            case "confidential":
                self.read_items(entry)

    def read_persons(self, entry: Message) -> None:
        opened = []
        for place, slot in enumerate(entry.persons.slots):
            person = self.next.pop(slot.tag, None)
            if person is None:
                self.unknown += 1
                self.first_unknown = self.first_unknown or f"entry {entry.index}"
                continue
            check(not person.erased, f"entry {entry.index}: a record of an erased person")
            opened.append((person, self.open_slot(entry, place, slot, person)))
        check_peers(entry, [record for _, record in opened])
        if entry.persons.shared is None:
            return
        shared = self.keys.open_shared(
            Place(self.ledger.id, entry.index, ERASURE), entry.persons.shared
        )
        assert shared is not None
        for person, _ in opened:
            person.erased = True
            self.unknown += person.landed
            self.unknown_uses += person.uses
        self.account(shared.totals)
        self.generation = max(self.generation, shared.generation)

    def open_slot(self, entry: Message, place: int, slot: Message, person: Person) -> Opened:
        keys, number = person.keys, person.landed
        opened = open_record(
            self.ledger.id,
            entry,
            place,
            one_time_key(keys.record_key, slot.salt),
            person.identity,
            number == 0,
        )
        name = f"entry {entry.index}"
        tag_after = keys.tag(number + 1)
        check(
            opened.record.next == next_commitment(keys.blind(number), tag_after),
            f"{name}: the commitment to the next tag",
        )
        if number == 0:
            wanted = identity_commitment(keys.identity_key, person.identity)
            check(
                opened.record.identity_commit == wanted, f"{name}: the commitment to the identity"
            )
        asked = opened.record.confirmation
        if asked is not None:
            check(keys.token_hash(asked.nonce) == asked.token_hash, f"{name}: the token's hash")
        leaf = keys.evidence.leaf(number)
        if slot.evidence and leaf is not None:
            key = one_time_key(leaf, slot.salt)
            opened.evidence = open_evidence(self.ledger.id, entry, place, key)
        person.landed += 1
        self.next[tag_after] = person
        self.records.append(opened)
        return opened

    def read_uses(self, entry: Message) -> None:
        use = self.keys.open_shared(Place(self.ledger.id, entry.index, USE), entry.uses.shared)
        assert use is not None
        found, unexplained = OpenedUse(entry.index, use), 0
        for tag in split_tags(entry.uses):
            person = self.next_use.pop(tag, None)
            if person is None:
                unexplained += 1
                continue
            check(not person.erased, f"entry {entry.index}: a use of an erased person")
            person.next_use += 1
            person.uses += 1
            self.expect_use(person)
            found.persons.append(person.identity)
        check(use.random_tags <= min(7, unexplained), f"entry {entry.index}: random tags")
        self.unknown_uses += unexplained
        self.accounted = (self.accounted[0], self.accounted[1] + use.random_tags)
        self.uses.append(found)

    def read_items(self, entry: Message) -> None:
        for place, sealed in enumerate(entry.confidential.items):
            where = Place(self.ledger.id, entry.index, ITEM, item=place)
            item = self.keys.open_item(where, sealed)
            check(item is not None, f"{where} opens under a key of its kind")
            assert item is not None
            check_item(str(where), item)
            self.items.append((entry.index, item.which("content"), item))
            if item.vault is not None:
                self.account(item.vault.totals)
                self.generation = max(self.generation, item.vault.generation)
                self.tombstones = item.vault.tombstones

    def account(self, totals: Message) -> None:
        told = (totals.lane0, totals.lane1)
        check(told[0] >= self.accounted[0] and told[1] >= self.accounted[1], "totals only grow")
        self.accounted = told

    def finish(self) -> None:
        told = f"{self.accounted[0]} and {self.accounted[1]} are accounted for"
        check(
            (self.unknown, self.unknown_uses) == self.accounted,
            f"{self.unknown} tags of records and {self.unknown_uses} of uses have no key, {told};"
            f" the first record: {self.first_unknown or 'none'}",
        )
        check(self.generation <= self.vault.generation, "the vault is an older copy")
        if self.generation == self.vault.generation:
            check(len(self.vault.tombstones) >= self.tombstones, "all tombstones are there")


def open_record(
    ledger_id: bytes, entry: Message, place: int, key: bytes, person: str, is_first: bool
) -> Opened:
    """Opens the record of a slot by its one-time key."""
    slot = entry.persons.slots[place]
    where = Place(ledger_id, entry.index, RECORD, slot.tag)
    record = decode("Record", open_sealed(where, key, slot.record, slot.record_commit))
    kind = check_record(str(where), record, is_first, entry)
    return Opened(person, entry.index, place, reference_of(key), kind, record)


def open_evidence(ledger_id: bytes, entry: Message, place: int, key: bytes) -> Message:
    slot = entry.persons.slots[place]
    where = Place(ledger_id, entry.index, EVIDENCE, slot.tag)
    evidence = decode("Evidence", open_sealed(where, key, slot.evidence, slot.evidence_commit))
    check_evidence(str(where), evidence)
    return evidence


def check_peers(entry: Message, opened: list[Opened]) -> None:
    """The two records of a link name each other's places."""
    for one in opened:
        if one.kind in ("LINK", "UNLINK"):
            check(one.record.peer == 1 - one.slot, f"entry {entry.index}: the place of the peer")
    kinds = {one.kind for one in opened}
    check(len(kinds) <= 1, f"entry {entry.index}: records of one kind")
