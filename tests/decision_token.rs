//! Decision tokens as a third party verifies them: with an Ed25519 library, JSON and base64 alone.
//! Over TCP to the built binary.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use consent_ledger::proto::{self, Action, batch_check_result};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::support::{self, Clients, Server, act, change, check_request, now_ms, timestamp, typed};

const PURPOSE: &str = "marketing.newsletter";

async fn serve(dir: &tempfile::TempDir, flags: &[&str]) -> (Server, Clients) {
    let server = Server::start_with(dir.path(), flags);
    let clients = server.clients_with_catalog(&[PURPOSE], &["email", "sms"]).await;
    (server, clients)
}

async fn key(clients: &mut Clients) -> proto::GetDecisionKeyResponse {
    clients.check.get_decision_key(proto::GetDecisionKeyRequest {}).await.unwrap().into_inner()
}

async fn grant(clients: &mut Clients, subject: &str, expires_at: Option<i64>) {
    let mut change = change(Action::Grant, PURPOSE, "email");
    change.expires_at = expires_at.map(timestamp);
    clients.record(act(subject, vec![change])).await;
}

fn wanted(subject: &str, channel: &str) -> proto::CheckRequest {
    proto::CheckRequest { want_token: true, ..check_request(subject, PURPOSE, channel) }
}

/// The header and claims of a token with a good signature.
fn verified(token: &str, public_key: &[u8]) -> (Value, Value) {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("{token}") };
    let signature: [u8; 64] = BASE64.decode(signature).unwrap().try_into().unwrap();
    let key = VerifyingKey::from_bytes(public_key.try_into().unwrap()).unwrap();
    let signed = format!("{header}.{claims}");
    key.verify_strict(signed.as_bytes(), &Signature::from_bytes(&signature)).unwrap();
    let json = |part| serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap();
    (json(header), json(claims))
}

