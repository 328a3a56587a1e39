//! The decisions of this node on every cell that an entry touched, as of that entry, for a range of
//! entries. An auditor compares them with the decisions that follow from the entries alone.
//!
//! If a data subject did not change after the entry, the decision comes from the state that checks
//! read, so that this state is audited. Else it comes from the subject's entries, as every answer
//! about the past does. A state that was read once is kept and folded along the range instead of
//! read again, within a memory limit.

use std::{collections::VecDeque, sync::Arc};

use hashbrown::HashMap;

use super::{Core, Node, error::ReadError, past::Past};
use crate::{
    domain::{Entry, SubjectRef, SubjectState},
    entry::Target,
    fold::{self, Answers, CatalogAt, CellDecision, reach, unite},
};

/// The greatest number of decisions in a page.
pub const PAGE_DECISIONS_MAX: usize = 1_000;
/// The greatest number of entries that are read for a page.
pub const PAGE_ENTRIES_MAX: usize = 1_000;
/// Memory limit of the kept states, about.
const STATES_BYTES_MAX: usize = 64 << 20;
/// Memory that a kept state takes besides itself: its place in the table, and reference counts.
const STATE_OVERHEAD_BYTES: usize = 64;

/// The decisions of a range of entries, page by page.
#[derive(Debug)]
pub struct Decisions {
    core: Arc<Core>,
    next_index: u64,
    end: u64,
    /// As of the last entry that was folded.
    catalog: Arc<CatalogAt>,
    states: KeptStates,
    /// Entries that are read but not folded yet.
    unfolded: VecDeque<(u64, Vec<u8>)>,
    /// Answers of the last folded entry that are on no page yet.
    rest: Option<Answers>,
}

/// States of data subjects as of the last entry that was folded.
#[derive(Debug)]
struct KeptStates {
    states: HashMap<SubjectRef, Arc<SubjectState>>,
    bytes: usize,
    bytes_max: usize,
}

impl Node {
    /// Begins to answer for the entries from `start` on, before `end` or, if that is not given, the
    /// head. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] for a start or an end beyond the head, or
    /// [`ReadError::StateUnreadable`].
    pub fn decisions(&self, start: u64, end: Option<u64>) -> Result<Decisions, ReadError> {
        let head = self.core.view.applied();
        // An end beyond the head must fail: a shorter answer would look complete.
        let end = end.unwrap_or(head.max(start));
        if end > head {
            return Err(ReadError::IndexOutOfRange { index: end, head });
        }
        Ok(Decisions {
            core: Arc::clone(&self.core),
            next_index: start,
            end,
            catalog: self.core.catalog_at(start)?,
            states: KeptStates::within(STATES_BYTES_MAX),
            unfolded: VecDeque::new(),
            rest: None,
        })
    }
}

impl Decisions {
    /// The next page of decisions, which may be empty; none after the last. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn next_page(&mut self) -> Result<Option<Vec<CellDecision>>, ReadError> {
        let mut page = Vec::new();
        for _ in 0..PAGE_ENTRIES_MAX {
            if let Some(rest) = &mut self.rest {
                page.extend(rest.take(PAGE_DECISIONS_MAX - page.len()));
                if page.len() == PAGE_DECISIONS_MAX {
                    return Ok(Some(page));
                }
            }
            let Some(entry) = self.next_entry()? else {
                self.rest = None;
                return Ok(Some(page).filter(|page| !page.is_empty()));
            };
            self.rest = Some(self.fold(&entry)?);
        }
        Ok(Some(page))
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        if self.next_index >= self.end {
            return Ok(None);
        }
        if self.unfolded.is_empty() {
            self.unfolded = self.core.entries(self.next_index, self.end)?.into();
        }
        // A gap must never look like an end.
        let wanted = self.next_index;
        let bytes = self.unfolded.pop_front().filter(|(index, _)| *index == wanted);
        let (_, bytes) = bytes
            .ok_or_else(|| ReadError::StateUnreadable(format!("entry {wanted} is missing")))?;
        self.next_index += 1;
        Ok(Some(self.core.opener.entry(&bytes)?))
    }

    /// Folds an entry into the catalogue and the kept states, and answers for the cells it touches.
    fn fold(&mut self, entry: &Entry) -> Result<Answers, ReadError> {
        if let Target::Catalog(_) = entry.body.kind().target() {
            Arc::make_mut(&mut self.catalog).fold(entry.fact());
        }
        self.states.fold(&self.catalog, entry)?;
        let end = entry.index.saturating_add(1);
        let catalog = Arc::clone(&self.catalog);
        let past = Past { catalog, end, until: None, now: entry.recorded_at };
        Answers::of(entry.fact(), &self.catalog, |subject| {
            let state = self.states.at(&self.core, subject, &past)?;
            let linked = reach(subject, &state, |other| self.states.at(&self.core, other, &past))?;
            Ok(if linked.is_empty() { state } else { Arc::new(unite(&state, &linked)) })
        })
    }
}

