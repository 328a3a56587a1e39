"""What acts mean: decisions and outcomes, written from docs/decisions.md and docs/concepts.md.

Deliberately simple: every question reads all acts again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from reader.entries import Catalogue, Purpose
from reader.wire import Message, enum_name

SPEAKERS = ("SUBJECT", "GUARDIAN", "AGENT")
NEVER = 1 << 63
NOT_BASED_ON_CONSENT = ("CONTRACT", "LEGAL_OBLIGATION", "VITAL_INTEREST", "PUBLIC_TASK")


@dataclass(frozen=True)
class Change:
    """A change of an act. Purpose is a key, a class `shop.*` or `*`; channel a key or `*`."""

    action: str
    purpose: str
    channel: str
    version: int = 0
    expires_ms: int = NEVER
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Act:
    """An act, or the confirmation of one: then `asked` is the index of the act it confirms."""

    person: str
    index: int
    effective_ms: int
    recorded_ms: int
    actor: str
    changes: tuple[Change, ...]
    authority_ends_ms: int = NEVER
    asked: int | None = None


@dataclass(frozen=True)
class Stop:
    act: Act
    change: Change
    # A stop of a wrong clock counts as made at the end of the span.
    at_ms: int

    @property
    def key(self) -> tuple[int, int, tuple[int, int]]:
        """Later stops are named; of one act, the narrowest."""
        return self.at_ms, self.act.index, narrowness(self.change)

    @property
    def is_own(self) -> bool:
        return self.act.actor in SPEAKERS or self.change.action == "OBJECT"


@dataclass(frozen=True)
class Grant:
    """A grant at the place of the act that asked for it."""

    act: Act
    change: Change
    asked: int
    pending: bool
    at_ms: int
    # A grant of a wrong clock lifts only stops of before the span.
    lifts_ms: int

    @property
    def key(self) -> tuple[int, int]:
        return self.at_ms, self.asked

    @property
    def speaks(self) -> bool:
        return self.act.actor in SPEAKERS

    def beats(self, stop: Stop) -> bool:
        """Whether the grant lifts the stop: it is later, or of the same act."""
        if not self.speaks:
            return False
        same_act = (stop.act.person, stop.act.index) == (self.act.person, self.asked)
        return self.lifts_ms > stop.at_ms or (same_act and self.lifts_ms == self.at_ms)


@dataclass(frozen=True)
class Question:
    purpose: str
    channel: str
    now_ms: int
    region: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    effect: str
    reason: str
    status: str
    # Index of the entry that decided, if one did.
    decided_by: int | None
    # The first moment at which the answer changes by itself.
    valid_until_ms: int = NEVER


def narrowness(change: Change) -> tuple[int, int]:
    """Of one act the narrowest stop is named: first by purposes, then by channels."""
    if change.purpose == "*":
        purposes = -1
    elif change.purpose.endswith(".*"):
        purposes = change.purpose.count(".")
    else:
        purposes = 1 << 16
    return purposes, int(change.channel != "*")


def covers(change: Change, purpose: str, channel: str) -> bool:
    """Whether a change covers a cell."""
    wide = change.purpose
    if wide not in ("*", purpose) and not (
        wide.endswith(".*") and purpose.startswith(wide.removesuffix("*"))
    ):
        return False
    return change.channel in ("*", channel)


def within(category: str, wider: Iterable[str]) -> bool:
    """Whether one of the categories covers this one."""
    return any(category == one or category.startswith(one + ".") for one in wider)


def regions_of(purpose: Purpose) -> set[str]:
    """The regions that any version names, and the empty one for the default."""
    named = {basis.region for _, put in purpose.puts for basis in put.basis_by_region}
    return named | {""}


def basis_in(put: Message, region: str) -> str:
    """The legal basis: that of the region, else of its country, else the default."""
    by_region = {one.region: one.legal_basis for one in put.basis_by_region}
    for name in (region, region.split("-")[0]):
        if name in by_region:
            return enum_name("LegalBasis", by_region[name])
    return enum_name("LegalBasis", put.legal_basis)


def basis(purpose: Purpose, region: str) -> str:
    return basis_in(purpose.now, region)


def can_be_stopped(purpose: Purpose, region: str) -> bool:
    """Whether a stop ends a purpose in the region; without a region, in any."""
    regions = [region] if region else regions_of(purpose)
    return any(
        basis(purpose, one) not in NOT_BASED_ON_CONSENT
        or any(basis_in(put, one) == "CONSENT" for _, put in purpose.puts)
        for one in regions
    )


@dataclass
class View:
    """What counts for one person over one cell."""

    stops: list[Stop]
    grants: list[Grant]
    purpose: Purpose | None

    @property
    def confirmed(self) -> list[Grant]:
        """Grants that count, in order; anybody else's only where no stop ever was."""
        counting = [
            grant for grant in self.grants if not grant.pending and (grant.speaks or not self.stops)
        ]
        return sorted(counting, key=lambda grant: grant.key)

    @property
    def requests(self) -> list[Grant]:
        waiting = [
            grant for grant in self.grants if grant.pending and (grant.speaks or not self.stops)
        ]
        return sorted(waiting, key=lambda grant: grant.key)

    @property
    def is_stopped(self) -> bool:
        lifts = any(all(grant.beats(stop) for stop in self.stops) for grant in self.confirmed)
        return bool(self.stops) and not lifts

    def named_stop(self) -> Stop:
        """The stop that is named: the person's own before one that reports it back."""
        standing = [
            stop for stop in self.stops if not any(grant.beats(stop) for grant in self.confirmed)
        ]
        if not standing:
            # Each is lifted by its own act alone, and bars the grant of the other act.
            lifted = max(grant.lifts_ms for grant in self.confirmed)
            standing = [stop for stop in self.stops if stop.at_ms >= lifted]
        own = [stop for stop in standing if stop.is_own]
        return max(own or standing, key=lambda stop: stop.key)

    def latest_stop(self) -> Stop:
        return max(self.stops, key=lambda stop: stop.key)

    def candidates(self) -> list[Grant]:
        """The latest grant, and the latest of a speaker, which nobody else's ends."""
        latest = self.confirmed[-1:]
        own = [grant for grant in self.confirmed if grant.speaks][-1:]
        return latest + [grant for grant in own if grant not in latest]

    def reason_of(self, grant: Grant, now_ms: int, categories: tuple[str, ...]) -> str:
        """What a grant that is decisive says."""
        assert self.purpose is not None
        if grant.change.expires_ms <= now_ms:
            return "EXPIRED"
        if grant.change.version < self.purpose.now.oldest_compatible_version:
            return "RECONSENT_REQUIRED"
        if grant.act.actor == "GUARDIAN" and grant.act.authority_ends_ms <= now_ms:
            return "RECONSENT_REQUIRED"
        declared = self.purpose.versions[grant.change.version].put.data_categories
        narrowed = grant.change.categories
        if not all(
            within(one, declared) and (not narrowed or within(one, narrowed)) for one in categories
        ):
            return "DATA_CATEGORY_NOT_COVERED"
        return "GRANTED"

    def end_of(self, grant: Grant) -> int:
        authority = grant.act.authority_ends_ms if grant.act.actor == "GUARDIAN" else NEVER
        return min(grant.change.expires_ms, authority)

    def decisive(self, now_ms: int, categories: tuple[str, ...]) -> tuple[str, Grant | None]:
        """Reason and grant where no stop stands."""
        candidates = self.candidates()
        allowing = [
            grant for grant in candidates if self.reason_of(grant, now_ms, categories) == "GRANTED"
        ]
        if allowing:
            # The later one decides, unless it ends before the person's own.
            return "GRANTED", max(allowing, key=lambda grant: (self.end_of(grant), grant.key))
        standing = [grant for grant in candidates if self.reason_of(grant, now_ms, ()) == "GRANTED"]
        if standing:
            return "DATA_CATEGORY_NOT_COVERED", standing[0]
        waiting = self.requests[-1:]
        if not candidates:
            return ("PENDING_CONFIRMATION", waiting[0]) if waiting else ("NO_RECORD", None)
        if waiting and waiting[0].key > candidates[0].key:
            return "PENDING_CONFIRMATION", waiting[0]
        return self.reason_of(candidates[0], now_ms, ()), candidates[0]

    def status(self, now_ms: int) -> str:
        if self.is_stopped:
            stop = self.named_stop()
            return stop_reason(stop)
        reason, _ = self.decisive(now_ms, ())
        return {
            "GRANTED": "GIVEN",
            "NO_RECORD": "UNKNOWN",
            "PENDING_CONFIRMATION": "REQUESTED",
            "EXPIRED": "EXPIRED",
            "RECONSENT_REQUIRED": "INVALIDATED",
        }[reason]


