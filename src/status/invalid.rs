//! Every way in which a request can be wrong.

use std::fmt;

use thiserror::Error;

use crate::{
    domain::{
        EvidenceError, KEY_BYTES_MAX, Key, KeyError, PhoneRegionError, RegionError, SubjectError,
    },
    near::asked,
    node::LikelyCause,
};

/// The maximum page size.
pub const PAGE_SIZE_MAX: i32 = 1_000;

/// A request that is wrong: the field and the problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Path of the field, for example `changes[2].scope.purpose`.
    pub field: String,
    /// The problem of the field.
    pub problem: Problem,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.problem)
    }
}

impl std::error::Error for Invalid {}

/// What can be wrong with a field. The texts follow the field's name and never repeat its value, which
/// may be personal data.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// Missing, or the UNSPECIFIED value of an enum.
    #[error("is required")]
    Required,
    /// A number outside the enum.
    #[error("has the unknown value {0}")]
    UnknownValue(i32),
    /// Not a data subject.
    #[error(transparent)]
    Subject(SubjectError),
    /// The catalogue lacks the namespace of a data subject.
    #[error("has the namespace `{namespace}`, which is not in the catalogue{}", asked(near))]
    UnknownNamespace {
        /// The namespace.
        namespace: Key,
        /// Namespaces that may have been meant.
        near: Vec<String>,
    },
    /// Not a key or data category.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not a key, but for case and spaces.
    #[error("{error}; did you mean `{meant}`?")]
    MisspeltKey {
        /// What is wrong.
        error: KeyError,
        /// The key.
        meant: String,
    },
    /// A key of more than one word, for a channel.
    #[error("must be one word of `a-z`, `0-9`, `_` and `-`")]
    NotOneWord,
    /// Not a namespace.
    #[error("must be letters, digits, `_`, `-` and `.`")]
    Namespace,
    /// An evidence over its limits.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// A list is too long.
    #[error("must have at most {limit} items, got {got}")]
    TooMany {
        /// The limit.
        limit: usize,
        /// The number of items.
        got: usize,
    },
    /// A text is too long.
    #[error("must be at most {limit} bytes, got {got}")]
    TooLong {
        /// The limit.
        limit: usize,
        /// The length.
        got: usize,
    },
    /// A control character.
    #[error("must not contain control characters")]
    ControlCharacter,
    /// Two changes of one act with the same scope.
    #[error("must not cover the same as changes[{first}]")]
    SameScope {
        /// Position of the first of the two.
        first: usize,
    },
    /// `*`, or a class of purposes, in a grant or a question.
    #[error(
        "must be a key: only stops and filters may name a class such as `marketing.*`, and only stops may use `*`"
    )]
    Wildcard,
    /// An item of a list that must not repeat.
    #[error("is given twice")]
    GivenTwice,
    /// Not a recipient of age.
    #[error("must be an X25519 recipient of age, which begins with `age1`")]
    AgeRecipient,
    /// Not an email address.
    #[error("must be an address such as `dpo@example.org`")]
    Email,
    /// Not a web address.
    #[error("must be a URL such as `https://example.org/privacy`")]
    WebUrl,
    /// A field of controllers in another party.
    #[error("is only for controllers")]
    OnlyForControllers,
    /// Not a region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Not a region with a numbering plan.
    #[error(transparent)]
    PhoneRegion(#[from] PhoneRegionError),
    /// A field of namespaces of another kind.
    #[error("is only for namespaces of the kind {0}")]
    OnlyForKind(&'static str),
    /// Not a language tag.
    #[error("must be a BCP 47 language tag such as `de-AT`")]
    Language,
    /// Not a field that can be cleared, or a field that is also set.
    #[error(
        "must name time_zones, language, quiet_hours or frequency_limit, and none that is given"
    )]
    Clear,
    /// A field for acts of guardians.
    #[error("is only for GUARDIAN")]
    OnlyForGuardians,
    /// A field for acts of guardians and agents.
    #[error("is only for GUARDIAN and AGENT")]
    OnlyForRepresentatives,
    /// What only the data subject, or somebody who speaks for it, may take back.
    #[error("is only for SUBJECT, GUARDIAN and AGENT: the data subject asked for it")]
    OnlyForThePerson,
    /// Two fields that exclude each other.
    #[error("can not be combined with {0}")]
    NotWith(&'static str),
    /// A message that is only allowed as the first of a stream.
    #[error("must be the first message, and only the first")]
    OnlyFirst,
    /// A preference of data subjects in a purpose.
    #[error("is a preference of data subjects, not of purposes")]
    NotForPurposes,
    /// An action that only the ledger performs.
    #[error("is written by the ledger alone")]
    LedgerAlone,
    /// A field of grants in a stop.
    #[error("is only for grants")]
    OnlyForGrants,
    /// Not a valid moment.
    #[error("must lie in the years 0001 to 9999, with 0 to 999,999,999 nanoseconds")]
    Timestamp,
    /// A moment beyond the calendar, with its probable cause.
    #[error("must lie in the years 0001 to 9999; it looks like {0}")]
    TimestampOf(LikelyCause),
    /// Not a valid span.
    #[error("must have seconds and nanoseconds of one sign, and fewer than 10^9 nanoseconds")]
    Duration,
    /// A negative span.
    #[error("must not be negative")]
    Negative,
    /// A span with a fraction of a millisecond.
    #[error("must be whole milliseconds")]
    SubMillisecond,
    /// A span, or number, of zero.
    #[error("must be more than 0")]
    Zero,
    /// A span outside its limits.
    #[error("must be {min_ms} to {max_ms} ms, got {got_ms}")]
    SpanOutside {
        /// The shortest.
        min_ms: i64,
        /// The longest.
        max_ms: i64,
        /// The given span.
        got_ms: i64,
    },
    /// A page size over the limit.
    #[error("must be at most {PAGE_SIZE_MAX}, got {0}")]
    PageSize(i32),
    /// Not a token of this list and question.
    #[error("is not a token that this list gave for this question")]
    PageToken,
    /// Not a minute of the day.
    #[error("must be a minute of the day, 0 to 1439, got {0}")]
    Minute(u32),
    /// Quiet hours with equal start and end, which could mean none or all day.
    #[error("must differ from start_minute")]
    EmptySpan,
    /// Not a time zone that the IANA database knows.
    #[error("must be an IANA time zone, for example `Europe/Berlin`, or empty")]
    TimeZone,
    /// A range that ends before it starts.
    #[error("must not be less than start_index")]
    EndBeforeStart,
    /// A range without an index.
    #[error("must be greater than first_index")]
    EndNotAfterFirst,
    /// A second size that is less than the first.
    #[error("must not be less than first_size")]
    SecondBeforeFirst,
}

