"""Consumes a durable subscription with acknowledgements, for as long as it takes.

    pip install grpcio==1.85.3 grpcio-tools==1.85.1
    python examples/python/consume.py SUBSCRIPTION [--address 127.0.0.1:50051] [--owner TEAM]

Creates the subscription if it is missing. Prints each event as a line of JSON, and acknowledges it
once that is done. A server that restarts, or a network that breaks, is waited for; Ctrl-C ends it
cleanly.
"""

import argparse
import importlib
import json
import pathlib
import queue
import random
import signal
import sys
import tempfile

import grpc
from google.protobuf.json_format import MessageToDict
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).parents[2] / "proto"
# The number of messages that may be in flight. When a consumer stops working, the server stops
# sending, at no cost but its place.
CREDITS = 64
# Permanent errors: the request is wrong, the subscription is gone, or a newer consumer took over.
FINAL = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}


def stubs():
    """Generates the client from the protocol files. A real service would do so when it is built."""
    out = tempfile.mkdtemp(prefix="consent-")
    well_known = pathlib.Path(importlib.import_module("grpc_tools").__file__).parent / "_proto"
    files = [str(file) for file in sorted(PROTO.glob("consent/v1/*.proto"))]
    arguments = ["protoc", f"-I{PROTO}", f"-I{well_known}", f"--python_out={out}"]
    if protoc.main([*arguments, f"--grpc_python_out={out}", *files]) != 0:
        sys.exit("the protocol files do not compile")
    sys.path.insert(0, out)
    return (
        importlib.import_module("consent.v1.watch_service_pb2"),
        importlib.import_module("consent.v1.watch_service_pb2_grpc"),
    )


def handle(kind, message):
    """Here a service stops using the data. At least once: the same event may come again."""
    print(json.dumps({kind: MessageToDict(message)}), flush=True)


class Consumer:
    def __init__(self, pb, watches, name):
        self.pb, self.watches, self.name = pb, watches, name
        self.stopping = self.handling = False
        # Only these may be touched by a signal's handler at any moment: `put` can be interrupted.
        self.requests = self.wake = queue.SimpleQueue()
        # Resumes an interrupted snapshot.
        self.snapshot_token = b""

    def stop(self, *_):
        self.stopping = True
        self.wake.put(None)
        if not self.handling:
            # We close our side, and the server ends the stream. Else the handler's end does it.
            self.requests.put(None)

    def run(self):
        wait_s = 0.1
        while not self.stopping:
            try:
                for _ in self.connection():
                    wait_s = 0.1
                reason = "the server ended the stream"
            except grpc.RpcError as error:
                if error.code() in FINAL:
                    raise
                reason = error.details()
            if not self.stopping:
                print(f"{reason}; trying again in {wait_s:.1f} s", file=sys.stderr, flush=True)
                self.sleep(wait_s)
                wait_s = min(wait_s * 1.5, 10)

    def sleep(self, seconds):
        """Waits for the pause or a stop. With jitter: when a server restarts, all come back."""
        try:
            self.wake.get(timeout=seconds * random.uniform(0.8, 1.2))
        except queue.Empty:
            pass

    def connection(self):
        """Reads one stream to its end; yields each message."""
        # A queue for each stream: requests that the last stream did not send must not go to this
        # one. Messages that are not acknowledged come again.
        self.requests = requests = queue.SimpleQueue()
        if self.stopping:
            return
        start = self.pb.ConsumeStart(
            subscription=self.name, credits=CREDITS, snapshot_token=self.snapshot_token
        )
        requests.put(self.pb.ConsumeRequest(start=start))
        try:
            yield from self.hear(self.watches.Consume(iter(requests.get, None)), requests)
        finally:
            # gRPC's thread that waits for requests ends with the stream, also with one that failed.
            requests.put(None)

    def hear(self, responses, requests):
        used = 0
        for response in responses:
            kind = response.WhichOneof("message")
            message = getattr(response, kind)
            yield
            # Messages that arrive after we closed our side are delivered to the next consumer.
            if kind in ("started", "progress") or self.stopping:
                continue
            self.handling = True
            handle(kind, message)
            # Acknowledge only finished work. We work in order, so one index covers all before it.
            if kind == "snapshot":
                self.snapshot_token = message.token
            else:
                done = message.revision if kind == "snapshot_end" else message.index + 1
                requests.put(self.pb.ConsumeRequest(ack=self.pb.ConsumeAck(next_index=done)))
            used += 1
            if used == CREDITS // 2:
                requests.put(self.pb.ConsumeRequest(credit=self.pb.ConsumeCredit(credits=used)))
                used = 0
            self.handling = False
            if self.stopping:
                requests.put(None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subscription")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--owner", default="examples")
    options = parser.parse_args()

    pb, rpc = stubs()
    # Pings detect a server that vanished without closing the connection.
    keepalive = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
    channel = grpc.insecure_channel(options.address, options=keepalive)
    watches = rpc.WatchServiceStub(channel)

    # If the subscription exists already, this returns it; one with another filter or owner is an error.
    subscription = pb.Subscription(name=options.subscription, owner=options.owner)
    request = pb.CreateSubscriptionRequest(subscription=subscription)
    try:
        created = watches.CreateSubscription(request, timeout=30, wait_for_ready=True)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    start = created.subscription.start_index
    print(f"consuming {options.subscription} from {start} on", file=sys.stderr, flush=True)

    consumer = Consumer(pb, watches, options.subscription)
    signal.signal(signal.SIGINT, consumer.stop)
    signal.signal(signal.SIGTERM, consumer.stop)
    try:
        consumer.run()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    finally:
        channel.close()


if __name__ == "__main__":
    main()
