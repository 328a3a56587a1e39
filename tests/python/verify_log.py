"""Verifies a log from its public files alone, written from the texts of C2SP and RFC 6962.

    verify_log.py DIR

The tree is pymerkle's (its roots and inclusion proofs are those of RFC 6962; its consistency proofs
have a form of their own, so those of the RFC are verified here), signatures are cryptography's;
notes, keys, tiles, cosignatures, tlog-proofs and decision tokens are read here, by hand. Nothing
comes from the ledger's code. tests/go/verify.go says what
DIR holds; it may hold `decision.jwt` too, a decision token signed with the log's key.

Prints what it verified and what it refused, one line each for every tree; ends with 1 at the first
thing that is not as it must be.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymerkle import (
    InclusionProof,
    InmemoryTree,
    InvalidProof,
    verify_consistency,
    verify_inclusion,
)


class Wrong(Exception):
    """Something is not as it must be."""


def check(holds, name):
    if not holds:
        raise Wrong(name)


def refused(name, error, attempt):
    """What must not pass is tried, and must fail in the way in which it should."""
    try:
        attempt()
    except error:
        return name
    raise Wrong(f"{name} was not refused")


def unbase64(text):
    data = base64.b64decode(text, validate=True)
    check(base64.b64encode(data).decode() == text, "base64 has one writing")
    return data


class Key:
    """A verifier key of C2SP signed-note: NAME+ID+KEY."""

    def __init__(self, text):
        self.name, key_id, encoded = text.strip().split("+", 2)
        data = unbase64(encoded)
        check(len(data) == 33, "an Ed25519 key has 32 bytes, and one for its type")
        digest = hashlib.sha256(self.name.encode() + b"\n" + data).digest()
        check(digest[:4].hex() == key_id, "the key id is of name, type and key")
        self.id, self.type, self.public = digest[:4], data[0], data[1:]

    def verify(self, message, signature):
        Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)


def parse_note(note):
    """The text of a note, and its signatures as name, key id and bytes."""
    text, _, lines = note.rpartition("\n\n")
    check(text and lines.endswith("\n"), "a note is a text, an empty line, and signatures")
    signatures = []
    for line in lines[:-1].split("\n"):
        dash, name, encoded = line.split(" ")
        check(dash == "\u2014", "a signature line begins with a dash")
        data = unbase64(encoded)
        signatures.append((name, data[:4], data[4:]))
    return text + "\n", signatures


def open_note(note, key):
    """The text of a note that a key has signed. Signatures of unknown keys are ignored."""
    text, signatures = parse_note(note)
    by_key = [data for name, key_id, data in signatures if (name, key_id) == (key.name, key.id)]
    if not by_key:
        raise InvalidSignature("no signature by this key")
    for data in by_key:
        if key.type == 1:
            key.verify(text.encode(), data)
        else:
            check(key.type == 4, "a type that is known")
            time = int.from_bytes(data[:8], "big")
            check(time < 1 << 63, "a time that can be")
            key.verify(f"cosignature/v1\ntime {time}\n{text}".encode(), data[8:])
    return text


def parse_checkpoint(text, origin):
    """Size and root."""
    first, size, root, end = text.split("\n")
    check(first == origin and end == "", "origin, size, root, and nothing else")
    check(str(int(size)) == size, "the size has one writing")
    root = unbase64(root)
    check(len(root) == 32, "a root has 32 bytes")
    return int(size), root


def tile_path(level, number, width):
    path = f"{number % 1000:03}"
    while number >= 1000:
        number //= 1000
        path = f"x{number % 1000:03}/{path}"
    return f"tile/{level}/{path}" + ("" if width == 256 else f".p/{width}")


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaf(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def mth(row):
    """The root over a row of hashes (RFC 6962, section 2.1)."""
    if len(row) == 1:
        return row[0]
    middle = 1 << ((len(row) - 1).bit_length() - 1)
    return node(mth(row[:middle]), mth(row[middle:]))


def subproof(first, row, known):
    """The consistency proof from the first leaves of a row (RFC 6962, section 2.1.2)."""
    if first == len(row):
        return [] if known else [mth(row)]
    middle = 1 << ((len(row) - 1).bit_length() - 1)
    if first <= middle:
        return subproof(first, row[:middle], known) + [mth(row[middle:])]
    return subproof(first - middle, row[middle:], False) + [mth(row[:middle])]


def check_consistency(first, before, size, root, proof):
    """RFC 9162, section 2.1.4.2, step by step."""
    if first == size:
        check(before == root and not proof, "the same tree")
        return
    check(0 < first < size and proof, "a tree that grew")
    if first & (first - 1) == 0:
        proof = [before] + proof
    fn, sn = first - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for c in proof[1:]:
        check(sn, "no more hashes than such a proof has")
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    check(fr == before and sr == root and sn == 0, "the proof is from one root to the other")


class Log:
    def __init__(self, directory):
        self.dir = directory
        read = lambda name: Key((directory / name).read_text())
        self.key, self.other = read("log.vkey"), read("other.vkey")
        self.witness = read("witness.vkey")
        check((self.key.type, self.witness.type) == (1, 4), "types of the keys")
        check(self.key.name == self.other.name, "the other key has the log's name")
        self.entries = []
        self.tree = InmemoryTree(algorithm="sha256")

    def verify(self, size):
        directory = self.dir / "trees" / str(size)
        note = (directory / "checkpoint").read_text(encoding="utf-8")
        signed_size, root = parse_checkpoint(open_note(note, self.key), self.key.name)
        check(signed_size == size, "the checkpoint is of this size")
        open_note(note, self.witness)

        self.read_entries(size)
        check(self.tree.get_root(size) == root, "the root from the entries is the signed one")
        check(self.root_from_tiles(size) == root, "the root from the tiles is the signed one")

        inclusions = numbers(directory / "inclusion")
        for index in inclusions:
            path = read_hashes(directory / "inclusion" / str(index))
            self.check_inclusion(index, size, root, path)
        consistencies = numbers(directory / "consistency")
        for first in consistencies:
            proof = read_hashes(directory / "consistency" / str(first))
            self.check_consistency(first, size, root, proof)
        proofs = numbers(directory / "proof")
        for index in proofs:
            text = (directory / "proof" / str(index)).read_text(encoding="utf-8")
            self.check_tlog_proof(index, size, root, text)
        print(
            f"ok: {size} entries: note, cosignature, root from bundles, root from tiles, "
            f"{len(inclusions)} inclusion, {len(consistencies)} consistency, "
            f"{len(proofs)} tlog-proofs"
        )
        tried = list(dict.fromkeys(self.refuse(directory, note, size, root)))
        print(f"refused: {size} entries: {', '.join(tried)}")

    def read_entries(self, size):
        """Reads the bundles of a tree, and sees that earlier entries are still the same."""
        for start in range(0, size, 256):
            width = min(size - start, 256)
            bundle = (self.dir / tile_path("entries", start // 256, width)).read_bytes()
            for index in range(start, start + width):
                length = int.from_bytes(bundle[:2], "big")
                check(len(bundle) >= 2 + length, "an entry is whole")
                entry, bundle = bundle[2 : 2 + length], bundle[2 + length :]
                if index < len(self.entries):
                    check(self.entries[index] == entry, f"entry {index} has not changed")
                else:
                    self.entries.append(entry)
                    self.tree.append_entry(entry)
            check(not bundle, "a bundle holds no more than its entries")

    def root_from_tiles(self, size):
        """Reads every tile of the tree; each full one must stand in the level above."""
        rows, level = [], 0
        while size >> 8 * level:
            count, row = size >> 8 * level, []
            for number in range(-(-count // 256)):
                width = min(count - number * 256, 256)
                tile = (self.dir / tile_path(level, number, width)).read_bytes()
                check(len(tile) == 32 * width, "a tile has its width")
                row += [tile[at : at + 32] for at in range(0, len(tile), 32)]
            rows.append(row)
            level += 1
        check(rows[0] == [leaf(entry) for entry in self.entries[:size]], "level 0 is the leaves")
        for below, above in zip(rows, rows[1:]):
            full = [mth(below[at : at + 256]) for at in range(0, len(below) - 255, 256)]
            check(full == above, "a level is of the full tiles below")
        # The hashes that nothing stands over yet, from the right.
        root = None
        for row in rows:
            rest = row[len(row) - len(row) % 256 :]
            if rest:
                # What is left of them is a row of whole subtrees, and on its right the roots below.
                root = mth_with(rest, root)
        return root

    def inclusion(self, index, size, path, base):
        """Our path as a proof of pymerkle's: its first hash is the leaf's."""
        rule = self.tree.prove_inclusion(index + 1, size).rule
        return InclusionProof("sha256", True, size, index + 1, rule, [base] + path)

    def check_inclusion(self, index, size, root, path):
        base = leaf(self.entries[index])
        proof = self.tree.prove_inclusion(index + 1, size)
        check(proof.path == [base] + path, "the same path")
        verify_inclusion(base, root, self.inclusion(index, size, path, base), index + 1, size)

    def check_consistency(self, first, size, root, proof):
        leaves = [leaf(entry) for entry in self.entries[:size]]
        check(subproof(first, leaves, True) == proof, "the same proof")
        before = self.tree.get_root(first)
        check_consistency(first, before, size, root, proof)
        other = lambda: check_consistency(first, bytes(32), size, root, proof)
        refused("another old root", Wrong, other)
        # Its own proofs are of another form; that both roots are of one tree, they prove as well.
        verify_consistency(before, root, self.tree.prove_consistency(first, size), first, size)

    def check_tlog_proof(self, index, size, root, text):
        head, _, checkpoint = text.partition("\n\n")
        header, extra, place, *path = head.split("\n")
        check(header == "c2sp.org/tlog-proof@v1", "the first line of a tlog-proof")
        check(place == f"index {index}" and extra.startswith("extra "), "entry and index")
        signed = parse_checkpoint(open_note(checkpoint, self.key), self.key.name)
        check(signed == (size, root), "the tlog-proof is of this tree")
        entry = unbase64(extra[len("extra ") :])
        check(entry == self.entries[index], "the entry in the tlog-proof is the ledger's")
        proof = self.inclusion(index, size, [unbase64(line) for line in path], leaf(entry))
        verify_inclusion(leaf(entry), root, proof, index + 1, size)

    def refuse(self, directory, note, size, root):
        by_other = (directory / "checkpoint.other").read_text(encoding="utf-8")
        open_note(by_other, self.other)
        yield refused(
            "another key of the name", InvalidSignature, lambda: open_note(by_other, self.key)
        )
        changed = note.replace(f"\n{size}\n", f"\n{size + 1}\n", 1)
        reopen = lambda: open_note(changed, self.key)
        yield refused("a changed checkpoint", InvalidSignature, reopen)

        def attempt(name, index, path, base):
            proof = self.inclusion(index, size, path, base)
            check = lambda: verify_inclusion(base, root, proof, index + 1, size)
            return refused(name, InvalidProof, check)

        inclusion = directory / "inclusion"
        paths = {index: read_hashes(inclusion / str(index)) for index in numbers(inclusion)}
        for index, path in paths.items():
            entry = bytearray(self.entries[index])
            entry[len(entry) // 2] ^= 1
            yield attempt("a changed entry", index, path, leaf(bytes(entry)))
        if size > 1:
            for index, path in paths.items():
                neighbour = leaf(self.entries[(index + 1) % size])
                yield attempt("swapped entries", index, path, neighbour)
        for index in numbers(directory / "segment"):
            segment = read_hashes(directory / "segment" / str(index))
            yield attempt("a chain segment", index, segment, leaf(self.entries[index]))
        for index, path in paths.items():
            base = leaf(self.entries[index])
            yield attempt("a changed path", index, path + [root], base)
            for at in range(len(path)):
                other = path.copy()
                other[at] = bytes([other[at][0] ^ 1]) + other[at][1:]
                yield attempt("a changed path", index, other, base)


def mth_with(row, right):
    """The root over a row of subtrees of one height, with a smaller tree on their right."""
    if right is None:
        return mth(row)
    subtrees = []
    while row:
        width = 1 << (len(row).bit_length() - 1)
        subtrees.append(mth(row[:width]))
        row = row[width:]
    for left in reversed(subtrees):
        right = node(left, right)
    return right


def numbers(directory):
    """The names of a directory's members, in order. A directory that is not there is empty."""
    return sorted(int(path.name) for path in directory.iterdir()) if directory.exists() else []


