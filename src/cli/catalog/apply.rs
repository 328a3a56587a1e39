//! `catalog apply`: adds and changes namespaces, parties, purposes and channels as a file says.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use tonic::Status;

use super::{Client, channels, file::CatalogFile, namespaces, parties, purposes};
use crate::{
    cli::{
        Context, Exit, client,
        error::CliError,
        output::{Table, Tone},
        progress,
    },
    domain::{Catalog, Key, PartyPut, QuietSpan},
    grpc::convert,
    node::{PartyDraft, check_parties, parties_named},
    obligations::leave_no_moment,
    proto::{
        Namespace, Party, Purpose, PutChannelRequest, PutNamespaceRequest, PutPartyRequest,
        PutPurposeRequest, QuietHours, obligation::Kind,
    },
};

const AFTER_HELP: &str = "\
Namespaces, parties, purposes and channels that are not in the file stay as they are. To retire a
purpose or channel, write `retired = true`.

With --dry-run the server validates every change by its rules, and writes nothing. A purpose that
names a party which the file adds, or whose roles it changes, is validated by the file alone.

After an error, what was written before is listed and stays. --reconsent needs a change of the
purpose: only with a new version can the grants of the older ones stop counting.

Examples:
  consent-ledger catalog apply examples/catalog.toml --dry-run
  consent-ledger catalog apply examples/catalog.toml
  consent-ledger catalog apply catalog-with-new-text.toml --reconsent marketing.newsletter";

/// Options of `catalog apply`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ApplyArgs {
    /// TOML file with namespaces, parties, purposes and channels
    file: PathBuf,
    /// Print the changes without writing them; the server refuses what it would refuse
    #[arg(long)]
    dry_run: bool,
    /// Require new consent for this purpose: grants of earlier versions no longer count; may be
    /// given many times
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    reconsent: Vec<String>,
}

/// Result of applying a catalogue file, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Applied {
    /// Whether nothing was written.
    dry_run: bool,
    /// One for each entry of the file, in its order.
    results: Vec<AppliedEntry>,
    /// Number of entries that were added.
    added: usize,
    /// Number of entries that were changed.
    changed: usize,
    /// Number of entries that were unchanged.
    unchanged: usize,
}

/// Result for one entry of a catalogue file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct AppliedEntry {
    /// `namespace`, `channel`, `party` or `purpose`.
    kind: &'static str,
    /// Key.
    key: String,
    /// `added`, `changed` or `unchanged`.
    result: &'static str,
    /// The fields that changed, by their names in the file.
    fields: Vec<&'static str>,
    /// The version of a party or purpose after the call; in a dry run, the one that it would have; `null` for all
    /// others.
    version: Option<u32>,
    /// First revision with this entry; `null` for dry runs.
    revision: Option<u64>,
}

pub(super) async fn run(args: ApplyArgs, context: &mut Context) -> Result<Exit, CliError> {
    let file = CatalogFile::read(&args.file)?;
    let in_file = |key: &&String| file.purposes.iter().any(|purpose| purpose.key == **key);
    if let Some(key) = args.reconsent.iter().find(|key| !in_file(key)) {
        return Err(CliError::usage(format!("{} has no purpose `{key}`", args.file.display())));
    }
    let mut client = Client::new(client::connect(&context.global).await?);
    let mut results = Vec::new();
    let outcome = apply(&file, &args, &mut client, &mut results).await;
    if outcome.is_err() && results.is_empty() {
        return outcome.map(|()| Exit::Success);
    }
    let count = |word| results.iter().filter(|entry| entry.result == word).count();
    let applied = Applied {
        dry_run: args.dry_run,
        added: count(ADDED),
        changed: count(CHANGED),
        unchanged: count(UNCHANGED),
        results,
    };
    // What was written before an error stays written.
    print(&applied, context)?;
    warn_of_full_days(&file, context);
    outcome.map(|()| Exit::Success)
}

/// Warns of purposes whose own quiet hours leave no moment: every ALLOW is NOT NOW.
fn warn_of_full_days(file: &CatalogFile, context: &Context) {
    for purpose in file.purposes.iter().filter(|purpose| leaves_no_moment(purpose)) {
        let text = format!(
            "the quiet hours of `{}` leave no moment of any day: nobody is ever ALLOW",
            purpose.key
        );
        match context.global.printing.json {
            true => eprintln!("{}", json!({ "warning": text })),
            false => eprintln!("warning: {text}"),
        }
    }
}

