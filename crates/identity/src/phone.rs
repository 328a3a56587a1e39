//! Phone numbers: E.164, with an extension as RFC 3966 writes it (`+43112345;ext=6`).
//!
//! What people and programs write around the digits is read here: separators, digits of all scripts,
//! `00`, `(0)`, extensions. The parts of a number are found by Google's libphonenumber in its port to
//! Rust, which knows prefixes and lengths of all regions. A number must be *possible* (of a length that
//! its region has), never *valid*: which ranges are in use changes every month.
//!
//! A word is refused, also one that a keypad could dial.

use std::fmt;

use rlibphonenumber::{
    NumberLengthType, PHONE_NUMBER_UTIL, ParseError, PhoneNumberFormat, Region, ValidationError,
};
use thiserror::Error;

use crate::{
    IdentityError,
    text::{self, Joiners},
    wrapping,
};

/// The longest extension, in digits.
pub const EXTENSION_DIGITS_MAX: usize = 20;

/// More digits than any number has, with every prefix.
const DIGITS_MAX: usize = 25;

/// Labels before an extension, longer ones before their own beginnings. All are in lower case.
const EXTENSION_LABELS: [&str; 16] = [
    ";extension=",
    ";ext=",
    ";ext.",
    ",ext",
    "extension",
    "extensión",
    "extn",
    "ext",
    "xtn",
    "durchwahl",
    "anexo",
    "доб",
    "dw",
    "kl",
    "x",
    "#",
];

/// A region whose phone numbers are known: the country codes of ISO 3166-1 that have a numbering plan.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PhoneRegion(Region);

/// How a text can fail to be a [`PhoneRegion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PhoneRegionError {
    /// Not two capital letters.
    #[error("must be an ISO 3166-1 alpha-2 country code in capital letters, such as `AT`")]
    Form,
    /// No numbering plan is known for it.
    #[error("must be a country with a numbering plan of its own, for example `GB`, not `UK`")]
    Unknown,
}

impl PhoneRegion {
    /// Takes a country code.
    ///
    /// # Errors
    /// One [`PhoneRegionError`] for every way in which the text can be wrong.
    pub fn parse(text: &str) -> Result<Self, PhoneRegionError> {
        if text.len() != 2 || !text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(PhoneRegionError::Form);
        }
        let region = Region::from_code(text).map_err(|_| PhoneRegionError::Form)?;
        match PHONE_NUMBER_UTIL.get_country_code_for_region(region) {
            Some(_) => Ok(Self(region)),
            None => Err(PhoneRegionError::Unknown),
        }
    }
}

impl fmt::Display for PhoneRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.as_region_str())
    }
}

impl fmt::Debug for PhoneRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PhoneRegion({self})")
    }
}

/// How a text can fail to be one phone number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PhoneError {
    /// Letters.
    #[error(
        "it has letters; only digits, `+`, separators and a labelled extension may stand there"
    )]
    Letters,
    /// Another character that no number has.
    #[error("it has a character that no phone number has")]
    Character,
    /// `tel:…;phone-context=…`.
    #[error(
        "of the parameters of `tel:` only `;ext=` is supported; write the number with its country code"
    )]
    Parameter,
    /// More than one number in the field.
    #[error("it holds more than one number; give each its own record")]
    SeveralNumbers,
    /// No digits.
    #[error("it has no digits")]
    NoDigits,
    /// A national number where no region is the default.
    #[error(
        "it has no country code, and the namespace has no default region: write it with `+` and its \
         country code"
    )]
    NoCountryCode,
    /// A country code that nobody has.
    #[error("no country has this country code")]
    CountryCode,
    /// Shorter than any number of its region.
    #[error("it is too short for a number of its country")]
    TooShort,
    /// It can be dialled only within its area.
    #[error("its area code is missing")]
    NoAreaCode,
    /// Longer than any number of its region.
    #[error("it is too long for a number of its country")]
    TooLong,
    /// Between the lengths that its region has.
    #[error("no number of its country has this many digits")]
    Length,
    /// An extension without digits, or with too many.
    #[error("its extension must be 1 to {EXTENSION_DIGITS_MAX} digits")]
    Extension,
}

pub(crate) fn canonical(
    id: &str,
    default_region: Option<PhoneRegion>,
) -> Result<String, IdentityError> {
    let visible = text::visible(id, Joiners::Drop)?;
    let mut phone = visible.as_ref();
    while let Some(inner) =
        wrapping::unwrapped(phone).or_else(|| wrapping::after_scheme(phone, "tel"))
    {
        phone = inner;
    }
    if phone.is_empty() {
        return Err(IdentityError::Empty);
    }
    wrapping::refuse_stand_in(phone)?;
    let dialled = Dialled::parse(without_decimal_zero(phone))?;
    let mut number = dialled.e164(default_region)?;
    if let Some(extension) = dialled.extension {
        number.push_str(";ext=");
        number.push_str(&extension);
    }
    Ok(number)
}

