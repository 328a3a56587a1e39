//! Expiry of grants: records an entry within about a second after a grant has ended.
//!
//! Decisions do not depend on this entry, because they compare the end with the clock; it is for
//! watchers and histories. The view holds the ends of grants in the order of time, and a rebuild of
//! the view restores them. So a restart loses no expiry and never records one twice.
//!
//! The ends of many data subjects stand in one entry, which hides whose end belongs to which grant: ends
//! that are a day or more away are full hours ([`crate::domain::recorded_end`]), so all of an hour are due at
//! once. An entry holds as many as fit, and at most one of each data subject.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::{Core, WriteError, batch::Batch, writer::Jobs};
use crate::{
    decide::Standing,
    domain::{
        Action, Actor, Body, CellState, ChangeRecord, ConsentAct, Grant, GrantExpired,
        GrantsExpired, LegalBasis, Millis, Outcome, Reason, Scope, SubjectState,
    },
    fold::Due,
    format::{Tag, slot::SLOTS_BYTES_MAX},
    shutdown::{Shutdown, Stage, Threads},
};

/// Time between two searches for ended grants.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time before the next search after a failure.
const INTERVAL_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// The greatest number of grants in one job.
const DUE_STEP: usize = 500;
/// The greatest number of grants that are skipped because their end could not be recorded.
const SKIPPED_MAX: usize = 10_000;
/// Time after which skipped grants are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// The state of the thread.
struct Expiry {
    core: Arc<Core>,
    jobs: Jobs,
    shutdown: Shutdown,
    /// The last grant of the current search; none if the next search starts from the beginning.
    after: Option<Due>,
    /// Grants whose end could not be recorded: skipped, so that they do not hold up the others.
    skipped: BTreeSet<Due>,
    /// Ends that the last job left for the next one, to fill an entry.
    left: Vec<Due>,
    /// When `skipped` was last cleared.
    retried: Instant,
    /// The corrections of the clock that the rows of grants follow.
    followed: usize,
    /// The last row that was compared with the corrections; none between two comparisons.
    compared: Option<Due>,
}

/// The grants of a job whose end was not recorded.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    /// Their end changed nothing: they were stopped, or a later grant replaced them.
    unchanged: Vec<Due>,
    /// Their end could not be recorded.
    failed: Vec<Due>,
    /// They do not fill an entry, and more may come.
    left: Vec<Due>,
}

/// An end that can be recorded.
#[derive(Debug)]
struct Planned {
    due: Due,
    end: GrantExpired,
    /// How many bytes of the entry it takes.
    bytes: usize,
}

