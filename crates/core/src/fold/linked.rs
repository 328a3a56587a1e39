//! Data subjects that are said to be the same person, and their contributions to each other.
//!
//! A data subject that verified links alone lead to is the same person: all its acts count. One
//! that other links lead to may be the same person: only its stops count. States are maxima of
//! acts, so uniting them is the same as folding all acts together, and needs no replay.

use std::sync::Arc;

use crate::domain::{LinkConfidence, SubjectRef, SubjectState};

/// The greatest number of data subjects that links may connect.
pub const LINKED_SUBJECTS_MAX: usize = 64;

/// A data subject that is linked to another, directly or through others.
#[derive(Debug, Clone)]
pub struct Linked {
    /// The data subject.
    pub subject: SubjectRef,
    /// `Verified` if verified links alone lead there.
    pub confidence: LinkConfidence,
    /// Its own state.
    pub state: Arc<SubjectState>,
}

/// All data subjects that are linked to `subject`, directly or through others: those of verified
/// links first, each group in the order in which links lead there. `alone` is the subject's own
/// state.
///
/// # Errors
/// Those of `state_of`.
pub fn reach<E>(
    subject: SubjectRef,
    alone: &SubjectState,
    mut state_of: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, E>,
) -> Result<Vec<Linked>, E> {
    let mut reached: Vec<Linked> = Vec::new();
    for confidence in [LinkConfidence::Verified, LinkConfidence::Asserted] {
        let mut next = 0;
        loop {
            // The subject itself comes before those that were reached.
            let links = match next {
                0 => alone.links.clone(),
                n => match reached.get(n - 1) {
                    Some(linked) => linked.state.links.clone(),
                    None => break,
                },
            };
            next += 1;
            for link in links {
                let is_known = link.other == subject
                    || reached.iter().any(|linked| linked.subject == link.other);
                let leads_on = confidence == LinkConfidence::Asserted
                    || link.confidence == LinkConfidence::Verified;
                if !is_known && leads_on {
                    let state = state_of(link.other)?;
                    reached.push(Linked { subject: link.other, confidence, state });
                }
            }
        }
    }
    Ok(reached)
}

/// All data subjects that are linked to one of `subjects`, except these: first those of the first,
/// each in the order of [`reach`].
///
/// # Errors
/// Those of `state_of`.
pub fn around<E>(
    subjects: &[SubjectRef],
    mut state_of: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, E>,
) -> Result<Vec<SubjectRef>, E> {
    let mut members: Vec<SubjectRef> = Vec::new();
    for &subject in subjects {
        let state = state_of(subject)?;
        for linked in reach(subject, &state, &mut state_of)? {
            if !subjects.contains(&linked.subject) && !members.contains(&linked.subject) {
                members.push(linked.subject);
            }
        }
    }
    Ok(members)
}

/// A state with the contributions of linked subjects.
#[must_use]
pub fn unite(alone: &SubjectState, linked: &[Linked]) -> SubjectState {
    let mut whole = alone.clone();
    for linked in linked {
        whole.unite(&linked.state, linked.confidence);
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, convert::Infallible};

    use super::*;

    #[test]
    fn verified_links_reach_through_verified_links_alone() {
        use LinkConfidence::{Asserted, Verified};
        let name = |n: u8| SubjectRef([n; 16]);
        let mut states: HashMap<SubjectRef, SubjectState> = HashMap::new();
        let links = [(1, 2, Verified), (2, 3, Verified), (3, 4, Asserted), (4, 5, Verified)];
        for (index, (one, other, confidence)) in (0..).zip(links) {
            for (side, other) in [(one, other), (other, one)] {
                let state = states.entry(name(side)).or_default();
                state.merge_link(name(other), Some(confidence), index);
            }
        }
        let reached = |n: u8| {
            let state_of = |subject| Ok::<_, Infallible>(Arc::new(states[&subject].clone()));
            let mut reached: Vec<_> = reach(name(n), &states[&name(n)], state_of)
                .unwrap()
                .into_iter()
                .map(|linked| (linked.subject.0[0], linked.confidence))
                .collect();
            reached.sort_by_key(|(name, _)| *name);
            reached
        };
        assert_eq!(reached(1), [(2, Verified), (3, Verified), (4, Asserted), (5, Asserted)]);
        assert_eq!(reached(4), [(1, Asserted), (2, Asserted), (3, Asserted), (5, Verified)]);
    }
}
