"""Vectors of format 2, computed from docs/format.md alone.

    python vectors.py > vectors.json

It shares no code with the ledger: BLAKE3 and the protobuf encoding are written here, AES-256-GCM is that of the
package `cryptography`. `vectors.rs` compares what the ledger computes with `vectors.json`.
"""

import base64
import hashlib
import json
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# BLAKE3, as its specification has it.

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 4, 8, 16, 32, 64
M32 = 0xFFFFFFFF


def rotate(word, bits):
    return (word >> bits | word << (32 - bits)) & M32


def mix(state, a, b, c, d, x, y):
    state[a] = (state[a] + state[b] + x) & M32
    state[d] = rotate(state[d] ^ state[a], 16)
    state[c] = (state[c] + state[d]) & M32
    state[b] = rotate(state[b] ^ state[c], 12)
    state[a] = (state[a] + state[b] + y) & M32
    state[d] = rotate(state[d] ^ state[a], 8)
    state[c] = (state[c] + state[d]) & M32
    state[b] = rotate(state[b] ^ state[c], 7)


def compress(chaining, block, counter, length, flags):
    words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    state = chaining + IV[:4] + [counter & M32, counter >> 32, length, flags]
    for _ in range(7):
        columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
        diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
        for number, places in enumerate(columns + diagonals):
            mix(state, *places, words[2 * number], words[2 * number + 1])
        words = [words[place] for place in ORDER]
    return [state[i] ^ state[i + 8] for i in range(8)]


def blake3(data, key=IV, flags=0):
    def node(part, first_chunk, root):
        if len(part) <= 1024:
            chaining = key
            blocks = [part[i : i + 64] for i in range(0, len(part), 64)] or [b""]
            for number, block in enumerate(blocks):
                mark = CHUNK_START if number == 0 else 0
                if number == len(blocks) - 1:
                    mark |= CHUNK_END | (ROOT if root else 0)
                chaining = compress(chaining, block, first_chunk, len(block), flags | mark)
            return chaining
        chunks = (len(part) - 1) // 1024
        left = 1 << (chunks.bit_length() - 1)
        below = node(part[: left * 1024], first_chunk, False)
        below += node(part[left * 1024 :], first_chunk + left, False)
        mark = PARENT | (ROOT if root else 0)
        return compress(key, struct.pack("<16I", *below), 0, 64, flags | mark)

    return struct.pack("<8I", *node(data, 0, True))


def words(key):
    return list(struct.unpack("<8I", key))


def D(context, *parts):
    key = blake3(("consent-ledger v2 " + context).encode(), IV, CONTEXT)
    return blake3(b"".join(parts), words(key), MATERIAL)


def K(key, *parts):
    return blake3(b"".join(parts), words(key), KEYED)


# The known answers of BLAKE3's own test vectors.
assert blake3(b"").hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
sequence = bytes(i % 251 for i in range(2049))
assert blake3(sequence).hex().startswith("5f4d72f40d7a5f82b15ca2b2e44b1de3")
assert blake3(sequence[:1025]).hex().startswith("d00278ae47eb27b34faecf67b4fe263f")

# Protobuf.


def varint(number):
    number &= (1 << 64) - 1
    text = b""
    while number > 0x7F:
        text += bytes([number & 0x7F | 0x80])
        number >>= 7
    return text + bytes([number])


def field(number, value):
    """One field; a value that is the default is left out."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value if value else b""
    return varint(number << 3) + varint(value) if value else b""


def message(number, content):
    """A message that is there also if it is empty."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def u64(number):
    return struct.pack("<Q", number)


# Keys.


def leaf(root, number):
    for level in range(31, -1, -1):
        root = K(root, bytes([number >> level & 1]))
    return root


class Person:
    def __init__(self, first):
        self.master, self.evidence, self.uses = (bytes([first + i]) * 32 for i in range(3))

    def key(self, name):
        return D(name, self.master)

    def tag(self, number):
        return K(self.key("tag"), b"\0", u64(number))[:16]

    def blind(self, number):
        return K(self.key("tag"), b"\1", u64(number))

    def next(self, number):
        return D("next tag", self.blind(number), self.tag(number + 1))

    def use_tag(self, number):
        return K(leaf(self.uses, number), b"use")[:16]

    def identity_commit(self, identity):
        return D("identity commitment", self.key("identity"), identity.encode())


LEDGER = bytes(range(16))
SECRET = b"\x51" * 32
ROOT_OF_CONFIDENTIAL = D("confidential", SECRET)

# Seals.


class Stream:
    """The random bytes of these vectors: the byte at place k is 7 k + 3 modulo 256."""

    def __init__(self):
        self.place = 0

    def take(self, count):
        taken = bytes((7 * (self.place + i) + 3) % 256 for i in range(count))
        self.place += count
        return taken


