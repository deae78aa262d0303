-- What begins a transaction that locks rows. In a function the statements are prepared once for each connection; as text, Postgres would read and plan
-- them each time. Each statement of a function sees what was committed before it began, as it would outside.

CREATE FUNCTION lock_wallet(of_tenant uuid) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM set_config('platen.tenant', of_tenant::text, true), set_config('plan_cache_mode', 'force_generic_plan', true),
    set_config('enable_sort', 'off', true);
  PERFORM FROM wallets WHERE tenant_id = of_tenant ORDER BY status DESC LIMIT 1 FOR NO KEY UPDATE;
END $$;
COMMENT ON FUNCTION lock_wallet IS 'Lets the transaction act for this tenant, and locks its newest wallet row until the end';

CREATE FUNCTION lock_job(of_tenant uuid, job uuid) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM set_config('platen.tenant', of_tenant::text, true);
  PERFORM FROM jobs WHERE id = job FOR NO KEY UPDATE;
END $$;
COMMENT ON FUNCTION lock_job IS 'Lets the transaction act for this tenant, and locks the job until the end';
