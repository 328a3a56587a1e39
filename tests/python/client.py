"""A client of the consent ledger that shares no code with it.

    client.py HOST:PORT PROTO_DIR STUB_DIR

Generates stubs from the protocol files into STUB_DIR, then uses the service as another team's
program would. Prints a line for each thing that works; the first thing that does not ends it with
an error.
"""

import pathlib
import queue
import sys
import threading

import grpc
from grpc_tools import protoc

TIMEOUT_S = 30


def generate_stubs(proto_dir, stub_dir):
    import grpc_tools

    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    files = sorted(str(path) for path in pathlib.Path(proto_dir).glob("consent/**/*.proto"))
    assert files, f"no protocol files in {proto_dir}"
    arguments = ["protoc", f"-I{proto_dir}", f"-I{well_known}"]
    arguments += [f"--python_out={stub_dir}", f"--grpc_python_out={stub_dir}"]
    assert protoc.main(arguments + files) == 0, "protoc failed"
    sys.path.insert(0, stub_dir)


def ok(name):
    print(f"ok: {name}", flush=True)


def main(address, proto_dir, stub_dir):
    generate_stubs(proto_dir, stub_dir)
    from consent.v1 import audit_service_pb2 as audit
    from consent.v1 import audit_service_pb2_grpc as audit_grpc
    from consent.v1 import catalog_service_pb2 as catalog
    from consent.v1 import catalog_service_pb2_grpc as catalog_grpc
    from consent.v1 import check_service_pb2 as check
    from consent.v1 import check_service_pb2_grpc as check_grpc
    from consent.v1 import consent_service_pb2 as consent
    from consent.v1 import consent_service_pb2_grpc as consent_grpc
    from consent.v1 import types_pb2 as types
    from consent.v1 import watch_service_pb2 as watch
    from consent.v1 import watch_service_pb2_grpc as watch_grpc
    from consent.ledger.v2 import entry_pb2 as entry

    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)
    consents = consent_grpc.ConsentServiceStub(channel)
    checks = check_grpc.CheckServiceStub(channel)
    watches = watch_grpc.WatchServiceStub(channel)
    audits = audit_grpc.AuditServiceStub(channel)
    catalogs = catalog_grpc.CatalogServiceStub(channel)

    def put(key):
        purpose = catalog.Purpose(
            key=key,
            title=key,
            legal_basis=types.LEGAL_BASIS_CONSENT,
            data_categories=["user.contact.email"],
        )
        request = catalog.PutPurposeRequest(purpose=purpose)
        return catalogs.PutPurpose(request, timeout=TIMEOUT_S)

    assert put("marketing.newsletter").changed
    assert not put("marketing.newsletter").changed
    email = catalog.Channel(key="email", title="Email")
    catalogs.PutChannel(catalog.PutChannelRequest(channel=email), timeout=TIMEOUT_S)
    for key, kind in [
        ("email", types.NAMESPACE_KIND_EMAIL),
        ("user", types.NAMESPACE_KIND_OPAQUE),
    ]:
        namespace = catalog.Namespace(key=key, kind=kind)
        catalogs.PutNamespace(catalog.PutNamespaceRequest(namespace=namespace), timeout=TIMEOUT_S)
    listed = catalogs.ListPurposes(catalog.ListPurposesRequest(), timeout=TIMEOUT_S)
    assert [purpose.key for purpose in listed.purposes] == ["marketing.newsletter"], listed
    ok("catalogue applied")

    subject = "email:zoë@example.org"

    def act(action, purpose="marketing.newsletter", channel_key="email", **more):
        scope = types.Scope(purpose=purpose, channel=channel_key)
        return consent.RecordConsentRequest(
            subject=subject,
            actor=types.ACTOR_SUBJECT,
            changes=[consent.Change(action=action, scope=scope)],
            **more,
        )

    evidence = types.Evidence(
        touchpoint="onboarding", language="de-AT", ip_address="203.0.113.7", attributes={"a": "b"}
    )
    grant = act(types.ACTION_GRANT, evidence=evidence, idempotency_key="python-1")
    granted = consents.RecordConsent(grant, timeout=TIMEOUT_S)
    assert granted.revision == granted.index + 1, granted
    assert granted.results[0].outcome == types.OUTCOME_APPLIED, granted
    repeated = consents.RecordConsent(grant, timeout=TIMEOUT_S)
    assert repeated.replayed and repeated.index == granted.index, repeated
    ok("consent recorded")

    question = check.CheckRequest(
        subject=subject,
        purpose="marketing.newsletter",
        channel="email",
        at_least_revision=granted.revision,
    )
    answer = checks.Check(question, timeout=TIMEOUT_S)
    assert answer.effect == types.EFFECT_ALLOW, answer
    assert answer.reason == types.REASON_GRANTED, answer
    assert answer.decided_by_index == granted.index, answer
    ok("check allows")

    assert_token(checks, check, question)
    ok("a JWT library verifies the decision token")

    batch = check.BatchCheckRequest(
        checks=[
            question,
            check.CheckRequest(subject="", purpose="marketing.newsletter", channel="email"),
            check.CheckRequest(subject="user:1", purpose="marketing.newsletter", channel="email"),
        ]
    )
    results = checks.BatchCheck(batch, timeout=TIMEOUT_S).results
    assert [result.WhichOneof("result") for result in results] == ["decision", "error", "decision"]
    assert results[1].error.reason == "INVALID_FIELD", results[1]
    assert results[1].error.field == "checks[1].subject", results[1]
    assert results[2].decision.reason == types.REASON_NO_RECORD, results[2]
    ok("batch answers in order")

    events = queue.Queue()
    stream = watches.Watch(watch.WatchRequest(start_index=granted.index))

    def listen():
        try:
            for message in stream:
                if message.WhichOneof("message") == "consent":
                    events.put(message.consent)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:
                events.put(error)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    withdrawn = consents.RecordConsent(act(types.ACTION_WITHDRAW, "*", "*"), timeout=TIMEOUT_S)
    event = events.get(timeout=TIMEOUT_S)
    assert event.index == withdrawn.index, event
    assert event.subject == subject, event
    assert event.changes[0].action == types.ACTION_WITHDRAW, event
    assert event.changes[0].scope == types.Scope(purpose="*", channel="*"), event
    stream.cancel()
    listener.join(TIMEOUT_S)
    assert events.empty(), "the grant is no stop"
    ok("withdrawal reached the watcher")

    answer = checks.Check(question, timeout=TIMEOUT_S)
    assert answer.effect == types.EFFECT_DENY, answer
    assert answer.reason == types.REASON_WITHDRAWN, answer
    ok("check denies")

    request = consent.ListHistoryRequest(subject=subject)
    history = list(consents.ListHistory(request, timeout=TIMEOUT_S))
    assert [item.index for item in history] == [granted.index, withdrawn.index], history
    assert history[0].evidence == evidence, history[0]
    ok("history tells both acts with evidence")

    assert_typed_errors(consents, catalogs, catalog, act, types)
    ok("errors are typed")

    checkpoint = audits.GetCheckpoint(audit.GetCheckpointRequest(), timeout=TIMEOUT_S)
    request = audit.ListEntriesRequest(start_index=0)
    listed = list(audits.ListEntries(request, timeout=TIMEOUT_S))
    assert [item.index for item in listed] == list(range(checkpoint.size)), checkpoint
    entries = [entry.Entry.FromString(item.entry) for item in listed]
    assert entries[0].WhichOneof("body") == "ledger_opened", entries[0]
    assert entries[0].ledger_opened.ledger_id == checkpoint.ledger_id, checkpoint
    assert history[0].entry_hash == entries[granted.index + 1].prev_hash, "the chain differs"
    assert checkpoint.chain_hash == history[1].entry_hash, "the last entry is the withdrawal"
    ok("entries and chain agree")

    assert_health(channel)
    ok("health serving")
    assert_reflection(channel)
    ok("reflection v1alpha lists the services")


