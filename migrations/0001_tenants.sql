-- Who owns jobs and credits, and the keys they call with.

CREATE TABLE tenants (
  id         uuid PRIMARY KEY,
  name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE  tenants IS 'Owns jobs and credits; every other table hangs on it';
COMMENT ON COLUMN tenants.id IS 'UUIDv7; shown as ten_…';
COMMENT ON COLUMN tenants.name IS 'For operators; never shown to another tenant';
COMMENT ON COLUMN tenants.created_at IS 'When the tenant was added';

CREATE TABLE api_keys (
  id         text PRIMARY KEY CHECK (id ~ '^[0-9a-z]{12}$'),
  tenant_id  uuid NOT NULL REFERENCES tenants,
  name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  sha256     bytea NOT NULL CHECK (length(sha256) = 32),
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id);
COMMENT ON TABLE  api_keys IS 'What a tenant authenticates with; the key itself is shown once and never stored';
COMMENT ON COLUMN api_keys.id IS 'The public part of the key, its second segment';
COMMENT ON COLUMN api_keys.tenant_id IS 'Whom the key speaks for';
COMMENT ON COLUMN api_keys.name IS 'What its owner calls it';
COMMENT ON COLUMN api_keys.sha256 IS 'SHA-256 of the whole key; keys are 256 random bits, so no slow hash is needed';
COMMENT ON COLUMN api_keys.created_at IS 'When it was made';
COMMENT ON COLUMN api_keys.revoked_at IS 'From when on it is refused';
