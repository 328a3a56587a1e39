//! Receipts.

use super::{Invalid, Problem, scalar};
use crate::{
    domain::{Catalog, Subject},
    proto,
    receipt::{Format, Issued},
};

/// The format of a receipt; the default is a consent receipt.
///
/// # Errors
/// The format is unknown.
pub fn receipt_format(number: i32) -> Result<Format, Invalid> {
    use proto::ReceiptFormat;
    match ReceiptFormat::try_from(number) {
        Ok(ReceiptFormat::Unspecified | ReceiptFormat::ConsentReceipt) => {
            Ok(Format::ConsentReceipt)
        }
        Ok(ReceiptFormat::Dpv) => Ok(Format::Dpv),
        Err(_) => Err(Problem::UnknownValue(number).at("format")),
    }
}

/// An optional data subject.
///
/// # Errors
/// The text is malformed.
pub fn subject_if_given(catalog: &Catalog, text: &str) -> Result<Option<Subject>, Invalid> {
    if text.is_empty() { Ok(None) } else { scalar::subject(catalog, text, "subject").map(Some) }
}

/// A receipt.
#[must_use]
pub fn receipt_message(issued: Issued) -> proto::GetReceiptResponse {
    proto::GetReceiptResponse {
        index: issued.index,
        receipt: issued.receipt,
        payload: issued.payload,
        missing_fields: issued.missing_fields,
    }
}
