//! What files and programs put around a value, and what they put in place of one.
//!
//! It is for the kinds whose values have a form of their own. An opaque id may well be `"null"`.

use crate::IdentityError;

/// Quotes that programs and word processors put around a value.
///
/// One without the other is refused by the kinds: it may be what an old encoding made of a letter.
const QUOTES: [(&str, &str); 19] = [
    ("\"", "\""),
    ("'", "'"),
    ("“", "”"),
    ("”", "”"),
    ("„", "“"),
    ("„", "”"),
    ("‘", "’"),
    ("’", "’"),
    ("‚", "‘"),
    ("‚", "’"),
    ("«", "»"),
    ("»", "«"),
    ("‹", "›"),
    ("›", "‹"),
    ("`", "`"),
    ("´", "´"),
    ("`", "´"),
    ("「", "」"),
    ("『", "』"),
];

/// The error values of spreadsheets.
const SPREADSHEET_ERRORS: [&str; 14] = [
    "#N/A",
    "#REF!",
    "#VALUE!",
    "#NAME?",
    "#DIV/0!",
    "#NULL!",
    "#NUM!",
    "#SPILL!",
    "#CALC!",
    "#FIELD!",
    "#BLOCKED!",
    "#UNKNOWN!",
    "#ERROR!",
    "#NV",
];

/// Words for a missing value. No e-mail address, phone number or registered domain is one of them.
const MISSING_VALUES: [&str; 16] = [
    "null",
    "(null)",
    "\\N",
    "nil",
    "none",
    "nan",
    "n/a",
    "na",
    "n.a.",
    "undefined",
    "unknown",
    "empty",
    "(empty)",
    "(blank)",
    "false",
    "true",
];

/// One layer less around a value, if there is one.
pub(crate) fn unwrapped(text: &str) -> Option<&str> {
    let inner = formula(text).or_else(|| quoted(text)).or_else(|| text.strip_prefix('\''))?;
    Some(inner.trim())
}

/// `="06641234567"`, which keeps a spreadsheet from reading a number.
fn formula(text: &str) -> Option<&str> {
    text.strip_prefix("=\"")?.strip_suffix('"')
}

fn quoted(text: &str) -> Option<&str> {
    QUOTES.iter().find_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close))
}

/// What stands after a scheme, in any case of its letters.
pub(crate) fn after_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = text.split_once(':')?;
    start.trim_end().eq_ignore_ascii_case(scheme).then(|| rest.trim_start())
}

/// Refuses what only stands where a value should be.
pub(crate) fn refuse_stand_in(text: &str) -> Result<(), IdentityError> {
    let is_text = |word: &&&'static str| word.eq_ignore_ascii_case(text);
    if let Some(word) = SPREADSHEET_ERRORS.iter().find(is_text) {
        return Err(IdentityError::SpreadsheetError(word));
    }
    if let Some(word) = MISSING_VALUES.iter().find(is_text) {
        return Err(IdentityError::MissingValue(word));
    }
    if text.contains('\u{fffd}') {
        return Err(IdentityError::Undecodable);
    }
    if is_scientific(text) {
        return Err(IdentityError::ScientificNotation);
    }
    Ok(())
}

/// `4.36641E+11`, also with a decimal comma.
fn is_scientific(text: &str) -> bool {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return false };
    let mantissa = mantissa.strip_prefix(['+', '-']).unwrap_or(mantissa);
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let (whole, fraction) = mantissa.split_once(['.', ',']).unwrap_or((mantissa, "0"));
    [whole, fraction, exponent].iter().all(|part| is_number(part))
}

/// Digits alone.
pub(crate) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_one_layer_off() {
        for (given, want) in [
            ("'a@b", Some("a@b")),
            ("'a@b'", Some("a@b")),
            ("\" a@b \"", Some("a@b")),
            ("=\"0664\"", Some("0664")),
            ("“a@b”", Some("a@b")),
            ("”a@b”", Some("a@b")),
            ("„a@b”", Some("a@b")),
            ("»a@b«", Some("a@b")),
            ("’a@b’", Some("a@b")),
            ("„a@b", None),
            ("a@b’", None),
            ("a@b", None),
            ("\"john doe\"@b", None),
            ("\"", None),
        ] {
            assert_eq!(unwrapped(given), want, "{given:?}");
        }
    }

    #[test]
    fn knows_what_stands_for_nothing() {
        for (given, want) in [
            ("#N/A", Err(IdentityError::SpreadsheetError("#N/A"))),
            ("#ref!", Err(IdentityError::SpreadsheetError("#REF!"))),
            ("NULL", Err(IdentityError::MissingValue("null"))),
            ("NaN", Err(IdentityError::MissingValue("nan"))),
            ("4.36641E+11", Err(IdentityError::ScientificNotation)),
            ("4,36641e+11", Err(IdentityError::ScientificNotation)),
            ("4E11", Err(IdentityError::ScientificNotation)),
            ("kim\u{fffd}", Err(IdentityError::Undecodable)),
            ("e11", Ok(())),
            ("4e11@x.example", Ok(())),
            ("nullable", Ok(())),
        ] {
            assert_eq!(refuse_stand_in(given), want, "{given:?}");
        }
    }
}