fn is_about(claims: &Value, subject: &str) -> bool {
    let salt = BASE64.decode(claims["salt"].as_str().unwrap()).unwrap();
    assert_eq!(salt.len(), 16);
    let hash = Sha256::digest([salt.as_slice(), subject.as_bytes()].concat());
    claims["sub"] == format!("sha256:{}", BASE64.encode(hash))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_library_verifies_a_token_with_the_public_key() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = serve(&dir, &["--origin", "consent.example.org/eu"]).await;
    grant(&mut clients, "user:1", None).await;
    let before = now_ms() / 1_000;
    let mut request = wanted("user:1", "email");
    request.region = "DE".into();
    let answer = clients.ask(request).await;

    let decision_key = key(&mut clients).await;
    let x = BASE64.encode(&decision_key.public_key);
    let jwk: Value = serde_json::from_str(&decision_key.jwk).unwrap();
    assert_eq!(
        (&jwk["kty"], &jwk["crv"], &jwk["x"]),
        (&json!("OKP"), &json!("Ed25519"), &json!(x))
    );
    let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    assert_eq!(decision_key.key_id, BASE64.encode(Sha256::digest(members)), "RFC 7638");
    assert_eq!(decision_key.issuer, "consent.example.org/eu");

    let (header, claims) = verified(&answer.token, &decision_key.public_key);
    let expected =
        json!({"alg": "EdDSA", "typ": "consent-decision+jwt", "kid": decision_key.key_id});
    assert_eq!(header, expected);
    let issued_at = claims["iat"].as_i64().unwrap();
    assert!((before..=now_ms() / 1_000).contains(&issued_at), "{claims}");
    assert_eq!(claims["exp"], issued_at + 900, "fifteen minutes by default");
    assert!(is_about(&claims, "user:1") && !is_about(&claims, "user:2"), "{claims}");
    let mut stable_claims = claims.as_object().unwrap().clone();
    stable_claims
        .retain(|name, _| !["iat", "exp", "sub", "salt", "grounds"].contains(&name.as_str()));
    let expected = json!({
        "iss": "consent.example.org/eu", "purpose": PURPOSE, "channel": "email", "region": "DE",
        "effect": "ALLOW", "reason": "GRANTED",
    });
    assert_eq!(Value::from(stable_claims), expected, "and subject and entry nowhere");

    // The entry that decided is told to who has the keys of the vault.
    let vault = dir.path().join("vault").display().to_string();
    let verify = ["token", "verify", &answer.token, "--key", &x, "--json", "--vault", &vault];
    let told = support::run(verify).expect_code(0).json();
    assert_eq!(told["revision"], answer.revision);
    assert_eq!(told["decidedByIndex"], json!(answer.decided_by_index));
    let told = support::run(&verify[..6]).expect_code(0).json();
    assert_eq!((&told["revision"], &told["decidedByIndex"]), (&Value::Null, &Value::Null));

    let unasked = clients.ask(check_request("user:1", PURPOSE, "email")).await;
    assert_eq!(unasked.token, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_never_outlives_its_decision() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = serve(&dir, &["--decision-token-validity", "24h"]).await;
    let expires_at = now_ms() + 3_600_999;
    grant(&mut clients, "user:1", Some(expires_at)).await;
    let answer = clients.ask(wanted("user:1", "email")).await;
    let (_, claims) = verified(&answer.token, &key(&mut clients).await.public_key);
    assert_eq!(claims["exp"], expires_at.div_euclid(1_000));
    let millisecond = expires_at.to_string();
    assert!(!claims.to_string().contains(&millisecond), "the end would lead to the grant");
    // A decision that only a new entry can change lives for the maximum time.
    let denied = clients.ask(wanted("user:1", "sms")).await;
    let (_, claims) = verified(&denied.token, &key(&mut clients).await.public_key);
    assert_eq!(claims["exp"], claims["iat"].as_i64().unwrap() + 86_400);
    assert_eq!((&claims["effect"], &claims["reason"]), (&json!("DENY"), &json!("NO_RECORD")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_item_of_a_batch_has_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = serve(&dir, &[]).await;
    let mut past = wanted("user:1", "email");
    past.as_of = Some(proto::AsOf::default());
    let plain = check_request("user:1", PURPOSE, "email");
    let checks = vec![wanted("user:1", "email"), plain, past.clone(), wanted("user:1", "email")];
    let request = proto::BatchCheckRequest { checks, at_least_revision: None };
    let results = clients.check.batch_check(request).await.unwrap().into_inner().results;
    let key = key(&mut clients).await.public_key;
    let results: Vec<_> = results.into_iter().map(|result| result.result.unwrap()).collect();
    let [first, second, third, fourth] = &results[..] else { panic!("{results:?}") };
    let token = |result: &batch_check_result::Result| match result {
        batch_check_result::Result::Decision(decision) => decision.token.clone(),
        batch_check_result::Result::Error(error) => panic!("{error:?}"),
    };
    let claims = |result| verified(&token(result), &key).1;
    assert!(is_about(&claims(first), "user:1") && is_about(&claims(fourth), "user:1"));
    assert_ne!(claims(first)["sub"], claims(fourth)["sub"], "tokens can not be joined");
    assert_eq!(token(second), "");
    let batch_check_result::Result::Error(error) = third else { panic!("{third:?}") };
    assert_eq!(
        (error.reason.as_str(), error.field.as_str()),
        ("INVALID_FIELD", "checks[2].want_token")
    );

    let refused = typed(&clients.check.check(past).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert_eq!(refused.fields, ["want_token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_verifies_without_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = serve(&dir, &[]).await;
    grant(&mut clients, "user:42", None).await;
    let jwk = server.cli(&["token", "key"]).expect_code(0).stdout;
    let printed = server.cli(&["token", "key", "--json"]).expect_code(0).json();
    assert_eq!(printed["jwk"], jwk.trim());
    let check = |channel: &str, code| {
        let cell = ["--purpose", PURPOSE, "--channel", channel, "--token", "--json"];
        let asked = server.cli(&[&["check", "--subject", "user:42"], &cell[..]].concat());
        asked.expect_code(code).json()["token"].as_str().unwrap().to_owned()
    };
    let (allow, deny) = (check("email", 0), check("sms", 3));
    server.terminate();

    let file = dir.path().join("ledger.jwk");
    std::fs::write(&file, &jwk).unwrap();
    let at_file = format!("@{}", file.display());
    let verify = |token: &str, more: &[&str]| {
        support::run([&["token", "verify", token, "--key", &at_file], more].concat())
    };
    let verified = verify(&allow, &["--subject", "user:42"]).expect_code(0);
    assert!(
        verified.stdout.starts_with("ALLOW  granted\nsubject      confirmed\n"),
        "{}",
        verified.stdout
    );
    assert_eq!(verify(&deny, &["--json"]).expect_code(3).json()["reason"], "REASON_NO_RECORD");
    for (more, reason) in [
        (&["--subject", "user:43"][..], "WRONG_SUBJECT"),
        (&["--at", "2100-01-01T00:00:00Z"], "EXPIRED"),
        (&["--at", "2000-01-01T00:00:00Z"], "NOT_YET_VALID"),
    ] {
        let refused = verify(&allow, &[more, &["--json"]].concat()).expect_code(1);
        let error: Value = serde_json::from_str(&refused.stderr).unwrap();
        assert_eq!(
            (&error["error"]["kind"], &error["error"]["reason"]),
            (&json!("token"), &json!(reason))
        );
        assert_eq!(refused.stdout, "");
    }
    support::run(["token", "verify", &allow, "--key", "nonsense"]).expect_code(2);
    // A demand that no token can meet is wrong usage, and says nothing of the token.
    for (flag, value) in [
        ("--data-category", ""),
        ("--data-category", "user. contact"),
        ("--purpose", "*"),
        ("--channel", ""),
        ("--region", ""),
        ("--subject", "42"),
    ] {
        let refused = verify(&allow, &[flag, value]).expect_code(2);
        assert!(refused.stderr.contains(flag), "{flag}: {}", refused.stderr);
    }

    // The key survives the process.
    let server = Server::start(dir.path());
    assert_eq!(server.cli(&["token", "key"]).expect_code(0).stdout, jwk);
    server.terminate();
    let long = ["serve", "--data-dir", "unused", "--decision-token-validity", "25h"];
    assert!(support::run(long).expect_code(2).stderr.contains("1s to 24h"));
}