/// `436641234567.0` is how programs that read a column as fractions write it out again.
fn without_decimal_zero(phone: &str) -> &str {
    let Some(whole) = phone.strip_suffix(".0") else { return phone };
    let digits = whole.strip_prefix('+').unwrap_or(whole);
    let is_number = digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { whole } else { phone }
}

/// What a text says to dial.
#[derive(Default)]
struct Dialled {
    is_international: bool,
    /// ASCII digits.
    digits: String,
    /// Where in `digits` a zero stands that was written as `(0)`: dialled only within the country.
    trunk_zero: Option<usize>,
    extension: Option<String>,
}

impl Dialled {
    fn parse(phone: &str) -> Result<Self, PhoneError> {
        let mut dialled = Self::default();
        let mut rest = phone;
        while let Some(ch) = rest.chars().next() {
            if let Some(digit) = decimal_digit(ch) {
                dialled.digits.push(digit);
            } else if matches!(ch, '+' | '＋' | '﹢') {
                if !dialled.digits.is_empty() {
                    return Err(PhoneError::SeveralNumbers);
                }
                dialled.is_international = true;
            } else if is_separator(ch) {
                dialled.note_trunk_zero(rest);
            } else {
                dialled.extension = Some(extension(rest)?);
                break;
            }
            rest = &rest[ch.len_utf8()..];
        }
        match dialled.digits.len() {
            0 => Err(PhoneError::NoDigits),
            1..=DIGITS_MAX => Ok(dialled),
            _ => Err(PhoneError::TooLong),
        }
    }

    fn note_trunk_zero(&mut self, rest: &str) {
        let follows_country_code = self.is_international && !self.digits.is_empty();
        if follows_country_code && self.trunk_zero.is_none() && rest.starts_with("(0)") {
            self.trunk_zero = Some(self.digits.len());
        }
    }

    fn e164(&self, default_region: Option<PhoneRegion>) -> Result<String, PhoneError> {
        if self.is_international {
            let without_zero = self.without_trunk_zero().map(|digits| international(&digits));
            return without_zero.unwrap_or_else(|| international(&self.digits));
        }
        // The prefix that the ITU recommends (E.123). It is read as that in every region.
        let fault = if self.digits.starts_with("00") {
            match international(&self.digits) {
                Ok(number) => return Ok(number),
                Err(fault) => fault,
            }
        } else {
            PhoneError::NoCountryCode
        };
        let region = default_region.ok_or(fault)?;
        stable(&self.digits, Some(region.0))
    }

    /// In Italy, San Marino and the Vatican the zero is part of the number from anywhere.
    fn without_trunk_zero(&self) -> Option<String> {
        if without_international_prefix(&self.digits).starts_with("39") {
            return None;
        }
        let (before, after) = self.digits.split_at(self.trunk_zero?);
        Some(format!("{before}{}", after.strip_prefix('0')?))
    }
}

/// The ASCII digit of a decimal digit of any script.
fn decimal_digit(ch: char) -> Option<char> {
    if ch.is_ascii() {
        return ch.is_ascii_digit().then_some(ch);
    }
    let mut utf8 = [0; 4];
    PHONE_NUMBER_UTIL.normalize_digits_only(ch.encode_utf8(&mut utf8)).chars().next()
}

/// What people write between digits.
fn is_separator(ch: char) -> bool {
    ch.is_whitespace()
        || matches!(
            ch,
            '-' | '.' | '/' | '(' | ')' | '[' | ']' | '_' | '·' | '•' | '\'' | '’' | '‐'
                ..='―' | '−' | 'ー' | '－' | '（' | '）' | '［' | '］' | '．' | '／' | '∕' | '⁄'
        )
}

/// The digits of an extension, from its label on.
fn extension(rest: &str) -> Result<String, PhoneError> {
    let lower = rest.to_lowercase();
    let labelled = EXTENSION_LABELS.iter().find_map(|label| lower.strip_prefix(label));
    let Some(labelled) = labelled else { return Err(fault_after_number(&lower)) };
    let digits: Option<String> =
        labelled.chars().filter(|ch| !is_filler(*ch)).map(decimal_digit).collect();
    match digits {
        Some(digits) if (1..=EXTENSION_DIGITS_MAX).contains(&digits.len()) => Ok(digits),
        Some(_) => Err(PhoneError::Extension),
        None if labelled.contains(char::is_alphabetic) => Err(PhoneError::Letters),
        None => Err(PhoneError::Extension),
    }
}

fn is_filler(ch: char) -> bool {
    is_separator(ch) || matches!(ch, ':' | '=')
}

