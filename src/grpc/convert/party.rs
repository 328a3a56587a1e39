//! Parties of the catalogue in both directions. The order of roles, jurisdictions and recipients says
//! nothing: they are put into ascending order, so that another order is no other version.

use std::collections::HashSet;

use crate::{
    domain::{Key, Party, PartyRole, PartyVersion, Region},
    entry,
    node::PartyDraft,
    proto,
};

use super::{
    DATA_CATEGORIES_MAX, Invalid, JURISDICTIONS_MAX, PARTY_TEXT_BYTES_MAX, Problem, RECIPIENTS_MAX,
    TITLE_BYTES_MAX,
    scalar::{at_most, key, line_within, party_role, visible_line_within},
};

/// The party that a request asks for. `version` is not read: the ledger assigns it.
///
/// # Errors
/// The first field that is wrong.
pub fn party_draft(request: proto::PutPartyRequest) -> Result<PartyDraft, Invalid> {
    let message = request.party.ok_or_else(|| Problem::Required.at("party"))?;
    draft(message).map_err(|invalid| invalid.within("party"))
}

fn draft(message: proto::Party) -> Result<PartyDraft, Invalid> {
    let key = key(&message.key, "key")?;
    let roles = roles(&message.roles)?;
    visible_line_within(&message.name, TITLE_BYTES_MAX, "name")?;
    for (text, field) in [
        (&message.contact, "contact"),
        (&message.address, "address"),
        (&message.email, "email"),
        (&message.phone, "phone"),
        (&message.url, "url"),
        (&message.privacy_policy_url, "privacy_policy_url"),
    ] {
        line_within(text, PARTY_TEXT_BYTES_MAX, field)?;
    }
    if !message.email.is_empty() && !is_email(&message.email) {
        return Err(Problem::Email.at("email"));
    }
    for (url, field) in [(&message.url, "url"), (&message.privacy_policy_url, "privacy_policy_url")]
    {
        if !url.is_empty() && !is_web_url(url) {
            return Err(Problem::WebUrl.at(field));
        }
    }
    Ok(PartyDraft {
        key,
        content: PartyVersion {
            jurisdictions: jurisdictions(&message.jurisdictions)?,
            sensitive_categories: sensitive_categories(message.sensitive_categories, &roles)?,
            roles,
            name: message.name,
            contact: message.contact,
            address: message.address,
            email: message.email,
            phone: message.phone,
            url: message.url,
            privacy_policy_url: message.privacy_policy_url,
        },
    })
}

fn roles(numbers: &[i32]) -> Result<Vec<PartyRole>, Invalid> {
    if numbers.is_empty() {
        return Err(Problem::Required.at("roles"));
    }
    let role = |(position, number): (usize, &i32)| {
        party_role(*number, "").map_err(|invalid| invalid.problem.at(format!("roles[{position}]")))
    };
    let mut roles = numbers.iter().enumerate().map(role).collect::<Result<Vec<_>, _>>()?;
    check_unique(&roles, "roles")?;
    roles.sort_unstable();
    Ok(roles)
}

fn jurisdictions(texts: &[String]) -> Result<Vec<Region>, Invalid> {
    at_most(texts.len(), JURISDICTIONS_MAX, "jurisdictions")?;
    let region = |(position, text): (usize, &String)| {
        let field = || format!("jurisdictions[{position}]");
        Region::parse(text).map_err(|error| Problem::from(error).at(field()))
    };
    let mut regions = texts.iter().enumerate().map(region).collect::<Result<Vec<_>, _>>()?;
    check_unique(&regions, "jurisdictions")?;
    regions.sort_unstable();
    Ok(regions)
}

fn sensitive_categories(
    message: Option<proto::SensitiveCategories>,
    roles: &[PartyRole],
) -> Result<Option<Vec<String>>, Invalid> {
    let Some(proto::SensitiveCategories { data_categories }) = message else { return Ok(None) };
    if !roles.contains(&PartyRole::Controller) {
        return Err(Problem::OnlyForControllers.at("sensitive_categories"));
    }
    let field = "sensitive_categories.data_categories";
    at_most(data_categories.len(), DATA_CATEGORIES_MAX, field)?;
    for (position, category) in data_categories.iter().enumerate() {
        Key::check(category)
            .map_err(|error| Problem::Key(error).at(format!("{field}[{position}]")))?;
    }
    check_unique(&data_categories, field)?;
    Ok(Some(data_categories))
}

/// The controller that a purpose names.
pub(super) fn controller(text: &str) -> Result<Option<Key>, Invalid> {
    let given = Some(text).filter(|text| !text.is_empty());
    given.map(|text| key(text, "controller")).transpose()
}

/// The recipients that a purpose names.
pub(super) fn recipients(message: &proto::Recipients) -> Result<Vec<Key>, Invalid> {
    at_most(message.parties.len(), RECIPIENTS_MAX, "recipients.parties")?;
    let recipient =
        |(position, text): (usize, &String)| key(text, &format!("recipients.parties[{position}]"));
    let recipients = message.parties.iter().enumerate().map(recipient);
    let mut recipients = recipients.collect::<Result<Vec<_>, _>>()?;
    check_unique(&recipients, "recipients.parties")?;
    recipients.sort_unstable();
    Ok(recipients)
}

/// That no item of a list is given twice.
fn check_unique<T: Eq + std::hash::Hash>(items: &[T], field: &str) -> Result<(), Invalid> {
    let mut seen = HashSet::new();
    match items.iter().position(|item| !seen.insert(item)) {
        Some(position) => Err(Problem::GivenTwice.at(format!("{field}[{position}]"))),
        None => Ok(()),
    }
}

fn is_email(text: &str) -> bool {
    let parts = text.rsplit_once('@');
    parts.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
        && !text.contains(char::is_whitespace)
}

fn is_web_url(text: &str) -> bool {
    let location = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = location.map(|location| location.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

/// A party as a message, with the content of its current version.
#[must_use]
pub fn party_message(party: &Party) -> proto::Party {
    let current = party.current();
    proto::Party {
        key: party.key.to_string(),
        roles: entry::roles_to_proto(&current.roles),
        name: current.name.clone(),
        contact: current.contact.clone(),
        address: current.address.clone(),
        email: current.email.clone(),
        phone: current.phone.clone(),
        url: current.url.clone(),
        privacy_policy_url: current.privacy_policy_url.clone(),
        jurisdictions: current.jurisdictions.iter().map(Region::to_string).collect(),
        sensitive_categories: entry::sensitive_categories_to_proto(current),
        version: party.version(),
    }
}
