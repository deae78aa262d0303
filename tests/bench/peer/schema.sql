-- What a team that glues a queue, an image library and Postgres together would write. Credits are whole numbers.
CREATE TABLE tenants (
    id      integer PRIMARY KEY,
    balance bigint NOT NULL CHECK (balance >= 0),
    held    bigint NOT NULL DEFAULT 0 CHECK (held >= 0)
);
CREATE TABLE jobs (
    id          uuid PRIMARY KEY,
    tenant_id   integer NOT NULL REFERENCES tenants,
    model       text NOT NULL,
    prompt      text NOT NULL,
    size        text NOT NULL,
    format      text NOT NULL,
    state       text NOT NULL DEFAULT 'queued',
    credits     bigint NOT NULL,
    file        text,
    bytes       bigint,
    error       text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE TABLE ledger (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id    uuid NOT NULL,
    tenant_id integer NOT NULL,
    cause     text NOT NULL,
    credits   bigint NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (job_id, cause)
);
INSERT INTO tenants (id, balance) SELECT number, 1000000000 FROM generate_series(1, 64) AS number;
