//! `consent-ledger-generate`: onboarding traffic from a seed.
//!
//! The same seed and arguments give the same bytes on every machine and in every version: numbers are
//! integers of a hash stream, drawn in a fixed order. No person in it is real: names are numbers, and
//! addresses are reserved for examples (RFC 2606, RFC 5737).

use std::{
    collections::HashSet,
    fs::File,
    path::{Path, PathBuf},
};

use clap::{Parser, builder::RangedU64ValueParser, value_parser};
use consent_ledger::{
    cli::{
        Exit,
        catalog::file::CatalogFile,
        error::CliError,
        output::{Output, Printing},
        progress, words,
    },
    json::Compact,
};
use jiff::Timestamp;
use serde::Serialize;

mod dice;
mod person;
mod traffic;

pub use traffic::{Plan, Traffic};

/// The default catalogue.
const CATALOG: &str = include_str!("../../../examples/catalog.toml");

const AFTER_HELP: &str = "\
Each line is an act in the format that `consent-ledger replay --help` describes. Fields with default
values are omitted.

Examples:
  consent-ledger-generate --seed 7 --acts 1000 | consent-ledger replay -
  consent-ledger-generate --seed 1 --output onboarding.ndjson";

/// Make onboarding traffic for the consent ledger from a seed
#[derive(Debug, Parser)]
#[command(
    name = "consent-ledger-generate",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100
)]
pub struct Cli {
    /// Output options.
    #[command(flatten)]
    pub printing: Printing,
    /// Seed; the same seed gives the same acts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Number of acts
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    acts: u64,
    /// Number of data subjects; few of them act often (Zipf)
    #[arg(long, value_name = "N", default_value_t = 2_500, value_parser = population())]
    subjects: u64,
    /// Catalogue of purposes and channels [default: the one of examples/catalog.toml]
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// When the first act took effect (RFC 3339); the average gap is three minutes, or less, so that
    /// all acts take effect within 90 days
    #[arg(long, value_name = "TIME", default_value = START, value_parser = words::time)]
    start: Timestamp,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Far enough in the past that no act takes effect in the future.
const START: &str = "2026-01-01T00:00:00Z";

/// The default catalogue.
///
/// # Errors
/// `examples/catalog.toml` is not a catalogue.
pub fn example_catalog() -> Result<CatalogFile, CliError> {
    CatalogFile::parse(CATALOG).map_err(CliError::failed)
}

/// The default time of the first act.
///
/// # Errors
/// The default is not a time.
pub fn start() -> Result<Timestamp, CliError> {
    words::time(START).map_err(CliError::failed)
}

fn population() -> RangedU64ValueParser {
    value_parser!(u64).range(1..=10_000_000)
}

/// The output if the acts are written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Generated {
    /// Number of acts.
    acts: u64,
    /// Number of data subjects among them.
    subjects: u64,
    /// Path of the file.
    output: String,
}

/// Writes acts to standard output or a file.
///
/// # Errors
/// The catalogue can not be used, or the acts can not be written.
pub fn run(cli: &Cli, out: &mut Output) -> Result<Exit, CliError> {
    let catalog = match &cli.catalog {
        Some(path) => CatalogFile::read(path)?,
        None => example_catalog()?,
    };
    let plan = Plan::of(&catalog).ok_or_else(|| {
        CliError::failed("the catalogue has no channel, or no purpose that stands on consent")
    })?;
    let traffic = Traffic::new(plan, cli.seed, cli.subjects, cli.start).paced_for(cli.acts);
    match &cli.output {
        None => write(traffic, cli.acts, out).map(drop)?,
        Some(path) => {
            let subjects = to_file(traffic, cli.acts, path)?;
            let output = path.display().to_string();
            report(&Generated { acts: cli.acts, subjects, output }, out)?;
        }
    }
    Ok(Exit::Success)
}

fn to_file(traffic: Traffic, acts: u64, path: &Path) -> Result<u64, CliError> {
    let file = File::create(path).map_err(|error| CliError::file(path, error))?;
    let mut out = Output::new(Box::new(file), true, false);
    let subjects = write(traffic, acts, &mut out)?;
    out.flush()?;
    Ok(subjects)
}

