"""Statements that leave a ledger: disclosures, receipts, proofs of propagation."""

import base64
import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature

from reader.entries import Ledger, check_item
from reader.files import Tree, check_inclusion, open_checkpoint
from reader.keys import (
    ERASURE,
    ITEM,
    USE,
    ConfidentialKeys,
    Place,
    epoch_of,
    identity_commitment,
    next_commitment,
    open_sealed,
)
from reader.vault import Opened, check_peers, open_evidence, open_record
from reader.wire import SCHEMA, Message, check, decode, enum_name, enum_number
from verify_log import Key, unbase64


@dataclass
class Disclosure:
    """A disclosure that was verified against the entries that it is about."""

    revision: int
    records: list[Opened]
    # How many items and shared parts its keys open.
    confidential_texts: int


def read_disclosure(data: bytes, ledger: Ledger, tree: Tree, keys: list[Key]) -> Disclosure:
    """Checks that a disclosure is of this ledger and complete for its keys, and opens it."""
    disclosure = decode("Disclosure", data)
    revision = disclosure.revision
    check(disclosure.ledger_id == ledger.id, "the disclosure is of this ledger")
    check(revision <= len(ledger.entries), "the entries of the disclosure are there")
    size, root = open_checkpoint(disclosure.checkpoint, keys)
    check(revision <= size <= len(ledger.entries), "a checkpoint over the disclosure")
    check(root == tree.root(size), "the checkpoint is of these entries")
    tags = {
        slot.tag
        for entry in ledger.entries[:revision]
        if entry.persons is not None
        for slot in entry.persons.slots
    }
    records = []
    for number, person in enumerate(disclosure.persons):
        records += open_person(
            person, person.identity or f"person {number}", ledger, revision, tags
        )
    identities = [person.identity for person in disclosure.persons if person.identity]
    check(len(identities) == len(set(identities)), "a person is disclosed once")
    by_index: dict[int, list[Opened]] = {}
    for record in records:
        by_index.setdefault(record.index, []).append(record)
    for index, opened in by_index.items():
        check_peers(ledger.entries[index], opened)
    tags_after = {person.tag_after for person in disclosure.persons}
    check_used_up(ledger, revision, tags_after)
    keys_of_texts = confidential_keys(disclosure, ledger, revision)
    texts = sum(open_texts(keys_of_texts, ledger, entry) for entry in ledger.entries[:revision])
    return Disclosure(revision, records, texts)


def check_used_up(ledger: Ledger, revision: int, tags: set[bytes]) -> None:
    """The entries from the revision on, if they are there, use up the tags after the last."""
    for entry in ledger.entries[revision:]:
        if tags:
            slots = entry.persons.slots if entry.persons is not None else []
            used = {slot.tag for slot in slots}
            check(used and used <= tags, f"entry {entry.index}: records of the disclosure alone")
            tags = tags - used


def open_person(
    person: Message, name: str, ledger: Ledger, revision: int, tags: set[bytes]
) -> list[Opened]:
    check(person.records, f"{name}: a record")
    check(len(person.tag_after) == 16, f"{name}: the tag after the last")
    places = [one.index for one in person.records]
    check(places == sorted(set(places)) and places[-1] < revision, f"{name}: records ascend")
    opened, slots = [], []
    for number, one in enumerate(person.records):
        check(len(one.record_key) == 32 and len(one.blind) == 32, f"{name}: keys")
        entry = ledger.entries[one.index]
        check(entry.persons is not None and one.slot < len(entry.persons.slots), f"{name}: a slot")
        opened.append(open_record(ledger.id, entry, one.slot, one.record_key, name, number == 0))
        slots.append(entry.persons.slots[one.slot])
    following = [slot.tag for slot in slots[1:]] + [person.tag_after]
    for one, record, tag in zip(person.records, opened, following, strict=True):
        check(
            record.record.next == next_commitment(one.blind, tag),
            f"{name}: entry {one.index} is followed by the next that is listed",
        )
    check(person.tag_after not in tags, f"{name}: the tag after the last is not in the ledger")
    if person.identity:
        wanted = identity_commitment(person.identity_key, person.identity)
        check(opened[0].record.identity_commit == wanted, f"{name}: the identity")
    else:
        check(not person.identity_key, f"{name}: no key without an identity")
    return opened