def stop_reason(stop: Stop) -> str:
    """Reason, and status, of a stop."""
    if stop.change.action == "WITHDRAW":
        return "WITHDRAWN" if stop.act.actor in SPEAKERS else "REVOKED"
    return {"REFUSE": "REFUSED", "OBJECT": "OBJECTED"}[stop.change.action]


@dataclass
class State:
    """All that is known at some moment, of all persons."""

    catalogue: Catalogue
    # The acts of each person, in the order of the ledger.
    acts: dict[str, list[Act]] = field(default_factory=dict)
    # Pairs of persons, and whether their link is verified.
    links: dict[frozenset[str], bool] = field(default_factory=dict)
    # The entry that asked for a person's erasure.
    erased: dict[str, int] = field(default_factory=dict)

    def add(self, act: Act) -> None:
        self.acts.setdefault(act.person, []).append(act)

    def with_act(self, act: Act) -> "State":
        acts = [*self.acts.get(act.person, []), act]
        return replace(self, acts={**self.acts, act.person: acts})

    def reached(self, person: str, verified_alone: bool) -> set[str]:
        """The persons that links lead to, and the person."""
        found, todo = {person}, [person]
        while todo:
            one = todo.pop()
            for pair, verified in self.links.items():
                if one in pair and (verified or not verified_alone):
                    others = pair - found
                    found |= others
                    todo += others
        return found

    def view(self, person: str, purpose: str, channel: str) -> View:
        same, linked = self.reached(person, True), self.reached(person, False)
        known = self.catalogue.purposes.get(purpose)
        view = View([], [], known)
        confirmed = set[tuple[str, int]]()
        for act in (act for one in sorted(linked) for act in self.acts.get(one, [])):
            for change in act.changes:
                if not covers(change, purpose, channel):
                    continue
                if change.action != "GRANT":
                    view.stops.append(Stop(act, change, self.stop_ms(act)))
                    continue
                asked = act.index if act.asked is None else act.asked
                if act.person not in same or (act.person, asked) in confirmed:
                    continue
                needs = (
                    known is None
                    or change.version not in known.versions
                    or (known.versions[change.version].put.double_opt_in)
                )
                pending = act.asked is None and needs
                view.grants.append(
                    Grant(act, change, asked, pending, act.effective_ms, self.lifts_ms(act))
                )
            # A request is confirmed once.
            if act.asked is not None:
                confirmed.add((act.person, act.asked))
        return view

    def corrections(self, index: int) -> list[tuple[int, int]]:
        """The spans of the corrections of the clock that an entry is in; of several, both count."""
        return [
            (one.right_until_ms, one.right_again_ms)
            for one in self.catalogue.corrections
            if one.first_index <= index < one.end_index
        ]

    def stop_ms(self, act: Act) -> int:
        ends = [end for _, end in self.corrections(act.index)]
        return min(act.effective_ms, max(ends, default=act.effective_ms))

    def lifts_ms(self, act: Act) -> int:
        begins = [begin for begin, _ in self.corrections(act.index)]
        return min([act.effective_ms, *begins])

    def answer(self, person: str, question: Question) -> Answer:
        """The answer to a question, with the first moment at which it changes by itself."""
        now = self.answer_at(person, question)
        view = self.view(person, question.purpose, question.channel)
        moments = sorted(
            {
                moment
                for grant in view.grants
                for moment in (grant.change.expires_ms, grant.act.authority_ends_ms)
                if question.now_ms < moment < NEVER
            }
        )
        for moment in moments:
            then = self.answer_at(person, replace(question, now_ms=moment))
            if (then.effect, then.reason) != (now.effect, now.reason):
                return replace(now, valid_until_ms=moment)
        return now

    def answer_at(self, person: str, question: Question) -> Answer:
        """The rules of docs/decisions.md, in their order."""
        view = self.view(person, question.purpose, question.channel)
        purpose = self.catalogue.purposes.get(question.purpose)
        channel = self.catalogue.channels.get(question.channel)
        # A person of a disclosure without identities has no namespace.
        namespace, colon, _ = person.partition(":")
        if colon and namespace not in self.catalogue.namespaces:
            return Answer("DENY", "UNKNOWN_NAMESPACE", "UNKNOWN", None)
        if purpose is None:
            return Answer("DENY", "UNKNOWN_PURPOSE", "UNKNOWN", None)
        erased = self.erased.get(person)
        status = "UNKNOWN" if erased is not None else view.status(question.now_ms)
        if channel is None or channel.retired:
            return Answer("DENY", "UNKNOWN_CHANNEL", status, None)
        if purpose.now.retired:
            return Answer("DENY", "PURPOSE_RETIRED", status, retired_by(purpose))
        standing = basis(purpose, question.region)
        stoppable = can_be_stopped(purpose, question.region)
        stopped = erased is not None or view.is_stopped
        if standing in NOT_BASED_ON_CONSENT and not (stoppable and stopped):
            return Answer("ALLOW", "NOT_CONSENT_BASED", status, based_by(purpose))
        if erased is not None:
            return Answer("DENY", "ERASED", status, erased)
        if view.is_stopped:
            stop = view.named_stop()
            return Answer("DENY", stop_reason(stop), status, stop.act.index)
        if standing == "LEGITIMATE_INTEREST":
            lifted = view.confirmed[-1].act.index if view.stops else None
            return Answer("ALLOW", "NO_OBJECTION", status, lifted)
        reason, grant = view.decisive(question.now_ms, question.categories)
        decided = None if grant is None else grant.act.index
        if (
            reason == "RECONSENT_REQUIRED"
            and grant is not None
            and grant.change.version < purpose.now.oldest_compatible_version
        ):
            decided = invalidated_by(purpose, grant.change.version)
        return Answer("ALLOW" if reason == "GRANTED" else "DENY", reason, status, decided)


def retired_by(purpose: Purpose) -> int:
    """The entry since which a purpose is retired."""
    index = purpose.puts[-1][0]
    for earlier, put in reversed(purpose.puts):
        if not put.retired:
            break
        index = earlier
    return index


def based_by(purpose: Purpose) -> int:
    """The entry that put the current version."""
    return purpose.versions[purpose.now.version].index


def invalidated_by(purpose: Purpose, version: int) -> int:
    """The first entry since which grants of a version do not count."""
    index = purpose.puts[-1][0]
    for earlier, put in reversed(purpose.puts):
        if put.oldest_compatible_version <= version:
            break
        index = earlier
    return index