/// Why what follows a number is no extension.
fn fault_after_number(rest: &str) -> PhoneError {
    let separated = rest.starts_with([',', ';', '|', '&']);
    if rest.starts_with(';') && rest.contains('=') {
        PhoneError::Parameter
    } else if separated && rest.chars().any(|ch| decimal_digit(ch).is_some()) {
        PhoneError::SeveralNumbers
    } else if rest.contains(char::is_alphabetic) {
        PhoneError::Letters
    } else {
        PhoneError::Character
    }
}

/// A number from its country code on, with `00` before it or without. Any other zero there is a fault: no
/// country code begins with one.
fn international(digits: &str) -> Result<String, PhoneError> {
    let from_country_code = without_international_prefix(digits);
    if from_country_code.starts_with('0') {
        return Err(PhoneError::CountryCode);
    }
    stable(&format!("+{from_country_code}"), None)
}

fn without_international_prefix(digits: &str) -> &str {
    digits.strip_prefix("00").unwrap_or(digits)
}

/// The form that stays as it is when it is parsed again. A number that is possible, but in no range that
/// is in use, may lose a trunk prefix at each of the first readings.
fn stable(dialled: &str, region: Option<Region>) -> Result<String, PhoneError> {
    let mut number = possible(dialled, region)?;
    for _ in 0..DIGITS_MAX {
        let again = possible(&number, None)?;
        if again == number {
            return Ok(number);
        }
        number = again;
    }
    Err(PhoneError::Length)
}

