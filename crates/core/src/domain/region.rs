//! ISO 3166 regions, which decide the law that applies to a data subject.

use std::fmt;

use thiserror::Error;

/// The longest region, in bytes: a country, a hyphen and up to three more.
pub const REGION_BYTES_MAX: usize = 6;

/// A country (ISO 3166-1 alpha-2, `DE`) or a part of one (ISO 3166-2, `US-CA`).
///
/// Countries are looked up; of the parts only the form is checked, as they change often.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region {
    bytes: [u8; REGION_BYTES_MAX],
    len: u8,
}

/// Why a text is not a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RegionError {
    /// Not of the form.
    #[error("must be an ISO 3166 region such as `DE` or `US-CA`")]
    Form,
    /// Not a country of ISO 3166-1.
    #[error("must begin with an ISO 3166-1 alpha-2 country code, for example `GB`, not `UK`")]
    Country,
}

impl Region {
    /// Parses a region.
    ///
    /// # Errors
    /// One [`RegionError`] for every way in which the text can be wrong.
    pub fn parse(text: &str) -> Result<Self, RegionError> {
        let bytes = text.as_bytes();
        let is_upper = |part: &[u8]| part.iter().all(u8::is_ascii_uppercase);
        let is_part = |part: &[u8]| {
            (1..=3).contains(&part.len())
                && part.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        };
        let well_formed = match bytes {
            [a, b] => is_upper(&[*a, *b]),
            [a, b, b'-', part @ ..] => is_upper(&[*a, *b]) && is_part(part),
            _ => false,
        };
        if !well_formed {
            return Err(RegionError::Form);
        }
        if COUNTRIES.binary_search(&&text[..2]).is_err() {
            return Err(RegionError::Country);
        }
        let mut padded = [0; REGION_BYTES_MAX];
        padded[..bytes.len()].copy_from_slice(bytes);
        Ok(Self { bytes: padded, len: u8::try_from(bytes.len()).unwrap_or_default() })
    }

    /// The region as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// The country that the region is, or is a part of.
    #[must_use]
    pub fn country(&self) -> Self {
        let mut bytes = [0; REGION_BYTES_MAX];
        bytes[..2].copy_from_slice(&self.bytes[..2]);
        Self { bytes, len: 2 }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// ISO 3166-1 alpha-2, in order.
#[rustfmt::skip]
const COUNTRIES: [&str; 249] = [
    "AD", "AE", "AF", "AG", "AI", "AL", "AM", "AO", "AQ", "AR", "AS", "AT", "AU", "AW", "AX", "AZ",
    "BA", "BB", "BD", "BE", "BF", "BG", "BH", "BI", "BJ", "BL", "BM", "BN", "BO", "BQ", "BR", "BS",
    "BT", "BV", "BW", "BY", "BZ", "CA", "CC", "CD", "CF", "CG", "CH", "CI", "CK", "CL", "CM", "CN",
    "CO", "CR", "CU", "CV", "CW", "CX", "CY", "CZ", "DE", "DJ", "DK", "DM", "DO", "DZ", "EC", "EE",
    "EG", "EH", "ER", "ES", "ET", "FI", "FJ", "FK", "FM", "FO", "FR", "GA", "GB", "GD", "GE", "GF",
    "GG", "GH", "GI", "GL", "GM", "GN", "GP", "GQ", "GR", "GS", "GT", "GU", "GW", "GY", "HK", "HM",
    "HN", "HR", "HT", "HU", "ID", "IE", "IL", "IM", "IN", "IO", "IQ", "IR", "IS", "IT", "JE", "JM",
    "JO", "JP", "KE", "KG", "KH", "KI", "KM", "KN", "KP", "KR", "KW", "KY", "KZ", "LA", "LB", "LC",
    "LI", "LK", "LR", "LS", "LT", "LU", "LV", "LY", "MA", "MC", "MD", "ME", "MF", "MG", "MH", "MK",
    "ML", "MM", "MN", "MO", "MP", "MQ", "MR", "MS", "MT", "MU", "MV", "MW", "MX", "MY", "MZ", "NA",
    "NC", "NE", "NF", "NG", "NI", "NL", "NO", "NP", "NR", "NU", "NZ", "OM", "PA", "PE", "PF", "PG",
    "PH", "PK", "PL", "PM", "PN", "PR", "PS", "PT", "PW", "PY", "QA", "RE", "RO", "RS", "RU", "RW",
    "SA", "SB", "SC", "SD", "SE", "SG", "SH", "SI", "SJ", "SK", "SL", "SM", "SN", "SO", "SR", "SS",
    "ST", "SV", "SX", "SY", "SZ", "TC", "TD", "TF", "TG", "TH", "TJ", "TK", "TL", "TM", "TN", "TO",
    "TR", "TT", "TV", "TW", "TZ", "UA", "UG", "UM", "US", "UY", "UZ", "VA", "VC", "VE", "VG", "VI",
    "VN", "VU", "WF", "WS", "YE", "YT", "ZA", "ZM", "ZW",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_countries_and_parts_of_them() {
        for good in ["DE", "US-CA", "GB-ENG", "FR-75C", "AT-9"] {
            let region = Region::parse(good).unwrap();
            assert_eq!(region.as_str(), good);
            assert_eq!(region.country().as_str(), &good[..2]);
        }
        for bad in ["", "D", "de", "DEU", "US-", "US-CALI", "US_CA", "US-ca", "Ü", "éA"] {
            assert_eq!(Region::parse(bad), Err(RegionError::Form), "{bad}");
        }
        for unknown in ["UK", "XX", "EU", "UK-ENG"] {
            assert_eq!(Region::parse(unknown), Err(RegionError::Country), "{unknown}");
        }
        assert!(COUNTRIES.is_sorted());
    }
}