impl KeptStates {
    fn within(bytes_max: usize) -> Self {
        Self { states: HashMap::new(), bytes: 0, bytes_max }
    }

    /// The state of a data subject at a revision, without linked subjects.
    fn at(
        &mut self,
        core: &Core,
        subject: SubjectRef,
        past: &Past,
    ) -> Result<Arc<SubjectState>, ReadError> {
        let current = core.view.state(subject)?;
        if current.revision <= past.end {
            self.remove(subject);
            return Ok(current);
        }
        if let Some(state) = self.states.get(&subject) {
            let catalog = &past.catalog.catalog;
            return Ok(fold::corrected(catalog, Arc::clone(state), past.end));
        }
        let state = Arc::new(core.unlinked_state_at(subject, past)?);
        self.insert(subject, Arc::clone(&state));
        Ok(state)
    }

    /// Folds an entry into the kept states of its data subjects.
    fn fold(&mut self, catalog: &CatalogAt, entry: &Entry) -> Result<(), ReadError> {
        let Target::Subjects(target) = entry.body.kind().target() else { return Ok(()) };
        for subject in target.named() {
            let Some(mut state) = self.remove(subject) else { continue };
            let folded = Arc::make_mut(&mut state);
            fold::subject(&catalog.catalog, folded, subject, entry.fact())?;
            self.insert(subject, state);
        }
        Ok(())
    }

    fn insert(&mut self, subject: SubjectRef, state: Arc<SubjectState>) {
        let bytes = STATE_OVERHEAD_BYTES + state.memory_bytes();
        if self.bytes + bytes > self.bytes_max {
            // A state that is needed again is read again.
            *self = Self::within(self.bytes_max);
        }
        self.bytes += bytes;
        self.states.insert(subject, state);
    }

    fn remove(&mut self, subject: SubjectRef) -> Option<Arc<SubjectState>> {
        let state = self.states.remove(&subject)?;
        self.bytes -= STATE_OVERHEAD_BYTES + state.memory_bytes();
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::ServeConfig,
        domain::{
            Action, Actor, Change, ChannelPut, ContactChange, Evidence, Key, LegalBasis,
            LinkConfidence, PurposeVersion, Reason, ScopeKeys, Subject,
        },
        node::{Act, Linking, NodeConfig, PurposeDraft},
        vault::Kek,
    };

    /// Together they have more cells than fit on a page.
    const PURPOSES: usize = 40;
    const CHANNELS: usize = 30;

