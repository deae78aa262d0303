-- Which bucket is this database's: the bucket carries the id that stands here, so neither is used with another.

CREATE TABLE adopted_bucket (
  one        boolean PRIMARY KEY DEFAULT true CONSTRAINT one_bucket_for_a_database CHECK (one),
  marker     uuid NOT NULL,
  address    text NOT NULL CHECK (length(address) BETWEEN 1 AND 2000),
  adopted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE  adopted_bucket IS 'The bucket of this database; no row: none was adopted yet, and no file is deleted';
COMMENT ON COLUMN adopted_bucket.one IS 'So that there is one row at most';
COMMENT ON COLUMN adopted_bucket.marker IS 'The id that stands in the bucket, in the object platen-bucket; new at each adoption';
COMMENT ON COLUMN adopted_bucket.address IS 'Where the bucket was when it was adopted, for people; the marker decides';
COMMENT ON COLUMN adopted_bucket.adopted_at IS 'Since when';

ALTER TABLE adopted_bucket ENABLE ROW LEVEL SECURITY;
ALTER TABLE adopted_bucket FORCE ROW LEVEL SECURITY;
-- It is no tenant's. Only `platen bucket adopt` and `platen up` write it; both act as the api does.
CREATE POLICY adopted_by_operators ON adopted_bucket FOR ALL TO platen_api USING (true) WITH CHECK (true);
CREATE POLICY adopted_read ON adopted_bucket FOR SELECT TO platen_worker, platen_reader USING (true);
GRANT SELECT ON adopted_bucket TO platen_api, platen_worker, platen_reader;
GRANT INSERT, UPDATE (marker, address, adopted_at) ON adopted_bucket TO platen_api;