def pad(text, smallest):
    size = smallest
    while size < len(text) + 2:
        size *= 2
    return struct.pack("<H", len(text)) + text + bytes(size - len(text) - 2)


def aad(index, tag, part, item=0):
    return b"consent-ledger v2\0" + LEDGER + u64(index) + tag + bytes([part]) + struct.pack("<I", item)


def one_time(key, salt):
    return D("sealing key", key, salt)


def seal(key, data, text):
    ciphertext = AESGCM(key).encrypt(bytes(12), text, data)
    return ciphertext, D("commitment", key, u64(len(data)), data, text)


def slot(stream, index, person, number, record, evidence):
    tag = person.tag(number)
    record_aad, record_text = aad(index, tag, 1), pad(record, 192)
    sealed = [record_aad, record_text]
    if evidence is not None:
        evidence_aad, evidence_text = aad(index, tag, 2), pad(evidence, 256)
        sealed += [evidence_aad, evidence_text]
    salt = K(person.key("salt"), stream.take(32), *sealed)[:16]
    key = one_time(person.key("record"), salt)
    text = field(1, tag) + field(2, salt)
    for first, part in zip((3, 4), seal(key, record_aad, record_text)):
        text += field(first, part)
    if evidence is not None:
        evidence_key = one_time(leaf(person.evidence, number), salt)
        for first, part in zip((5, 6), seal(evidence_key, evidence_aad, evidence_text)):
            text += field(first, part)
    return tag, text, key


def confidential(stream, index, kind, part, item, content):
    data, text = aad(index, bytes(16), part, item), pad(content, 128)
    salt = K(D("salt", SECRET), stream.take(32), data, text)[:16]
    epoch_key = D("confidential", ROOT_OF_CONFIDENTIAL, bytes([kind]), u64(index >> 20))
    ciphertext, commitment = seal(one_time(epoch_key, salt), data, text)
    return field(1, salt) + field(2, ciphertext) + field(3, commitment)


# A ledger of seven entries.

stream = Stream()
one, other = Person(0x11), Person(0x21)
entries = []


def append(body, in_clear=False):
    index = len(entries)
    before = D("chain", entries[-1]) if entries else bytes(32)
    head = field(1, index) + field(2, before) + field(3, 1_800_000_000 + index)
    mac = field(4, K(D("clear entry", ROOT_OF_CONFIDENTIAL), head + body)[:16]) if in_clear else b""
    entries.append(head + mac + body)


append(message(10, field(1, LEDGER) + field(2, "ledger.example") + field(3, 2) + field(4, 1_800_000_000) + field(5, 1)))
append(message(13, field(1, "email") + field(2, "Email")), in_clear=True)

change = field(1, 1) + field(2, 1) + field(3, 1) + field(5, 1) + field(8, 1)
act = field(1, 1) + field(2, 902) + field(3, 1) + field(4, 1_800_000_000_902) + message(5, change)
act += field(10, K(one.key("idempotency"), b"\0crm\0signup")[:16])
act += field(11, K(one.key("idempotency"), b"\1request")[:16])
act += field(13, 1) + field(20, one.next(0)) + field(21, one.identity_commit("user:42"))
evidence = field(1, "onboarding") + message(9, field(1, "form") + field(2, "7"))
_, text, act_key = slot(stream, 2, one, 0, act, evidence)
append(message(11, message(1, text)))


def link(person, number, identity, peer):
    text = field(1, 4) + field(14, "crm") + field(16, 1)
    text += varint(17 << 3) + varint(peer) + field(20, person.next(number))
    return text + (field(21, person.identity_commit(identity)) if number == 0 else b"")


places = sorted([one.tag(1), other.tag(0)])
slots = [
    slot(stream, 3, one, 1, link(one, 1, "user:42", places.index(other.tag(0))), None),
    slot(stream, 3, other, 0, link(other, 0, "email:jo@example.org", places.index(one.tag(1))), None),
]
append(message(11, b"".join(message(1, text) for _, text, _ in sorted(slots))))

tags = sorted([one.use_tag(0), other.use_tag(0)])
random_tags = [stream.take(16) for _ in range(6)]
use = field(2, 1) + field(3, 1) + field(4, 1_800_000_000_000) + field(9, 16) + field(13, 6)
shared = confidential(stream, 4, 1, 4, 0, use)
append(message(20, field(1, b"".join(sorted(tags + random_tags))) + message(2, shared)))

subscription = field(1, 5) + message(2, field(1, "mailer") + field(9, 4) + field(11, 1))
webhook = field(1, 5) + message(4, field(1, "https://hooks.example/?token=SECRET"))
items = [confidential(stream, 5, 3, 5, 0, subscription), confidential(stream, 5, 4, 5, 1, webhook)]
append(message(21, b"".join(message(1, item) for item in items)))

