//! Phone numbers: E.164, with an extension as RFC 3966 writes it (`+43112345;ext=6`).
//!
//! What people and programs write around the digits is read here: separators, digits of all scripts,
//! `00`, `(0)`, extensions. The parts of a number are found by Google's libphonenumber in its port to
//! Rust, which knows prefixes and lengths of all regions. A number must be *possible* (of a length that
//! its region has), never *valid*: which ranges are in use changes every month.
//!
//! Digits with neither `+` nor a trunk prefix can be a national number whose zero a spreadsheet dropped,
//! or an international one that lost its `+`. Where both readings are possible the number is refused,
//! because each would be another person. Only to spare the obvious ones is it asked which ranges are in
//! use: that decides between a form and a refusal, never between two forms.
//!
//! In Austria and Germany an extension is the end of the number itself (direct dialling in), so that
//! `DW 67`, `-67` and `;ext=67` are one line.
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
    wrapping::{self, is_number},
};

/// The longest extension, in digits.
pub const EXTENSION_DIGITS_MAX: usize = 20;

/// More digits than any number has, with every prefix.
const DIGITS_MAX: usize = 25;

/// What stands before the number in a link to a program that calls or writes.
const SCHEMES: [&str; 6] = ["tel", "sms", "smsto", "callto", "whatsapp", "wa"];

/// Country codes whose extensions are dialled from anywhere as the end of the number.
const CODES_OF_DIRECT_DIALLING: [&str; 2] = ["+43", "+49"];

/// As many digits are a whole number, so that a short group behind them is something else.
const NUMBER_DIGITS_MIN: usize = 7;

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
    /// Digits that are one number with a country code, and another without.
    #[error(
        "without `+` it can be a number of {region}, or one that begins with its country code, and these \
         are two people: write it with `+` and its country code, or as it is dialled within {region}"
    )]
    Ambiguous {
        /// The default region of the namespace.
        region: PhoneRegion,
    },
    /// `-1235188`.
    #[error(
        "it begins with a minus sign: a spreadsheet has calculated with it; format the column as text \
         and export it again"
    )]
    Negative,
    /// `0.000537`, `436641234567.5`, `0664 1234567.0`.
    #[error(
        "it is a number with a decimal fraction: a spreadsheet has calculated with it; format the column \
         as text and export it again"
    )]
    Fraction,
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
    while let Some(inner) = wrapping::unwrapped(phone).or_else(|| after_scheme(phone)) {
        phone = inner;
    }
    if phone.is_empty() {
        return Err(IdentityError::Empty);
    }
    wrapping::refuse_stand_in(phone)?;
    refuse_arithmetic(phone)?;
    refuse_alternatives(phone)?;
    let dialled = Dialled::parse(whole_number(phone)?)?;
    let number = dialled.e164(default_region)?;
    match dialled.extension {
        Some(extension) => Ok(with_extension(&number, &extension)?),
        None => Ok(number),
    }
}

fn after_scheme(phone: &str) -> Option<&str> {
    SCHEMES.iter().find_map(|scheme| wrapping::after_scheme(phone, scheme))
}

fn with_extension(number: &str, extension: &str) -> Result<String, PhoneError> {
    if CODES_OF_DIRECT_DIALLING.iter().any(|code| number.starts_with(code)) {
        return stable(&format!("{number}{extension}"), None);
    }
    Ok(format!("{number};ext={extension}"))
}

/// Refuses what a spreadsheet makes of `+43-664-1234567` and `0664/1234567` if it takes them for sums.
fn refuse_arithmetic(phone: &str) -> Result<(), PhoneError> {
    let after_minus = phone.strip_prefix(is_dash);
    let in_brackets = phone.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let is_amount = |text: &str| is_number(text) && !text.starts_with('0');
    if after_minus.is_some_and(|rest| rest.contains(|ch| decimal_digit(ch).is_some()))
        || in_brackets.is_some_and(is_amount)
    {
        return Err(PhoneError::Negative);
    }
    let is_below_one = phone.strip_prefix("0.").or_else(|| phone.strip_prefix("0,"));
    if is_below_one.is_some_and(is_number) { Err(PhoneError::Fraction) } else { Ok(()) }
}

