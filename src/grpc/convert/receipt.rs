//! Receipts.

use super::{Invalid, Problem, scalar};
use crate::{
    domain::Subject,
    proto,
    receipt::{Format, Issued},
};

/// How a receipt is to be written; not said means as a consent receipt.
///
/// # Errors
/// A format that is not known.
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

/// A data subject, where one may be left out.
///
/// # Errors
/// The text is none.
pub fn subject_if_given(text: &str) -> Result<Option<Subject>, Invalid> {
    if text.is_empty() { Ok(None) } else { scalar::subject(text).map(Some) }
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