# The shared part of an erasure is sealed before its slots.
erasure = field(1, 3) + message(2, field(1, 2) + field(2, 7)) + field(3, 1) + field(4, 1) + field(5, 1)
shared = confidential(stream, 6, 2, 3, 0, erasure)
erased = field(1, 7) + field(20, other.next(1))
_, text, _ = slot(stream, 6, other, 1, erased, b"")
append(message(11, message(1, text) + message(2, shared)))

# What opens all records of the first person, with the identity.


def disclosed(index, place, key, blind):
    return message(1, field(1, index) + field(2, place) + field(3, key) + field(4, blind))


link_key = next(key for tag, _, key in slots if tag == one.tag(1))
disclosure = disclosed(2, 0, act_key, one.blind(0)) + disclosed(3, places.index(one.tag(1)), link_key, one.blind(1))
disclosure += field(2, one.tag(2)) + field(3, "user:42") + field(4, one.key("identity"))
disclosure = field(1, LEDGER) + field(2, len(entries)) + message(4, disclosure)

# The vault of that ledger's first person, with the random bytes from their beginning.

stream = Stream()
kek = b"\x61" * 32
vault_key = stream.take(32)
wrap_salt = stream.take(16)
generation = u64(1)
wrap_aad = b"consent-ledger v2\0" + LEDGER + generation + struct.pack("<I", 2)
wrapped = AESGCM(D("vault key wrapping", kek, wrap_salt)).encrypt(bytes(12), vault_key, wrap_aad)
opened = field(1, LEDGER) + field(2, 2) + field(3, wrapped) + field(4, wrap_salt)
opened += field(5, D("vault key check", kek)[:16])
frames = []
mac = bytes(32)


def append_frame(content, opened):
    global mac
    number = len(frames)
    identifier, salt = stream.take(16), stream.take(16)
    data = b"consent-ledger v2\0" + LEDGER + generation + u64(number) + identifier
    ciphertext = AESGCM(D("vault frame", vault_key, salt)).encrypt(bytes(12), pad(content, 512), data)
    mac = K(D("vault chain", SECRET), mac, generation, u64(number), identifier, salt, ciphertext)
    frame = field(1, 1) + field(2, number) + field(3, identifier) + field(4, salt) + field(5, ciphertext)
    frames.append(frame + field(6, mac) + (message(7, opened) if opened else b""))


secrets = field(1, SECRET) + field(2, b"\x62" * 32) + field(3, b"\x63" * 32) + message(4, field(2, b"\x64" * 32))
append_frame(secrets, opened)
# The uses 0 and 1 are forgotten: what is left are the nodes beside the way to them, from the lowest up.
nodes = []
node = one.uses
for depth in range(1, 32):
    nodes.append(field(1, depth) + field(2, 1) + field(3, K(node, b"\1")))
    node = K(node, b"\0")
uses = b"".join(message(3, node) for node in reversed(nodes))
person = field(1, one.master) + message(2, field(3, one.evidence)) + uses + field(4, "user:42")
append_frame(message(1, person), None)
digest = K(b"\x64" * 32, b"email:gone@example.org")
append_frame(message(2, field(2, digest) + field(3, 682) + message(4, field(2, 1))), None)

token_key = D("token", SECRET)
salt = bytes(range(100, 116))
hidden = bytes(a ^ b for a, b in zip(u64(3) + u64(7), K(token_key, salt)[:16]))
token = salt + hidden + K(token_key, b"\1", salt, hidden, b"claims")[:16]
confirmation = base64.urlsafe_b64encode(K(one.key("confirmation"), bytes(16))).rstrip(b"=").decode()
hashed = K(D("shard", SECRET), b"user:42")

print(
    json.dumps(
        {
            "derived": {name: one.key(name).hex() for name in ("tag", "record", "idempotency", "confirmation", "identity", "salt")},
            "tags": [one.tag(number).hex() for number in (0, 1, 1 << 40)],
            "blind": one.blind(1).hex(),
            "next": one.next(1).hex(),
            "leaves": [[number, leaf(one.evidence, number).hex()] for number in (0, 1, 5, 0x80000001, 0xFFFFFFFF)],
            "use_tags": [one.use_tag(number).hex() for number in (0, 1)],
            "reference": D("reference", act_key)[:16].hex(),
            "disclosure": disclosure.hex(),
            "confidential_key": D("confidential", ROOT_OF_CONFIDENTIAL, bytes([5]), u64(3)).hex(),
            "confirmation_token": confirmation,
            "confirmation_token_hash": hashlib.sha256(confirmation.encode()).hexdigest(),
            "webhook_secret": "whsec_" + base64.b64encode(K(D("webhook", SECRET), bytes(32))).decode(),
            "shard": struct.unpack("<Q", hashed[:8])[0] % 64,
            "decision_token": base64.urlsafe_b64encode(token).decode(),
            "entries": [entry.hex() for entry in entries],
            "vault": [frame.hex() for frame in frames],
            "tip": D("chain", entries[-1]).hex(),
        },
        indent=1,
    )
)
