"""What becomes of a change: the outcomes that entries state, judged again.

Each change of an act is judged against what was before the whole act, for all persons that are
linked to the one who acts. docs/decisions.md does not say when a stop over several cells is
superseded, nor by which act: `way_of_stop` is what the service was seen to write.
"""

from dataclasses import dataclass, replace

from reader.entries import Purpose
from reader.rules import (
    Act,
    Change,
    Grant,
    State,
    Stop,
    View,
    basis,
    can_be_stopped,
    covers,
    regions_of,
)


@dataclass(frozen=True)
class Cause:
    """The act that is in the way."""

    person: str
    index: int


@dataclass(frozen=True)
class Outcome:
    name: str
    cause: Cause | None = None
    # To how many linked persons the change applied, too.
    linked: int = 0


NO_EFFECT, APPLIED = Outcome("NO_EFFECT"), Outcome("APPLIED")


def outcomes_of(before: State, act: Act) -> list[Outcome]:
    """The outcomes of the changes of an act, in their order."""
    return [outcome_of(before, act, change) for change in act.changes]


def outcome_of(before: State, act: Act, change: Change) -> Outcome:
    same = before.reached(act.person, True)
    linked = same if change.action == "GRANT" else before.reached(act.person, False)
    judge = judge_grant if change.action == "GRANT" else judge_stop
    own = judge(before, act, change, act.person)
    others = [
        person
        for person in sorted(linked - {act.person})
        if person not in before.erased and judge(before, act, change, person).name == "APPLIED"
    ]
    if others:
        return Outcome("APPLIED", linked=len(others))
    return own


def cause_of(one: Stop | Grant) -> Cause:
    return Cause(one.act.person, one.asked if isinstance(one, Grant) else one.act.index)


def rests_on(purpose: Purpose, name: str) -> bool:
    """Whether a purpose rests on this basis, in any region."""
    return any(basis(purpose, region) == name for region in regions_of(purpose))


def judge_grant(before: State, act: Act, change: Change, person: str) -> Outcome:
    purpose = before.catalogue.purposes.get(change.purpose)
    if purpose is None or not can_be_stopped(purpose, ""):
        return NO_EFFECT
    if person in before.erased:
        return Outcome("BLOCKED_BY_STOP", Cause(person, before.erased[person]))
    after = before.with_act(act).view(person, change.purpose, change.channel)
    earlier = before.view(person, change.purpose, change.channel)
    grant = next(one for one in after.grants if one.act is act)
    if not grant.speaks and after.is_stopped:
        return Outcome("BLOCKED_BY_STOP", cause_of(after.named_stop()))
    if not rests_on(purpose, "CONSENT") and not (grant.speaks and after.stops):
        return NO_EFFECT
    way = in_the_way(earlier, grant, act.recorded_ms)
    if way is not None:
        return Outcome("SUPERSEDED_BY_LATER", cause_of(way))
    if not grant.speaks and after.stops:
        return NO_EFFECT
    if grant.pending:
        return judge_request(earlier, after, grant, act.recorded_ms)
    _, decides = after.decisive(act.recorded_ms, ())
    completes = act.asked is not None
    decides_now = decides is grant or needs(earlier, grant, act.recorded_ms)
    return APPLIED if completes or decides_now else NO_EFFECT


def judge_request(earlier: View, after: View, grant: Grant, now_ms: int) -> Outcome:
    """A request changes nothing where what stands allows all that it asks for."""
    reason, standing = earlier.decisive(now_ms, ())
    repeats = (
        reason == "GRANTED"
        and standing is not None
        and not after.is_stopped
        and standing.change.version >= grant.change.version
        and allows_all(earlier, standing, grant, now_ms)
    )
    return NO_EFFECT if repeats else Outcome("PENDING_CONFIRMATION")


def allows_all(view: View, standing: Grant, grant: Grant, now_ms: int) -> bool:
    """Whether one grant allows, as long as another one, all that this allows."""
    assert view.purpose is not None
    wanted = grant.change.categories or tuple(
        view.purpose.versions[grant.change.version].put.data_categories
    )
    return all(
        view.reason_of(standing, now_ms, (one,)) == "GRANTED" for one in wanted
    ) and view.end_of(standing) >= view.end_of(grant)