fn leaves_no_moment(purpose: &Purpose) -> bool {
    let hours = purpose.obligations.iter().filter_map(|obligation| match &obligation.kind {
        Some(Kind::QuietHours(hours)) => {
            let &QuietHours { start_minute, end_minute, ref time_zone } = hours;
            Some((QuietSpan { start_minute, end_minute }, time_zone.as_str()))
        }
        _ => None,
    });
    leave_no_moment(&hours.collect::<Vec<_>>())
}

const ADDED: &str = "added";
const CHANGED: &str = "changed";
const UNCHANGED: &str = "unchanged";

/// Applies a file, entry by entry. `results` has those that were done, also after an error.
async fn apply(
    file: &CatalogFile,
    args: &ApplyArgs,
    client: &mut Client,
    results: &mut Vec<AppliedEntry>,
) -> Result<(), CliError> {
    // The catalogue on the server, by key.
    let channels = channels(client, true).await?.into_iter();
    let channels: HashMap<_, _> = channels.map(|channel| (channel.key.clone(), channel)).collect();
    let purposes = purposes(client, true).await?.into_iter();
    let purposes: HashMap<_, _> = purposes.map(|purpose| (purpose.key.clone(), purpose)).collect();
    let namespaces = namespaces(client).await?.into_iter();
    let namespaces: HashMap<_, _> =
        namespaces.map(|namespace| (namespace.key.clone(), namespace)).collect();
    let parties = parties(client).await?.into_iter();
    let parties: HashMap<_, _> = parties.map(|party| (party.key.clone(), party)).collect();
    for key in &args.reconsent {
        let wanted = file.purposes.iter().find(|purpose| purpose.key == *key);
        if let (Some(now), Some(wanted)) = (purposes.get(key), wanted) {
            check_reconsent(now, wanted)?;
        }
    }
    let validate_only = args.dry_run;
    let total =
        file.namespaces.len() + file.channels.len() + file.parties.len() + file.purposes.len();
    let bar = progress::bar(u64::try_from(total).ok(), "applying");
    for namespace in &file.namespaces {
        let now = namespaces.get(&namespace.key);
        let fields = now.map(|now| differences_of_namespace(now, namespace));
        let mut entry = entry("namespace", &namespace.key, fields);
        let request = PutNamespaceRequest { namespace: Some(namespace.clone()), validate_only };
        let answer = client.put_namespace(request).await?.into_inner();
        entry.settle(answer.changed, (!validate_only).then_some(answer.revision));
        results.push(entry);
        bar.inc(1);
    }
    for channel in &file.channels {
        let fields = channels.get(&channel.key).map(|now| {
            differing([
                ("title", now.title != channel.title),
                ("retired", now.retired != channel.retired),
            ])
        });
        let mut entry = entry("channel", &channel.key, fields);
        let request = PutChannelRequest { channel: Some(channel.clone()), validate_only };
        let answer = client.put_channel(request).await?.into_inner();
        entry.settle(answer.changed, (!validate_only).then_some(answer.revision));
        results.push(entry);
        bar.inc(1);
    }
    for party in &file.parties {
        let fields = parties.get(&party.key).map(|now| differences_of_party(now, party));
        let mut entry = entry("party", &party.key, fields);
        let request = PutPartyRequest { party: Some(party.clone()), validate_only };
        let answer = client.put_party(request).await?.into_inner();
        entry.version = answer.party.map(|party| party.version);
        entry.settle(answer.changed, (!validate_only).then_some(answer.revision));
        results.push(entry);
        bar.inc(1);
    }
    let planned = match validate_only {
        true => Some(Planned::new(&file.parties, &parties)?),
        false => None,
    };
    for purpose in &file.purposes {
        let requires_reconsent = args.reconsent.contains(&purpose.key);
        let now = purposes.get(&purpose.key);
        let fields = now.map(|now| differences(now, purpose, requires_reconsent));
        let mut entry = entry("purpose", &purpose.key, fields);
        let purpose = Some(purpose.clone());
        let request = PutPurposeRequest { purpose, requires_reconsent, validate_only };
        let is_judged = match &planned {
            Some(planned) => planned.judges(&request)?,
            None => false,
        };
        if !is_judged {
            let answer = client.put_purpose(request).await?.into_inner();
            entry.version = answer.purpose.map(|purpose| purpose.version);
            entry.settle(answer.changed, (!validate_only).then_some(answer.revision));
        }
        results.push(entry);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// The parties as the server will have them after the file, for a dry run that does not write them.
struct Planned<'a> {
    /// Those whose roles the server does not know yet.
    unwritten: HashSet<&'a str>,
    catalog: Catalog,
}

impl<'a> Planned<'a> {
    fn new(file: &'a [Party], now: &HashMap<String, Party>) -> Result<Self, CliError> {
        let mut catalog = Catalog::default();
        // The first version of a key stays.
        for party in file.iter().chain(now.values()) {
            let request = PutPartyRequest { party: Some(party.clone()), ..Default::default() };
            let draft = convert::party_draft(request).map_err(CliError::failed)?;
            let PartyDraft { key, content } = draft;
            catalog.put_party(0, PartyPut { key, version: 1, content });
        }
        let is_unwritten = |party: &&Party| {
            now.get(&party.key).is_none_or(|now| sorted(&now.roles) != sorted(&party.roles))
        };
        let unwritten = file.iter().filter(is_unwritten).map(|party| party.key.as_str());
        Ok(Self { unwritten: unwritten.collect(), catalog })
    }

    /// Checks the parties of a purpose as the server will, if it names one that the server can not judge yet.
    /// Says whether it does.
    fn judges(&self, request: &PutPurposeRequest) -> Result<bool, CliError> {
        // What is no purpose the server refuses.
        let Ok(draft) = convert::purpose_draft(request.clone()) else { return Ok(false) };
        let is_unwritten = |key: &Key| self.unwritten.contains(key.as_str());
        if !parties_named(&draft.content).any(|(_, key, _)| is_unwritten(key)) {
            return Ok(false);
        }
        check_parties(&self.catalog, &draft.content).map_err(Status::from)?;
        Ok(true)
    }
}

/// That a request for new consent does something: grants of the current version stay as they are, so a new
/// version, or an older one that still counts, is needed.
fn check_reconsent(now: &Purpose, wanted: &Purpose) -> Result<(), CliError> {
    if !differences(now, wanted, true).is_empty() {
        return Ok(());
    }
    let (key, version) = (&now.key, now.version);
    let message = format!(
        "--reconsent {key} changes nothing: only grants of version {version} count already, and the file \
         has no new version; nothing was written"
    );
    Err(CliError::failed(message).with_hint(
        "change what is asked (title, description, data categories or legal basis), so that there is a \
         new version",
    ))
}

impl AppliedEntry {
    /// Takes the server's result: another client may have changed the catalogue since the
    /// comparison.
    fn settle(&mut self, changed: bool, revision: Option<u64>) {
        self.revision = revision;
        self.result = match (changed, self.result) {
            (false, _) => UNCHANGED,
            (true, UNCHANGED) => CHANGED,
            (true, result) => result,
        };
    }
}

/// The fields in which a namespace differs from the file.
fn differences_of_namespace(now: &Namespace, wanted: &Namespace) -> Vec<&'static str> {
    let folds = |namespace: &Namespace| namespace.fold_local_part.unwrap_or(true);
    differing([
        ("title", now.title != wanted.title),
        ("kind", now.kind != wanted.kind),
        ("default_region", now.default_region != wanted.default_region),
        ("fold_local_part", folds(now) != folds(wanted)),
    ])
}

