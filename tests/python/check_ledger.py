"""A second implementation of format 2, from docs/format.md, docs/decisions.md and proto/ alone.

    check_ledger.py cases DECISIONS.md
    check_ledger.py keyless DIR [--key KEY]
    check_ledger.py vault DIR --kek FILE [--key KEY] [--decisions [--at-ms MS]]
    check_ledger.py disclosure DIR FILE --key KEY [--age-identity FILE] [--receipt FILE]...
                               [--decisions [--at-ms MS]]
    check_ledger.py receipt FILE --key KEY
    check_ledger.py propagation FILE --key KEY

DIR is a data directory, KEY the ledger's verifier key. `cases` judges all cases of the document.
`vault` opens everything with the key-encryption key; `disclosure` opens what a disclosure gives.
Both judge again what the records state. `--decisions` prints the answer for every cell as lines of
JSON, at a moment, else at the time of the last entry.

Prints what it verified, one line each; ends with 1 at the first thing that is not as it must be,
and with 3 where a newer version wrote the ledger.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from cryptography.exceptions import InvalidSignature

from reader.cases import check_document
from reader.entries import Ledger, NewerVersion
from reader.files import CheckpointFile, FrameLog, Tree
from reader.history import History, Judged
from reader.rules import NEVER, State
from reader.statements import read_disclosure, read_propagation, read_receipt
from reader.vault import Opened, Rebuild, Vault
from reader.wire import SCHEMA, Wrong, check
from verify_log import Key
from verify_log import Wrong as WrongLog

PROTO = Path(__file__).resolve().parents[2] / "proto"


class Directory:
    """A data directory that was checked without keys."""

    def __init__(self, path: Path, key: Key | None):
        self.path = path
        log = FrameLog(path / "ledger", b"LEDG")
        self.ledger = Ledger(log.payloads)
        check(self.ledger.id == log.log_id, "the ledger's id is that of its files")
        self.tree = Tree(log.payloads)
        checkpoints = CheckpointFile(path / "checkpoint.json", self.ledger.id)
        self.signed, self.keys = checkpoints.check(log.payloads, self.tree, key)
        hashes = self.tree.check_files(path / "tree", self.signed)
        origin = self.ledger.entries[0].ledger_opened.origin
        check(key is None or key.name == origin, "the key has the ledger's name")
        kinds = Counter(entry.which("body") for entry in self.ledger.entries)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        print(f"ok: {len(log.payloads)} entries: {told}")
        print(f"ok: {len(self.ledger.tags)} tags, each there once")
        print(f"ok: {hashes} hashes of the tree, {self.signed} entries under a checkpoint")
        print("ok: signature of the checkpoint" if key else "NOT CHECKED: signatures")


def read_key_encryption_key(path: Path) -> bytes:
    """A file of 32 bytes, or one that begins with them as hexadecimal digits."""
    data: bytes = path.read_bytes()
    return data if len(data) == 32 else bytes.fromhex(data.split(b"\n")[0].decode())


def open_with_vault(directory: Directory, args: argparse.Namespace) -> None:
    log = FrameLog(directory.path / "vault", b"VALT")
    vault = Vault(log, read_key_encryption_key(args.kek))
    print(
        f"ok: {len(log.payloads)} frames of the vault, {len(vault.persons)} persons, "
        f"{len(vault.tombstones)} tombstones"
    )
    rebuilt = Rebuild(directory.ledger, vault)
    print(f"ok: MACs of {rebuilt.in_clear} entries in clear")
    told = Counter(name for _, name, _ in rebuilt.items)
    items = ", ".join(f"{count} {name}" for name, count in sorted(told.items())) or "none"
    print(f"ok: {len(rebuilt.records)} records, {len(rebuilt.uses)} uses; items: {items}")
    history = History(directory.ledger, rebuilt.records, rebuilt.uses)
    judged = Judged()
    size = len(directory.ledger.entries)
    state = history.state(size, judged)
    history.judge_uses(judged)
    tell(judged)
    print_decisions(history, state, size, args)


def open_with_disclosure(directory: Directory, args: argparse.Namespace) -> None:
    data = args.file.read_bytes()
    if args.age_identity:
        import pyrage

        lines = args.age_identity.read_text(encoding="utf-8").split("\n")
        secrets = [line for line in lines if line.startswith("AGE-SECRET-KEY-")]
        identities = [pyrage.x25519.Identity.from_str(secret) for secret in secrets]
        data = pyrage.decrypt(data, identities)
    disclosure = read_disclosure(data, directory.ledger, directory.tree, directory.keys)
    persons = len({record.person for record in disclosure.records})
    print(
        f"ok: disclosure up to revision {disclosure.revision}: {persons} persons, "
        f"{len(disclosure.records)} records, complete for their keys; "
        f"{disclosure.confidential_texts} confidential texts"
    )
    listed = {(record.index, record.reference) for record in disclosure.records}
    for path in args.receipt:
        receipt = read_receipt(path.read_text(encoding="utf-8"), directory.keys)
        check((receipt.index, receipt.reference) in listed, f"{path}: its record is disclosed")
        print(f"ok: receipt of {receipt.index} is in the disclosure")
    history, judged = History(directory.ledger, disclosure.records), Judged()
    state = history.state(disclosure.revision, judged)
    tell(judged)
    print_decisions(history, state, disclosure.revision, args)


def tell(judged: Judged) -> None:
    check(not judged.wrong, "; ".join(judged.wrong))
    uses = f", {judged.uses} uses" if judged.uses else ""
    print(f"ok: {judged.outcomes} outcomes, {judged.expiries} ends of grants{uses} by the rules")
    if judged.not_judgeable:
        print(
            f"NOT JUDGEABLE: {judged.not_judgeable} outcomes of persons that are linked to others"
        )


def print_decisions(history: History, state: State, size: int, args: argparse.Namespace) -> None:
    """The answer for every cell, at the asked moment, else at the second of the last entry."""
    if not args.decisions:
        return
    last_ms = history.ledger.entries[size - 1].recorded_at_s * 1000
    now_ms = last_ms if args.at_ms is None else args.at_ms
    for person, question, answer in history.decisions(state, now_ms):
        until = None if answer.valid_until_ms == NEVER else answer.valid_until_ms
        print(
            json.dumps(
                {
                    "subject": person,
                    "purpose": question.purpose,
                    "channel": question.channel,
                    "effect": answer.effect,
                    "reason": answer.reason,
                    "status": answer.status,
                    "decided_by": answer.decided_by,
                    "valid_until_ms": until,
                }
            )
        )


def tell_receipt(opened: Opened) -> None:
    evidence = "with evidence" if opened.evidence else "without evidence"
    print(
        f"ok: receipt of {opened.index}: {opened.kind}, {len(opened.record.changes)} changes, "
        f"{evidence}"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--proto", type=Path, default=PROTO)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("cases", "keyless", "vault", "disclosure", "receipt", "propagation"):
        command = commands.add_parser(name)
        if name in ("keyless", "vault", "disclosure"):
            command.add_argument("directory", type=Path)
        if name in ("cases", "disclosure", "receipt", "propagation"):
            command.add_argument("file", type=Path)
        if name != "cases":
            needed = name in ("disclosure", "receipt", "propagation")
            command.add_argument("--key", type=Key, required=needed)
        if name == "vault":
            command.add_argument("--kek", type=Path, required=True)
        if name == "disclosure":
            command.add_argument("--age-identity", type=Path)
            command.add_argument("--receipt", type=Path, action="append", default=[])
        if name in ("vault", "disclosure"):
            command.add_argument("--decisions", action="store_true")
            command.add_argument("--at-ms", type=int)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    SCHEMA.load(args.proto)
    match args.command:
        case "cases":
            report = check_document(args.file)
            check(not report.wrong, "; ".join(report.wrong))
            print(f"ok: {report.answers} answers and {report.outcomes} outcomes")
        case "keyless":
            Directory(args.directory, args.key)
        case "vault":
            open_with_vault(Directory(args.directory, args.key), args)
        case "disclosure":
            open_with_disclosure(Directory(args.directory, args.key), args)
        case "receipt":
            tell_receipt(read_receipt(args.file.read_text(encoding="utf-8"), [args.key]))
        case "propagation":
            print(f"ok: {read_propagation(args.file.read_bytes(), [args.key])}")


if __name__ == "__main__":
    try:
        main()
    except NewerVersion as newer:
        print(newer, file=sys.stderr)
        sys.exit(3)
    except (Wrong, WrongLog, InvalidSignature, ValueError) as error:
        sys.exit(f"not so: {error!r}")