def read_hashes(path):
    hashes = [unbase64(line) for line in path.read_text().split()]
    check(all(len(node_hash) == 32 for node_hash in hashes), "a hash has 32 bytes")
    return hashes


def verify_token(token, key):
    """A decision token (RFC 7515, RFC 8037): signed with the key that signs checkpoints."""
    unurl = lambda part: base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    header, claims, signature = token.strip().split(".")
    head = json.loads(unurl(header))
    x = base64.urlsafe_b64encode(key.public).rstrip(b"=").decode()
    # The thumbprint of RFC 7638: the required members, in the order of their names.
    members = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    thumbprint = hashlib.sha256(members.encode()).digest()
    kid = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
    check(head == {"alg": "EdDSA", "typ": "consent-decision+jwt", "kid": kid}, "header")
    key.verify(f"{header}.{claims}".encode(), unurl(signature))
    changed = f"{header}.{claims[:-1]}{'A' if claims[-1] != 'A' else 'B'}"
    refused("claims", InvalidSignature, lambda: key.verify(changed.encode(), unurl(signature)))
    check(json.loads(unurl(claims))["iss"] == key.name, "the issuer is the log")
    print("ok: decision token")


def main():
    directory = Path(sys.argv[1])
    log = Log(directory)
    for size in numbers(directory / "trees"):
        log.verify(size)
    if (directory / "decision.jwt").exists():
        verify_token((directory / "decision.jwt").read_text(), log.key)


if __name__ == "__main__":
    try:
        main()
    except (Wrong, InvalidProof, InvalidSignature) as error:
        sys.exit(f"not so: {error!r}")
