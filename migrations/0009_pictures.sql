-- Content credentials that providers put into their pictures.

ALTER TABLE artifacts ADD COLUMN c2pa_sha256 bytea CHECK (c2pa_sha256 IS NULL OR length(c2pa_sha256) = 32 AND role = 'original');
COMMENT ON COLUMN artifacts.c2pa_sha256 IS 'Of an original: SHA-256 of the C2PA manifest store it carries';
COMMENT ON COLUMN artifacts.role IS 'The original as the model gave it, what we made of it, or a small one of that for lists';