impl From<SubjectError> for Problem {
    fn from(error: SubjectError) -> Self {
        match error {
            SubjectError::UnknownNamespace(namespace) => {
                Self::UnknownNamespace { namespace, near: Vec::new() }
            }
            other => Self::Subject(other),
        }
    }
}

impl Problem {
    /// The exceeded limit, if the problem is one of size.
    #[must_use]
    pub fn limit(&self) -> Option<i64> {
        let limit = match self {
            Self::Subject(error) => error.limit()?,
            Self::Key(KeyError::TooLong(_)) => KEY_BYTES_MAX,
            Self::Evidence(EvidenceError::TooLong { limit, .. })
            | Self::TooMany { limit, .. }
            | Self::TooLong { limit, .. } => *limit,
            Self::Evidence(EvidenceError::TooManyAttributes(_)) => crate::domain::ATTRIBUTES_MAX,
            Self::PageSize(_) => return Some(i64::from(PAGE_SIZE_MAX)),
            Self::SpanOutside { max_ms, got_ms, .. } if got_ms > max_ms => return Some(*max_ms),
            Self::SpanOutside { min_ms, .. } => return Some(*min_ms),
            _ => return None,
        };
        i64::try_from(limit).ok()
    }

    /// The problem of a field.
    #[must_use]
    pub fn at(self, field: impl Into<String>) -> Invalid {
        Invalid { field: field.into(), problem: self }
    }
}

impl Invalid {
    /// The same problem, with the path extended by an outer message.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}
