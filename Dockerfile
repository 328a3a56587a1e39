# syntax=docker/dockerfile:1

# The image serves one data directory: /var/lib/consent-ledger. Build and try it:
#
#   docker build --tag consent-ledger .
#   docker run --volume consent:/var/lib/consent-ledger --name consent consent-ledger
#   docker exec consent consent-ledger catalog list
#
# As it comes, the server listens on the container's own loopback: reachable for the health check,
# for `docker exec` and for a sidecar in the same network namespace, and for nobody else. The server
# refuses any other address without TLS and authentication unless `--insecure` is spelled out. That
# choice belongs to whoever runs the container and knows the network around it:
#
#   docker run --publish 127.0.0.1:50051:50051 --volume consent:/var/lib/consent-ledger \
#     consent-ledger serve --listen 0.0.0.0:50051 --insecure

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# Dependencies alone first, against an empty crate: this layer is built again only when the manifest
# or lock file, the build script or the protocol changes. Cargo wants a file for every bench that
# the manifest names, although none is built here.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
RUN mkdir src benches \
 && touch src/lib.rs \
 && echo 'fn main() {}' | tee src/main.rs \
    $(sed -n '/^\[\[bench\]\]/,/^$/s|^name = "\(.*\)"|benches/\1.rs|p' Cargo.toml) \
 && cargo build --release --locked

# The example catalogue is built into the binary. A copied file keeps its time, which may be older
# than the empty crate's build.
COPY examples/catalog.toml examples/catalog.toml
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --release --locked

FROM debian:bookworm-slim
# The authorities that witnesses at https:// addresses are verified with.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 consent \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin consent \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/consent-ledger
COPY --from=build /build/target/release/consent-ledger /usr/local/bin/consent-ledger
COPY LICENSE /usr/share/doc/consent-ledger/LICENSE

# By number, so that a cluster can see that it is not root.
USER 10001:10001
ENV CONSENT_LEDGER_DATA_DIR=/var/lib/consent-ledger
VOLUME ["/var/lib/consent-ledger"]
# gRPC and gRPC-Web; nothing listens there for others before the choice above is made.
EXPOSE 50051
# SIGTERM drains, with a deadline of the server's own.
STOPSIGNAL SIGTERM

# A real call over the same port that others use. A node whose writes stopped still answers checks,
# so it counts as healthy here; alarms for writes belong on the metrics.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["consent-ledger", "catalog", "list", "--json"]

ENTRYPOINT ["consent-ledger"]
CMD ["serve", "--listen", "127.0.0.1:50051"]
