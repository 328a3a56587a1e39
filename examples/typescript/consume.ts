// Consumes a durable subscription with acknowledgements, for as long as it takes.
//
//   cd examples/typescript && npm install
//   npx tsx consume.ts SUBSCRIPTION [HOST:PORT]
//
// Creates the subscription if it is missing. Prints each event as a line of JSON, and acknowledges
// it once that is done. A server that restarts, or a network that breaks, is waited for; Ctrl-C
// ends it cleanly.

import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

// The number of messages that may be in flight. When a consumer stops working, the server stops
// sending, at no cost but its place.
const CREDITS = 64;
// Permanent errors: the request is wrong, the subscription is gone, or a newer consumer took over.
const FINAL = new Set([
  grpc.status.ABORTED,
  grpc.status.FAILED_PRECONDITION,
  grpc.status.INVALID_ARGUMENT,
  grpc.status.NOT_FOUND,
  grpc.status.PERMISSION_DENIED,
  grpc.status.UNAUTHENTICATED,
  grpc.status.UNIMPLEMENTED,
]);

const proto = fileURLToPath(new URL("../../proto", import.meta.url));
// Indexes have 64 bits, so they are strings. Field names are those of the protocol.
const definition = loadSync("consent/v1/watch_service.proto", {
  includeDirs: [proto],
  keepCase: true,
  longs: String,
  enums: String,
  oneofs: true,
});
const { consent } = grpc.loadPackageDefinition(definition) as any;

const [name, address = "127.0.0.1:50051"] = process.argv.slice(2);
if (!name) {
  console.error("usage: consume.ts SUBSCRIPTION [HOST:PORT]");
  process.exit(2);
}
// Pings detect a server that vanished without closing the connection.
const watches = new consent.v1.WatchService(address, grpc.credentials.createInsecure(), {
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
});

let stopping = false;
let handling = false;
let stream: grpc.ClientDuplexStream<any, any> | undefined;
const wake = new AbortController();
// Resumes an interrupted snapshot.
let snapshotToken = Buffer.alloc(0);
let waitMs = 100;

/** Here a service stops using the data. At least once: the same event may come again. */
async function handle(kind: string, message: unknown): Promise<void> {
  console.log(JSON.stringify({ [kind]: message }));
}

/** Asked again for the same subscription, the server answers the one that there is. */
function create(): Promise<any> {
  const subscription = { name, owner: "examples" };
  const metadata = new grpc.Metadata({ waitForReady: true });
  const options = { deadline: Date.now() + 30_000 };
  return new Promise((resolve, reject) => {
    watches.CreateSubscription(
      { subscription }, metadata, options,
      (error: grpc.ServiceError | null, created: any) => (error ? reject(error) : resolve(created)),
    );
  });
}

/** Hears one stream to its end. */
async function consume(): Promise<void> {
  const call: grpc.ClientDuplexStream<any, any> = (stream = watches.Consume());
  call.write({ start: { subscription: name, credits: CREDITS, snapshot_token: snapshotToken } });
  let used = 0;
  // One message at a time: while we work, nothing more is read, and the credits run out.
  for await (const response of call) {
    waitMs = 100;
    const kind: string = response.message;
    const message = response[kind];
    // Messages that arrive after we closed our side are delivered to the next consumer.
    if (kind === "started" || kind === "progress" || stopping) continue;
    handling = true;
    await handle(kind, message);
    // Acknowledge only finished work. We work in order, so one index covers all before it.
    if (kind === "snapshot") {
      snapshotToken = message.token;
    } else {
      const done = kind === "snapshot_end" ? message.revision : String(BigInt(message.index) + 1n);
      call.write({ ack: { next_index: done } });
    }
    if (++used === CREDITS / 2) {
      call.write({ credit: { credits: used } });
      used = 0;
    }
    handling = false;
    // We close our side, behind the acknowledgement; the server takes it and ends the stream.
    if (stopping) call.end();
  }
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    stopping = true;
    wake.abort();
    // A message that is being handled is finished first.
    if (!handling) stream?.end();
  });
}

const created = await create();
console.error(`consuming ${name} from ${created.subscription.start_index} on`);
while (!stopping) {
  let reason = "the server ended the stream";
  try {
    await consume();
  } catch (error) {
    const failure = error as grpc.ServiceError;
    if (FINAL.has(failure.code)) {
      console.error(failure.message);
      process.exitCode = 1;
      break;
    }
    reason = failure.details ?? failure.message;
  }
  if (stopping) break;
  console.error(`${reason}; trying again in ${Math.round(waitMs)} ms`);
  // With jitter: when a server restarts, all consumers come back.
  const jitter = 0.8 + 0.4 * Math.random();
  await sleep(waitMs * jitter, undefined, { signal: wake.signal }).catch(() => {});
  waitMs = Math.min(waitMs * 1.5, 10_000);
}
watches.close();
