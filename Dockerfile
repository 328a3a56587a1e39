# syntax=docker/dockerfile:1

# The image serves one data directory: /var/lib/consent-ledger. Build and try it:
#
#   docker build --tag consent-ledger .
#   docker run --rm --volume consent:/var/lib/consent-ledger consent-ledger init
#   docker run --volume consent:/var/lib/consent-ledger --name consent consent-ledger
#   docker exec consent consent-ledger catalog list
#
# `init` makes the ledger, once. The server never makes one: an empty volume is a lost volume until
# somebody says otherwise. In production, start it with `serve --expect-ledger ID`.
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

# Cargo wants every file that a manifest of the workspace names, also those that are not built here.
COPY Cargo.toml Cargo.lock build.rs ./
COPY benches benches
COPY crates crates
COPY examples examples
COPY src src
COPY tools tools
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin consent-ledger \
 && cp target/release/consent-ledger /usr/local/bin/consent-ledger

FROM debian:bookworm-slim
# The authorities that witnesses at https:// addresses are verified with.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 consent \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin consent \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/consent-ledger
COPY --from=build /usr/local/bin/consent-ledger /usr/local/bin/consent-ledger
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
