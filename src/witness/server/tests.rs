use axum::http::Request;
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use super::*;
use crate::{
    storage::{disk::Disk, sim::SimDisk},
    tlog::{checkpoint::SignedCheckpoint, note::Note},
    witness::state::tests::{Tree, log_key, state_on, witness_key},
};

struct Answer {
    status: u16,
    content_type: String,
    text: String,
}

fn witness() -> Router {
    let disk = SimDisk::new();
    disk.create_dir_all(std::path::Path::new("w")).unwrap();
    router(Arc::new(state_on(&disk, true).unwrap()), || 1_000)
}

async fn ask(router: &Router, method: &str, path: &str, body: impl Into<Body>) -> Answer {
    let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let content_type = answer.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map(|own| own.to_str().unwrap().to_owned()).unwrap_or_default();
    let status = answer.status().as_u16();
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    Answer { status, content_type, text: String::from_utf8(bytes.into()).unwrap() }
}

async fn add(router: &Router, request: impl ToString) -> Answer {
    ask(router, "POST", "/add-checkpoint", request.to_string()).await
}

fn page() -> String {
    let hash: [u8; 32] = Sha256::digest("log.example").into();
    format!("/{}/checkpoint", blake3::Hash::from_bytes(hash).to_hex())
}

#[tokio::test]
async fn the_status_says_what_is_wrong() {
    let router = witness();
    let (tree, other) = (Tree::of(0..20), Tree::of(50..70));
    let first = tree.request(0, 12);
    let answer = add(&router, &first).await;
    assert_eq!((answer.status, answer.content_type.as_str()), (200, TEXT_TYPE));
    let mut note = Note::new(first.checkpoint.note.text().to_owned()).unwrap();
    note.add_lines(&answer.text).unwrap();
    assert_eq!(note.verify(witness_key(1).verifier()), Ok(Some(1_000)));

    let answer = add(&router, tree.request(3, 20)).await;
    assert_eq!((answer.status, answer.content_type.as_str()), (409, "text/x.tlog.size"));
    assert_eq!(answer.text, "12\n");
    let stranger = crate::tlog::key::SignerKey::from_seed(
        "other.example",
        crate::tlog::key::Algorithm::Note,
        &[9; 32],
    );
    let mut unknown = tree.request(12, 20);
    unknown.checkpoint = tree.signed(20, &stranger.unwrap());
    let mut unsigned = tree.request(12, 20);
    unsigned.checkpoint = tree.signed(20, &log_key(2));
    for (request, status) in [
        (tree.request(13, 12).to_string(), 400),
        (unknown.to_string(), 404),
        (unsigned.to_string(), 403),
        (other.request(12, 20).to_string(), 422),
        (other.request(12, 12).to_string(), 422),
        (tree.request(12, 20).to_string().replace("old 12", "old 012"), 400),
        (tree.request(12, 20).to_string().replace("old 12\n", "old 12\nAAAA\n"), 400),
        (format!("old 12\n{}\n{}", "A".repeat(45), first.checkpoint), 400),
        (String::new(), 400),
        ("x".repeat(REQUEST_BYTES_MAX + 1), 413),
    ] {
        let answer = add(&router, &request).await;
        let short = &request[..request.len().min(200)];
        assert_eq!(answer.status, status, "{short}: {}", answer.text);
        assert!(answer.text.ends_with('\n') && answer.text.len() > 1, "{short}");
    }
    assert_eq!(ask(&router, "POST", "/add-checkpoint", vec![0xff, 0xfe]).await.status, 400);
    assert_eq!(add(&router, tree.request(12, 20)).await.status, 200);
}

#[tokio::test]
async fn the_latest_is_there_for_monitors() {
    let router = witness();
    let tree = Tree::of(0..20);
    assert_eq!(ask(&router, "GET", &page(), "").await.status, 404);
    for (old, size) in [(0, 5), (5, 20)] {
        assert_eq!(add(&router, tree.request(old, size)).await.status, 200);
        let answer = ask(&router, "GET", &page(), "").await;
        assert_eq!(answer.status, 200);
        let own = SignedCheckpoint::open(&answer.text, log_key(1).verifier()).unwrap();
        assert_eq!(own.checkpoint.size, size);
        assert!(own.note.verify(witness_key(1).verifier()).is_ok());
    }
    for none in [page().to_uppercase().replace("CHECKPOINT", "checkpoint"), "/00/checkpoint".into()]
    {
        assert_eq!(ask(&router, "GET", &none, "").await.status, 404, "{none}");
    }
    assert_eq!(ask(&router, "GET", "/healthz", "").await.status, 200);
    assert_eq!(ask(&router, "GET", "/add-checkpoint", "").await.status, 405);
}