/// A list without its order, which says nothing.
fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    sorted
}

/// The fields in which a party differs from the file.
fn differences_of_party(now: &Party, wanted: &Party) -> Vec<&'static str> {
    differing([
        ("roles", sorted(&now.roles) != sorted(&wanted.roles)),
        ("name", now.name != wanted.name),
        ("contact", now.contact != wanted.contact),
        ("address", now.address != wanted.address),
        ("email", now.email != wanted.email),
        ("phone", now.phone != wanted.phone),
        ("url", now.url != wanted.url),
        ("privacy_policy_url", now.privacy_policy_url != wanted.privacy_policy_url),
        ("jurisdictions", sorted(&now.jurisdictions) != sorted(&wanted.jurisdictions)),
        ("sensitive_categories", now.sensitive_categories != wanted.sensitive_categories),
    ])
}

fn recipients(purpose: &Purpose) -> Option<Vec<String>> {
    purpose.recipients.as_ref().map(|recipients| sorted(&recipients.parties))
}

/// The fields in which a purpose differs from the file.
fn differences(now: &Purpose, wanted: &Purpose, reconsent: bool) -> Vec<&'static str> {
    let of_version = differing([
        ("title", now.title != wanted.title),
        ("description", now.description != wanted.description),
        ("legal_basis", now.legal_basis != wanted.legal_basis),
        ("basis_by_region", now.basis_by_region != wanted.basis_by_region),
        ("data_categories", now.data_categories != wanted.data_categories),
        ("default_validity", now.default_validity != wanted.default_validity),
        ("double_opt_in", now.double_opt_in != wanted.double_opt_in),
        ("obligations", now.obligations != wanted.obligations),
        ("controller", now.controller != wanted.controller),
        ("recipients", recipients(now) != recipients(wanted)),
    ]);
    let oldest_version = match (reconsent, wanted.oldest_compatible_version) {
        // The version after the call: a new one if any of its fields differ.
        (true, _) => now.version + u32::from(!of_version.is_empty()),
        // 0: unchanged.
        (false, 0) => now.oldest_compatible_version,
        (false, oldest) => oldest,
    };
    let of_purpose = differing([
        ("oldest_compatible_version", now.oldest_compatible_version != oldest_version),
        ("retired", now.retired != wanted.retired),
    ]);
    [of_version, of_purpose].concat()
}

