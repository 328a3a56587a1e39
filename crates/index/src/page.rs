//! Pages of rows in key order.
//!
//! ```text
//! row   bytes shared with the key before | length of the rest | rest
//!       | 0 for a removed row, else 1 + length of the value | value
//! ```
//!
//! The numbers are those of `code`. A page is decoded whole.

use crate::code::{Reader, put_bytes, put_number, shared};

/// Builds a page.
#[derive(Debug, Default)]
pub struct PageBuilder {
    bytes: Vec<u8>,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl PageBuilder {
    /// Appends a row, whose key is greater than those before.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        if self.bytes.is_empty() {
            self.first = key.to_vec();
        }
        let common = shared(&self.last, key);
        put_number(common as u64, &mut self.bytes);
        put_bytes(&key[common..], &mut self.bytes);
        put_number(value.map_or(0, |value| 1 + value.len() as u64), &mut self.bytes);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The first key and the page; the builder is empty again.
    pub fn finish(&mut self) -> (Vec<u8>, Vec<u8>) {
        self.last.clear();
        (std::mem::take(&mut self.first), std::mem::take(&mut self.bytes))
    }
}

/// A decoded page.
#[derive(Debug)]
pub struct Page {
    /// Keys and values, one after the other.
    bytes: Box<[u8]>,
    rows: Box<[At]>,
}

#[derive(Debug, Clone, Copy)]
struct At {
    key: u32,
    value: u32,
    end: u32,
    is_removed: bool,
}

impl Page {
    /// None if the bytes are no page.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (mut out, mut rows) = (Vec::with_capacity(2 * bytes.len()), Vec::new());
        let mut before = 0..0;
        while !reader.is_at_end() {
            let common = reader.length().filter(|common| *common <= before.len())?;
            let key = out.len();
            out.extend_from_within(before.start..before.start + common);
            out.extend_from_slice(reader.bytes()?);
            let value = out.len();
            before = key..value;
            let length = reader.length()?;
            out.extend_from_slice(reader.take(length.saturating_sub(1))?);
            let at = |place: usize| u32::try_from(place).ok();
            rows.push(At {
                key: at(key)?,
                value: at(value)?,
                end: at(out.len())?,
                is_removed: length == 0,
            });
        }
        Some(Self { bytes: out.into(), rows: rows.into() })
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Memory that it takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.rows.len() * size_of::<At>()
    }

    /// A row by its number: its key, and its value unless it is removed.
    pub fn row(&self, number: usize) -> Option<(&[u8], Option<&[u8]>)> {
        let at = self.rows.get(number)?;
        let value = &self.bytes[at.value as usize..at.end as usize];
        Some((self.key(at), (!at.is_removed).then_some(value)))
    }

    /// The number of the first row whose key is not less.
    pub fn position(&self, key: &[u8]) -> usize {
        self.rows.partition_point(|at| self.key(at) < key)
    }

    fn key(&self, at: &At) -> &[u8] {
        &self.bytes[at.key as usize..at.value as usize]
    }
}
