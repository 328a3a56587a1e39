//! The cached answers by data subject, and the check that keeps outdated answers out.
//!
//! The server reads an answer at a revision, and it arrives here later. Meanwhile the stream may
//! have delivered an event that changes it. So the latest events are remembered, and an answer is
//! stored only if no event from its revision on may change it, and no such event can have been
//! forgotten. This check and the removal of answers happen under one lock; readers take no lock.

use std::{
    cell::RefCell,
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};

use super::{Question, freshness::millis};
use crate::proto::{CheckResponse, Effect};

/// How many data subjects of the latest events are remembered.
const RECENT_MAX: usize = 4_096;
/// How many answers of one data subject are kept. With one more, the oldest goes.
const CELLS_MAX: usize = 256;
/// How many answers of a data subject are expected, which sizes the tables at first.
const CELLS_EXPECTED: usize = 2;

/// The answers that an event may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About<'a> {
    /// All of these data subjects.
    Subjects(Vec<&'a str>),
    /// All of this purpose.
    Purpose(&'a str),
    /// All of this channel.
    Channel(&'a str),
    /// All.
    Everything,
}

impl<'a> About<'a> {
    pub(super) fn of<const N: usize>(named: [&'a String; N], linked: &'a [String]) -> Self {
        Self::Subjects(named.into_iter().chain(linked).map(String::as_str).collect())
    }
}

/// A cached answer.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) response: Arc<CheckResponse>,
    /// When it ends, by the server's clock.
    pub(super) valid_until_ms: Option<u64>,
}

#[derive(Debug)]
struct Cell {
    purpose: Box<str>,
    channel: Box<str>,
    region: Box<str>,
    data_categories: Box<[String]>,
    found: Found,
}

impl Cell {
    fn answers(&self, question: &Question<'_>) -> bool {
        *self.purpose == *question.purpose
            && *self.channel == *question.channel
            && *self.region == *question.region
            && *self.data_categories == *question.data_categories
    }
}

/// The answers of one data subject, the oldest first.
type Cells = Arc<[Arc<Cell>]>;

/// The weight of a data subject in the cache: its number of answers.
#[derive(Debug, Clone, Copy)]
struct ByAnswers;

impl Weighter<Box<str>, Cells> for ByAnswers {
    fn weight(&self, _: &Box<str>, cells: &Cells) -> u64 {
        cells.len() as u64
    }
}

#[derive(Debug)]
pub(super) struct Store {
    /// By the canonical form, which events name.
    subjects: Cache<Box<str>, Cells, ByAnswers>,
    /// The canonical forms of other spellings, as the server has told them.
    spellings: Cache<Box<str>, Box<str>>,
    recent: Mutex<Recent>,
    hasher: RandomState,
}

/// The latest events, in ledger order.
#[derive(Debug, Default)]
struct Recent {
    /// All events from this index on are here, or still to come; none before the stream's position
    /// is known.
    complete_from: Option<u64>,
    /// Index, and the answers that the event may have changed.
    events: VecDeque<(u64, Turned)>,
    /// How often the cache was emptied. Answers to earlier questions are not stored.
    epoch: u64,
}

/// The answers that an event may have changed; keys by their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turned {
    Subject(u64),
    Purpose(u64),
    Channel(u64),
    Everything,
}

impl Recent {
    fn push(&mut self, index: u64, turned: Turned) {
        self.events.push_back((index, turned));
        if self.events.len() > RECENT_MAX
            && let Some((index, _)) = self.events.pop_front()
        {
            let from = self.complete_from.unwrap_or(0).max(index.saturating_add(1));
            self.complete_from = self.complete_from.map(|_| from);
        }
    }

    /// Whether an answer that was read at a revision is known to be current: no later event is one
    /// of `turned_by`.
    fn may_keep(&self, revision: u64, turned_by: &[Turned; 4]) -> bool {
        let mut later = self.events.iter().rev().take_while(|(index, _)| *index >= revision);
        self.complete_from.is_some_and(|from| revision >= from)
            && later.all(|(_, turned)| !turned_by.contains(turned))
    }
}

impl Store {
    pub(super) fn new(answers_max: usize) -> Self {
        let subjects = answers_max.div_ceil(CELLS_EXPECTED);
        Self {
            subjects: Cache::with_weighter(subjects, answers_max as u64, ByAnswers),
            spellings: Cache::new(subjects),
            recent: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn find(&self, question: &Question<'_>) -> Option<Found> {
        let cells = match self.spellings.get(question.subject) {
            Some(canonical) => self.subjects.get(&*canonical)?,
            None => self.subjects.get(question.subject)?,
        };
        cells.iter().find(|cell| cell.answers(question)).map(|cell| cell.found.clone())
    }

    /// Stores the answer to a question that was sent in an epoch, if it is known to be current.
    pub(super) fn insert(
        &self,
        question: &Question<'_>,
        response: &Arc<CheckResponse>,
        epoch: u64,
    ) {
        let Some(found) = keepable(response) else { return };
        // Empty for a namespace that the server does not know; an event about the catalogue ends that.
        let subject = match response.subject.as_str() {
            "" => question.subject,
            canonical => canonical,
        };
        let recent = self.recent.lock();
        let turned_by = self.turned_by(subject, question);
        if epoch != recent.epoch || !recent.may_keep(response.revision, &turned_by) {
            return;
        }
        let known = self.subjects.get(subject);
        let others = known.iter().flat_map(|cells| cells.iter());
        let others: Vec<_> = others.filter(|cell| !cell.answers(question)).cloned().collect();
        let excess = (others.len() + 1).saturating_sub(CELLS_MAX);
        let cell = Arc::new(Cell {
            purpose: question.purpose.into(),
            channel: question.channel.into(),
            region: question.region.into(),
            data_categories: question.data_categories.into(),
            found,
        });
        let cells = others.into_iter().skip(excess).chain([cell]).collect();
        self.subjects.insert(subject.into(), cells);
        if subject != question.subject {
            self.spellings.insert(question.subject.into(), subject.into());
        }
        drop(recent);
    }

    fn turned_by(&self, subject: &str, question: &Question<'_>) -> [Turned; 4] {
        [
            Turned::Subject(self.hasher.hash_one(subject)),
            Turned::Purpose(self.hasher.hash_one(question.purpose)),
            Turned::Channel(self.hasher.hash_one(question.channel)),
            Turned::Everything,
        ]
    }

    /// Removes the answers that an event may have changed.
    pub(super) fn invalidate(&self, index: u64, about: About<'_>) {
        let mut recent = self.recent.lock();
        match about {
            About::Everything => {
                recent.push(index, Turned::Everything);
                self.subjects.clear();
                self.spellings.clear();
            }
            About::Purpose(key) => {
                recent.push(index, Turned::Purpose(self.hasher.hash_one(key)));
                self.take_out(|cell| *cell.purpose == *key);
            }
            About::Channel(key) => {
                recent.push(index, Turned::Channel(self.hasher.hash_one(key)));
                self.take_out(|cell| *cell.channel == *key);
            }
            About::Subjects(subjects) => {
                for subject in subjects {
                    recent.push(index, Turned::Subject(self.hasher.hash_one(subject)));
                    self.subjects.remove(subject);
                }
            }
        }
    }

    /// Removes some answers of all data subjects. The caller holds the lock.
    fn take_out(&self, is_turned: impl Fn(&Cell) -> bool) {
        let left = RefCell::new(Vec::new());
        // Data subjects with such answers are removed as a whole first; then their other answers
        // are put back.
        self.subjects.retain(|subject, cells| {
            if !cells.iter().any(|cell| is_turned(cell)) {
                return true;
            }
            let rest: Cells = cells.iter().filter(|cell| !is_turned(cell)).cloned().collect();
            if !rest.is_empty() {
                left.borrow_mut().push((subject.clone(), rest));
            }
            false
        });
        for (subject, rest) in left.into_inner() {
            self.subjects.insert(subject, rest);
        }
    }

    /// The stream has delivered every event before `next_index`, or begins there.
    pub(super) fn reached(&self, next_index: u64) {
        self.recent.lock().complete_from.get_or_insert(next_index);
    }

    /// Empties the cache: an epoch begins.
    pub(super) fn forget(&self, epoch: u64) {
        let mut recent = self.recent.lock();
        *recent = Recent { epoch, ..Recent::default() };
        self.subjects.clear();
        self.spellings.clear();
    }
}

/// The answer as it is stored; none if it holds only at its moment.
fn keepable(response: &Arc<CheckResponse>) -> Option<Found> {
    let is_of_the_moment = !response.obligations.is_empty()
        || response.effect() == Effect::NotNow
        || response.not_before.is_some()
        || response.indeterminate
        || !response.token.is_empty();
    let valid_until_ms = match &response.valid_until {
        Some(time) => Some(millis(time)?),
        None => None,
    };
    (!is_of_the_moment).then(|| Found { response: Arc::clone(response), valid_until_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Obligation;

    const QUESTION: Question<'_> = Question {
        subject: "user:1",
        purpose: "ads",
        channel: "email",
        data_categories: &[],
        region: "",
    };

    fn answer(revision: u64) -> Arc<CheckResponse> {
        Arc::new(CheckResponse { revision, ..CheckResponse::default() })
    }

    fn store_from(index: u64) -> Store {
        let store = Store::new(100);
        store.reached(index);
        store
    }

    fn about(subject: &str) -> About<'_> {
        About::Subjects(vec![subject])
    }

    #[test]
    fn an_answer_is_found_by_all_of_its_question() {
        let store = store_from(5);
        store.insert(&QUESTION, &answer(5), 0);
        assert!(store.find(&QUESTION).is_some());
        let categories = ["user.contact".to_owned()];
        for other in [
            Question { subject: "user:2", ..QUESTION },
            Question { purpose: "news", ..QUESTION },
            Question { channel: "sms", ..QUESTION },
            Question { region: "DE", ..QUESTION },
            Question { data_categories: &categories, ..QUESTION },
        ] {
            assert!(store.find(&other).is_none(), "{other:?}");
            store.insert(&other, &answer(5), 0);
            assert!(store.find(&other).is_some(), "{other:?}");
        }
        assert!(store.find(&QUESTION).is_some());
    }

    #[test]
    fn an_answer_from_before_everything_was_forgotten_stays_out() {
        let store = store_from(5);
        store.forget(1);
        store.reached(5);
        store.insert(&QUESTION, &answer(5), 0);
        assert!(store.find(&QUESTION).is_none());
        store.insert(&QUESTION, &answer(5), 1);
        assert!(store.find(&QUESTION).is_some());
    }

    #[test]
    fn an_event_takes_out_whom_it_is_about() {
        let store = store_from(5);
        let other = Question { subject: "user:2", ..QUESTION };
        store.insert(&QUESTION, &answer(5), 0);
        store.insert(&other, &answer(5), 0);
        store.invalidate(5, about("user:1"));
        assert!(store.find(&QUESTION).is_none() && store.find(&other).is_some());
        store.invalidate(6, About::Everything);
        assert!(store.find(&other).is_none());
    }

    #[test]
    fn an_answer_that_an_event_has_overtaken_stays_out() {
        let store = store_from(5);
        store.invalidate(7, about("user:1"));
        store.insert(&QUESTION, &answer(7), 0);
        assert!(store.find(&QUESTION).is_none(), "read before the event");
        store.insert(&QUESTION, &answer(8), 0);
        assert!(store.find(&QUESTION).is_some(), "read after it");
        let other = Question { subject: "user:2", ..QUESTION };
        store.insert(&other, &answer(6), 0);
        assert!(store.find(&other).is_some(), "it is about somebody else");
        store.invalidate(9, About::Everything);
        store.insert(&other, &answer(9), 0);
        assert!(store.find(&other).is_none());
    }

    #[test]
    fn an_answer_from_before_what_is_remembered_stays_out() {
        let store = Store::new(100);
        store.insert(&QUESTION, &answer(5), 0);
        assert!(store.find(&QUESTION).is_none(), "the stream's place is not known");
        store.reached(6);
        store.insert(&QUESTION, &answer(5), 0);
        assert!(store.find(&QUESTION).is_none(), "the stream began later");
        for index in 0..=RECENT_MAX as u64 {
            store.invalidate(6 + index, about("user:2"));
        }
        store.insert(&QUESTION, &answer(6), 0);
        assert!(store.find(&QUESTION).is_none(), "6 is forgotten");
        store.insert(&QUESTION, &answer(7), 0);
        assert!(store.find(&QUESTION).is_some());
    }

    #[test]
    fn answers_of_the_moment_are_not_kept() {
        let store = store_from(0);
        let with = |change: &dyn Fn(&mut CheckResponse)| {
            let mut response = CheckResponse::default();
            change(&mut response);
            Arc::new(response)
        };
        for response in [
            with(&|response| response.obligations.push(Obligation::default())),
            with(&|response| response.not_before = Some(prost_types::Timestamp::default())),
            with(&|response| response.indeterminate = true),
            with(&|response| response.token.push('t')),
        ] {
            store.insert(&QUESTION, &response, 0);
            assert!(store.find(&QUESTION).is_none(), "{response:?}");
        }
        let valid_until = Some(prost_types::Timestamp { seconds: 2, nanos: 5_000_000 });
        store.insert(&QUESTION, &with(&|response| response.valid_until = valid_until), 0);
        assert_eq!(store.find(&QUESTION).unwrap().valid_until_ms, Some(2_005));
    }

    #[test]
    fn an_event_of_the_catalogue_takes_out_what_it_is_about() {
        let store = store_from(5);
        let news = Question { purpose: "news", ..QUESTION };
        let sms = Question { channel: "sms", subject: "user:2", ..QUESTION };
        for question in [&QUESTION, &news, &sms] {
            store.insert(question, &answer(5), 0);
        }
        let found = || [&QUESTION, &news, &sms].map(|question| store.find(question).is_some());
        store.invalidate(7, About::Purpose("ads"));
        assert_eq!(found(), [false, true, false]);
        for question in [&QUESTION, &news, &sms] {
            store.insert(question, &answer(7), 0);
        }
        assert_eq!(found(), [false, true, false], "read before the event");
        for question in [&QUESTION, &sms] {
            store.insert(question, &answer(8), 0);
        }
        store.invalidate(9, About::Channel("email"));
        assert_eq!(found(), [false, false, true]);
        store.insert(&news, &answer(9), 0);
        assert_eq!(found(), [false, false, true], "read before the event");
    }

    #[test]
    fn the_answers_of_one_data_subject_are_bounded_and_the_oldest_goes() {
        let store = Store::new(100 * CELLS_MAX);
        store.reached(0);
        let purposes: Vec<String> = (0..=CELLS_MAX).map(|number| format!("p{number}")).collect();
        for purpose in &purposes {
            store.insert(&Question { purpose, ..QUESTION }, &answer(0), 0);
        }
        assert_eq!(store.subjects.get("user:1").unwrap().len(), CELLS_MAX);
        let is_found = |purpose| store.find(&Question { purpose, ..QUESTION }).is_some();
        assert!(!is_found("p0") && is_found("p1") && is_found(&purposes[CELLS_MAX]));
    }

    #[test]
    fn all_answers_together_are_bounded() {
        const ANSWERS_MAX: usize = 1_000;
        let store = Store::new(ANSWERS_MAX);
        store.reached(0);
        for number in 0..1_000 {
            let subject = format!("user:{number}");
            for purpose in ["a", "b", "c"] {
                let question = Question { subject: &subject, purpose, ..QUESTION };
                store.insert(&question, &answer(0), 0);
            }
        }
        let kept: usize = store.subjects.iter().map(|(_, cells)| cells.len()).sum();
        assert!(kept <= ANSWERS_MAX && kept > ANSWERS_MAX / 2, "{kept}");
    }
}
