-- A function that is called immutable is not inlined where it calls what is only stable (`concat_ws`): each call then
-- starts an executor of its own, which was more than half of the time `platen verify` needs for a long ledger. Nothing
-- relies on the stronger word: no index, no constraint, no generated column.

ALTER FUNCTION transfer_hash(bytea, uuid, bigint, text, text, bigint, text, text, timestamptz) STABLE;
