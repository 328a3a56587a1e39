"""Records that were opened, folded in the order of the ledger; what they state is judged again."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from reader.entries import STOPS, Catalogue, Ledger
from reader.outcomes import Cause, Outcome, outcomes_of
from reader.rules import NEVER, Act, Answer, Change, Question, State
from reader.vault import Opened, OpenedUse
from reader.wire import Message, check, enum_name


@dataclass
class Judged:
    """How many statements were judged again, and which of them are not as the rules say."""

    outcomes: int = 0
    expiries: int = 0
    uses: int = 0
    # Of persons that are linked to others whose records are not open.
    not_judgeable: int = 0
    wrong: list[str] = field(default_factory=list)


class History:
    """The state of all persons whose records are open, entry by entry."""

    def __init__(self, ledger: Ledger, records: list[Opened], uses: Iterable[OpenedUse] = ()):
        self.ledger, self.uses = ledger, list(uses)
        self.records: dict[int, list[Opened]] = {}
        for one in records:
            self.records.setdefault(one.index, []).append(one)
        self.references = {(one.person, one.index): one.reference for one in records}
        self.by_reference = {one.reference: one for one in records}
        check(len(self.by_reference) == len(records), "a reference names one record")
        sealed = [(one.index, one.record) for one in records] + [
            (one.index, one.use) for one in self.uses
        ]
        clear = {
            entry.index: 0
            for entry in ledger.entries
            if entry.which("body") not in ("persons", "uses", "confidential")
        }
        times = clear | {index: message.recorded_ms for index, message in sealed}
        self.times_ms = {
            index: ledger.entries[index].recorded_at_s * 1000 + milliseconds
            for index, milliseconds in times.items()
        }
        # How many links of a person, whose other side is not open, were set and not ended.
        self.linked_elsewhere: Counter[str] = Counter()

    def known_at(self, moment_ms: int, size: int) -> set[int]:
        """How many of the first entries were recorded by a moment. Of an entry in clear the second
        alone is known, so where one lies between, there are two answers."""
        later = [index for index, time_ms in self.times_ms.items() if time_ms > moment_ms]
        known = [index for index, time_ms in self.times_ms.items() if time_ms <= moment_ms]
        return {
            min((index for index in later if index < size), default=size),
            max((index + 1 for index in known if index < size), default=0),
        }

    def state(self, size: int, judged: Judged | None = None) -> State:
        """The state by the first entries; judges what it meets, if asked."""
        state = State(Catalogue())
        self.linked_elsewhere = Counter()
        for entry in self.ledger.entries[:size]:
            state.catalogue.fold(entry)
            for one in self.records.get(entry.index, []):
                self.fold(state, one, judged)
        return state

    def fold(self, state: State, one: Opened, judged: Judged | None) -> None:
        match one.kind:
            case "ACT" | "CONFIRMATION":
                act = self.act_of(state.catalogue, one)
                if judged is not None:
                    self.judge_outcomes(state, act, one, judged)
                state.add(act)
            case "EXPIRY" if judged is not None:
                self.judge_expiry(one, judged)
            case "LINK" | "UNLINK":
                self.fold_link(state, one)
            case "ERASURE_REQUESTED" | "ERASED":
                state.erased.setdefault(one.person, one.index)

    def act_of(self, catalogue: Catalogue, one: Opened) -> Act:
        record, asked, effective = one.record, None, one.record.effective_at_ms
        authority = record.authority_ends_at_ms
        if one.kind == "CONFIRMATION":
            confirmed = self.by_reference.get(record.confirms)
            check(
                confirmed is not None and confirmed.person == one.person,
                f"entry {one.index} confirms an act of the person",
            )
            assert confirmed is not None
            check(
                record.requested_at_ms == confirmed.record.effective_at_ms,
                f"entry {one.index}: when the confirmed act took effect",
            )
            asked, effective = confirmed.index, record.requested_at_ms
        changes = tuple(change_of(catalogue, change) for change in record.changes)
        return Act(
            one.person,
            one.index,
            effective,
            self.times_ms[one.index],
            enum_name("Actor", record.actor),
            changes,
            NEVER if authority is None else authority,
            asked,
        )

    def fold_link(self, state: State, one: Opened) -> None:
        """Both sides tell of a link; one alone leads to somebody whose records are not open.
        Which of such links ends, nobody can tell."""
        peers = [other for other in self.records[one.index] if other.slot == one.record.peer]
        if not peers:
            self.linked_elsewhere[one.person] += 1 if one.kind == "LINK" else -1
            return
        pair = frozenset((one.person, peers[0].person))
        if one.kind == "UNLINK":
            state.links.pop(pair, None)
        else:
            state.links[pair] = enum_name("LinkConfidence", one.record.confidence) == "VERIFIED"

    def is_judgeable(self, state: State, person: str) -> bool:
        return all(self.linked_elsewhere[one] <= 0 for one in state.reached(person, False))

    def judge_outcomes(self, state: State, act: Act, one: Opened, judged: Judged) -> None:
        if not self.is_judgeable(state, one.person):
            judged.not_judgeable += len(one.record.changes)
            return
        for change, outcome in zip(one.record.changes, outcomes_of(state, act), strict=True):
            judged.outcomes += 1
            told = (
                enum_name("Outcome", change.outcome),
                change.linked_subjects,
                change.cause,
                change.cause_is_linked,
            )
            found = (outcome.name, outcome.linked, *self.named_cause(act, outcome))
            if told != found:
                judged.wrong.append(f"entry {one.index}: {told} is recorded, {found} by the rules")

    def named_cause(self, act: Act, outcome: Outcome) -> tuple[bytes, bool]:
        """A cause as a record names it: by reference, or as a linked person's."""
        cause = outcome.cause
        if cause is None or cause == Cause(act.person, act.index):
            return b"", False
        if cause.person != act.person:
            return b"", True
        return self.references[cause.person, cause.index], False

    def judge_expiry(self, one: Opened, judged: Judged) -> None:
        """The end of a grant names the record that gave it, and comes no earlier than the end."""
        for change in one.record.changes:
            judged.expiries += 1
            gave = self.by_reference.get(change.cause)
            matching = (
                []
                if gave is None
                else [
                    grant
                    for grant in gave.record.changes
                    if (grant.purpose, grant.channel, grant.purpose_version, grant.expires_at_ms)
                    == (
                        change.purpose,
                        change.channel,
                        change.purpose_version,
                        change.expires_at_ms,
                    )
                ]
            )
            if gave is None or gave.person != one.person or not matching:
                judged.wrong.append(f"entry {one.index}: no grant that ends so")
                continue
            expired = enum_name("Reason", change.reason) == "EXPIRED"
            end = change.expires_at_ms if expired else gave.record.authority_ends_at_ms
            if end is None or end > self.times_ms[one.index]:
                judged.wrong.append(f"entry {one.index}: the grant had not ended")

    def judge_uses(self, judged: Judged) -> None:
        """The reason of a use is that of a question at its time, by what was known then."""
        for used in self.uses:
            use, names = used.use, self.ledger.catalogue(used.index)
            purpose, channel = names.purpose(use.purpose), names.channel(use.channel)
            categories = tuple(use.data_categories)
            question = Question(purpose, channel, use.used_at_ms, use.region, categories)
            states = [self.state(size) for size in self.known_at(use.used_at_ms, used.index)]
            for person in used.persons:
                judged.uses += 1
                told = enum_name("Reason", use.reason)
                reasons = {state.answer(person, question).reason for state in states}
                if told not in reasons:
                    judged.wrong.append(
                        f"entry {used.index}: {told} is recorded, {reasons} by the rules"
                    )

    def decisions(self, state: State, now_ms: int) -> list[tuple[str, Question, Answer]]:
        """The answers for every cell of every person whose acts are all open."""
        return [
            (person, question, state.answer(person, question))
            for person in sorted({person for person, _ in self.references})
            if self.is_judgeable(state, person)
            for purpose in state.catalogue.purposes
            for channel in state.catalogue.channels
            for question in [Question(purpose, channel, now_ms)]
        ]


def change_of(catalogue: Catalogue, change: Message) -> Change:
    """A change by the words of the catalogue."""
    if change.purpose:
        purpose = catalogue.purpose(change.purpose)
    else:
        purpose = f"{change.purpose_class}.*" if change.purpose_class else "*"
    channel = catalogue.channel(change.channel) if change.channel else "*"
    action = enum_name("Action", change.action)
    check(action in (*STOPS, "GRANT"), "an action of an act")
    expires = change.expires_at_ms
    return Change(
        action,
        purpose,
        channel,
        change.purpose_version,
        NEVER if expires is None else expires,
        tuple(change.data_categories),
    )
