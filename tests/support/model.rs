//! A second implementation of the decision, for the tests to compare with.
//!
//! It is written from the rules, not from the code: it keeps every act of a data subject and, for
//! each question, sorts and replays them all. It is slow and simple.

use std::collections::BTreeMap;

use consent_ledger::{
    domain::{Millis, recorded_end},
    proto::{Action, Actor, Effect, LegalBasis, Reason, Status},
};

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

/// Whether a stop is the person's own. An objection is, whoever reports it.
fn is_persons_stop(act: &Act, change: &Change) -> bool {
    speaks_for_subject(act.actor) || change.action == Action::Object
}

/// What stands in a cell.
#[derive(Default)]
struct Replayed<'a> {
    stop: Option<(&'a Act, &'a Change)>,
    /// The latest grant of the person.
    own: Option<(&'a Act, &'a Change)>,
    /// A later one of somebody else, where no stop ever covered the cell.
    other: Option<(&'a Act, &'a Change)>,
    pending: Option<&'a Act>,
}

/// Replays the changes of a cell, sorted by time, stops before grants.
fn replay<'a>(terms: &Purpose, touching: &[(&'a Act, &'a Change)]) -> Replayed<'a> {
    let mut cell = Replayed::default();
    let mut was_stopped = false;
    for &(act, change) in touching {
        // At one moment a stop wins over the grant of another act.
        let is_barred = touching.iter().any(|(other, stop)| {
            !stop.is_grant() && other.effective_at == act.effective_at && other.index != act.index
        });
        let speaks = speaks_for_subject(act.actor);
        if !change.is_grant() {
            cell = Replayed { stop: Some((act, change)), pending: cell.pending, ..cell };
            was_stopped = true;
        } else if was_stopped && !speaks {
            // Where a stop ever was, only the person's own grants count.
        } else if terms.double_opt_in {
            // It waits for its confirmation, and until then lifts nothing.
            cell.pending = Some(act);
        } else if !speaks {
            cell.other = Some((act, change));
        } else if cell.stop.is_none() || !is_barred {
            cell =
                Replayed { own: Some((act, change)), pending: cell.pending, ..Replayed::default() };
        }
    }
    cell
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

    let Replayed { stop, own, other, pending } = replay(terms, &touching);
    if let Some(stop) = stop {
        // A stop by others often only reports the person's own back, which goes on to be named.
        touching.retain(|(act, change)| change.is_grant() || is_persons_stop(act, change));
        let (act, change) = replay(terms, &touching).stop.unwrap_or(stop);
        let (reason, status) = stop_reason(change.action, act.actor);
        return Expected::by_act(reason, status, act.index);
    }
    if legitimate_interest {
        return Expected::by_rule(Reason::NoObjection, None);
    }
    let has_expired = |(act, change): &(&Act, &Change)| {
        let default = terms.validity_ms.map(|validity| act.effective_at + validity);
        let ends_at = change.expires_at.or(default);
        ends_at.is_some_and(|at| now >= recorded_end(Millis(act.effective_at), Millis(at)).0)
    };
    // A later grant of somebody else never ends the person's own.
    let counting = other.into_iter().chain(own).find(|grant| !has_expired(grant));
    match (counting.or(other).or(own), pending) {
        (None, None) => Expected::by_rule(Reason::NoRecord, Some(Status::Unknown)),
        (None, Some(act)) => {
            Expected::by_act(Reason::PendingConfirmation, Status::Requested, act.index)
        }
        (Some(grant), _) if has_expired(&grant) => {
            Expected::by_act(Reason::Expired, Status::Expired, grant.0.index)
        }
        (Some((act, _)), _) => Expected::by_act(Reason::Granted, Status::Given, act.index),
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
    /// Fails the test unless a decision is the expected one. The model knows no obligations: where these
    /// are not met at the moment of the test, NOT_NOW stands for ALLOW.
    #[track_caller]
    pub fn assert_matches(&self, decision: &consent_ledger::proto::CheckResponse, context: &str) {
        let effect = match decision.effect() {
            Effect::NotNow => {
                assert!(decision.not_before.is_some() || decision.indeterminate, "{context}");
                Effect::Allow
            }
            effect => effect,
        };
        let got = Self {
            effect,
            reason: decision.reason(),
            status: self.status.map(|_| decision.status()),
            decided_by: self.status.and(decision.decided_by_index),
        };
        assert_eq!(&got, self, "{context}: {decision:?}");
    }
}
