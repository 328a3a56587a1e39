"""The cases of docs/decisions.md, read from the document and judged by `rules` and `outcomes`."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from reader.entries import Catalogue
from reader.outcomes import Outcome, outcomes_of
from reader.rules import NEVER, Act, Change, Question, State
from reader.wire import Message, check, enum_number

NOW = 20
WORDS = {
    "the person": "subject",
    "a guardian": "guardian",
    "staff": "agent",
    "the company": "operator",
    "an automated process": "system",
    "an import": "import",
}
VERBS = {"grants": "GRANT", "refuses": "REFUSE", "withdraws": "WITHDRAW", "objects to": "OBJECT"}


@dataclass
class Report:
    """How many cases were judged, and those that were judged otherwise than the document does."""

    answers: int = 0
    outcomes: int = 0
    wrong: list[str] = field(default_factory=list)


def put(kind: str, **values: object) -> Message:
    return Message(f"consent.ledger.v2.{kind}", values)


def fold(catalogue: Catalogue, index: int, **body: Message) -> None:
    catalogue.fold(Message("consent.ledger.v2.Entry", {"index": index, **body}))


def basis_number(words: str) -> int:
    return enum_number("LegalBasis", words.upper().replace(" ", "_"))


def rows_after(text: str, head: str) -> list[list[str]]:
    """The cells of all tables with this header."""
    rows = []
    for table in text.split(head)[1:]:
        for line in table.split("\n")[2:]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def read_catalogue(text: str) -> Catalogue:
    """The catalogue of the examples."""
    catalogue, doi = Catalogue(), {"needs a double opt-in"}
    head = "| entry | purpose | version | legal basis | data categories | remarks |"
    for entry, key, version, bases, categories, remark in rows_after(text, head):
        remark = remark.strip(" |")
        default, *others = bases.split("; ")
        by_region = [
            put("RegionBasis", region=region, legal_basis=basis_number(words))
            for words, region in sorted(
                (one.split(" in ") for one in others), key=lambda pair: pair[1]
            )
        ]
        counts = re.match(r"grants count from version (\d+) on", remark)
        name = key.strip("`")
        known = catalogue.purposes.get(name)
        number = int(version)
        oldest = known.now.oldest_compatible_version if known else 1
        fold(
            catalogue,
            int(entry.strip("#")),
            purpose_put=put(
                "PurposePut",
                key=name,
                version=number,
                legal_basis=basis_number(default),
                data_categories=re.findall(r"`([^`]+)`", categories),
                basis_by_region=by_region,
                oldest_compatible_version=int(counts[1]) if counts else oldest,
                double_opt_in=remark in doi,
                retired=remark == "retired",
            ),
        )
    for channel in ("email", "sms", "fax"):
        fold(catalogue, 50, channel_put=put("ChannelPut", key=channel, retired=channel == "fax"))
    return catalogue


class History:
    """Entries of an example, numbered from 100 on."""

    def __init__(self, catalogue: Catalogue):
        self.state = State(catalogue)
        self.index = 100

    def confirmation(self, of: int) -> Act:
        """The double opt-in of an act: of its grants that wait for one."""
        asked = next(act for acts in self.state.acts.values() for act in acts if act.index == of)
        purposes = self.state.catalogue.purposes
        waiting = tuple(
            change
            for change in asked.changes
            if change.action == "GRANT"
            and purposes[change.purpose].versions[change.version].put.double_opt_in
        )
        return Act(
            asked.person,
            self.index,
            asked.effective_ms,
            NOW,
            asked.actor,
            waiting,
            asked.authority_ends_ms,
            asked=of,
        )

    def link(self, first: str, second: str, verified: bool | None) -> None:
        pair = frozenset((first, second))
        if verified is None:
            self.state.links.pop(pair)
        else:
            self.state.links[pair] = verified

    def record(self, text: str) -> None:
        """An entry in the short notation."""
        words = text.split()
        match words[0]:
            case "confirm":
                self.state.add(self.confirmation(int(words[1])))
            case "erase":
                self.state.erased["a"] = self.index
            case "verify" | "assert" | "unlink":
                verified = {"verify": True, "assert": False, "unlink": None}[words[0]]
                self.link(words[1], words[2], verified)
            case _:
                self.state.add(self.noted_act(words))
        self.index += 1

    def noted_act(self, words: list[str]) -> Act:
        person = "a" if words[0].isdigit() else words.pop(0)
        effective, actor = int(words.pop(0)), words.pop(0)
        name, _, ends = actor.partition("/")
        changes = tuple(noted_change(part) for part in " ".join(words).split(" and "))
        return Act(
            person, self.index, effective, NOW, name.upper(), changes, int(ends) if ends else NEVER
        )

    def told(self, text: str) -> Act | None:
        """An entry in words; the act, if it is one."""
        text = re.sub(r"^#\d+ ", "", text)
        if match := re.match(r"a (verified|asserted) link between `(\w)` and `(\w)`", text):
            self.link(match[2], match[3], match[1] == "verified")
        elif match := re.match(r"no link any more between `(\w)` and `(\w)`", text):
            self.link(match[1], match[2], None)
        elif text == "erasure is asked for":
            self.state.erased["a"] = self.index
        elif match := re.match(r"the double opt-in of #(\d+) is completed", text):
            return self.confirmation(int(match[1]))
        else:
            return self.told_act(text)
        return None

    def told_act(self, text: str) -> Act:
        who = "|".join(WORDS)
        match = re.match(
            rf"at (\d+), ({who})(?: \(authority until (\d+)\))?(?: `(\w)`)? (.*)", text
        )
        check(match, f"an act in words: {text}")
        assert match is not None
        changes = tuple(
            told_change(part) for part in re.split(rf" and (?={'|'.join(VERBS)})", match[5])
        )
        return Act(
            match[4] or "a",
            self.index,
            int(match[1]),
            NOW,
            WORDS[match[2]].upper(),
            changes,
            int(match[3]) if match[3] else NEVER,
        )


def noted_change(text: str) -> Change:
    match = re.match(r"(\w+) ([^ :]+):([^ ]+)(?: v(\d+))?(?: until (\d+))?(?: only (.*))?$", text)
    check(match, f"a change in the notation: {text}")
    assert match is not None
    action, purpose, channel, version, until, only = match.groups()
    categories = tuple(only.split()) if only else ()
    is_grant = action == "grant"
    return Change(
        action.upper(),
        purpose,
        channel,
        int(version or 1) if is_grant else 0,
        int(until) if until else NEVER,
        categories,
    )


def told_change(text: str) -> Change:
    verb = next(verb for verb in VERBS if text.startswith(verb))
    pattern = (
        r" (?:everything|`([^`]+)`)(?: on every channel| by `(\w+)`|)"
        r"(?:, version (\d+))?(?:, until (\d+))?(?:, only (.*))?$"
    )
    match = re.match(pattern, text.removeprefix(verb))
    check(match, f"a change in words: {text}")
    assert match is not None
    purpose, channel, version, until, only = match.groups()
    categories = tuple(re.findall(r"`([^`]+)`", only or ""))
    is_grant = verb == "grants"
    return Change(
        VERBS[verb],
        purpose or "*",
        channel or "*",
        int(version or 1) if is_grant else 0,
        int(until) if until else NEVER,
        categories,
    )


def told_outcome(outcome: Outcome) -> str:
    cause = f" #{outcome.cause.index}" if outcome.cause else ""
    return f"`{outcome.name}{f' +{outcome.linked}' if outcome.linked else ''}`{cause}"


def check_document(path: Path) -> Report:
    """Judges every case of the document."""
    text, report = path.read_text(encoding="utf-8"), Report()
    head = "| What happened | Asked about | Answer | Status | Decided by | Valid until |"
    for happened, asked, *wanted in rows_after(text, head):
        report.answers += 1
        *words, notation = happened.split("<br>")
        history = History(read_catalogue(text))
        for entry in notation.strip("`").split("; ") if words else ():
            history.record(entry)
        cell, *rest = re.findall(r"`([^`]+)`", asked)
        region = re.search(r" in ([A-Z-]+)$", asked)
        purpose, channel = cell.split(":")
        question = Question(purpose, channel, NOW, region[1] if region else "", tuple(rest))
        answer = history.state.answer("a", question)
        until = answer.valid_until_ms
        found = [
            f"**{answer.effect}** `{answer.reason}`",
            f"`{answer.status}`",
            "–" if answer.decided_by is None else f"#{answer.decided_by}",
            "–" if until == NEVER else str(until),
        ]
        if found != [cell.strip(" |") for cell in wanted]:
            report.wrong.append(f"{happened} {asked}: {found} in place of {wanted}")
    for before, recorded, wanted_outcomes in rows_after(
        text, "| Was on record | Is recorded | Outcome |"
    ):
        report.outcomes += 1
        history = History(read_catalogue(text))
        for entry in before.split("<br>") if before != "nothing" else ():
            act = history.told(entry)
            if act is not None:
                history.state.add(act)
            history.index += 1
        act = history.told(recorded)
        assert act is not None
        outcomes = "<br>".join(map(told_outcome, outcomes_of(history.state, act)))
        if outcomes != wanted_outcomes.strip(" |"):
            report.wrong.append(f"{before} / {recorded}: {outcomes} in place of {wanted_outcomes}")
    return report