/// Starts the thread. It ends at [`Stage::Writer`], or when writes are stopped.
pub(super) fn start(core: &Arc<Core>, threads: &Threads, jobs: Jobs) -> io::Result<()> {
    let mut expiry = Expiry {
        core: Arc::clone(core),
        jobs,
        shutdown: threads.shutdown().clone(),
        after: None,
        skipped: BTreeSet::new(),
        left: Vec::new(),
        retried: Instant::now(),
        followed: 0,
        compared: None,
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

    /// Records the next ended grants, and answers whether there may be more.
    fn step(&mut self) -> Result<bool, WriteError> {
        if self.retried.elapsed() >= RETRY_INTERVAL {
            self.skipped.clear();
            self.retried = Instant::now();
        }
        // A clock that is set right revives no grant whose end is on record.
        if !self.core.clock.read().is_trusted {
            self.after = None;
            self.left.clear();
            return Ok(false);
        }
        if self.follow_corrections()? {
            return Ok(true);
        }
        let found = self.core.view.due(self.after.as_ref(), self.core.now(), DUE_STEP)?;
        self.after = found.last().copied().filter(|_| found.len() == DUE_STEP);
        let mut due = std::mem::take(&mut self.left);
        due.extend(found.into_iter().filter(|due| !self.skipped.contains(due)));
        if !due.is_empty() {
            let has_more = self.after.is_some();
            let unrecorded =
                self.jobs.write(move |batch| Ok::<_, WriteError>(batch.expire(&due, has_more)))?;
            self.left = unrecorded.left;
            self.core.view.forget_due(&unrecorded.unchanged)?;
            let room = SKIPPED_MAX.saturating_sub(self.skipped.len());
            self.skipped.extend(unrecorded.failed.into_iter().take(room));
        }
        Ok(self.after.is_some())
    }

    /// Compares the rows of grants with the corrections of the clock that came since the last comparison,
    /// a part at a time. Answers whether there is more to compare.
    fn follow_corrections(&mut self) -> Result<bool, WriteError> {
        let catalog = self.core.view.catalog();
        let corrections = catalog.catalog.clock_corrections();
        if self.followed == corrections.len() {
            return Ok(false);
        }
        let due = self.core.view.due(self.compared.as_ref(), Millis(i64::MAX), DUE_STEP)?;
        for due in &due {
            let mut concerning = corrections.iter().map(|correction| &correction.entries);
            if concerning.any(|entries| entries.contains(&due.grant_index))
                && let Err(error) = self.core.move_due(due)
            {
                let index = due.grant_index;
                error!(index, %error, "the corrected end of a grant could not be followed");
            }
        }
        self.compared = due.last().copied().filter(|_| due.len() == DUE_STEP);
        if self.compared.is_none() {
            self.followed = corrections.len();
        }
        Ok(true)
    }
}

impl Core {
    /// Puts the row of a grant where its end is, if a correction of the clock changed that.
    fn move_due(&self, due: &Due) -> Result<(), WriteError> {
        let state = self.view.state(due.subject)?;
        let grants = state.cells().iter().flat_map(CellState::given);
        let ends = grants.filter(|grant| grant.mark.index == due.grant_index);
        let ends: BTreeSet<Millis> = ends.filter_map(Grant::ends_at).collect();
        if ends.is_empty() || ends.contains(&due.at) {
            return Ok(());
        }
        let mut moved = Vec::new();
        for at in ends {
            let end = Due { at, ..*due };
            // A view that was rebuilt has the old rows again.
            if !self.is_end_recorded(&end)? {
                moved.push(end);
            }
        }
        Ok(self.view.move_due(due, &moved)?)
    }

    fn is_end_recorded(&self, due: &Due) -> Result<bool, WriteError> {
        for index in self.view.history(due.subject, due.grant_index, usize::MAX)? {
            if let Body::Expired(expired) = self.entry(index)?.body
                && let Some(end) = expired.of(due.subject)
                && (end.grant_index, end.expired_at) == (due.grant_index, due.at)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Batch<'_> {
    /// Records that grants have ended, as many as fit in each entry. If one fails, the others are still
    /// recorded. If there are more than `due`, those that do not fill an entry are left.
    pub(super) fn expire(&mut self, due: &[Due], has_more: bool) -> Unrecorded {
        let mut unrecorded = Unrecorded::default();
        let mut planned = Vec::with_capacity(due.len());
        for due in due {
            match self.plan(due) {
                Ok(Some(end)) => planned.push(end),
                Ok(None) => unrecorded.unchanged.push(*due),
                Err(error) => unrecorded.fail(due, &error),
            }
        }
        while !planned.is_empty() {
            let (together, rest) = fill_entry(planned);
            if has_more && rest.is_empty() {
                unrecorded.left = together.iter().map(|end| end.due).collect();
                break;
            }
            self.expire_together(together, &mut unrecorded);
            planned = rest;
        }
        unrecorded
    }

    /// Records ends in one entry. If it can not be written, those whose fault that is fail alone.
    fn expire_together(&mut self, mut together: Vec<Planned>, unrecorded: &mut Unrecorded) {
        let Err(error) = self.write_ends(&together) else { return };
        if let [planned] = together.as_slice() {
            return unrecorded.fail(&planned.due, &error);
        }
        let rest = together.split_off(together.len() / 2);
        self.expire_together(together, unrecorded);
        self.expire_together(rest, unrecorded);
    }

    /// Adds the entry of some ends, which stand in the order of their tags.
    fn write_ends(&mut self, planned: &[Planned]) -> Result<(), WriteError> {
        let tagged = planned.iter().map(|it| Ok((self.next_tag(it.due.subject)?, it)));
        let mut tagged: Vec<(Tag, &Planned)> = tagged.collect::<Result<_, WriteError>>()?;
        tagged.sort_unstable_by_key(|(tag, _)| *tag);
        let ends = tagged.into_iter().map(|(_, planned)| planned.end.clone()).collect();
        self.write(self.recorded_at(), Body::Expired(GrantsExpired { ends }), &[])?;
        Ok(())
    }

    /// The end of a grant as it is recorded; none if it changes nothing.
    fn plan(&self, due: &Due) -> Result<Option<Planned>, WriteError> {
        let index = due.grant_index;
        let Body::Act(act) = self.entry(index)?.body else {
            return Err(WriteError::StateUnreadable(format!("no act at index {index}")));
        };
        let whole = self.whole(due.subject, &self.state(due.subject)?)?;
        let ended = self.ended(&whole, &act, due);
        if ended.is_empty() {
            return Ok(None);
        }
        let by_authority = act.actor == Actor::Guardian
            && act.authority_ends_at == Some(due.at)
            && ended.iter().all(|change| change.expires_at != Some(due.at));
        let end = GrantExpired {
            subject_ref: due.subject,
            grant_index: index,
            expired_at: due.at,
            reason: if by_authority { Reason::ReconsentRequired } else { Reason::Expired },
            changes: ended,
        };
        let bytes = self.bytes_of_end(&end)?;
        Ok(Some(Planned { due: *due, end, bytes }))
    }

    /// The grants of an act that decided their cells until they ended.
    fn ended(&self, whole: &SubjectState, act: &ConsentAct, due: &Due) -> Vec<ChangeRecord> {
        let catalog = self.catalog();
        let ended = |change: &ChangeRecord| {
            let cell = catalog.resolve(&change.scope).ok().and_then(Scope::as_cell);
            let (purpose_id, channel_id) = cell?;
            let purpose = catalog.purpose(purpose_id)?;
            let before = due.at.plus_ms(-1);
            let standing = Standing::of(catalog, whole, purpose_id, channel_id, before);
            let Standing::Given(given) = standing else { return None };
            let has_ended = given.latest.mark.index == due.grant_index
                && given.ends_at() == Some(due.at)
                && purpose.current().has_basis(LegalBasis::Consent);
            has_ended.then(|| ChangeRecord {
                action: Action::Expire,
                outcome: Outcome::Applied,
                // A correction of the clock may have changed it.
                expires_at: given.latest.expires_at,
                // Whom the grant applied to is told with the grant.
                linked_subjects: 0,
                ..change.clone()
            })
        };
        let grants = act.changes.iter().filter(|change| change.action == Action::Grant);
        grants.filter_map(ended).collect()
    }
}

impl Unrecorded {
    fn fail(&mut self, due: &Due, error: &WriteError) {
        let index = due.grant_index;
        error!(index, %error, "the end of a grant could not be written down");
        self.failed.push(*due);
    }
}

/// Divides ends into those of the next entry and the rest: at most one of each data subject, as many as fit,
/// each data subject's in their order.
fn fill_entry(planned: Vec<Planned>) -> (Vec<Planned>, Vec<Planned>) {
    let (mut together, mut rest): (Vec<Planned>, Vec<Planned>) = (Vec::new(), Vec::new());
    let (mut named, mut bytes, mut is_full) = (HashSet::new(), 0, false);
    for end in planned {
        let is_first = !named.contains(&end.due.subject);
        // An end alone has evidence, too, and always fits.
        is_full |= is_first && !together.is_empty() && bytes + end.bytes > SLOTS_BYTES_MAX;
        if is_full || !is_first {
            rest.push(end);
        } else {
            named.insert(end.due.subject);
            bytes += end.bytes;
            together.push(end);
        }
    }
    (together, rest)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::ServeConfig,
        domain::{
            Change, ChannelPut, ContactChange, Evidence, Key, Millis, PurposeVersion, ScopeKeys,
            Subject, SubjectRef,
        },
        entry::Kind as _,
        node::{Act, Node, NodeConfig, PurposeDraft},
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
        crate::node::open_in_test(&config)
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
            controller: None,
            recipients: None,
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

    /// Records a grant that ends soon, and answers the revision after it.
    async fn grant(node: &Node, subject: &str) -> u64 {
        grant_for(node, subject, 300).await
    }

    async fn grant_for(node: &Node, subject: &str, lasts_ms: i64) -> u64 {
        let [purpose, channel] = ["news", "email"].map(|key| Some(Key::parse(key).unwrap()));
        let change = Change {
            action: Action::Grant,
            scope: ScopeKeys { purpose: purpose.map(Into::into), channel },
            purpose_version: None,
            expires_at: Some(Millis::now().plus_ms(lasts_ms)),
            data_categories: Vec::new(),
        };
        let act = Act {
            subject: Subject::parse(subject).unwrap(),
            actor: Actor::Subject,
            changes: vec![change],
            contact: ContactChange::default(),
            effective_at: None,
            record_only_news: false,
            confirmation_validity_ms: None,
            reported_late: false,
            evidence: Evidence::default(),
            idempotency: None,
        };
        node.record(act).await.unwrap().index + 1
    }

    /// Waits for the next entry, which records the end of a grant.
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
        // More rows than one search takes, of an entry that is not an act.
        let rows = (0..).take(DUE_STEP + 1).map(|at_ms| Row::Due(at_ms, [7; 16], 0).encode());
        node.index.put(rows.map(|row| (row, Some(Vec::new()))).collect()).unwrap();
        for subject in ["user:1", "user:2"] {
            let revision = grant(&node, subject).await;
            expect_expired(&node, revision).await;
        }
        // The rows stay for analysis, and no expiry is recorded twice.
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

    #[tokio::test(flavor = "multi_thread")]
    async fn ends_fill_entries_up_to_their_size_with_one_end_of_a_data_subject_each() {
        const PERSONS: usize = 300;
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path());
        put_catalog(&node).await;
        for number in 0..PERSONS {
            grant_for(&node, &format!("user:{number}"), 3_600_000).await;
        }
        // It replaces the one before: one end is left of the two.
        grant_for(&node, "user:7", 3_600_000).await;
        let head = node.revision();
        let ends = |node: &Node| -> Vec<Vec<SubjectRef>> {
            let bodies = (head..node.revision()).map(|index| node.core.entry(index).unwrap().body);
            let of = |body| match body {
                Body::Expired(expired) => expired.named().to_vec(),
                other => panic!("{other:?}"),
            };
            bodies.map(of).collect()
        };
        let due = node.core.view.due(None, Millis(i64::MAX), usize::MAX).unwrap();
        let unrecorded =
            node.write(move |batch| Ok::<_, WriteError>(batch.expire(&due, false))).await.unwrap();
        assert_eq!((unrecorded.failed.len(), unrecorded.unchanged.len()), (0, 1));
        let entries = ends(&node);
        let all: usize = entries.iter().map(Vec::len).sum();
        assert!(
            entries.len() == 2 && entries[0].len() > 200 && all <= PERSONS,
            "{}",
            entries.len()
        );
        for (index, named) in (head..).zip(&entries) {
            let bytes = node.core.entry_bytes(index).unwrap();
            assert!(bytes.len() <= crate::ledger::ENTRY_BYTES_MAX);
            let distinct: HashSet<_> = named.iter().collect();
            assert_eq!(distinct.len(), named.len());
        }
        let bytes = node.core.entry_bytes(head).unwrap().len();
        assert!(bytes > crate::ledger::ENTRY_BYTES_MAX - 600, "{bytes}: it is full");
    }
}
