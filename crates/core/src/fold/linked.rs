//! Data subjects that are said to be the same person, and what they contribute to each other.
//!
//! Who is reached by verified links alone is the same person: all their acts count. Who is reached
//! some other way may be: their stops count, and nothing else does. States are maxima of acts, so
//! uniting them is the same as folding all acts together, and needs no replay.

use std::sync::Arc;

use crate::domain::{LinkConfidence, SubjectRef, SubjectState};

/// The greatest number of data subjects that may hang together.
pub const LINKED_SUBJECTS_MAX: usize = 64;

/// A data subject that is linked to another, directly or through others.
#[derive(Debug, Clone)]
pub struct Linked {
    /// Who.
    pub subject: SubjectRef,
    /// `Verified` if verified links alone lead there.
    pub confidence: LinkConfidence,
    /// Their own state.
    pub state: Arc<SubjectState>,
}

/// All data subjects that hang together with `subject`, except themselves: those of verified links
/// first, each group in the order in which links lead there.
///
/// # Errors
/// Those of `state_of`.
pub fn reach<E>(
    subject: SubjectRef,
    own: &SubjectState,
    mut state_of: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, E>,
) -> Result<Vec<Linked>, E> {
    let mut reached: Vec<Linked> = Vec::new();
    for confidence in [LinkConfidence::Verified, LinkConfidence::Asserted] {
        let mut next = 0;
        loop {
            // The subject itself stands before those that were reached.
            let links = match next {
                0 => own.links.clone(),
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

/// All who hang together with one of some data subjects, except these: those of the first first, each
/// in the order of [`reach`].
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

/// A state with all that linked subjects contribute.
#[must_use]
pub fn unite(own: &SubjectState, linked: &[Linked]) -> SubjectState {
    let mut whole = own.clone();
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
            for (own, other) in [(one, other), (other, one)] {
                let state = states.entry(name(own)).or_default();
                state.merge_link(name(other), Some(confidence), index);
            }
        }
        let reached = |n: u8| {
            let of = |own| Ok::<_, Infallible>(Arc::new(states[&own].clone()));
            let mut reached: Vec<_> = reach(name(n), &states[&name(n)], of)
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
