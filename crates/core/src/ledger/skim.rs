//! The head of an entry, without decoding the entry, for following a chain.
//!
//! Decoding an entry costs about as much as hashing it. This reader walks the same bytes, makes the
//! checks of [`envelope::decode`](super::envelope::decode), and allocates nothing. It knows only
//! acts of consent, which are almost all entries of a ledger, and only as this program writes them:
//! fields in order, each once. Anything else is a doubt, after which the caller decodes the
//! entry. So it must never accept an entry that the decoder refuses, and need not be extended for
//! new kinds.

use smallvec::SmallVec;

use super::chain::Claim;
use crate::domain::{Key, Millis, PurposeName, ScopeKeys, SubjectRef};

/// Input that this reader leaves to the decoder.
struct Doubt;

type Sure<T> = Result<T, Doubt>;

/// An act of consent, as far as this reader looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skimmed<'a> {
    /// The claim of the entry.
    pub claim: Claim,
    /// Whose act it is.
    pub subject: SubjectRef,
    /// The scopes of its changes.
    pub scopes: SmallVec<[SkimmedScope<'a>; 3]>,
}

/// What a scope names; none where it covers all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SkimmedScope<'a> {
    /// The purpose, or a class of them.
    pub purpose: Option<&'a str>,
    /// The channel.
    pub channel: Option<&'a str>,
}

impl SkimmedScope<'_> {
    /// The names as keys. Their form was checked.
    pub fn keys(self) -> ScopeKeys {
        let key = |text: &str| Key::parse(text).ok();
        let name = |text: &str| PurposeName::parse(text).ok();
        ScopeKeys { purpose: self.purpose.and_then(name), channel: self.channel.and_then(key) }
    }
}

/// Reads an act of consent. None in doubt; otherwise the bytes decode to such an act.
pub(super) fn skim(entry_bytes: &[u8]) -> Option<Skimmed<'_>> {
    entry(entry_bytes).ok()
}

fn entry(bytes: &[u8]) -> Sure<Skimmed<'_>> {
    let (mut index, mut prev_hash, mut recorded_at, mut body) = (0, None, 0, None);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(0)? {
        match field {
            1 => index = value.number()?,
            2 => prev_hash = Some(value.fixed()?),
            3 => recorded_at = value.number()?,
            11 => body = Some(act(value.bytes()?)?),
            _ => return Err(Doubt),
        }
    }
    let (prev_hash, (subject, scopes)) = (prev_hash.ok_or(Doubt)?, body.ok_or(Doubt)?);
    let recorded_at = Millis(recorded_at.cast_signed());
    let claim = Claim { index, prev_hash, recorded_at, may_go_back: false };
    Ok(Skimmed { claim, subject, scopes })
}

type Act<'a> = (SubjectRef, SmallVec<[SkimmedScope<'a>; 3]>);

fn act(bytes: &[u8]) -> Sure<Act<'_>> {
    let (mut subject, mut actor, mut scopes) = (None, false, SmallVec::new());
    let (mut key_hash, mut digest) = (false, false);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(4)? {
        match field {
            1 => subject = value.fixed().ok().map(SubjectRef),
            2 => actor = (1..=6).contains(&value.number()?),
            3 => drop(value.number()?),
            4 => scopes.push(change(value.bytes()?)?),
            5 => sealed(value.bytes()?)?,
            6 => key_hash = value.fixed::<32>().map(|_| true)?,
            7 => digest = value.fixed::<32>().map(|_| true)?,
            8 => drop(value.optional_number()?),
            9 => confirmation(value.bytes()?)?,
            _ => return Err(Doubt),
        }
    }
    sure(actor && !scopes.is_empty() && key_hash == digest)?;
    Ok((subject.ok_or(Doubt)?, scopes))
}

