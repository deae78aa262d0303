-- The comments said that the model of a call is the provider's name for it. It is the name in the catalogue.

COMMENT ON COLUMN calls.model IS 'The model''s name in the catalogue';
COMMENT ON COLUMN billing_totals.model IS 'The model''s name in the catalogue';