/// Writes acts, and returns the number of data subjects among them.
fn write(traffic: Traffic, acts: u64, out: &mut Output) -> Result<u64, CliError> {
    let bar = progress::bar(Some(acts), "generating");
    let mut subjects = HashSet::new();
    for act in traffic.take(usize::try_from(acts).unwrap_or(usize::MAX)) {
        out.object(&Compact(&act))?;
        subjects.insert(act.subject);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(u64::try_from(subjects.len()).unwrap_or(u64::MAX))
}

fn report(generated: &Generated, out: &mut Output) -> Result<(), CliError> {
    if out.json {
        return out.object(generated);
    }
    out.line(format!(
        "{} acts of {} data subjects written to {}",
        generated.acts, generated.subjects, generated.output
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use consent_ledger::{
        domain::{Millis, Subject},
        entry::timestamp_ms,
        json,
        proto::{Action, Actor, Change, RecordConsentRequest},
    };

    use super::*;

    const EXAMPLE: &str = include_str!("../../../examples/onboarding.ndjson");

    fn traffic(seed: u64) -> Traffic {
        let plan = Plan::of(&CatalogFile::parse(CATALOG).unwrap()).unwrap();
        Traffic::new(plan, seed, 2_500, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn the_example_is_seed_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("onboarding.ndjson");
        to_file(traffic(1), 10_000, &path).unwrap();
        let written = std::fs::read_to_string(path).unwrap();
        assert!(written == EXAMPLE, "examples/onboarding.ndjson is out of date");
    }

    #[test]
    fn many_acts_come_closer_together_and_never_reach_today() {
        let start: Timestamp = START.parse().unwrap();
        let days = |acts: u64| {
            let last = traffic(1).paced_for(acts).take(usize::try_from(acts).unwrap()).last();
            let ms = effective_at(&last.unwrap()).0 - start.as_millisecond();
            ms / (24 * 60 * 60 * 1_000)
        };
        assert!((15..30).contains(&days(10_000)), "three minutes on average");
        assert!((60..91).contains(&days(200_000)), "no more than 90 days");
    }

    #[test]
    fn another_seed_is_other_traffic() {
        let first: Vec<RecordConsentRequest> = traffic(1).take(100).collect();
        assert_eq!(first, traffic(1).take(100).collect::<Vec<_>>());
        assert_ne!(first, traffic(2).take(100).collect::<Vec<_>>());
    }

    fn example() -> Vec<RecordConsentRequest> {
        EXAMPLE.lines().map(|line| json::from_str(line).unwrap()).collect()
    }

    fn effective_at(act: &RecordConsentRequest) -> Millis {
        timestamp_ms(act.effective_at.as_ref().unwrap()).unwrap()
    }

    fn scope(change: &Change) -> (&str, &str) {
        let scope = change.scope.as_ref().unwrap();
        (&scope.purpose, &scope.channel)
    }

    #[test]
    fn the_example_has_every_kind_of_act() {
        let acts = example();
        let scopes = || acts.iter().flat_map(|act| &act.changes);
        for action in [Action::Grant, Action::Refuse, Action::Withdraw, Action::Object] {
            assert!(
                scopes().filter(|change| change.action() == action).count() > 200,
                "{action:?}"
            );
        }
        for (purpose, channel) in [(true, false), (false, true), (true, true)] {
            let wide = scopes().filter(|change| {
                (scope(change).0 == "*", scope(change).1 == "*") == (purpose, channel)
            });
            assert!(wide.count() > 50, "{purpose} {channel}");
        }
        for actor in [
            Actor::Subject,
            Actor::Guardian,
            Actor::Agent,
            Actor::Operator,
            Actor::System,
            Actor::Import,
        ] {
            assert!(acts.iter().filter(|act| act.actor() == actor).count() > 50, "{actor:?}");
        }
        let touchpoints: HashSet<_> =
            acts.iter().map(|act| act.evidence.as_ref().unwrap().touchpoint.clone()).collect();
        assert_eq!(touchpoints.len(), 5);
        assert!(scopes().any(|change| change.expires_at.is_some()));
    }

    #[test]
    fn every_act_of_the_example_can_be_recorded() {
        let catalog = CatalogFile::parse(CATALOG).unwrap();
        let known: HashSet<_> = catalog.purposes.iter().map(|p| p.key.as_str()).collect();
        let mut keys = HashSet::new();
        for act in example() {
            Subject::parse(&act.subject).unwrap();
            assert!(keys.insert(act.idempotency_key.clone()), "{}", act.idempotency_key);
            assert!(!act.changes.is_empty());
            let scopes: HashSet<_> = act.changes.iter().map(scope).collect();
            assert_eq!(scopes.len(), act.changes.len(), "no two changes with one scope");
            for change in &act.changes {
                let (purpose, channel) = scope(change);
                assert!(purpose == "*" || known.contains(purpose));
                if change.action() == Action::Grant {
                    assert!(purpose != "*" && channel != "*");
                    let end = change.expires_at.as_ref().map(|at| timestamp_ms(at).unwrap());
                    assert!(end.is_none_or(|end| end > effective_at(&act)));
                } else {
                    assert!(change.expires_at.is_none());
                }
            }
        }
    }

    #[test]
    fn few_subjects_act_often_and_time_goes_on() {
        let acts = example();
        let mut counts = BTreeMap::new();
        for act in &acts {
            *counts.entry(&act.subject).or_insert(0_u32) += 1;
        }
        assert!(counts.len() > 1_000);
        let mut counts: Vec<u32> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        assert!(counts[0] > 500 && counts[0] > 8 * counts[9], "{:?}", &counts[..10]);
        let times: Vec<_> = acts.iter().map(effective_at).collect();
        let late = times.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((50..1_000).contains(&late), "{late} acts arrive late");
        let march: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        assert!(times.iter().all(|time| time.0 < march.as_millisecond()));
        assert!(times[9_999] > times[0]);
    }
}
