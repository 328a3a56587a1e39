//! Rows in memory, not yet on disk.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::index::Row;

/// A value, or that the row is removed.
type Value = Option<Vec<u8>>;

/// Rows by key. Most keys are only looked up: those that are listed alone are kept in order.
#[derive(Debug)]
pub struct Memory {
    is_listed: fn(&[u8]) -> bool,
    listed: BTreeMap<Vec<u8>, Value>,
    others: HashMap<Vec<u8>, Value>,
    /// Bytes that were put. A row that replaced another counts twice.
    bytes: usize,
}

impl Memory {
    pub fn new(is_listed: fn(&[u8]) -> bool) -> Self {
        Self { is_listed, listed: BTreeMap::new(), others: HashMap::new(), bytes: 0 }
    }

    pub fn put(&mut self, rows: Vec<Row>) {
        for (key, value) in rows {
            self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            if (self.is_listed)(&key) {
                self.listed.insert(key, value);
            } else {
                self.others.insert(key, value);
            }
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        if (self.is_listed)(key) { self.listed.get(key) } else { self.others.get(key) }
    }

    pub fn rows(&self) -> usize {
        self.listed.len() + self.others.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All rows in the order of their keys.
    pub fn sorted(&self) -> Vec<(&[u8], Option<&[u8]>)> {
        let rows = self.listed.iter().chain(&self.others);
        let mut rows: Vec<_> =
            rows.map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows
    }

    /// Passes the keys from `from` on, and whether they have a value, to `take`, in order, until it wants no
    /// more or the prefix ends.
    pub fn keys(&self, prefix: &[u8], from: &[u8], take: &mut dyn FnMut(&[u8], bool) -> bool) {
        let is_wanted = |key: &[u8]| key >= from && key.starts_with(prefix);
        let mut take = |(key, value): (&Vec<u8>, &Value)| take(key, value.is_some());
        let mut listed = self.listed.range(from.to_vec()..).take_while(|(key, _)| is_wanted(key));
        // A listed prefix is the prefix of listed keys alone.
        let _is_whole = if !prefix.is_empty() && (self.is_listed)(prefix) {
            listed.all(&mut take)
        } else {
            let others = self.others.iter().filter(|(key, _)| is_wanted(key));
            let mut rows: Vec<_> = listed.chain(others).collect();
            rows.sort_unstable();
            rows.into_iter().all(&mut take)
        };
    }
}
