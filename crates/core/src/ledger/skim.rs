//! The head of an entry, without decoding the entry, for following a chain.
//!
//! Decoding an entry costs about as much as hashing it. This reader walks the same bytes, makes the
//! checks of [`envelope::decode`](super::envelope::decode), and allocates nothing. It knows only
//! acts of consent, which are almost all entries of a ledger, and only as this program writes them:
//! fields in order, each once. Anything else is a [`Doubt`], after which the caller decodes the
//! entry. So it must never accept an entry that the decoder refuses, and need not be extended for
//! new kinds.

use super::chain::Claim;
use crate::domain::{Key, Millis};

/// Input that this reader leaves to the decoder.
struct Doubt;

type Sure<T> = Result<T, Doubt>;

/// The claim of an entry. None in doubt; otherwise the bytes decode to an act of consent.
pub(super) fn skim(entry_bytes: &[u8]) -> Option<Claim> {
    entry(entry_bytes).ok()
}

fn entry(bytes: &[u8]) -> Sure<Claim> {
    let (mut index, mut prev_hash, mut recorded_at, mut has_body) = (0, None, 0, false);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(0)? {
        match field {
            1 => index = value.number()?,
            2 => prev_hash = Some(value.fixed()?),
            3 => recorded_at = value.number()?,
            11 => {
                act(value.bytes()?)?;
                has_body = true;
            }
            _ => return Err(Doubt),
        }
    }
    let prev_hash = prev_hash.ok_or(Doubt)?;
    sure(has_body)?;
    let recorded_at = Millis(recorded_at.cast_signed());
    Ok(Claim { index, prev_hash, recorded_at, may_go_back: false })
}

fn act(bytes: &[u8]) -> Sure<()> {
    let (mut subject, mut actor, mut changes) = (false, false, false);
    let (mut key_hash, mut digest) = (false, false);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(4)? {
        match field {
            1 => subject = value.fixed::<16>().is_ok(),
            2 => actor = (1..=6).contains(&value.number()?),
            3 | 8 => drop(value.number()?),
            4 => {
                change(value.bytes()?)?;
                changes = true;
            }
            5 => sealed(value.bytes()?)?,
            6 => key_hash = value.fixed::<32>().map(|_| true)?,
            7 => digest = value.fixed::<32>().map(|_| true)?,
            9 => confirmation(value.bytes()?)?,
            _ => return Err(Doubt),
        }
    }
    sure(subject && actor && changes && key_hash == digest)
}

fn change(bytes: &[u8]) -> Sure<()> {
    let (mut action, mut scope, mut outcome, mut has_cause) = (0, None, 0, false);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(7)? {
        match field {
            1 => action = value.number()?,
            2 => scope = Some(cell(value.bytes()?)?),
            3 => sure(u32::try_from(value.number()?).is_ok())?,
            4 => drop(value.number()?),
            5 => outcome = value.number()?,
            6 => {
                value.number()?;
                has_cause = true;
            }
            7 => drop(value.text()?),
            _ => return Err(Doubt),
        }
    }
    let is_cell = scope.ok_or(Doubt)?;
    // 1 is GRANT, which names a cell; 3 and 4 are the outcomes that have a cause.
    sure((1..=5).contains(&action) && (action != 1 || is_cell))?;
    sure((1..=5).contains(&outcome) && (has_cause || ![3, 4].contains(&outcome)))
}

/// Whether a scope names both a purpose and a channel.
fn cell(bytes: &[u8]) -> Sure<bool> {
    let (mut purpose, mut channel) = (false, false);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(0)? {
        Key::check(value.text()?).map_err(|_| Doubt)?;
        match field {
            1 => purpose = true,
            2 => channel = true,
            _ => return Err(Doubt),
        }
    }
    Ok(purpose && channel)
}

fn sealed(bytes: &[u8]) -> Sure<()> {
    let (mut salt, mut commitment) = (false, false);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(0)? {
        match field {
            1 => salt = value.fixed::<16>().is_ok(),
            2 => drop(value.bytes()?),
            3 => commitment = value.fixed::<32>().is_ok(),
            _ => return Err(Doubt),
        }
    }
    sure(salt && commitment)
}

fn confirmation(bytes: &[u8]) -> Sure<()> {
    let mut token_hash = false;
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(0)? {
        match field {
            1 => token_hash = value.fixed::<32>().is_ok(),
            2 => drop(value.number()?),
            _ => return Err(Doubt),
        }
    }
    sure(token_hash)
}

fn sure(is: bool) -> Sure<()> {
    if is { Ok(()) } else { Err(Doubt) }
}

/// The value of a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(&self) -> Sure<u64> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Bytes(_) => Err(Doubt),
        }
    }

    fn bytes(&self) -> Sure<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(Doubt),
        }
    }

    fn fixed<const N: usize>(&self) -> Sure<[u8; N]> {
        self.bytes()?.try_into().map_err(|_| Doubt)
    }

    fn text(&self) -> Sure<&'a str> {
        str::from_utf8(self.bytes()?).map_err(|_| Doubt)
    }
}

/// The fields of a message, in ascending order.
struct Fields<'a> {
    rest: &'a [u8],
    before: u64,
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8]) -> Self {
        Self { rest: message, before: 0 }
    }

    /// The next field; none at the end of the message. Only `repeated` may come again.
    fn next(&mut self, repeated: u64) -> Sure<Option<(u64, Value<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = tag >> 3;
        sure(field > self.before || (field == self.before && field == repeated && field > 0))?;
        self.before = field;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Doubt)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Doubt)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            _ => return Err(Doubt),
        };
        Ok(Some((field, value)))
    }

    fn varint(&mut self) -> Sure<u64> {
        // Almost all are one byte long.
        if let Some((byte, rest)) = self.rest.split_first()
            && *byte < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut number = 0;
        // Ten groups of seven bits; of the last, one bit is left.
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Doubt)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if shift == 63 && *byte > 1 { Err(Doubt) } else { Ok(number) };
            }
        }
        Err(Doubt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{domain::Body, entry::tests::any_entry, ledger::envelope};

    /// The decoder's result for the same bytes.
    fn decoded(bytes: &[u8]) -> Option<Claim> {
        let entry = envelope::decode(bytes).ok()?;
        Claim::read(bytes).filter(|_| matches!(entry.body, Body::Act(_)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn acts_are_read_and_all_else_is_a_doubt(entry in any_entry()) {
            let bytes = envelope::encode(&entry);
            let plain = matches!(&entry.body, Body::Act(act) if act.contact.is_empty());
            prop_assert_eq!(skim(&bytes), decoded(&bytes).filter(|_| plain));
        }

        #[test]
        fn it_never_accepts_what_the_decoder_refuses(
            entry in any_entry(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
            twice in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
        ) {
            let mut bytes = envelope::encode(&entry);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some((from, to)) = twice {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(to..to, part);
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Some(head) = skim(&bytes) {
                prop_assert_eq!(Some(head), decoded(&bytes));
            }
        }

        #[test]
        fn arbitrary_bytes_are_no_surer(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(head) = skim(&bytes) {
                prop_assert_eq!(Some(head), decoded(&bytes));
            }
        }

        /// The smallest changes at every place: lengths, tags and enums among them.
        #[test]
        fn every_flipped_bit_is_judged_as_the_decoder_judges_it(entry in any_entry()) {
            let bytes = envelope::encode(&entry);
            for at in 0..bytes.len().min(400) {
                for bit in 0..8 {
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << bit;
                    if let Some(head) = skim(&changed) {
                        prop_assert_eq!(Some(head), decoded(&changed));
                    }
                }
            }
        }
    }
}
