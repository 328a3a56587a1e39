//! What a witness answers, request by request.

use axum::http::Request;
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use super::*;
use crate::{
    storage::{disk::Disk, sim::SimDisk},
    tlog::{checkpoint::SignedCheckpoint, note::Note},
    witness::{
        report::REPORT_BYTES_MAX,
        state::tests::{HangingDisk, Tree, log_key, state_on, witness_key},
    },
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
    let content_type =
        content_type.map(|header| header.to_str().unwrap().to_owned()).unwrap_or_default();
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
        let signed = SignedCheckpoint::open(&answer.text, log_key(1).verifier()).unwrap();
        assert_eq!(signed.checkpoint.size, size);
        assert!(signed.note.verify(witness_key(1).verifier()).is_ok());
    }
    for none in [page().to_uppercase().replace("CHECKPOINT", "checkpoint"), "/00/checkpoint".into()]
    {
        assert_eq!(ask(&router, "GET", &none, "").await.status, 404, "{none}");
    }
    assert_eq!(ask(&router, "GET", "/healthz", "").await.status, 200);
    assert_eq!(ask(&router, "GET", "/add-checkpoint", "").await.status, 405);
}

/// A request that a stranger makes of a public checkpoint leaves a witness that starts again.
#[tokio::test]
async fn what_can_not_be_kept_is_a_bad_request() {
    let router = witness();
    let mut request = Tree::of(0..4).request(0, 4);
    let blank = request.checkpoint.to_string().len();
    let extensions = format!("{}\n", "x".repeat(NOTE_BYTES_MAX - blank - 1));
    let checkpoint =
        crate::tlog::checkpoint::Checkpoint { extensions, ..request.checkpoint.checkpoint };
    request.checkpoint = SignedCheckpoint::sign(checkpoint, &log_key(1)).unwrap();
    let answer = add(&router, request).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert_eq!(ask(&router, "GET", &page(), "").await.status, 404);
}

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_hangs_holds_up_only_what_is_to_be_kept() {
    let disk = HangingDisk::new();
    let witness = |keep_timeout| Witness {
        state: Arc::new(state_on(&disk, true).unwrap()),
        permits: Arc::new(Semaphore::new(1)),
        reports: Arc::default(),
        clock: || 1_000,
        keep_timeout,
    };
    let patient = witness(PATIENCE * 10);
    let impatient = routes(Witness { keep_timeout: Duration::from_millis(20), ..patient.clone() });
    let router = routes(patient);
    let tree = Tree::of(0..9);
    assert_eq!(add(&router, tree.request(0, 4)).await.status, 200);
    let hanging = disk.hang();
    let kept = tokio::spawn({
        let (router, request) = (router.clone(), tree.request(4, 9));
        async move { add(&router, request).await.status }
    });
    let others = tokio::spawn(async move {
        disk.is_waited_for().await;
        // What was cosigned before is there, and the witness says that it is alive.
        let answer = ask(&router, "GET", &page(), "").await;
        assert!(answer.text.contains("\n4\n"), "{}", answer.text);
        assert_eq!(ask(&router, "GET", "/healthz", "").await.status, 200);
        // A request comes back unanswered, and then it is too long for a disk.
        assert_eq!(add(&impatient, Tree::of(0..9).request(4, 9)).await.status, 503);
        assert_eq!(ask(&impatient, "GET", "/healthz", "").await.status, 503);
        impatient
    });
    let impatient = timeout(PATIENCE, others).await.expect("nobody waits for the disk").unwrap();
    drop(hanging);
    assert_eq!(kept.await.unwrap(), 200);
    assert_eq!(ask(&impatient, "GET", "/healthz", "").await.status, 200);
}

/// What was logged.
#[derive(Clone, Default)]
struct Sink(Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_refused_again_and_again_is_told_once() {
    let disk = SimDisk::new();
    disk.create_dir_all(std::path::Path::new("w")).unwrap();
    let witness = Witness {
        state: Arc::new(state_on(&disk, true).unwrap()),
        permits: Arc::new(Semaphore::new(1)),
        reports: Arc::default(),
        clock: || 1_000,
        keep_timeout: PATIENCE,
    };
    let (tree, other) = (Tree::of(0..20), Tree::of(50..70));
    let status = |request: &AddCheckpoint| answer(&witness, &request.to_string()).status();
    assert_eq!(status(&tree.request(0, 12)), StatusCode::OK);
    let mut doubtful = tree.request(12, 20);
    let extensions = format!("{}\n", "x".repeat(REPORT_BYTES_MAX));
    let checkpoint =
        crate::tlog::checkpoint::Checkpoint { extensions, ..doubtful.checkpoint.checkpoint };
    doubtful.checkpoint = SignedCheckpoint::sign(checkpoint, &log_key(1)).unwrap();
    doubtful.proof = vec![[7; 32]];
    let sink = Sink::default();
    let writer = {
        let sink = sink.clone();
        move || sink.clone()
    };
    let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || {
        for request in [&doubtful, &doubtful, &other.request(12, 12), &doubtful] {
            assert_eq!(status(request), StatusCode::UNPROCESSABLE_ENTITY);
        }
    });
    let logged = String::from_utf8(sink.0.lock().clone()).unwrap();
    assert_eq!(logged.matches("no proof that the log continues").count(), 1, "{logged}");
    assert_eq!(logged.matches("two roots for one size").count(), 1, "{logged}");
    assert!(logged.len() < REPORT_BYTES_MAX * 2, "{}", logged.len());
}