fn possible(dialled: &str, region: Option<Region>) -> Result<String, PhoneError> {
    let number = PHONE_NUMBER_UTIL.parse(dialled, region).map_err(|fault| match fault {
        ParseError::InvalidCountryCode => PhoneError::CountryCode,
        ParseError::NotANumber(_) | ParseError::TooShortAfterIdd | ParseError::TooShortNsn => {
            PhoneError::TooShort
        }
        ParseError::TooLongNsn => PhoneError::TooLong,
    })?;
    match PHONE_NUMBER_UTIL.is_possible_number_with_reason(&number) {
        Ok(NumberLengthType::IsPossible) => {
            Ok(PHONE_NUMBER_UTIL.format(&number, PhoneNumberFormat::E164).into_owned())
        }
        Ok(NumberLengthType::IsPossibleLocalOnly) => Err(PhoneError::NoAreaCode),
        Err(ValidationError::InvalidCountryCode) => Err(PhoneError::CountryCode),
        Err(ValidationError::TooShort) => Err(PhoneError::TooShort),
        Err(ValidationError::TooLong) => Err(PhoneError::TooLong),
        Err(ValidationError::InvalidLength) => Err(PhoneError::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(code: &str) -> Option<PhoneRegion> {
        Some(PhoneRegion::parse(code).unwrap())
    }

    #[test]
    fn gives_every_spelling_of_a_number_one_form() {
        for (default, given, want) in [
            ("AT", "+436641234567", "+436641234567"),
            ("AT", "06641234567", "+436641234567"),
            ("AT", "0664/123 45-67", "+436641234567"),
            ("AT", "'+436641234567", "+436641234567"),
            ("AT", "'06641234567", "+436641234567"),
            ("AT", "=\"06641234567\"", "+436641234567"),
            ("AT", "tel:+43-664-123-45-67", "+436641234567"),
            ("AT", "TEL:0664 1234567", "+436641234567"),
            ("AT", "+43 664 123-45-67", "+436641234567"),
            ("AT", "+43 (0)664 1234567", "+436641234567"),
            ("AT", "(+43) 664 1234567", "+436641234567"),
            ("AT", "0043 664 1234567", "+436641234567"),
            ("AT", "+0043 664 1234567", "+436641234567"),
            ("AT", "436641234567", "+436641234567"),
            ("AT", "436641234567.0", "+436641234567"),
            ("AT", "\u{202d}+43\u{a0}664\u{a0}1234567\u{202c}", "+436641234567"),
            ("AT", "＋４３ ６６４ １２３４５６７", "+436641234567"),
            ("AT", "+43 664 \u{661}\u{662}\u{663}\u{664}\u{665}\u{666}\u{667}", "+436641234567"),
            ("AT", "+43\u{2011}664\u{2013}1234567", "+436641234567"),
            ("DE", "+43 664 1234567", "+436641234567"),
            ("US", "011 43 664 1234567", "+436641234567"),
            ("US", "00 43 664 1234567", "+436641234567"),
            ("US", "(650) 253-0000", "+16502530000"),
            ("US", "1-650-253-0000", "+16502530000"),
            ("GB", "020 7946 0018", "+442079460018"),
            ("GB", "+44 (0)20 7946 0018", "+442079460018"),
            ("IT", "06 1234 5678", "+390612345678"),
            ("IT", "+39 06 1234 5678", "+390612345678"),
            ("IT", "3912312312", "+393912312312"),
            ("FR", "+33 06 31 96 65 43", "+33631966543"),
            ("CZ", "+420 (0)601 123 456", "+420601123456"),
            ("IT", "+39 (0)6 1234 5678", "+390612345678"),
            ("RU", "8 (912) 345-67-89", "+79123456789"),
            ("AR", "011 15 2345-6789", "+5491123456789"),
            ("AU", "0011 43 664 1234567", "+436641234567"),
            ("CH", "079'123'45'67", "+41791234567"),
            ("AT", "+800 1234 5678", "+80012345678"),
            ("AT", "01 12345 DW 67", "+43112345;ext=67"),
            ("AT", "+43112345;ext=67", "+43112345;ext=67"),
            ("AT", "+43 1 12345 ext. 067", "+43112345;ext=067"),
            ("US", "650-253-0000 x123", "+16502530000;ext=123"),
            ("US", "650-253-0000 #123", "+16502530000;ext=123"),
            ("RU", "8 (495) 123-45-67 доб. 12", "+74951234567;ext=12"),
        ] {
            let got = canonical(given, region(default));
            assert_eq!(got.as_deref(), Ok(want), "{default} {given:?}");
            assert_eq!(canonical(want, region(default)).as_deref(), Ok(want), "again: {want:?}");
            assert_eq!(canonical(want, None).as_deref(), Ok(want), "without a region: {want:?}");
        }
    }

    #[test]
    fn without_a_default_region_a_number_needs_its_country_code() {
        for given in ["+436641234567", "0043 664 1234567", "tel:+43-664-1234567"] {
            assert_eq!(canonical(given, None).as_deref(), Ok("+436641234567"), "{given:?}");
        }
        for given in ["06641234567", "436641234567", "(650) 253-0000"] {
            let want = IdentityError::Phone(PhoneError::NoCountryCode);
            assert_eq!(canonical(given, None), Err(want), "{given:?}");
        }
    }

    #[test]
    fn says_why_a_text_is_no_number() {
        let long = "1".repeat(26);
        for (given, want) in [
            ("kim", PhoneError::Letters),
            ("1-800-FLOWERS", PhoneError::Letters),
            ("unknown number", PhoneError::Letters),
            ("0664 1234567 or 0676 1234567", PhoneError::Letters),
            ("0664 1234567, 0676 1234567", PhoneError::SeveralNumbers),
            ("0664 1234567; 0676 1234567", PhoneError::SeveralNumbers),
            ("0664 1234567 +43 676 1234567", PhoneError::SeveralNumbers),
            ("06641234567 / 06761234567", PhoneError::TooLong),
            ("0664 1234567!", PhoneError::Character),
            ("*100#", PhoneError::Character),
            ("tel:1234567;phone-context=+431", PhoneError::Parameter),
            ("+", PhoneError::NoDigits),
            ("-", PhoneError::NoDigits),
            ("+999 1234567", PhoneError::CountryCode),
            ("+0664 1234567", PhoneError::CountryCode),
            ("+43 1", PhoneError::TooShort),
            ("0", PhoneError::TooShort),
            ("+43 664 12345678901234", PhoneError::TooLong),
            ("+1 253 0000", PhoneError::NoAreaCode),
            ("+43 1 12345 ext.", PhoneError::Extension),
            (long.as_str(), PhoneError::TooLong),
        ] {
            let got = canonical(given, region("AT"));
            assert_eq!(got, Err(IdentityError::Phone(want)), "{given:?}");
        }
        for (given, want) in [
            ("4.36641E+11", IdentityError::ScientificNotation),
            ("'4,36641E+11", IdentityError::ScientificNotation),
            ("#N/A", IdentityError::SpreadsheetError("#N/A")),
            ("NULL", IdentityError::MissingValue("null")),
            ("nan", IdentityError::MissingValue("nan")),
            ("tel:", IdentityError::Empty),
        ] {
            assert_eq!(canonical(given, region("AT")), Err(want), "{given:?}");
        }
    }

    #[test]
    fn regions_have_a_numbering_plan() {
        assert_eq!(PhoneRegion::parse("AT").unwrap().to_string(), "AT");
        for (text, want) in [
            ("at", PhoneRegionError::Form),
            ("AUT", PhoneRegionError::Form),
            ("ÄT", PhoneRegionError::Form),
            ("", PhoneRegionError::Form),
            ("UK", PhoneRegionError::Unknown),
            ("AQ", PhoneRegionError::Unknown),
        ] {
            assert_eq!(PhoneRegion::parse(text), Err(want), "{text:?}");
        }
    }
}