def in_the_way(earlier: View, grant: Grant, now_ms: int) -> Stop | Grant | None:
    """What decides later than a grant."""
    later = [one for one in earlier.confirmed if one.at_ms > grant.at_ms]
    own = [one for one in later if one.speaks]
    barring = [stop for stop in earlier.stops if not grant.beats(stop)]
    if grant.speaks and barring and earlier.is_stopped:
        return earlier.latest_stop()
    if own:
        return later[-1]
    if later and not needs(earlier, grant, now_ms):
        return later[-1]
    waiting = [one for one in earlier.requests if one.at_ms > grant.at_ms]
    if grant.pending and waiting:
        return waiting[-1]
    return None


def needs(earlier: View, grant: Grant, now_ms: int) -> bool:
    """Whether a speaker's grant allows what the later grant of somebody else does not."""
    if not grant.speaks or grant.pending or earlier.reason_of(grant, now_ms, ()) != "GRANTED":
        return False
    reason, other = earlier.decisive(now_ms, ())
    if reason != "GRANTED" or other is None or other.speaks:
        return True
    return not allows_all(earlier, other, grant, now_ms)


def judge_stop(before: State, act: Act, change: Change, person: str) -> Outcome:
    """Over all cells of a stop: APPLIED if it applies to one; else something may be in its way."""
    if person in before.erased:
        return NO_EFFECT
    after = before.with_act(act)
    cells = [
        judge_cell(before, after, act, change, person, key, channel)
        for key, purpose in before.catalogue.purposes.items()
        if can_be_stopped(purpose, "")
        for channel in before.catalogue.channels
        if covers(change, key, channel)
    ]
    if any(cell.applied for cell in cells):
        return APPLIED
    way = way_of_stop(change, cells)
    return NO_EFFECT if way is None else Outcome("SUPERSEDED_BY_LATER", cause_of(way))


def way_of_stop(change: Change, cells: list["Cell"]) -> Stop | Grant | None:
    """What is named as in the way of a stop: in a cell that a grant names, else a stop that covers
    the whole of this one, else in a cell where it would be news."""
    known = [cell.way for cell in cells if cell.is_known and cell.way is not None]
    wider = [
        stop
        for cell in cells
        for stop in cell.later_stops
        if covers(stop.change, change.purpose, change.channel)
    ]
    news = [cell.way for cell in cells if cell.is_news and cell.way is not None]
    if known:
        return known[0]
    if wider:
        return max(wider, key=lambda stop: stop.key)
    return max(news, key=lambda way: way.key[:2], default=None)


@dataclass(frozen=True)
class Cell:
    """What a stop does to one cell."""

    applied: bool = False
    # A grant names it.
    is_known: bool = False
    # Without what is later it would change an answer or a status.
    is_news: bool = False
    # What is later, and decides.
    way: Stop | Grant | None = None
    later_stops: tuple[Stop, ...] = ()


def judge_cell(
    before: State, after: State, act: Act, change: Change, person: str, key: str, channel: str
) -> Cell:
    earlier, later = before.view(person, key, channel), after.view(person, key, channel)
    purpose, status = before.catalogue.purposes[key], earlier.status(act.recorded_ms)
    is_live = not purpose.now.retired and not before.catalogue.channels[channel].retired
    allowed = any(
        basis(purpose, region) != "CONSENT" and can_be_stopped(purpose, region)
        for region in regions_of(purpose)
    )
    is_news = is_live and (change.action != "WITHDRAW" or allowed)
    stood = any(
        stop.at_ms <= act.effective_ms and covers(stop.change, change.purpose, change.channel)
        for stop in earlier.stops
    )
    cell = Cell(is_known=bool(later.grants), is_news=is_news and not stood)
    if earlier.is_stopped:
        return judge_stopped_cell(cell, earlier, act)
    if not later.is_stopped:
        own = [
            grant for grant in earlier.confirmed if grant.speaks and grant.at_ms > act.effective_ms
        ]
        applied = status == "GIVEN" and later.status(act.recorded_ms) != "GIVEN"
        return replace(cell, applied=applied, way=own[-1] if own else None)
    return replace(cell, applied=is_news or status in ("GIVEN", "INVALIDATED", "REQUESTED"))


def judge_stopped_cell(cell: Cell, earlier: View, act: Act) -> Cell:
    """A stop where one stands: it may end a request that came after that one."""
    later_stops = tuple(stop for stop in earlier.stops if stop.at_ms > act.effective_ms)
    if later_stops:
        return replace(cell, way=earlier.latest_stop(), later_stops=later_stops)
    ended = any(
        one.speaks
        and one.at_ms <= act.effective_ms
        and all(one.beats(stop) for stop in earlier.stops)
        for one in earlier.requests
    )
    return replace(cell, applied=ended)
