//! Uses: which persons' data was used, each by a tag of lane 1.
//!
//! The tags of an entry are sorted, and random ones fill them up to a multiple of eight, so that neither the
//! order in which a caller named the persons nor their exact number is in clear.

use consent_ledger_proto::ledger::Use;
use rand::CryptoRng;

use crate::{
    LedgerId, Tag,
    confidential::seal_use,
    entry::Uses,
    error::BuildError,
    field::within,
    keys::{ledger::ConfidentialRoot, person::PersonKeys},
    secret::random,
};

/// The number of tags in an entry is a multiple of this.
pub const TAGS_STEP: usize = 8;
/// The greatest number of tags in an entry. With the largest shared part, they fit in an entry.
pub const TAGS_MAX: usize = 2_000;

/// A person whose data was used, and how many tags of lane 1 it had before.
pub type User<'a> = (&'a PersonKeys, u64);

/// Seals the uses of one entry. `used.random_tags` is filled in.
///
/// # Errors
/// No person, more than [`TAGS_MAX`], one person twice, or a field that the format does not allow: see
/// [`BuildError`].
pub fn seal_uses(
    root: &ConfidentialRoot,
    ledger_id: LedgerId,
    index: u64,
    users: &[User<'_>],
    used: &Use,
    rng: &mut impl CryptoRng,
) -> Result<Uses, BuildError> {
    within("uses.tags", users.len() as u64, 1, TAGS_MAX as u64)?;
    let mut tags = Vec::with_capacity(users.len().next_multiple_of(TAGS_STEP));
    for (keys, number) in users {
        tags.push(keys.use_tag(*number).ok_or(BuildError::NoLeaf(*number))?);
    }
    tags.sort_unstable();
    if !tags.is_sorted_by(|one, next| one < next) {
        return Err(BuildError::SameTag);
    }
    let mut random_tags = 0;
    while tags.len() % TAGS_STEP != 0 {
        let tag: Tag = random(rng);
        // Two equal ones among 2^128 would mean a broken generator; another is drawn.
        if let Err(place) = tags.binary_search(&tag) {
            tags.insert(place, tag);
            random_tags += 1;
        }
    }
    let used = Use { random_tags, ..used.clone() };
    Ok(Uses { tags, shared: seal_use(root, ledger_id, index, &used, rng)? })
}
