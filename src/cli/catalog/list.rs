//! `catalog list`: prints namespaces, parties, purposes and channels.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{Client, channels, namespaces, parties, purposes};
use crate::{
    cli::{
        Context, Exit, client,
        error::CliError,
        output::{Table, Tone},
        words::{self, word},
    },
    json,
    proto::{Channel, LegalBasis, Namespace, NamespaceKind, Party, PartyRole, Purpose},
};

const AFTER_HELP: &str = "\
Examples:
  consent-ledger catalog list
  consent-ledger catalog list --retired --json";

/// Maximum number of regions that a table names for one basis.
const REGIONS_NAMED_MAX: usize = 4;

/// Options of `catalog list`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ListArgs {
    /// Include retired purposes and channels
    #[arg(long)]
    retired: bool,
}

/// Namespaces, parties, purposes and channels, each in the order of their keys.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Catalog {
    #[serde(serialize_with = "json::serialize_list")]
    namespaces: Vec<Namespace>,
    #[serde(serialize_with = "json::serialize_list")]
    parties: Vec<Party>,
    #[serde(serialize_with = "json::serialize_list")]
    purposes: Vec<Purpose>,
    #[serde(serialize_with = "json::serialize_list")]
    channels: Vec<Channel>,
}

pub(super) async fn run(args: ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = Client::new(client::connect(&context.global).await?);
    let purposes = purposes(&mut client, args.retired).await?;
    let channels = channels(&mut client, args.retired).await?;
    let namespaces = namespaces(&mut client).await?;
    let parties = parties(&mut client).await?;
    let catalog = Catalog { namespaces, parties, purposes, channels };
    print(&catalog, context)?;
    Ok(Exit::Success)
}

fn print(catalog: &Catalog, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(catalog);
    }
    let Catalog { namespaces, parties, purposes, channels } = catalog;
    let is_empty = namespaces.is_empty() && parties.is_empty() && purposes.is_empty();
    if is_empty && channels.is_empty() {
        return out
            .line("the catalogue is empty; fill it with `consent-ledger catalog apply FILE`");
    }
    let mut table = Table::new(&["PURPOSE", "VERSION", "BASIS", "VALIDITY", "NOTES", "TITLE"]);
    for purpose in purposes {
        table.row(
            Tone::Plain,
            [
                purpose.key.clone(),
                purpose.version.to_string(),
                word::<LegalBasis>(purpose.legal_basis),
                purpose.default_validity.as_ref().map(words::duration).unwrap_or_default(),
                notes(purpose),
                purpose.title.clone(),
            ],
        );
    }
    out.table(&table)?;
    out.line("")?;
    let mut table = Table::new(&["CHANNEL", "NOTES", "TITLE"]);
    for channel in channels {
        let notes = if channel.retired { "retired" } else { "" };
        table.row(Tone::Plain, [channel.key.clone(), notes.to_owned(), channel.title.clone()]);
    }
    out.table(&table)?;
    out.line("")?;
    let mut table = Table::new(&["NAMESPACE", "KIND", "NOTES", "TITLE"]);
    for namespace in namespaces {
        let row = [
            namespace.key.clone(),
            word::<NamespaceKind>(namespace.kind),
            notes_of_namespace(namespace),
            namespace.title.clone(),
        ];
        table.row(Tone::Plain, row);
    }
    out.table(&table)?;
    if parties.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut table = Table::new(&["PARTY", "VERSION", "ROLES", "JURISDICTIONS", "NAME"]);
    for party in parties {
        let roles: Vec<String> = party.roles.iter().map(|role| word::<PartyRole>(*role)).collect();
        let row = [
            party.key.clone(),
            party.version.to_string(),
            roles.join(", "),
            party.jurisdictions.join(", "),
            party.name.clone(),
        ];
        table.row(Tone::Plain, row);
    }
    out.table(&table)
}

fn notes_of_namespace(namespace: &Namespace) -> String {
    match (namespace.default_region.as_str(), namespace.fold_local_part) {
        ("", Some(false)) => "case of the local part counts".to_owned(),
        ("", _) => String::new(),
        (region, _) => format!("numbers without a country code are from {region}"),
    }
}

fn notes(purpose: &Purpose) -> String {
    let mut notes = Vec::new();
    if purpose.retired {
        notes.push("retired".to_owned());
    }
    if purpose.double_opt_in {
        notes.push("double opt-in".to_owned());
    }
    if purpose.oldest_compatible_version > 1 {
        notes.push(format!("counts from version {}", purpose.oldest_compatible_version));
    }
    match purpose.obligations.len() {
        0 => {}
        1 => notes.push("1 obligation".to_owned()),
        count => notes.push(format!("{count} obligations")),
    }
    if !purpose.controller.is_empty() {
        notes.push(format!("controller {}", purpose.controller));
    }
    match purpose.recipients.as_ref().map(|recipients| recipients.parties.as_slice()) {
        None => {}
        Some([]) => notes.push("no recipients".to_owned()),
        Some(parties) => notes.push(format!("to {}", parties.join(" and "))),
    }
    notes.extend(regions(&purpose.basis_by_region));
    notes.join(", ")
}

/// Each regional basis with its regions, for example `legitimate_interest in US and CA`. A purpose
/// can have 300 regions: more than a few are only counted.
fn regions(basis_by_region: &BTreeMap<String, i32>) -> Vec<String> {
    let mut by_basis: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (region, basis) in basis_by_region {
        by_basis.entry(word::<LegalBasis>(*basis)).or_default().push(region);
    }
    let named = |(basis, regions): (String, Vec<&str>)| match regions.len() {
        count if count > REGIONS_NAMED_MAX => format!("{basis} in {count} regions"),
        _ => format!("{basis} in {}", regions.join(" and ")),
    };
    by_basis.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_stand_beside_their_basis() {
        let of = |pairs: &[(&str, &str)]| {
            let pair = |(region, basis): &(&str, &str)| {
                ((*region).to_owned(), words::parse::<LegalBasis>(basis).unwrap().into())
            };
            regions(&pairs.iter().map(pair).collect())
        };
        assert!(of(&[]).is_empty());
        let two = [("US-CA", "consent"), ("US", "legitimate_interest"), ("DE", "consent")];
        assert_eq!(of(&two), ["consent in DE and US-CA", "legitimate_interest in US"]);
        let many = ["AT", "BE", "DE", "FR", "IT"].map(|region| (region, "consent"));
        assert_eq!(of(&many), ["consent in 5 regions"]);
    }
}