def assert_token(checks, check, question):
    import base64
    import hashlib

    import jwt

    wanted = check.CheckRequest(want_token=True)
    wanted.MergeFrom(question)
    token = checks.Check(wanted, timeout=TIMEOUT_S).token
    decision_key = checks.GetDecisionKey(check.GetDecisionKeyRequest(), timeout=TIMEOUT_S)
    key = jwt.PyJWK.from_json(decision_key.jwk)
    assert jwt.get_unverified_header(token)["kid"] == decision_key.key_id == key.key_id, decision_key
    claims = jwt.decode(token, key, algorithms=["EdDSA"], issuer=decision_key.issuer)
    assert (claims["effect"], claims["reason"]) == ("ALLOW", "GRANTED"), claims
    assert (claims["purpose"], claims["channel"]) == (question.purpose, question.channel), claims
    salt = base64.urlsafe_b64decode(claims["salt"] + "==")
    digest = hashlib.sha256(salt + question.subject.encode()).digest()
    digest = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert claims["sub"] == f"sha256:{digest}", claims
    changed = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
    try:
        jwt.decode(changed, key, algorithms=["EdDSA"])
    except jwt.InvalidSignatureError:
        return
    raise AssertionError("a changed token was taken")


def assert_typed_errors(consents, catalogs, catalog, act, types):
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    def details(call, request):
        try:
            call(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            status = rpc_status.from_call(error)
            assert status is not None, f"no google.rpc.Status: {error}"
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            for detail in status.details:
                detail.Unpack(info) or detail.Unpack(bad)
            assert info.domain == "consent.v1", status
            return error.code(), info.reason, [it.field for it in bad.field_violations]
        raise AssertionError(f"not refused: {request}")

    wide_grant = act(types.ACTION_GRANT, "*", "email")
    got = details(consents.RecordConsent, wide_grant)
    want = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ["changes[0].scope.purpose"])
    assert got == want, got
    reused = act(types.ACTION_WITHDRAW, idempotency_key="python-1")
    code, reason, _ = details(consents.RecordConsent, reused)
    assert code == grpc.StatusCode.ALREADY_EXISTS, code
    assert reason == "IDEMPOTENCY_KEY_REUSED", reason
    code, reason, _ = details(catalogs.GetPurpose, catalog.GetPurposeRequest(key="no.such"))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_PURPOSE"), (code, reason)


def assert_health(channel):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(channel)
    for service in ["", "consent.v1.ConsentService", "consent.v1.CheckService"]:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, (service, answer)


def assert_reflection(channel):
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    assert "consent.v1.CheckService" in services, services
    service = DescriptorPool(database).FindServiceByName("consent.v1.CheckService")
    assert {method.name for method in service.methods} >= {"Check", "BatchCheck"}


if __name__ == "__main__":
    main(*sys.argv[1:])
