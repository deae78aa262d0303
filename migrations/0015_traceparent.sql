-- Where in its client's trace a job belongs. Checked from now on; there are none before.

ALTER TABLE jobs ADD COLUMN traceparent text;
ALTER TABLE jobs ADD CONSTRAINT traceparent_is_one CHECK (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$') NOT VALID;
COMMENT ON COLUMN jobs.traceparent IS 'The span that submitted it, as W3C writes it; parent of its attempts';
