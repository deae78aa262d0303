-- The ledger: one row is one balanced movement, so the sum of all is zero by construction.

CREATE TABLE transfers (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id uuid   NOT NULL REFERENCES wallets,
  seq       bigint NOT NULL CHECK (seq > 0),
  debit     text   NOT NULL,
  credit    text   NOT NULL,
  amount    bigint NOT NULL CHECK (amount > 0),
  kind      text   NOT NULL CHECK (kind IN ('purchase', 'promo', 'hold', 'capture', 'release', 'refund', 'expire', 'clawback', 'debt', 'debt_paid', 'adjust')),
  ref       text   NOT NULL CHECK (length(ref) BETWEEN 1 AND 200),
  at        timestamptz NOT NULL,
  hash      bytea  NOT NULL CHECK (length(hash) = 32),
  CONSTRAINT from_one_account_to_another CHECK (debit <> credit),
  CONSTRAINT one_transfer_per_cause UNIQUE (kind, ref),
  CONSTRAINT no_gaps UNIQUE (tenant_id, seq)
);
COMMENT ON TABLE  transfers IS 'Append-only ledger: amount moves from the debit account to the credit account';
COMMENT ON COLUMN transfers.id IS 'Insertion order over all tenants';
COMMENT ON COLUMN transfers.tenant_id IS 'Whose ledger';
COMMENT ON COLUMN transfers.seq IS 'Number within the tenant, from 1, without gaps';
COMMENT ON COLUMN transfers.debit IS 'Account the credits leave';
COMMENT ON COLUMN transfers.credit IS 'Account the credits reach';
COMMENT ON COLUMN transfers.amount IS 'Credits moved';
COMMENT ON COLUMN transfers.kind IS 'Why';
COMMENT ON COLUMN transfers.ref IS 'What caused it; a cause moves credits once';
COMMENT ON COLUMN transfers.at IS 'When, on the database''s clock';
COMMENT ON COLUMN transfers.hash IS 'SHA-256 over the previous transfer''s hash and this row: the tenant''s chain';

-- The one definition of a transfer's hash, used when it is written and when it is verified.
CREATE FUNCTION transfer_hash(previous bytea, tenant uuid, seq bigint, debit text, credit text, amount bigint, kind text, ref text, at timestamptz)
RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT sha256(previous || convert_to(concat_ws('|', tenant, seq, debit, credit, amount, kind, ref, (extract(epoch FROM at) * 1000000)::bigint), 'UTF8'))
$$;

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: a mistake is mended by a new row', TG_TABLE_NAME;
END $$;
CREATE TRIGGER transfers_are_never_rewritten BEFORE UPDATE OR DELETE ON transfers FOR EACH ROW EXECUTE FUNCTION append_only();
CREATE TRIGGER transfers_are_never_truncated BEFORE TRUNCATE ON transfers FOR EACH STATEMENT EXECUTE FUNCTION append_only();