    fn open(dir: &std::path::Path) -> Arc<Node> {
        let config = NodeConfig {
            data_dir: dir.to_owned(),
            kek: Some(Kek::parse(&"5a".repeat(32)).unwrap()),
            scrub_bytes_per_second: 0,
            ..ServeConfig::default().node
        };
        crate::node::open_in_test(&config)
    }

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    async fn put_catalog(node: &Node) {
        for n in 0..CHANNELS {
            let key = key(&format!("channel-{n}"));
            let put = ChannelPut { key, title: String::new(), retired: false };
            node.put_channel(put).await.unwrap();
        }
        for n in 0..PURPOSES {
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
                key: key(&format!("purpose-{n}")),
                content,
                oldest_compatible: None,
                requires_reconsent: false,
                retired: false,
            };
            node.put_purpose(draft).await.unwrap();
        }
    }

    async fn record(node: &Node, subject: usize, action: Action, cell: Option<(usize, usize)>) {
        let keys = cell.map(|(purpose, channel)| {
            (key(&format!("purpose-{purpose}")), key(&format!("channel-{channel}")))
        });
        let (purpose, channel) = keys.unzip();
        let change = Change {
            action,
            scope: ScopeKeys { purpose: purpose.map(Into::into), channel },
            purpose_version: None,
            expires_at: None,
            data_categories: Vec::new(),
        };
        let act = Act {
            subject: Subject::parse(&format!("user:{subject}")).unwrap(),
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
        node.record(act).await.unwrap();
    }

    fn all(mut decisions: Decisions) -> Vec<CellDecision> {
        let mut all = Vec::new();
        while let Some(page) = decisions.next_page().unwrap() {
            assert!(page.len() <= PAGE_DECISIONS_MAX);
            all.extend(page);
        }
        assert!(decisions.next_page().unwrap().is_none());
        all
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn pages_and_memory_change_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path());
        put_catalog(&node).await;
        for round in 0..3 {
            for subject in 0..4 {
                record(&node, subject, Action::Grant, Some((round, subject))).await;
            }
            let linking = Linking {
                subject: Subject::parse("user:0").unwrap(),
                other: Subject::parse(&format!("user:{}", round + 1)).unwrap(),
                confidence: Some(LinkConfidence::Verified),
                asserted_by: "test".to_owned(),
                dry_run: false,
            };
            node.link(linking).await.unwrap();
            record(&node, round, Action::Withdraw, None).await;
        }
        let want = all(node.decisions(0, None).unwrap());
        // Three withdrawals, and three links of two.
        assert_eq!(want.len(), 12 + (3 + 6) * PURPOSES * CHANNELS);
        let mut without_memory = node.decisions(0, None).unwrap();
        without_memory.states = KeptStates::within(0);
        assert!(all(without_memory) == want);

        // Each is the same as a check of the past.
        let is_of_a_granted_key = |decision: &&CellDecision| {
            let ends =
                |key: &Key| ["-0", "-1", "-2", "-3"].iter().any(|n| key.as_str().ends_with(n));
            ends(&decision.purpose) && ends(&decision.channel)
        };
        for decision in want.iter().filter(is_of_a_granted_key) {
            let past = node.core.past(crate::node::AsOf::Revision(decision.index + 1)).unwrap();
            let (state, _) = node.core.state_at(decision.subject, &past).unwrap();
            let catalog = &past.catalog.catalog;
            let (purpose, channel) = (decision.purpose.as_str(), decision.channel.as_str());
            let query = crate::domain::Query::new(catalog, purpose, channel, &[], None);
            let checked = crate::decide::decide(catalog, &state, &query, past.now);
            assert_eq!(checked.reason, decision.reason);
            assert_eq!(checked.decided_by, decision.decided_by);
        }
        assert!(want.iter().any(|decision| decision.reason == Reason::Granted));

        let head = node.revision();
        for start in [1, head / 2, head - 1, head] {
            let rest: Vec<_> =
                want.iter().filter(|decision| decision.index >= start).cloned().collect();
            assert!(all(node.decisions(start, None).unwrap()) == rest, "from {start}");
        }
        assert!(matches!(
            node.decisions(head + 1, None),
            Err(ReadError::IndexOutOfRange { index, .. }) if index == head + 1
        ));
    }
}