def confidential_keys(disclosure: Message, ledger: Ledger, revision: int) -> ConfidentialKeys:
    """The confidential keys of a disclosure; each text that it names opens."""
    keys, last = ConfidentialKeys(), epoch_of(revision)
    places = [(key.kind, key.epoch) for key in disclosure.keys]
    texts = [(text.index, text.item) for text in disclosure.texts]
    check(places == sorted(set(places)) and texts == sorted(set(texts)), "keys and texts ascend")
    kinds = set(SCHEMA.values("ConfidentialKind")) - {
        enum_number("ConfidentialKind", name) for name in ("UNSPECIFIED", "WEBHOOK")
    }
    for text in disclosure.texts:
        check(text.kind in kinds and len(text.key) == 32, "a key of a confidential text")
        check(text.index < revision, "a text below the revision")
        keys.one_time[text.index, text.item, text.kind] = text.key
    opened = sum(
        open_texts(keys, ledger, ledger.entries[index])
        for index in {text.index for text in disclosure.texts}
    )
    check(opened == len(texts), "each text opens")
    for key in disclosure.keys:
        check(key.kind in kinds and len(key.key) == 32, "a confidential key")
        check(
            key.epoch < last or (key.epoch == last and disclosure.open_ended),
            "a key of an epoch that has ended",
        )
        keys.keys[key.kind, key.epoch] = key.key
    return keys


def open_texts(keys: ConfidentialKeys, ledger: Ledger, entry: Message) -> int:
    """How many confidential texts of an entry the keys open."""
    opened = 0
    for part, holder in ((USE, entry.uses), (ERASURE, entry.persons)):
        if holder is not None and holder.shared is not None:
            opened += (
                keys.open_shared(Place(ledger.id, entry.index, part), holder.shared) is not None
            )
    for number, sealed in enumerate(entry.confidential.items if entry.confidential else ()):
        where = Place(ledger.id, entry.index, ITEM, item=number)
        item = keys.open_item(where, sealed)
        if item is not None:
            check_item(str(where), item)
            opened += 1
    return opened


def base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def time_text(moment_ms: int) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(moment_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ms % 1000:03}Z"


def open_jws(receipt: str, keys: list[Key]) -> dict[str, Any]:
    """The payload of a receipt that one of the keys has signed."""
    header, payload, signature = receipt.strip().split(".")
    for key in keys:
        x = base64.urlsafe_b64encode(key.public).rstrip(b"=").decode()
        members = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
        thumbprint = hashlib.sha256(members.encode()).digest()
        kid = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
        wanted = {"alg": "EdDSA", "typ": "consent-receipt+json", "kid": kid}
        if base64url(header) == json.dumps(wanted, separators=(",", ":")).encode():
            key.verify(f"{header}.{payload}".encode(), base64url(signature))
            content: dict[str, Any] = json.loads(base64url(payload))
            return content
    raise InvalidSignature("a receipt by a key that is not trusted")


def read_receipt(receipt: str, keys: list[Key]) -> Opened:
    """Verifies a receipt, and that its fields are those of the entry that it opens."""
    said = open_jws(receipt, keys)["consent_ledger"]
    check(said["format_version"] == 3, "the version of the receipt")
    data, ledger_id = unbase64(said["entry"]), bytes.fromhex(said["ledger_id"])
    entry = decode("Entry", data)
    check(check_inclusion(data, said["proof"], keys) == entry.index == said["index"], "the index")
    check(entry.persons is not None and said["slot"] < len(entry.persons.slots), "a slot")
    key = unbase64(said["record_key"])
    is_first = "identity_key" in said
    opened = open_record(ledger_id, entry, said["slot"], key, said["subject"], is_first)
    if is_first:
        wanted = identity_commitment(unbase64(said["identity_key"]), said["subject"])
        check(opened.record.identity_commit == wanted, "the data subject")
    if "evidence_key" in said:
        opened.evidence = open_evidence(
            ledger_id, entry, said["slot"], unbase64(said["evidence_key"])
        )
        check_said_evidence(said.get("evidence", {}), opened.evidence)
    check_said_record(said, opened, entry)
    return opened


