//! The data subjects.

use std::collections::BTreeSet;

use super::dice::Dice;

/// A purpose and a channel, by their indexes in the plan.
pub type Cell = (usize, usize);

/// A fictional person, or a device of an unknown person.
pub struct Person {
    /// `namespace:id`.
    pub subject: String,
    /// Whether it is a device.
    pub is_device: bool,
    /// Whether a guardian decides for the person.
    pub is_child: bool,
    /// BCP 47 language.
    pub language: &'static str,
    /// Whether the onboarding is done.
    pub onboarded: bool,
    /// Cells with a grant of the person that no later act ended.
    pub given: BTreeSet<Cell>,
}

const LANGUAGES: [(u64, &str); 8] =
    [(40, "en"), (20, "de"), (4, "de-AT"), (12, "fr"), (8, "es"), (6, "it"), (6, "nl"), (4, "pl")];

const DOMAINS: [&str; 3] = ["example.org", "example.com", "example.net"];

impl Person {
    /// The person at a rank. The same seed and rank give the same person.
    pub fn new(seed: u64, rank: u64) -> Self {
        let mut dice = Dice::new(seed, &format!("person {rank}"));
        let number = 100_000 + rank;
        let kind = dice.below(100);
        let subject = match kind {
            0..80 => format!("user:{number}"),
            80..92 => {
                let domain = dice.pick(&DOMAINS).copied().unwrap_or(DOMAINS[0]);
                format!("email:subscriber-{number}@{domain}")
            }
            _ => format!("device:{:016x}{:016x}", dice.roll(), dice.roll()),
        };
        let is_device = kind >= 92;
        Self {
            subject,
            is_device,
            is_child: !is_device && dice.chance(4),
            language: dice.weighted(&LANGUAGES),
            onboarded: false,
            given: BTreeSet::new(),
        }
    }
}
