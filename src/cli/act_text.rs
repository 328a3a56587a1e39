//! An act as text: who acted, what narrows a grant, what was shown. `history` and `verify-receipt` print
//! every field of an act that a person or an authority may ask about.

use super::words::{self, hex, rfc3339, word};
use crate::proto::{Actor, Authority, ChangeResult, Evidence, Outcome};

/// Who acted, for example `agent staff:114 (call-centre)`.
pub(super) fn actor(actor: i32, evidence: Option<&Evidence>) -> String {
    let actor = word::<Actor>(actor);
    let Some(authority) = evidence.and_then(|evidence| evidence.authority.as_ref()) else {
        return actor;
    };
    let Authority { relationship, representative, .. } = authority;
    match (representative.as_str(), relationship.as_str()) {
        ("", "") => actor,
        ("", relationship) => format!("{actor} ({relationship})"),
        (representative, "") => format!("{actor} {representative}"),
        (representative, relationship) => format!("{actor} {representative} ({relationship})"),
    }
}

/// What became of a change, and to how many linked data subjects it applied.
pub(super) fn outcome(change: &ChangeResult) -> String {
    let outcome = word::<Outcome>(change.outcome);
    match change.linked_subjects {
        0 => outcome,
        count => format!("{outcome} +{count} linked"),
    }
}

/// What a change says beside its action and scope: version, end and narrowing of a grant.
pub(super) fn change(change: &ChangeResult) -> Vec<String> {
    let version =
        (change.purpose_version > 0).then(|| format!("version {}", change.purpose_version));
    let end = change.expires_at.as_ref().map(|end| format!("until {}", rfc3339(end)));
    let only = narrowing(&change.data_categories);
    [version, end, only].into_iter().flatten().collect()
}

/// The data categories that a grant is narrowed to; none if it is not.
pub(super) fn narrowing(data_categories: &[String]) -> Option<String> {
    (!data_categories.is_empty()).then(|| format!("only {}", data_categories.join(" and ")))
}

/// What was shown and how it was answered, and by what right somebody else acted.
pub(super) fn evidence(evidence: &Evidence) -> Vec<String> {
    let given = |name: &str, value: &str| (!value.is_empty()).then(|| format!("{name}{value}"));
    let authority = evidence.authority.as_ref();
    let proof = authority.and_then(|authority| given("proof ", &authority.proof));
    let ends_at = authority.and_then(|authority| authority.ends_at.as_ref());
    let claimed = evidence.effective_at_given.as_ref();
    let texts = [
        given("", &evidence.touchpoint),
        given("", &evidence.method),
        given("", &words::notice(evidence)),
        given("", &evidence.language),
        given("notice hash ", &hex(&evidence.notice_hash)),
        given("from ", &evidence.ip_address),
        given("with ", &evidence.user_agent),
        given("spelled ", &evidence.subject_given),
        claimed.map(|at| format!("said to be of {}", rfc3339(at))),
        proof,
        ends_at.map(|end| format!("authority until {}", rfc3339(end))),
    ];
    let attributes = evidence.attributes.iter().map(|(name, value)| format!("{name}={value}"));
    let unreadable =
        evidence.unreadable.iter().map(|(field, text)| format!("unreadable {field}: {text}"));
    texts.into_iter().flatten().chain(attributes).chain(unreadable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staff_is_named_with_what_they_are() {
        let by = |relationship: &str, representative: &str| {
            let authority = Authority {
                relationship: relationship.to_owned(),
                representative: representative.to_owned(),
                ..Default::default()
            };
            let evidence = Evidence { authority: Some(authority), ..Default::default() };
            actor(Actor::Agent.into(), Some(&evidence))
        };
        assert_eq!(by("call-centre", "staff:114"), "agent staff:114 (call-centre)");
        assert_eq!(by("call-centre", ""), "agent (call-centre)");
        assert_eq!(by("", "staff:114"), "agent staff:114");
        assert_eq!(actor(Actor::Operator.into(), None), "operator");
    }

    #[test]
    fn attributes_are_shown_in_the_order_of_their_names() {
        let attributes = [("b", "2"), ("a", "1")].map(|(name, value)| (name.into(), value.into()));
        let shown = Evidence {
            touchpoint: "desk".into(),
            notice_hash: vec![0xab, 0xcd],
            attributes: attributes.into(),
            ..Default::default()
        };
        assert_eq!(evidence(&shown), ["desk", "notice hash abcd", "a=1", "b=2"]);
    }
}
