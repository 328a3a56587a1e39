//! `catalog`: applies and lists namespaces, parties, purposes and channels.

use clap::Subcommand;
use tonic::transport::Channel;

use super::{Context, Exit, client, error::CliError, words};
use crate::{
    domain::Catalog,
    grpc::convert,
    proto::{
        self, ListChannelsRequest, ListNamespacesRequest, ListPartiesRequest, ListPurposesRequest,
        NamespaceKind, catalog_service_client::CatalogServiceClient,
    },
};

mod apply;
pub mod file;
mod list;
mod preview;

/// The subcommands of `catalog`.
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Add and change namespaces, parties, purposes and channels as a file says; others stay as they are
    Apply(apply::ApplyArgs),
    /// Count the decisions that a file would change, before it is applied
    Preview(preview::PreviewArgs),
    /// List namespaces, parties, purposes and channels
    List(list::ListArgs),
}

pub(super) async fn run(command: CatalogCommand, context: &mut Context) -> Result<Exit, CliError> {
    match command {
        CatalogCommand::Apply(args) => Box::pin(apply::run(args, context)).await,
        CatalogCommand::Preview(args) => Box::pin(preview::run(args, context)).await,
        CatalogCommand::List(args) => Box::pin(list::run(args, context)).await,
    }
}

type Client = CatalogServiceClient<Channel>;

async fn namespaces(client: &mut Client) -> Result<Vec<proto::Namespace>, CliError> {
    client::all_pages(async |page_token| {
        let request = ListNamespacesRequest {
            page_size: client::PAGE_SIZE,
            page_token,
            at_least_revision: None,
        };
        let page = client.list_namespaces(request).await?.into_inner();
        Ok((page.namespaces, page.next_page_token))
    })
    .await
}

async fn parties(client: &mut Client) -> Result<Vec<proto::Party>, CliError> {
    client::all_pages(async |page_token| {
        let request = ListPartiesRequest {
            page_size: client::PAGE_SIZE,
            page_token,
            at_least_revision: None,
        };
        let page = client.list_parties(request).await?.into_inner();
        Ok((page.parties, page.next_page_token))
    })
    .await
}

/// The namespaces of the server as a catalogue, which tells the canonical form of data subjects.
pub(super) async fn of_namespaces(client: &mut Client) -> Result<Catalog, CliError> {
    let mut catalog = Catalog::default();
    for namespace in namespaces(client).await? {
        let request =
            proto::PutNamespaceRequest { namespace: Some(namespace), ..Default::default() };
        let draft = convert::namespace_draft(request).map_err(|invalid| {
            let key = &invalid.field;
            CliError::failed(format!("the server answered a namespace with an unknown {key}"))
        })?;
        catalog.put_namespace(draft.into());
    }
    Ok(catalog)
}

/// A key of the catalogue.
#[derive(Debug, Clone)]
pub(super) struct CatalogKey {
    pub(super) key: String,
    pub(super) retired: bool,
    /// Of a namespace; empty for other keys.
    pub(super) kind: String,
}

/// The keys of all entries.
pub(super) struct CatalogKeys {
    pub(super) purposes: Vec<CatalogKey>,
    pub(super) channels: Vec<CatalogKey>,
    pub(super) namespaces: Vec<CatalogKey>,
}

/// All keys of the catalogue, also retired ones.
pub(super) async fn keys(client: &mut Client) -> Result<CatalogKeys, CliError> {
    let key = |key, retired| CatalogKey { key, retired, kind: String::new() };
    let purposes = purposes(client, true).await?.into_iter();
    let channels = channels(client, true).await?.into_iter();
    let namespaces = namespaces(client).await?.into_iter();
    Ok(CatalogKeys {
        purposes: purposes.map(|purpose| key(purpose.key, purpose.retired)).collect(),
        channels: channels.map(|channel| key(channel.key, channel.retired)).collect(),
        namespaces: namespaces
            .map(|namespace| CatalogKey {
                kind: words::word::<NamespaceKind>(namespace.kind),
                ..key(namespace.key, false)
            })
            .collect(),
    })
}

async fn purposes(
    client: &mut Client,
    show_retired: bool,
) -> Result<Vec<proto::Purpose>, CliError> {
    client::all_pages(async |page_token| {
        let request = ListPurposesRequest {
            page_size: client::PAGE_SIZE,
            page_token,
            show_retired,
            at_least_revision: None,
        };
        let page = client.list_purposes(request).await?.into_inner();
        Ok((page.purposes, page.next_page_token))
    })
    .await
}

async fn channels(
    client: &mut Client,
    show_retired: bool,
) -> Result<Vec<proto::Channel>, CliError> {
    client::all_pages(async |page_token| {
        let request = ListChannelsRequest {
            page_size: client::PAGE_SIZE,
            page_token,
            show_retired,
            at_least_revision: None,
        };
        let page = client.list_channels(request).await?.into_inner();
        Ok((page.channels, page.next_page_token))
    })
    .await
}
