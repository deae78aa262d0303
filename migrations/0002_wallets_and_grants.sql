-- A tenant's balance, and the lots of credit it is made of.

CREATE TABLE wallets (
  tenant_id uuid PRIMARY KEY REFERENCES tenants,
  available bigint NOT NULL DEFAULT 0 CONSTRAINT never_overdrawn CHECK (available >= 0),
  held      bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
  debt      bigint NOT NULL DEFAULT 0 CHECK (debt >= 0),
  status    text   NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'restricted', 'closing', 'erased')),
  seq       bigint NOT NULL DEFAULT 0 CHECK (seq >= 0),
  head      bytea  NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000' CHECK (length(head) = 32),
  turn      bigint NOT NULL DEFAULT 0 CHECK (turn >= 0)
);
COMMENT ON TABLE  wallets IS 'The fold of the tenant''s transfers, kept beside them; its row lock orders all of a tenant''s money';
COMMENT ON COLUMN wallets.tenant_id IS 'Whose credits these are';
COMMENT ON COLUMN wallets.available IS 'Credits that may be spent';
COMMENT ON COLUMN wallets.held IS 'Credits set aside for open jobs';
COMMENT ON COLUMN wallets.debt IS 'Credits taken back that had been spent already';
COMMENT ON COLUMN wallets.status IS 'Only an active wallet admits jobs';
COMMENT ON COLUMN wallets.seq IS 'Number of the newest transfer of this tenant';
COMMENT ON COLUMN wallets.head IS 'Hash of the newest transfer: the end of the tenant''s chain';
COMMENT ON COLUMN wallets.turn IS 'Turn of the newest admitted job: the tenant''s virtual clock in the fair queue';

CREATE TABLE grants (
  id          uuid PRIMARY KEY,
  tenant_id   uuid NOT NULL REFERENCES wallets,
  source_type text NOT NULL CHECK (source_type IN ('purchase', 'promo', 'refund', 'adjust')),
  source_id   text NOT NULL CHECK (length(source_id) BETWEEN 1 AND 200),
  priority    smallint NOT NULL DEFAULT 100,
  amount      bigint NOT NULL CHECK (amount > 0),
  remaining   bigint NOT NULL CHECK (remaining >= 0),
  held        bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
  consumed    bigint NOT NULL DEFAULT 0 CHECK (consumed >= 0),
  forfeited   bigint NOT NULL DEFAULT 0 CHECK (forfeited >= 0),
  expires_at  timestamptz,
  created_at  timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT every_credit_of_a_lot_is_somewhere CHECK (remaining + held + consumed + forfeited = amount),
  CONSTRAINT one_grant_per_source UNIQUE (source_type, source_id)
);
CREATE INDEX grants_burn_order ON grants (tenant_id, priority, expires_at NULLS LAST, created_at, id) WHERE remaining > 0;
COMMENT ON TABLE  grants IS 'Lots of credits given or bought; holds burn them down in the order of grants_burn_order';
COMMENT ON COLUMN grants.id IS 'UUIDv7; shown as gra_…';
COMMENT ON COLUMN grants.tenant_id IS 'Whose lot it is';
COMMENT ON COLUMN grants.source_type IS 'Why it was given';
COMMENT ON COLUMN grants.source_id IS 'What it was given for; a source grants once';
COMMENT ON COLUMN grants.priority IS 'Lower burns first';
COMMENT ON COLUMN grants.amount IS 'Credits given';
COMMENT ON COLUMN grants.remaining IS 'Credits not yet held or spent';
COMMENT ON COLUMN grants.held IS 'Credits set aside for open jobs';
COMMENT ON COLUMN grants.consumed IS 'Credits captured';
COMMENT ON COLUMN grants.forfeited IS 'Credits expired or taken back';
COMMENT ON COLUMN grants.expires_at IS 'From when on what remains may not be held; null never expires';
COMMENT ON COLUMN grants.created_at IS 'When it was given';
