//! Grants that end by themselves: the entry that says so, within a second or so of the moment.
//!
//! Decisions do not wait for it, as they look at the time themselves; watchers do, and who reads a
//! history. What is due stands in the view in the order of time, and a view that is rebuilt has it
//! again, so a restart forgets nothing and an entry is never written twice.

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::{Core, WriteError, batch::Batch, writer::Jobs};
use crate::{
    decide::Standing,
    domain::{
        Action, Actor, Body, ChangeRecord, ConsentAct, GrantExpired, LegalBasis, Outcome, Reason,
        Scope, SubjectState,
    },
    fold::Due,
    shutdown::{Shutdown, Stage, Threads},
};

/// How often is looked for what is due.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long is waited after a failure.
const INTERVAL_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// The greatest number of grants that one job looks at.
const DUE_STEP: usize = 500;
/// The greatest number of grants that are left alone since their end could not be written down.
const SKIPPED_MAX: usize = 10_000;
/// How often those are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// What the thread needs.
struct Expiry {
    core: Arc<Core>,
    jobs: Jobs,
    shutdown: Shutdown,
    /// Where the present look has come to; none if the next look starts at the first that is due.
    after: Option<Due>,
    /// Those that could not be written down: left alone, so that the others do not wait for them.
    skipped: BTreeSet<Due>,
    /// When those were last forgotten.
    retried: Instant,
}

/// What became of the grants that a job looked at, except those whose end is written down now.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Their end changed nothing: they were stopped, or a later grant stands in their place.
    unchanged: Vec<Due>,
    /// Their end could not be written down.
    failed: Vec<Due>,
}

/// Starts the thread. It ends at [`Stage::Writer`], or when writes are stopped.
pub(super) fn start(core: &Arc<Core>, threads: &Threads, jobs: Jobs) -> io::Result<()> {
    let mut expiry = Expiry {
        core: Arc::clone(core),
        jobs,
        shutdown: threads.shutdown().clone(),
        after: None,
        skipped: BTreeSet::new(),
        retried: Instant::now(),
    };
    threads.spawn("expiry", Stage::Writer, || {}, move || expiry.run())?;
    Ok(())
}

impl Expiry {
    fn run(&mut self) {
        let mut pause = INTERVAL;
        while !self.shutdown.sleep(pause, Stage::Writer) {
            pause = match self.step() {
                Ok(false) => INTERVAL,
                Ok(true) => Duration::ZERO,
                Err(WriteError::WritesStopped(_) | WriteError::ShuttingDown) => return,
                Err(error) => {
                    warn!(%error, "expired grants could not be written down");
                    INTERVAL_AFTER_FAILURE
                }
            };
        }
    }

    /// Writes down some of what is due, and answers whether there may be more.
    fn step(&mut self) -> Result<bool, WriteError> {
        if self.retried.elapsed() >= RETRY_INTERVAL {
            self.skipped.clear();
            self.retried = Instant::now();
        }
        let mut due = self.core.view.due(self.after.as_ref(), self.core.now(), DUE_STEP)?;
        self.after = due.last().copied().filter(|_| due.len() == DUE_STEP);
        due.retain(|due| !self.skipped.contains(due));
        if !due.is_empty() {
            // Has the writer write down which grants have ended.
            let rest = self.jobs.write(move |batch| Ok(batch.expire(&due)))?;
            self.core.view.forget_due(&rest.unchanged)?;
            let room = SKIPPED_MAX.saturating_sub(self.skipped.len());
            self.skipped.extend(rest.failed.into_iter().take(room));
        }
        Ok(self.after.is_some())
    }
}

