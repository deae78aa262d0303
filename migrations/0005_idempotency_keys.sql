-- What was answered to a POST, so that repeating it repeats the answer and nothing else.

CREATE TABLE idempotency_keys (
  tenant_id    uuid NOT NULL REFERENCES wallets,
  key          text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  request_hash bytea NOT NULL CHECK (length(request_hash) = 32),
  status       smallint NOT NULL CHECK (status BETWEEN 200 AND 299),
  location     text,
  body         bytea NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
COMMENT ON TABLE  idempotency_keys IS 'Answers kept for whoever repeats a request; written in the transaction whose effect they report';
COMMENT ON COLUMN idempotency_keys.tenant_id IS 'Whose key';
COMMENT ON COLUMN idempotency_keys.key IS 'As the client sent it, or one we made';
COMMENT ON COLUMN idempotency_keys.request_hash IS 'SHA-256 of method, path and body: the same key for something else is refused';
COMMENT ON COLUMN idempotency_keys.status IS 'HTTP status of the first answer';
COMMENT ON COLUMN idempotency_keys.location IS 'Location header of the first answer';
COMMENT ON COLUMN idempotency_keys.body IS 'Body of the first answer, byte for byte';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When it was first answered';
