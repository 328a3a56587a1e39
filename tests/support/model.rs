//! A second implementation of the decision, for the tests to compare with.
//!
//! It is written from the rules, not from the code: it keeps every act of a data subject and, for
//! each question, sorts and replays them all. It is slow and simple.

use std::collections::BTreeMap;

use consent_ledger::proto::{Action, Actor, Effect, LegalBasis, Reason, Status};

/// The terms of a purpose. There is one version of each.
#[derive(Debug, Clone)]
pub struct Purpose {
    pub basis: LegalBasis,
    pub validity_ms: Option<i64>,
    pub double_opt_in: bool,
    pub retired: bool,
}

impl Purpose {
    /// Based on consent, without conditions.
    pub fn consent() -> Self {
        Self { basis: LegalBasis::Consent, validity_ms: None, double_opt_in: false, retired: false }
    }
}

/// Purposes and channels by key; a channel says whether it is retired.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub purposes: BTreeMap<String, Purpose>,
    pub channels: BTreeMap<String, bool>,
}

/// One change. No purpose or channel means all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub action: Action,
    pub purpose: Option<String>,
    pub channel: Option<String>,
    pub expires_at: Option<i64>,
}

impl Change {
    fn covers(&self, purpose: &str, channel: &str) -> bool {
        self.purpose.as_deref().is_none_or(|key| key == purpose)
            && self.channel.as_deref().is_none_or(|key| key == channel)
    }

    fn is_grant(&self) -> bool {
        self.action == Action::Grant
    }
}

/// One act, with its index in the ledger.
#[derive(Debug, Clone)]
pub struct Act {
    pub actor: Actor,
    pub changes: Vec<Change>,
    pub effective_at: i64,
    pub index: u64,
}

/// The expected answer of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub effect: Effect,
    pub reason: Reason,
    /// None where the rules leave it open.
    pub status: Option<Status>,
    /// None if no act decides.
    pub decided_by: Option<u64>,
}

impl Expected {
    fn by_rule(reason: Reason, status: Option<Status>) -> Self {
        let allows = [Reason::NotConsentBased, Reason::NoObjection, Reason::Granted];
        let effect = if allows.contains(&reason) { Effect::Allow } else { Effect::Deny };
        Self { effect, reason, status, decided_by: None }
    }

    fn by_act(reason: Reason, status: Status, index: u64) -> Self {
        Self { decided_by: Some(index), ..Self::by_rule(reason, Some(status)) }
    }
}

fn speaks_for_subject(actor: Actor) -> bool {
    matches!(actor, Actor::Subject | Actor::Guardian | Actor::Agent)
}

fn stop_reason(action: Action, actor: Actor) -> (Reason, Status) {
    match action {
        Action::Refuse => (Reason::Refused, Status::Refused),
        Action::Object => (Reason::Objected, Status::Objected),
        Action::Withdraw if speaks_for_subject(actor) => (Reason::Withdrawn, Status::Withdrawn),
        Action::Withdraw => (Reason::Revoked, Status::Revoked),
        Action::Grant | Action::Expire | Action::Unspecified => panic!("{action:?} is no stop"),
    }
}

/// Answers a question from all acts of one data subject.
pub fn decide(catalog: &Catalog, acts: &[Act], purpose: &str, channel: &str, now: i64) -> Expected {
    let Some(terms) = catalog.purposes.get(purpose) else {
        return Expected::by_rule(Reason::UnknownPurpose, None);
    };
    if catalog.channels.get(channel).is_none_or(|retired| *retired) {
        return Expected::by_rule(Reason::UnknownChannel, None);
    }
    if terms.retired {
        return Expected::by_rule(Reason::PurposeRetired, None);
    }
    let legitimate_interest = terms.basis == LegalBasis::LegitimateInterest;
    if terms.basis != LegalBasis::Consent && !legitimate_interest {
        return Expected::by_rule(Reason::NotConsentBased, None);
    }

    let mut touching: Vec<(&Act, &Change)> = acts
        .iter()
        .flat_map(|act| act.changes.iter().map(move |change| (act, change)))
        .filter(|(_, change)| change.covers(purpose, channel))
        .collect();
    touching.sort_by_key(|(act, change)| (act.effective_at, change.is_grant(), act.index));

    let mut stop: Option<(&Act, &Change)> = None;
    let mut grant: Option<(&Act, &Change)> = None;
    let mut pending: Option<&Act> = None;
    for (act, change) in touching {
        if !change.is_grant() {
            stop = Some((act, change));
        } else if terms.double_opt_in {
            // It waits for its confirmation, and until then lifts nothing.
            pending = Some(act);
        } else if stop.is_none() || speaks_for_subject(act.actor) {
            stop = None;
            grant = Some((act, change));
        }
    }

    if let Some((act, change)) = stop {
        let (reason, status) = stop_reason(change.action, act.actor);
        return Expected::by_act(reason, status, act.index);
    }
    if legitimate_interest {
        return Expected::by_rule(Reason::NoObjection, None);
    }
    match (grant, pending) {
        (None, None) => Expected::by_rule(Reason::NoRecord, Some(Status::Unknown)),
        (None, Some(act)) => {
            Expected::by_act(Reason::PendingConfirmation, Status::Requested, act.index)
        }
        (Some((act, change)), _) => {
            let default = terms.validity_ms.map(|validity| act.effective_at + validity);
            if change.expires_at.or(default).is_some_and(|expiry| now >= expiry) {
                Expected::by_act(Reason::Expired, Status::Expired, act.index)
            } else {
                Expected::by_act(Reason::Granted, Status::Given, act.index)
            }
        }
    }
}

impl Act {
    /// The act of a request, with the index of its answer.
    pub fn of_request(
        request: &consent_ledger::proto::RecordConsentRequest,
        answer: &consent_ledger::proto::RecordConsentResponse,
    ) -> Self {
        let part = |key: &str| (key != "*").then(|| key.to_owned());
        let changes = request.changes.iter().map(|change| {
            let scope = change.scope.as_ref().expect("a scope");
            Change {
                action: change.action(),
                purpose: part(&scope.purpose),
                channel: part(&scope.channel),
                expires_at: super::millis(change.expires_at.as_ref()),
            }
        });
        Self {
            actor: request.actor(),
            changes: changes.collect(),
            effective_at: super::millis(answer.effective_at.as_ref()).expect("it is answered"),
            index: answer.index,
        }
    }
}

impl Expected {
    /// Fails the test unless a decision is the expected one.
    #[track_caller]
    pub fn assert_matches(&self, decision: &consent_ledger::proto::CheckResponse, context: &str) {
        let got = Self {
            effect: decision.effect(),
            reason: decision.reason(),
            status: self.status.map(|_| decision.status()),
            decided_by: self.status.and(decision.decided_by_index),
        };
        assert_eq!(&got, self, "{context}: {decision:?}");
    }
}