fn change(bytes: &[u8]) -> Sure<SkimmedScope<'_>> {
    let (mut action, mut scope, mut outcome, mut has_cause) = (0, None, 0, false);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(7)? {
        match field {
            1 => action = value.number()?,
            2 => scope = Some(cell(value.bytes()?)?),
            3 => sure(u32::try_from(value.number()?).is_ok())?,
            4 => drop(value.optional_number()?),
            5 => outcome = value.number()?,
            6 => {
                value.optional_number()?;
                has_cause = true;
            }
            7 => drop(value.text()?),
            8 => sure(u32::try_from(value.number()?).is_ok())?,
            _ => return Err(Doubt),
        }
    }
    let scope = scope.ok_or(Doubt)?;
    let is_cell = scope.purpose.is_some_and(is_one_purpose) && scope.channel.is_some();
    // 1 is GRANT, which names a cell; 3 and 4 are the outcomes that have a cause.
    sure((1..=5).contains(&action) && (action != 1 || is_cell))?;
    sure((1..=5).contains(&outcome) && (has_cause || ![3, 4].contains(&outcome)))?;
    Ok(scope)
}

fn cell(bytes: &[u8]) -> Sure<SkimmedScope<'_>> {
    let mut scope = SkimmedScope::default();
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(0)? {
        let text = value.text()?;
        match field {
            1 => {
                PurposeName::check(text).map_err(|_| Doubt)?;
                scope.purpose = Some(text);
            }
            2 => {
                Key::check(text).map_err(|_| Doubt)?;
                scope.channel = Some(text);
            }
            _ => return Err(Doubt),
        }
    }
    Ok(scope)
}

/// Whether the name of a purpose or class is that of a purpose.
fn is_one_purpose(name: &str) -> bool {
    !name.ends_with(".*")
}

fn sealed(bytes: &[u8]) -> Sure<()> {
    let (mut salt, mut commitment) = (false, false);
    let mut fields = Fields::of(bytes);
    while let Some((field, value)) = fields.next(0)? {
        match field {
            1 => salt = value.fixed::<16>().is_ok(),
            2 => sure(!value.bytes()?.is_empty())?,
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
    /// A number of a field without presence: 0 is never written.
    fn number(&self) -> Sure<u64> {
        self.optional_number().and_then(|number| sure(number != 0).map(|()| number))
    }

    /// A number of a field with presence.
    fn optional_number(&self) -> Sure<u64> {
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
        // Ten groups of seven bits.
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Doubt)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                // Of the longest form one bit is left, and no form ends with a group of zeros.
                let is_shortest = *byte != 0 && (shift < 63 || *byte == 1);
                return sure(is_shortest).map(|()| number);
            }
        }
        Err(Doubt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        entry::{Body, Entry, tests::any_entry},
        ledger::envelope,
    };

    type Decoded = (Claim, SubjectRef, Vec<ScopeKeys>);

    /// The decoder's result for the same bytes.
    fn decoded(entry: &Entry) -> Option<Decoded> {
        let Body::Act(act) = &entry.body else { return None };
        let scopes = act.changes.iter().map(|change| change.scope.clone()).collect();
        Some((Claim::of(entry), act.subject_ref, scopes))
    }

    fn skimmed(bytes: &[u8]) -> Option<Decoded> {
        let Skimmed { claim, subject, scopes } = skim(bytes)?;
        Some((claim, subject, scopes.into_iter().map(SkimmedScope::keys).collect()))
    }

    #[track_caller]
    fn agrees_with_the_decoder(bytes: &[u8]) {
        let entry = envelope::decode(bytes).ok();
        if let Some(skimmed) = skimmed(bytes) {
            assert_eq!(Some(skimmed), entry.as_ref().and_then(decoded));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn acts_are_read_and_all_else_is_a_doubt(entry in any_entry()) {
            let bytes = envelope::encode(&entry);
            let plain = matches!(&entry.body, Body::Act(act) if act.contact.is_empty());
            prop_assert_eq!(skimmed(&bytes), decoded(&entry).filter(|_| plain));
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
            agrees_with_the_decoder(&bytes);
        }

        #[test]
        fn arbitrary_bytes_are_no_surer(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            agrees_with_the_decoder(&bytes);
        }

        /// The smallest changes at every place: lengths, tags and enums among them.
        #[test]
        fn every_flipped_bit_is_judged_as_the_decoder_judges_it(entry in any_entry()) {
            let bytes = envelope::encode(&entry);
            for at in 0..bytes.len().min(400) {
                for bit in 0..8 {
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << bit;
                    agrees_with_the_decoder(&changed);
                }
            }
        }
    }
}
