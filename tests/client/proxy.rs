//! A proxy that can hold back the server's bytes, as a network or a paused machine would: they come
//! later, all at once.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub struct Proxy {
    pub address: String,
    held: Arc<watch::Sender<bool>>,
}

impl Proxy {
    /// A proxy to a server; it runs as long as the test's runtime.
    pub async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let held = Arc::new(watch::Sender::new(false));
        let held_sender = Arc::clone(&held);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                tokio::spawn(pass(client, server, held_sender.subscribe()));
            }
        });
        Self { address, held }
    }

    /// Holds back the server's bytes, or lets them through.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

async fn pass(client: TcpStream, server: TcpStream, mut held: watch::Receiver<bool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        if held.wait_for(|held| !held).await.is_err()
            || to_client.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}
