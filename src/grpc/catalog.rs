//! `consent.v1.CatalogService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    blocking,
    convert::{self, List, Page},
    near::with_near_keys,
};
use crate::{
    domain::Key,
    node::Node,
    proto::{self, catalog_service_server::CatalogService},
    status::Fault,
};

/// Keeps the catalogue.
#[derive(Debug)]
pub struct Catalog {
    pub(crate) node: Arc<Node>,
}

#[tonic::async_trait]
impl CatalogService for Catalog {
    async fn put_purpose(
        &self,
        request: Request<proto::PutPurposeRequest>,
    ) -> Result<Response<proto::PutPurposeResponse>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let draft = convert::purpose_draft(request)?;
        let put = match validate_only {
            true => self.node.validate_purpose(draft),
            false => self.node.put_purpose(draft).await,
        };
        let put = put.map_err(|error| with_near_keys(&self.node, error))?;
        Ok(Response::new(proto::PutPurposeResponse {
            purpose: Some(convert::purpose_message(&put.value)),
            revision: put.revision,
            changed: put.changed,
        }))
    }

    async fn put_channel(
        &self,
        request: Request<proto::PutChannelRequest>,
    ) -> Result<Response<proto::PutChannelResponse>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let channel = convert::channel(request)?;
        let put = match validate_only {
            true => self.node.validate_channel(channel),
            false => self.node.put_channel(channel).await?,
        };
        Ok(Response::new(proto::PutChannelResponse {
            channel: Some(convert::channel_message(&put.value)),
            revision: put.revision,
            changed: put.changed,
        }))
    }

    async fn put_namespace(
        &self,
        request: Request<proto::PutNamespaceRequest>,
    ) -> Result<Response<proto::PutNamespaceResponse>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let draft = convert::namespace_draft(request)?;
        let (node, wanted) = (Arc::clone(&self.node), draft.clone());
        let known_use = blocking(move || node.namespace_use(&wanted)).await?;
        let put = match validate_only {
            true => self.node.validate_namespace(draft, known_use)?,
            false => self.node.put_namespace(draft, known_use).await?,
        };
        Ok(Response::new(proto::PutNamespaceResponse {
            namespace: Some(convert::namespace_message(&put.value)),
            revision: put.revision,
            changed: put.changed,
        }))
    }

    async fn list_namespaces(
        &self,
        request: Request<proto::ListNamespacesRequest>,
    ) -> Result<Response<proto::ListNamespacesResponse>, Status> {
        let request = request.into_inner();
        let list = List::namespaces();
        let page = list.page(request.page_size, &request.page_token)?;
        self.node.reach(request.at_least_revision).await?;
        let current = self.node.catalog();
        let listed = current.catalog.namespaces().collect();
        let (rows, last) = rows_of_page(listed, &page, |namespace| &namespace.key);
        Ok(Response::new(proto::ListNamespacesResponse {
            namespaces: rows.into_iter().map(convert::namespace_message).collect(),
            next_page_token: last.map(|key| list.next_token(key)).unwrap_or_default(),
        }))
    }

    async fn put_party(
        &self,
        request: Request<proto::PutPartyRequest>,
    ) -> Result<Response<proto::PutPartyResponse>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let draft = convert::party_draft(request)?;
        let put = match validate_only {
            true => self.node.validate_party(draft)?,
            false => self.node.put_party(draft).await?,
        };
        Ok(Response::new(proto::PutPartyResponse {
            party: Some(convert::party_message(&put.value)),
            revision: put.revision,
            changed: put.changed,
        }))
    }

    async fn list_parties(
        &self,
        request: Request<proto::ListPartiesRequest>,
    ) -> Result<Response<proto::ListPartiesResponse>, Status> {
        let request = request.into_inner();
        let list = List::parties();
        let page = list.page(request.page_size, &request.page_token)?;
        self.node.reach(request.at_least_revision).await?;
        let current = self.node.catalog();
        let (rows, last) =
            rows_of_page(current.catalog.parties().collect(), &page, |party| &party.key);
        Ok(Response::new(proto::ListPartiesResponse {
            parties: rows.into_iter().map(convert::party_message).collect(),
            next_page_token: last.map(|key| list.next_token(key)).unwrap_or_default(),
        }))
    }

    async fn get_purpose(
        &self,
        request: Request<proto::GetPurposeRequest>,
    ) -> Result<Response<proto::GetPurposeResponse>, Status> {
        let request = request.into_inner();
        let key = convert::key(&request.key, "key")?;
        self.node.reach(request.at_least_revision).await?;
        let current = self.node.catalog();
        let purpose =
            current.catalog.purpose_id(key.as_str()).and_then(|id| current.catalog.purpose(id));
        match purpose {
            Some(purpose) => {
                let purpose = Some(convert::purpose_message(purpose));
                Ok(Response::new(proto::GetPurposeResponse { purpose }))
            }
            None => Err(with_near_keys(&self.node, Fault::NoSuchPurpose(key)).into()),
        }
    }

    async fn preview_purpose_change(
        &self,
        request: Request<proto::PreviewPurposeChangeRequest>,
    ) -> Result<Response<proto::PreviewPurposeChangeResponse>, Status> {
        let request = request.into_inner();
        let at_least = request.at_least_revision;
        let (draft, region) = convert::preview(request)?;
        self.node.reach(at_least).await?;
        let node = Arc::clone(&self.node);
        let preview = blocking(move || node.preview(draft, region)).await;
        let preview = preview.map_err(|fault| with_near_keys(&self.node, fault))?;
        Ok(Response::new(convert::preview_response(&preview)))
    }

    async fn list_purposes(
        &self,
        request: Request<proto::ListPurposesRequest>,
    ) -> Result<Response<proto::ListPurposesResponse>, Status> {
        let request = request.into_inner();
        let show_retired = request.show_retired;
        let list = List::purposes(show_retired);
        let page = list.page(request.page_size, &request.page_token)?;
        self.node.reach(request.at_least_revision).await?;
        let current = self.node.catalog();
        let purposes = current.catalog.purposes().map(|(_, purpose)| purpose);
        let listed = purposes.filter(|purpose| show_retired || !purpose.retired);
        let (rows, last) = rows_of_page(listed.collect(), &page, |purpose| &purpose.key);
        Ok(Response::new(proto::ListPurposesResponse {
            purposes: rows.into_iter().map(convert::purpose_message).collect(),
            next_page_token: last.map(|key| list.next_token(key)).unwrap_or_default(),
        }))
    }

    async fn list_channels(
        &self,
        request: Request<proto::ListChannelsRequest>,
    ) -> Result<Response<proto::ListChannelsResponse>, Status> {
        let request = request.into_inner();
        let show_retired = request.show_retired;
        let list = List::channels(show_retired);
        let page = list.page(request.page_size, &request.page_token)?;
        self.node.reach(request.at_least_revision).await?;
        let current = self.node.catalog();
        let channels = current.catalog.channels().map(|(_, channel)| channel);
        let listed = channels.filter(|channel| show_retired || !channel.retired);
        let (rows, last) = rows_of_page(listed.collect(), &page, |channel| &channel.key);
        Ok(Response::new(proto::ListChannelsResponse {
            channels: rows.into_iter().map(convert::channel_message).collect(),
            next_page_token: last.map(|key| list.next_token(key)).unwrap_or_default(),
        }))
    }

    async fn correct_clock(
        &self,
        request: Request<proto::CorrectClockRequest>,
    ) -> Result<Response<proto::CorrectClockResponse>, Status> {
        let correction = convert::clock_correction(request.into_inner())?;
        let outcome = self.node.correct_clock(correction).await?;
        Ok(Response::new(convert::clock_corrected(&outcome)))
    }
}

