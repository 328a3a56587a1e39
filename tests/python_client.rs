//! A client that shares no code with the service: Python's grpcio, with stubs generated from the
//! protocol files during the test.
//!
//! Needs a Python with grpcio, grpcio-tools and PyJWT, named by `CONSENT_LEDGER_TEST_PYTHON` when
//! the tests are built.

use std::{env, fs, process::Command};

use crate::support::{self, Process, Server};

/// The checks that the client reports, in order, one line each.
const CHECKS: &[&str] = &[
    "catalogue applied",
    "consent recorded",
    "check allows",
    "a JWT library verifies the decision token",
    "batch answers in order",
    "withdrawal reached the watcher",
    "check denies",
    "history tells both acts with evidence",
    "errors are typed",
    "entries and chain agree",
    "health serving",
    "reflection v1alpha lists the services",
];

#[test]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON: a Python with grpcio, grpcio-tools and PyJWT"
)]
fn a_python_client_records_checks_and_watches() {
    let python = env::var("CONSENT_LEDGER_TEST_PYTHON").expect("it was there for the build");
    let dir = tempfile::tempdir().unwrap();
    let stubs = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());

    let mut command = support::clean(Command::new(python));
    command
        .arg(support::repository("tests/python/client.py"))
        .args([&server.address, support::repository("proto").to_str().unwrap()])
        .arg(stubs.path())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let done = Process::spawn(command).wait(support::LONG_PATIENCE).expect_code(0);
    let checks: Vec<&str> = done.stdout.lines().collect();
    let want: Vec<String> = CHECKS.iter().map(|check| format!("ok: {check}")).collect();
    assert_eq!(checks, want, "{}", done.stderr);

    server.terminate();
    support::verify(dir.path()).expect_code(0);
}

/// The function in `docs/webhooks.md`, tested with the example from the tests of the Standard
/// Webhooks libraries.
#[test]
#[cfg_attr(not(test_python), ignore = "needs CONSENT_LEDGER_TEST_PYTHON: a Python")]
fn the_guides_function_verifies_a_delivery() {
    const ASKED: &str = r#"
time.time = lambda: 1614265330 + 300
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
headers = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1a,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
print(verify(secret, headers, b'{"test": 2432232314}'))
print(verify(secret, headers, b'{"test": 2432232315}'))
print(verify(secret, headers | {"webhook-id": "msg_other"}, b'{"test": 2432232314}'))
time.time = lambda: 1614265330 + 301
print(verify(secret, headers, b'{"test": 2432232314}'))
"#;
    let guide = fs::read_to_string(support::repository("docs/webhooks.md")).unwrap();
    let (_, rest) = guide.split_once("```python\n").expect("the guide has a function");
    let function = rest.split("```").next().unwrap();
    let python = env::var("CONSENT_LEDGER_TEST_PYTHON").expect("it was there for the build");
    let mut command = support::clean(Command::new(python));
    command.args(["-c", &format!("{function}{ASKED}")]);
    let done = Process::spawn(command).wait(support::PATIENCE).expect_code(0);
    assert_eq!(done.stdout, "True\nFalse\nFalse\nFalse\n");
}