def check_said_record(said: dict[str, Any], opened: Opened, entry: Message) -> None:
    """The fields of a receipt that follow from the record."""
    record = opened.record
    check(opened.kind in ("ACT", "CONFIRMATION") and record.changes, "an act with a change")
    recorded_ms = entry.recorded_at_s * 1000 + record.recorded_ms
    wanted = {
        "kind": opened.kind,
        "actor": enum_name("Actor", record.actor),
        "receipt_id": str(uuid.UUID(bytes=opened.reference)),
        "recorded_at": time_text(recorded_ms),
        "effective_at": time_text(record.effective_at_ms),
    }
    if record.authority_ends_at_ms is not None:
        wanted["authority_ends_at"] = time_text(record.authority_ends_at_ms)
    if record.confirmation is not None:
        wanted["confirm_until"] = time_text(record.confirmation.expires_at_ms)
    for name in (
        "kind",
        "actor",
        "receipt_id",
        "recorded_at",
        "effective_at",
        "authority_ends_at",
        "confirm_until",
    ):
        check(said.get(name) == wanted.get(name), f"{name} is the entry's")
    if opened.kind == "CONFIRMATION":
        confirms = {
            "receipt_id": str(uuid.UUID(bytes=record.confirms)),
            "effective_at": time_text(record.requested_at_ms),
        }
        check(said["confirms"] == confirms, "confirms is the entry's")
    purposes = {purpose["number"]: purpose["key"] for purpose in said.get("purposes", [])}
    channels = {channel["number"]: channel["key"] for channel in said.get("channels", [])}
    for told, change in zip(said["changes"], record.changes, strict=True):
        check_said_change(told, change, purposes, channels)


def check_said_change(
    told: dict[str, Any], change: Message, purposes: dict[int, str], channels: dict[int, str]
) -> None:
    everything = f"{change.purpose_class}.*" if change.purpose_class else "*"
    wanted: dict[str, Any] = {
        "action": enum_name("Action", change.action),
        "purpose": purposes[change.purpose] if change.purpose else everything,
        "channel": channels[change.channel] if change.channel else "*",
        "outcome": enum_name("Outcome", change.outcome),
    }
    if change.purpose_version:
        wanted["purpose_version"] = change.purpose_version
    if change.data_categories:
        wanted["data_categories"] = list(change.data_categories)
    if change.cause:
        wanted["cause"] = str(uuid.UUID(bytes=change.cause))
    if change.expires_at_ms is not None:
        wanted["expires_at"] = time_text(change.expires_at_ms)
    found = {name: value for name, value in told.items() if name not in ("refusal", "termination")}
    check(found == wanted, f"a change is the entry's: {found}")


def check_said_evidence(told: dict[str, Any], evidence: Message) -> None:
    """The texts of the evidence in a receipt."""
    for name in (
        "touchpoint",
        "notice_id",
        "notice_version",
        "language",
        "method",
        "ip_address",
        "user_agent",
        "subject_given",
    ):
        check(told.get(name, "") == getattr(evidence, name), f"evidence: {name} is the entry's")
    check(told.get("notice_hash", "") == evidence.notice_hash.hex(), "evidence: the notice's hash")
    for name in ("attributes", "unreadable"):
        pairs = {pair.name: pair.text for pair in getattr(evidence, name)}
        check(told.get(name, {}) == pairs, f"evidence: {name} are the entry's")


def open_item(opening: Message, ledger_id: bytes, keys: list[Key]) -> tuple[int, Message]:
    """The index of an entry that is proven, and its item that is opened."""
    entry = decode("Entry", opening.entry)
    check(check_inclusion(opening.entry, opening.proof, keys) == entry.index, "the entry's index")
    check(
        entry.confidential is not None and opening.item < len(entry.confidential.items), "an item"
    )
    sealed = entry.confidential.items[opening.item]
    where = Place(ledger_id, entry.index, ITEM, item=opening.item)
    text = open_sealed(where, opening.item_key, sealed.ciphertext, sealed.commitment)
    item = decode("Item", text)
    check_item(str(where), item)
    return entry.index, item


def read_propagation(data: bytes, keys: list[Key]) -> str:
    """Verifies a proof of propagation; answers what it proves."""
    proof = decode("Propagation", data)
    created_index, created = open_item(proof.subscription, proof.ledger_id, keys)
    told_index, told = open_item(proof.delivery, proof.ledger_id, keys)
    subscription, delivery = created.subscription_created, told.delivery
    check(subscription is not None and delivery is not None, "a creation and an acknowledgement")
    check(delivery.subscription_index == created_index, "an acknowledgement of that subscription")
    ranges = [
        one for shard in delivery.shards if shard.shard == proof.shard for one in shard.ranges
    ]
    event = proof.event_index
    check(any(one.start_index <= event < one.end_index for one in ranges), "a range over the event")
    return f"{subscription.name} acknowledged {event} by entry {told_index}"
