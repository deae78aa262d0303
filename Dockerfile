# Two stages: everything Rust stays in the first, the second carries one binary.
# The image leaves out the `fakes` feature: it never pretends to be a model.
FROM rust:1.95-bookworm AS build
# libjpeg-turbo is built with these.
RUN apt-get update && apt-get install -y --no-install-recommends cmake nasm && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p cli --no-default-features

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 65532 -g 65532 /var/lib/platen/bucket
COPY --from=build /src/target/release/platen /usr/local/bin/platen
# A container's own 127.0.0.1 reaches nobody; what is published is decided outside.
ENV PLATEN_LISTEN=0.0.0.0:8080 \
    PLATEN_METRICS_LISTEN=0.0.0.0:9464 \
    PLATEN_BUCKET=/var/lib/platen/bucket
WORKDIR /var/lib/platen
USER 65532:65532
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["platen"]
