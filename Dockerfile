# Two stages: everything Rust stays in the first; the second carries one binary, no shell and no package manager.
# The image leaves out the `fakes` feature: it never pretends to be a model.
FROM rust:1.95-bookworm AS build
# libjpeg-turbo is built with these.
RUN apt-get update && apt-get install -y --no-install-recommends cmake nasm && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p cli --no-default-features --features otel

# Everything but the binary. Its root may be mounted read-only: only the volume and /tmp are written to.
FROM gcr.io/distroless/cc-debian12:nonroot AS runtime
USER 65532:65532
WORKDIR /var/lib/platen/bucket
# A container's own 127.0.0.1 reaches nobody; what is published is decided outside.
ENV PATH=/usr/local/bin \
    PLATEN_LISTEN=0.0.0.0:8080 \
    PLATEN_METRICS_LISTEN=0.0.0.0:9464 \
    PLATEN_BUCKET=/var/lib/platen/bucket
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
# The same for every role: each says on the port of its metrics whether it is ready.
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s CMD ["platen", "healthy"]
ENTRYPOINT ["platen"]

FROM runtime
COPY --from=build /src/target/release/platen /usr/local/bin/platen
