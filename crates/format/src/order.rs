//! Orders that say nothing: of the persons of a use over its entries, and of the rows of an import.

use std::hash::Hash;

use hashbrown::HashMap;
use rand::{CryptoRng, seq::SliceRandom as _};

use crate::uses::TAGS_MAX;

/// How many rows of an import are mixed with one another.
pub const IMPORT_WINDOW: usize = 10_000;

/// Spreads persons over as many entries as they need, at random.
#[must_use]
pub fn over_entries<T>(mut persons: Vec<T>, rng: &mut impl CryptoRng) -> Vec<Vec<T>> {
    persons.shuffle(rng);
    let mut entries = Vec::with_capacity(persons.len().div_ceil(TAGS_MAX));
    let mut rest = persons.into_iter().peekable();
    while rest.peek().is_some() {
        entries.push(rest.by_ref().take(TAGS_MAX).collect());
    }
    entries
}

/// A random order of rows in which the rows of one person keep theirs. `persons` names the person of each
/// row; the result is the places of the rows. Callers mix [`IMPORT_WINDOW`] rows at a time.
#[must_use]
pub fn of_rows<P: Eq + Hash>(persons: &[P], rng: &mut impl CryptoRng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..persons.len()).collect();
    order.shuffle(rng);
    // The places that a person's rows fell on, ascending, get them in their order.
    let mut places: HashMap<&P, Vec<usize>> = HashMap::new();
    for (place, row) in order.iter().enumerate() {
        places.entry(&persons[*row]).or_default().push(place);
    }
    let mut next: HashMap<&P, usize> = HashMap::new();
    for (row, person) in persons.iter().enumerate() {
        let number = next.entry(person).or_default();
        order[places[person][*number]] = row;
        *number += 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    proptest! {
        #[test]
        fn every_row_comes_once_and_each_persons_in_their_order(
            persons in prop::collection::vec(0u8..9, 0..200), seed: u64,
        ) {
            let order = of_rows(&persons, &mut ChaCha20Rng::seed_from_u64(seed));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..persons.len()).collect::<Vec<_>>());
            for person in 0..9 {
                let rows = order.iter().filter(|row| persons[**row] == person);
                prop_assert!(rows.is_sorted());
            }
        }

        #[test]
        fn every_person_is_in_one_entry(count in 0usize..7_000, seed: u64) {
            let entries = over_entries((0..count).collect(), &mut ChaCha20Rng::seed_from_u64(seed));
            prop_assert!(entries.iter().all(|entry| !entry.is_empty() && entry.len() <= TAGS_MAX));
            let mut all = entries.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_order_of_a_large_import_is_another_one_than_that_of_its_file() {
        let persons: Vec<u32> = (0..1_000).collect();
        let order = of_rows(&persons, &mut ChaCha20Rng::seed_from_u64(1));
        let stayed = order.iter().enumerate().filter(|(place, row)| place == *row).count();
        assert!(stayed < 20, "{stayed} of 1,000 rows stayed at their place");
    }
}
