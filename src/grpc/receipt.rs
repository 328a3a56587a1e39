//! `AuditService.GetReceipt`.

use std::sync::Arc;

use super::{
    audit::Audit,
    blocking,
    convert::{self, receipt_format, receipt_message, subject_if_given},
};
use crate::{node::ReadError, proto, status::Fault};

impl Audit {
    /// The receipt of an act, once a checkpoint covers it.
    pub(super) async fn receipt(
        &self,
        request: proto::GetReceiptRequest,
    ) -> Result<proto::GetReceiptResponse, Fault> {
        let format = receipt_format(request.format)?;
        let subject = subject_if_given(&self.node.catalog().catalog, &request.subject)?;
        let index = self.index_of(convert::act_of_receipt(request.act, subject.as_ref())?).await?;
        let head = self.node.revision();
        if index >= head {
            return Err(ReadError::IndexOutOfRange { index, head }.into());
        }
        let signed = self.node.released_at_least(index + 1).await?;
        let node = Arc::clone(&self.node);
        let issued =
            blocking(move || node.receipt(index, &signed, subject.as_ref(), format)).await?;
        Ok(receipt_message(issued))
    }
}
