//! Acts and questions, coming in.

use prost::Message;

use crate::{
    domain::{Action, Change, Evidence, Key, ScopeKeys, Subject},
    node::{Act, CHANGES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, Idempotency},
    proto,
};

use super::{
    Invalid, Problem,
    scalar::{
        action, actor, at_most, check_data_categories, check_key, key, moment, subject,
        text_within, without_control,
    },
};

/// The act that a request describes.
///
/// # Errors
/// The first field that is wrong.
pub fn act(request: proto::RecordConsentRequest) -> Result<Act, Invalid> {
    let idempotency = idempotency(&request)?;
    Ok(Act {
        subject: subject(&request.subject)?,
        actor: actor(request.actor, "actor")?,
        changes: changes(&request.changes)?,
        effective_at: request.effective_at.map(|at| moment(at, "effective_at")).transpose()?,
        evidence: evidence(request.evidence.unwrap_or_default())?,
        idempotency,
    })
}

/// The request stands for itself in one deterministic encoding: the generated types keep maps in
/// order, and what the wire said in another order or twice is gone once it is decoded.
fn idempotency(request: &proto::RecordConsentRequest) -> Result<Option<Idempotency>, Invalid> {
    let key = &request.idempotency_key;
    if key.is_empty() {
        return Ok(None);
    }
    text_within(key, IDEMPOTENCY_KEY_BYTES_MAX, "idempotency_key")?;
    without_control(key, "idempotency_key")?;
    Ok(Some(Idempotency { key: key.clone(), request: request.encode_to_vec() }))
}

fn changes(messages: &[proto::Change]) -> Result<Vec<Change>, Invalid> {
    if messages.is_empty() {
        return Err(Problem::Required.at("changes"));
    }
    at_most(messages.len(), CHANGES_MAX, "changes")?;
    let mut changes: Vec<Change> = Vec::with_capacity(messages.len());
    for (position, message) in messages.iter().enumerate() {
        let here = || format!("changes[{position}]");
        let change = change(message).map_err(|invalid| invalid.within(here()))?;
        if let Some(first) = changes.iter().position(|other| other.scope == change.scope) {
            return Err(Problem::SameScope { first }.at("scope").within(here()));
        }
        changes.push(change);
    }
    Ok(changes)
}

fn change(message: &proto::Change) -> Result<Change, Invalid> {
    let action = action(message.action, "action")?;
    let is_grant = action == Action::Grant;
    if !is_grant && message.purpose_version != 0 {
        return Err(Problem::OnlyForGrants.at("purpose_version"));
    }
    if !is_grant && message.expires_at.is_some() {
        return Err(Problem::OnlyForGrants.at("expires_at"));
    }
    let scope = message.scope.as_ref().ok_or_else(|| Problem::Required.at("scope"))?;
    Ok(Change {
        action,
        scope: scope_keys(scope, is_grant).map_err(|invalid| invalid.within("scope"))?,
        purpose_version: Some(message.purpose_version).filter(|version| *version != 0),
        expires_at: message.expires_at.map(|at| moment(at, "expires_at")).transpose()?,
        data_categories: Vec::new(),
    })
}

fn scope_keys(scope: &proto::Scope, is_grant: bool) -> Result<ScopeKeys, Invalid> {
    let part = |text: &str, field| -> Result<Option<Key>, Invalid> {
        if text == "*" && !is_grant { Ok(None) } else { key(text, field).map(Some) }
    };
    Ok(ScopeKeys {
        purpose: part(&scope.purpose, "purpose")?,
        channel: part(&scope.channel, "channel")?,
    })
}

fn evidence(message: proto::Evidence) -> Result<Evidence, Invalid> {
    Evidence::from(message).checked().map_err(|error| {
        let part = error.part();
        Problem::from(error).at(part).within("evidence")
    })
}

/// The data subject of a check whose other parts are well-formed too. They are not copied: checks
/// are many.
///
/// # Errors
/// The first field that is wrong.
pub fn check(request: &proto::CheckRequest) -> Result<Subject, Invalid> {
    let subject = subject(&request.subject)?;
    check_key(&request.purpose, "purpose")?;
    check_key(&request.channel, "channel")?;
    check_data_categories(&request.data_categories)?;
    Ok(subject)
}

/// The data subject whose preferences are asked for.
///
/// # Errors
/// The subject is wrong.
pub fn preferences(request: &proto::GetPreferencesRequest) -> Result<Subject, Invalid> {
    subject(&request.subject)
}

/// The data subject whose history is asked for, and how many acts at most.
///
/// # Errors
/// The subject is wrong.
pub fn history(request: &proto::ListHistoryRequest) -> Result<(Subject, usize), Invalid> {
    let limit = match request.page_size {
        0 => usize::MAX,
        size => usize::try_from(size).unwrap_or(usize::MAX),
    };
    Ok((subject(&request.subject)?, limit))
}
