//! Audiences: questions, verdicts and summaries.

use crate::{
    domain::{Reason, Subject},
    node::{Audience, AudienceQuery, UseBatch},
    proto,
};

use super::{
    Invalid, Problem,
    act::name,
    scalar::{at_most, check_data_categories, key, region},
};

/// The greatest number of data subjects in one message of an audience.
pub const AUDIENCE_SUBJECTS_MAX: usize = 10_000;

/// The question about an audience, and how to answer it.
#[derive(Debug)]
pub struct Filtering {
    /// The question for every data subject.
    pub query: AudienceQuery,
    /// The least revision.
    pub at_least_revision: Option<u64>,
    /// Whether to answer with bits.
    pub packed: bool,
    /// The names under which uses of allowed data subjects are recorded, if the caller wants that.
    pub record_as: Option<UseNames>,
}

/// The names under which uses are recorded.
#[derive(Debug, Clone)]
pub struct UseNames {
    /// Name of the segment.
    pub segment: String,
    /// Name of the campaign; empty if there is none.
    pub campaign: String,
}

/// The question about an audience.
///
/// # Errors
/// The first field that is wrong, as a path from `query` on.
pub fn filtering(query: proto::AudienceQuery) -> Result<Filtering, Invalid> {
    parse(query).map_err(|invalid| invalid.within("query"))
}

fn parse(query: proto::AudienceQuery) -> Result<Filtering, Invalid> {
    let purpose = key(&query.purpose, "purpose")?;
    let channel = key(&query.channel, "channel")?;
    check_data_categories(&query.data_categories)?;
    let region = region(&query.region, "region")?;
    let names = UseNames {
        segment: name(query.segment, "segment")?,
        campaign: name(query.campaign, "campaign")?,
    };
    if query.record_use && names.segment.is_empty() {
        return Err(Problem::Required.at("segment"));
    }
    let data_categories = query.data_categories;
    Ok(Filtering {
        query: AudienceQuery {
            purpose,
            channel,
            data_categories,
            region,
            ignore_obligations: query.ignore_obligations,
        },
        at_least_revision: query.at_least_revision,
        packed: query.packed,
        record_as: query.record_use.then_some(names),
    })
}

/// The data subjects of one message.
///
/// # Errors
/// There are too many.
pub fn audience_subjects(message: proto::AudienceSubjects) -> Result<Vec<String>, Invalid> {
    at_most(message.subjects.len(), AUDIENCE_SUBJECTS_MAX, "subjects.subjects")?;
    Ok(message.subjects)
}

/// That an audience has not let too many persons through.
///
/// # Errors
/// There are too many.
pub fn audience_persons(persons: usize, limit: usize) -> Result<(), Invalid> {
    at_most(persons, limit, "subjects")
}

impl UseNames {
    /// The uses of data subjects that an audience allowed.
    #[must_use]
    pub fn uses(&self, audience: &Audience, subjects: Vec<Subject>) -> UseBatch {
        let query = audience.query().clone();
        UseBatch {
            subjects,
            purpose: query.purpose,
            channel: query.channel,
            data_categories: query.data_categories,
            region: query.region,
            ignore_obligations: query.ignore_obligations,
            segment: self.segment.clone(),
            campaign: self.campaign.clone(),
        }
    }
}

/// One bit a verdict, the lowest bit of the first byte first.
#[must_use]
pub fn packed(verdicts: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| {
        bits.iter().enumerate().fold(0, |byte, (bit, is_set)| byte | u8::from(*is_set) << bit)
    };
    verdicts.chunks(8).map(byte).collect()
}

/// How many decisions had a reason, in the order of the protocol's numbers.
#[must_use]
pub fn reason_counts(counts: &[u64; Reason::ALL.len()]) -> Vec<proto::ReasonCount> {
    let count = |(reason, count): (Reason, &u64)| proto::ReasonCount {
        reason: proto::Reason::from(reason).into(),
        count: *count,
    };
    let mut counted: Vec<_> =
        Reason::ALL.into_iter().zip(counts).filter(|(_, n)| **n > 0).map(count).collect();
    counted.sort_by_key(|count| count.reason);
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_verdict_is_the_lowest_bit_of_the_first_byte() {
        assert_eq!(packed(&[]), [0_u8; 0]);
        assert_eq!(packed(&[true]), [1]);
        assert_eq!(packed(&[false, true, false, false, false, false, false, true]), [0x82]);
        let nine = [true, false, false, false, false, false, false, false, true];
        assert_eq!(packed(&nine), [1, 1]);
    }
}