impl Batch<'_> {
    /// Writes down which grants have ended. One that fails does not keep the others from it.
    pub(super) fn expire(&mut self, due: &[Due]) -> Rest {
        let mut rest = Rest::default();
        for due in due {
            match self.expire_one(due) {
                Ok(true) => {}
                Ok(false) => rest.unchanged.push(*due),
                Err(error) => {
                    let index = due.grant_index;
                    error!(index, %error, "the end of a grant could not be written down");
                    rest.failed.push(*due);
                }
            }
        }
        rest
    }

    /// Writes down that one grant has ended, if that changes anything. If it fails, the batch is as
    /// it was.
    fn expire_one(&mut self, due: &Due) -> Result<bool, WriteError> {
        let Body::Act(act) = self.entry(due.grant_index)?.body else {
            return Err(WriteError::StateUnreadable(format!(
                "no act at index {}",
                due.grant_index
            )));
        };
        let own = self.state(due.subject)?;
        let whole = self.whole(due.subject, &own)?;
        let ended = self.ended(&whole, &act, due);
        if ended.is_empty() {
            return Ok(false);
        }
        let by_authority = act.actor == Actor::Guardian
            && act.authority_ends_at == Some(due.at)
            && ended.iter().all(|change| change.expires_at != Some(due.at));
        let expired = GrantExpired {
            subject_ref: due.subject,
            grant_index: due.grant_index,
            expired_at: due.at,
            reason: if by_authority { Reason::ReconsentRequired } else { Reason::Expired },
            changes: ended,
        };
        self.write(self.recorded_at(), Body::Expired(expired), &[])?;
        Ok(true)
    }

    /// The grants of an act that decided their cells until they ended.
    fn ended(&self, whole: &SubjectState, act: &ConsentAct, due: &Due) -> Vec<ChangeRecord> {
        let catalog = self.catalog();
        let has_ended = |change: &&ChangeRecord| {
            let Some((purpose_id, channel_id)) =
                catalog.resolve(&change.scope).ok().and_then(Scope::as_cell)
            else {
                return false;
            };
            let Some(purpose) = catalog.purpose(purpose_id) else { return false };
            let before = due.at.plus_ms(-1);
            let standing = Standing::of(whole, purpose, purpose_id, channel_id, before);
            let Standing::Given(grant) = standing else { return false };
            grant.mark.index == due.grant_index
                && grant.ends_at() == Some(due.at)
                && purpose.current().has_basis(LegalBasis::Consent)
        };
        let grants = act.changes.iter().filter(|change| change.action == Action::Grant);
        let expire = |change: &ChangeRecord| ChangeRecord {
            action: Action::Expire,
            outcome: Outcome::Applied,
            ..change.clone()
        };
        grants.filter(has_ended).map(expire).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::ServeConfig,
        domain::{
            Change, ChannelPut, ContactChange, Evidence, Key, Millis, PurposeVersion, ScopeKeys,
            Subject,
        },
        node::{Act, Node, NodeConfig, PurposeDraft},
        telemetry::Metrics,
        vault::Kek,
        view::keys::Key as Row,
    };

    const APPENDS_MAX: usize = 4;

    fn open(dir: &Path) -> Arc<Node> {
        let config = NodeConfig {
            data_dir: dir.to_owned(),
            kek: Some(Kek::parse(&"5a".repeat(32)).unwrap()),
            appends_max: APPENDS_MAX,
            scrub_bytes_per_second: 0,
            ..ServeConfig::default().node
        };
        Node::open(&config, Arc::new(Metrics::default())).unwrap()
    }

    async fn put_catalog(node: &Node) {
        let key = Key::parse("email").unwrap();
        let channel = ChannelPut { key, title: String::new(), retired: false };
        node.put_channel(channel).await.unwrap();
        let content = PurposeVersion {
            title: String::new(),
            description: String::new(),
            legal_basis: LegalBasis::Consent,
            basis_by_region: std::collections::BTreeMap::new(),
            data_categories: Vec::new(),
            default_validity_ms: None,
            double_opt_in: false,
            obligations: Vec::new(),
        };
        let draft = PurposeDraft {
            key: Key::parse("news").unwrap(),
            content,
            oldest_compatible: None,
            requires_reconsent: false,
            retired: false,
        };
        node.put_purpose(draft).await.unwrap();
    }

    /// Grants something that ends soon, and answers the revision then.
    async fn grant(node: &Node, who: &str) -> u64 {
        let [purpose, channel] = ["news", "email"].map(|key| Some(Key::parse(key).unwrap()));
        let change = Change {
            action: Action::Grant,
            scope: ScopeKeys { purpose, channel },
            purpose_version: None,
            expires_at: Some(Millis::now().plus_ms(300)),
            data_categories: Vec::new(),
        };
        let act = Act {
            subject: Subject::parse(who).unwrap(),
            actor: Actor::Subject,
            changes: vec![change],
            contact: ContactChange::default(),
            effective_at: None,
            confirmation_validity_ms: None,
            evidence: Evidence::default(),
            idempotency: None,
        };
        node.record(act).await.unwrap().index + 1
    }

    /// Waits for the next entry, which tells of an end.
    async fn expect_expired(node: &Node, revision: u64) {
        node.reach(Some(revision + 1)).await.unwrap();
        let body = node.core.entry(revision).unwrap().body;
        assert!(matches!(body, Body::Expired(_)), "{body:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_fails_does_not_keep_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path());
        put_catalog(&node).await;
        // More than one look takes: rows of acts that are none.
        let rows = (0..).take(DUE_STEP + 1).map(|at| Row::Due(at, [7; 16], 0).encode());
        node.index.put(rows.map(|row| (row, Some(Vec::new()))).collect()).unwrap();
        for who in ["user:1", "user:2"] {
            let revision = grant(&node, who).await;
            expect_expired(&node, revision).await;
        }
        // Their rows stay for whoever looks into it, and nothing is written twice.
        let due = node.core.view.due(None, Millis::now(), usize::MAX).unwrap();
        assert_eq!(due.len(), DUE_STEP + 1);
        let revision = grant(&node, "user:3").await;
        expect_expired(&node, revision).await;
        assert_eq!(node.revision(), revision + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn expiries_have_a_place_when_appends_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path());
        put_catalog(&node).await;
        let revision = grant(&node, "user:1").await;
        let _taken = node.admission.take_all_places();
        expect_expired(&node, revision).await;
    }
}