fn differing<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn entry(kind: &'static str, key: &str, fields: Option<Vec<&'static str>>) -> AppliedEntry {
    let result = match &fields {
        None => ADDED,
        Some(fields) if fields.is_empty() => UNCHANGED,
        Some(_) => CHANGED,
    };
    AppliedEntry {
        kind,
        key: key.to_owned(),
        result,
        fields: fields.unwrap_or_default(),
        version: None,
        revision: None,
    }
}

fn print(applied: &Applied, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(applied);
    }
    let mut table = Table::new(&["RESULT", "KIND", "KEY", "VERSION", "REVISION", "FIELDS"]);
    for entry in &applied.results {
        let tone = if entry.result == UNCHANGED { Tone::Plain } else { Tone::Good };
        table.row(
            tone,
            [
                entry.result.to_owned(),
                entry.kind.to_owned(),
                entry.key.clone(),
                entry.version.map(|version| version.to_string()).unwrap_or_default(),
                entry.revision.map(|revision| revision.to_string()).unwrap_or_default(),
                entry.fields.join(", "),
            ],
        );
    }
    out.table(&table)?;
    let dry = if applied.dry_run { "dry run, nothing was written: " } else { "" };
    out.line(format!(
        "{dry}{} added, {} changed, {} unchanged",
        applied.added, applied.changed, applied.unchanged
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let now = Purpose {
            key: "a".into(),
            title: "A".into(),
            oldest_compatible_version: 1,
            version: 3,
            ..Default::default()
        };
        let mut wanted = Purpose { version: 0, oldest_compatible_version: 0, ..now.clone() };
        assert!(differences(&now, &wanted, false).is_empty());
        wanted.title = "B".into();
        wanted.oldest_compatible_version = 3;
        assert_eq!(differences(&now, &wanted, false), ["title", "oldest_compatible_version"]);
    }

    #[test]
    fn consent_is_asked_for_again_unless_only_the_current_version_counts() {
        let now = Purpose { version: 3, oldest_compatible_version: 3, ..Default::default() };
        let again = |now: &Purpose, wanted: &Purpose| differences(now, wanted, true);
        assert!(again(&now, &now).is_empty(), "done once, there is nothing left to do");
        let retired = Purpose { retired: true, ..now.clone() };
        assert_eq!(again(&now, &retired), ["retired"], "which makes no version");
        let other = Purpose { title: "B".into(), ..now.clone() };
        assert_eq!(again(&now, &other), ["title", "oldest_compatible_version"]);
        let now = Purpose { oldest_compatible_version: 2, ..now };
        assert_eq!(again(&now, &now), ["oldest_compatible_version"]);
    }

    #[test]
    fn the_server_has_the_last_word() {
        let mut unchanged = entry("purpose", "a", Some(vec![]));
        unchanged.settle(true, Some(7));
        assert_eq!((unchanged.result, unchanged.revision), (CHANGED, Some(7)));
        let mut added = entry("purpose", "a", None);
        added.settle(true, Some(8));
        assert_eq!(added.result, ADDED);
        let mut late = entry("purpose", "a", None);
        late.settle(false, None);
        assert_eq!(late.result, UNCHANGED);
    }
}