/// Refuses `+43 664 5550001/02`: two numbers that differ in their ends.
fn refuse_alternatives(phone: &str) -> Result<(), PhoneError> {
    let Some((before, after)) = phone.rsplit_once(['/', '／']) else { return Ok(()) };
    let digits = |text: &str| text.chars().filter(|ch| decimal_digit(*ch).is_some()).count();
    let is_end_of_another = after.trim_start().starts_with(is_dash)
        || (digits(before) >= NUMBER_DIGITS_MIN && (1..=3).contains(&digits(after)));
    if is_end_of_another { Err(PhoneError::SeveralNumbers) } else { Ok(()) }
}

/// `436641234567.0` is how programs that read a column as fractions write it out again. Between groups
/// of digits a dot is a separator, so what could be either is refused.
fn whole_number(phone: &str) -> Result<&str, PhoneError> {
    let Some((whole, fraction)) = phone.rsplit_once(['.', ',']) else { return Ok(phone) };
    if !is_number(fraction) {
        return Ok(phone);
    }
    let is_zero = fraction.bytes().all(|byte| byte == b'0');
    if is_number(whole.strip_prefix('+').unwrap_or(whole)) {
        return match fraction.len() {
            1 | 2 if is_zero && whole.len() >= 5 => Ok(whole),
            1 | 2 if whole.len() >= NUMBER_DIGITS_MIN => Err(PhoneError::Fraction),
            _ => Ok(phone),
        };
    }
    let is_group = fraction.len() > 1 && whole.contains('.');
    if is_zero && fraction.len() <= 2 && !is_group { Err(PhoneError::Fraction) } else { Ok(phone) }
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
        // Nobody writes `(0)` but behind a country code, so it stands for a missing `+`.
        let code = without_international_prefix(&self.digits);
        let is_country_code = matches!(code.len(), 1..=3) && !code.starts_with('0');
        let follows_country_code =
            self.is_international && !self.digits.is_empty() || is_country_code;
        if follows_country_code && self.trunk_zero.is_none() && rest.starts_with("(0)") {
            self.trunk_zero = Some(self.digits.len());
        }
    }

    fn e164(&self, default_region: Option<PhoneRegion>) -> Result<String, PhoneError> {
        if self.is_international {
            let without_zero = self.without_trunk_zero().map(|digits| international(&digits));
            return without_zero.unwrap_or_else(|| international(&self.digits));
        }
        if self.trunk_zero.is_some() {
            let without_zero = self.without_trunk_zero().unwrap_or_else(|| self.digits.clone());
            if let Ok(number) = international(&without_zero) {
                return Ok(number);
            }
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
        without_plus(&self.digits, default_region.ok_or(fault)?)
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

fn is_dash(ch: char) -> bool {
    matches!(ch, '-' | '‐'..='―' | '−' | '﹣' | '－')
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

/// Digits of a region's own number, unless they can as well be another one from its country code on.
fn without_plus(digits: &str, region: PhoneRegion) -> Result<String, PhoneError> {
    let code = PHONE_NUMBER_UTIL.get_country_code_for_region(region.0);
    let has_own_code = code.is_some_and(|code| digits.starts_with(&code.to_string()));
    // What North America dials before a country code.
    let after_prefix = digits.strip_prefix("011");
    let from_country_code = international(after_prefix.unwrap_or(digits));
    let (national, other) = match (stable(digits, Some(region.0)), from_country_code) {
        (Ok(national), Ok(other)) if national != other => (national, other),
        (Err(_), Ok(other)) if has_own_code => return Ok(other),
        (national, _) => return national,
    };
    let is_suspect = has_own_code || after_prefix.is_some();
    if !is_suspect && is_written_within_its_region(digits, &national) {
        return Ok(national);
    }
    if is_in_use(&national) && !is_in_use(&other) {
        return Ok(national);
    }
    Err(PhoneError::Ambiguous { region })
}

/// Whether people of its region write a number with exactly these digits, with the trunk prefix if they
/// have one.
fn is_written_within_its_region(digits: &str, e164: &str) -> bool {
    PHONE_NUMBER_UTIL.parse(e164, None).is_ok_and(|number| {
        let written = PHONE_NUMBER_UTIL.format(&number, PhoneNumberFormat::National);
        written.bytes().filter(u8::is_ascii_digit).eq(digits.bytes())
    })
}

/// Whether a number is in a range that its region has given out.
fn is_in_use(e164: &str) -> bool {
    let number = PHONE_NUMBER_UTIL.parse(e164, None);
    number.is_ok_and(|number| PHONE_NUMBER_UTIL.is_valid_number(&number))
}

/// A number from its country code on, with `00` before it or without. Any other zero there is a fault: no
/// country code begins with one.
fn international(digits: &str) -> Result<String, PhoneError> {
    let from_country_code = without_international_prefix(digits);
    if from_country_code.starts_with('0') {
        return Err(PhoneError::CountryCode);
    }
    // Mobile phones of Mexico had a 1 there until 2019. WhatsApp still writes it.
    if let Some(number) = from_country_code.strip_prefix("521")
        && number.len() == 10
    {
        return stable(&format!("+52{number}"), None);
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
    // Nearly every number comes as it is stored, and would only be parsed a second time.
    if region.is_none() && number == dialled {
        return Ok(number);
    }
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
            ("AT", "436641234567.00", "+436641234567"),
            ("AT", "436641234567,00", "+436641234567"),
            ("FR", "06.12.34.56.00", "+33612345600"),
            ("AT", "43 (0)664 1234567", "+436641234567"),
            ("AT", "0043 (0)664 1234567", "+436641234567"),
            ("DE", "49 (0)89 123456", "+4989123456"),
            ("DE", "49 89 123456", "+4989123456"),
            ("AT", "6641234567", "+436641234567"),
            ("US", "6502530000", "+16502530000"),
            ("IT", "3931234567", "+393931234567"),
            ("IT", "393331234567", "+393331234567"),
            ("ES", "612345678", "+34612345678"),
            ("IN", "9123456789", "+919123456789"),
            ("CN", "13812345678", "+8613812345678"),
            ("BR", "(41) 91234-5678", "+5541912345678"),
            ("IN", "011 2345 6789", "+911123456789"),
            ("MX", "5215512345678", "+525512345678"),
            ("AT", "+52 1 55 1234 5678", "+525512345678"),
            ("AT", "whatsapp:+436641234567", "+436641234567"),
            ("AT", "sms:+43-664-1234567", "+436641234567"),
            ("AT", "callto:0664 1234567", "+436641234567"),
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
            ("AT", "01 12345 DW 67", "+4311234567"),
            ("AT", "+43 1 12345-67", "+4311234567"),
            ("AT", "+43112345;ext=67", "+4311234567"),
            ("AT", "+43 1 12345 ext. 067", "+43112345067"),
            ("CH", "044 668 18 00 x67", "+41446681800;ext=67"),
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

    /// Each has been taken for the number of somebody else.
    #[test]
    fn digits_that_are_two_numbers_are_refused() {
        let numbers = [
            ("DE", "4915112345678"),
            ("DE", "49 171 1234567"),
            ("DE", "436641234567"),
            ("DE", "011 49 1512 3456789"),
            ("AT", "43557421345"),
            ("AT", "43 0664 1234567"),
            ("AT", "4915112345678"),
            ("AT", "16502530000"),
            ("ID", "62812345678"),
            ("SE", "468123456"),
            ("XK", "38343201234"),
            ("IT", "3906123456"),
        ];
        let read: Vec<_> = numbers
            .iter()
            .filter_map(|(default, given)| {
                let region = region(default);
                let fault = PhoneError::Ambiguous { region: region? };
                let answer = canonical(given, region);
                (answer != Err(fault.into())).then_some((default, given, answer))
            })
            .collect();
        assert_eq!(read, []);
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
            ("+436645550001 / -02", PhoneError::SeveralNumbers),
            ("+43 664 5550001/02", PhoneError::SeveralNumbers),
            ("436,641,234,567", PhoneError::SeveralNumbers),
            ("-1235188", PhoneError::Negative),
            ("−436641234567", PhoneError::Negative),
            ("- 0664 1234567", PhoneError::Negative),
            ("(1235188)", PhoneError::Negative),
            ("0.000537832", PhoneError::Fraction),
            ("0664 1234567.0", PhoneError::Fraction),
            ("0664 1234567.00", PhoneError::Fraction),
            ("436641234567.5", PhoneError::Fraction),
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
