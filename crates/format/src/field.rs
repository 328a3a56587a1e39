//! What can be wrong with a field of a message that is canonical.

use thiserror::Error;

/// The longest key of the catalogue, in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// A field without a value that the format allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FieldError {
    /// A required field without a known value.
    #[error("{0} is missing or has a value that this program does not know")]
    Unknown(&'static str),
    /// A field that must not be set here.
    #[error("{0} must not be set here")]
    Unexpected(&'static str),
    /// Bytes of the wrong length.
    #[error("{field} must have {want} bytes, got {got}")]
    Length {
        /// The field.
        field: &'static str,
        /// The length that it must have.
        want: usize,
        /// The length that it has.
        got: usize,
    },
    /// Values that must ascend strictly.
    #[error("{0} must be in strictly ascending order")]
    Order(&'static str),
    /// A number outside its limits.
    #[error("{field} must be {min} to {max}, got {got}")]
    Range {
        /// The field.
        field: &'static str,
        /// The smallest.
        min: u64,
        /// The greatest.
        max: u64,
        /// What it is.
        got: u64,
    },
}

type Checked<T = ()> = Result<T, FieldError>;

/// The bytes of a field of fixed length.
pub(crate) fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Checked<[u8; N]> {
    let wrong = FieldError::Length { field, want: N, got: bytes.len() };
    bytes.try_into().map_err(|_| wrong)
}

/// A field that is empty or of fixed length; whether it is set.
pub(crate) fn fixed_or_empty<const N: usize>(field: &'static str, bytes: &[u8]) -> Checked<bool> {
    if bytes.is_empty() {
        return Ok(false);
    }
    fixed::<N>(field, bytes).map(|_| true)
}

/// The value of an enum that is set and known.
pub(crate) fn known<T: TryFrom<i32>>(field: &'static str, number: i32) -> Checked<T> {
    if number == 0 {
        return Err(FieldError::Unknown(field));
    }
    T::try_from(number).map_err(|_| FieldError::Unknown(field))
}

/// A field whose presence is decided by another.
pub(crate) fn present_if(field: &'static str, wanted: bool, is_set: bool) -> Checked {
    match (wanted, is_set) {
        (true, false) => Err(FieldError::Unknown(field)),
        (false, true) => Err(FieldError::Unexpected(field)),
        _ => Ok(()),
    }
}

/// A field that may be set only in some cases.
pub(crate) fn absent_unless(field: &'static str, allowed: bool, is_set: bool) -> Checked {
    if is_set && !allowed { Err(FieldError::Unexpected(field)) } else { Ok(()) }
}

/// A number within its limits.
pub(crate) fn within(field: &'static str, got: u64, min: u64, max: u64) -> Checked {
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(FieldError::Range { field, min, max, got })
    }
}

/// Values that ascend strictly.
pub(crate) fn ascending<T: Ord>(
    field: &'static str,
    values: impl IntoIterator<Item = T>,
) -> Checked {
    let is_ascending = values.into_iter().is_sorted_by(|one, next| one < next);
    if is_ascending { Ok(()) } else { Err(FieldError::Order(field)) }
}

/// Milliseconds within a second.
pub(crate) fn recorded_ms(number: u32) -> Checked {
    within("recorded_ms", number.into(), 0, 999)
}

/// A key of the catalogue: dot-separated words of `a-z`, `0-9`, `_` and `-`.
pub(crate) fn is_key(field: &'static str, text: &str) -> Checked {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| is_letter(byte) || b"_-".contains(&byte))
    };
    if text.len() <= KEY_BYTES_MAX && text.split('.').all(is_word) {
        Ok(())
    } else {
        Err(FieldError::Unknown(field))
    }
}
