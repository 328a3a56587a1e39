//! Reproducible pseudo-random numbers: a BLAKE3 output stream.

/// A generator of pseudo-random numbers.
pub struct Dice(blake3::OutputReader);

impl Dice {
    /// The generator of a seed. `purpose` separates generators with the same seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_be_bytes());
        hasher.update(purpose.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// A number below `end`, which is not 0. The bias is below 2^-40 for the ranges in use.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// A number from `first` to `last`.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True with a probability of `percent`.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A random item; none of an empty slice.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        let index = self.below(count.max(1));
        items.get(usize::try_from(index).unwrap_or(usize::MAX))
    }

    /// A random item by weight. The sum of the weights is not 0.
    pub fn weighted<T: Copy>(&mut self, items: &[(u64, T)]) -> T {
        let total = items.iter().map(|(weight, _)| weight).sum();
        let mut remainder = self.below(total);
        for (weight, item) in items {
            match remainder.checked_sub(*weight) {
                Some(rest) => remainder = rest,
                None => return *item,
            }
        }
        items[items.len() - 1].1
    }
}

/// Zipf's law over `1..=count`: rank k has a weight of 1/k. Integer arithmetic, because floating-point
/// results differ between machines.
pub struct Zipf {
    /// Cumulative weights.
    sums: Vec<u64>,
}

impl Zipf {
    /// The distribution of `count` ranks, at least one.
    pub fn new(count: u64) -> Self {
        let mut sum = 0;
        let sums = (1..=count.max(1)).map(|rank| {
            sum += (1_u64 << 40) / rank;
            sum
        });
        Self { sums: sums.collect() }
    }

    /// A random rank, counted from 0.
    pub fn draw(&self, dice: &mut Dice) -> u64 {
        let total = self.sums[self.sums.len() - 1];
        let point = dice.below(total);
        let rank = self.sums.partition_point(|sum| *sum <= point);
        u64::try_from(rank).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut dice = Dice::new(1, "test");
        let rolls = [dice.below(1_000), dice.below(1_000), dice.below(1_000)];
        let mut again = Dice::new(1, "test");
        assert_eq!(rolls, [again.below(1_000), again.below(1_000), again.below(1_000)]);
        assert_ne!(Dice::new(1, "test").roll(), Dice::new(1, "other").roll());
        assert_ne!(Dice::new(1, "test").roll(), Dice::new(2, "test").roll());
    }

    #[test]
    fn the_first_rank_comes_twice_as_often_as_the_second() {
        let zipf = Zipf::new(100);
        let mut dice = Dice::new(1, "zipf");
        let mut counts = [0_u32; 100];
        for _ in 0..100_000 {
            counts[usize::try_from(zipf.draw(&mut dice)).unwrap()] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        assert!(counts[99] > 0);
    }
}