/// The rows of a page in the order of their keys, and the last key if more follow.
///
/// A page continues after a key, not at a position: a catalogue that changes between two pages
/// neither repeats a row nor skips one.
fn rows_of_page<'a, T>(
    mut rows: Vec<&'a T>,
    page: &Page,
    key: impl Fn(&'a T) -> &'a Key,
) -> (Vec<&'a T>, Option<&'a Key>) {
    rows.retain(|row| page.after.as_ref().is_none_or(|after| key(row) > after));
    rows.sort_unstable_by_key(|row| key(row));
    let more_follow = rows.len() > page.size;
    rows.truncate(page.size);
    let last = if more_follow { rows.last().map(|row| key(row)) } else { None };
    (rows, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_by_key_without_gap_or_repetition() {
        let keys: Vec<Key> =
            ["d", "a", "c", "e", "b"].into_iter().map(|text| Key::parse(text).unwrap()).collect();
        let mut page = Page { size: 2, after: None };
        let mut seen = String::new();
        loop {
            let (rows, last) = rows_of_page(keys.iter().collect(), &page, |key| key);
            assert!(rows.len() <= 2);
            seen.extend(rows.iter().map(|key| key.as_str()));
            match last {
                Some(last) => page.after = Some(last.clone()),
                None => break,
            }
        }
        assert_eq!(seen, "abcde");
    }

    #[test]
    fn a_full_last_page_has_no_next() {
        let keys = [Key::parse("a").unwrap(), Key::parse("b").unwrap()];
        let page = Page { size: 2, after: None };
        let (rows, last) = rows_of_page(keys.iter().collect(), &page, |key| key);
        assert_eq!((rows.len(), last), (2, None));
    }
}
