-- The end of a call in one round trip and one transaction: a worker that wrote it in three statements (begin and lock, end, commit) sent three.
-- Each statement of the function sees what was committed before it began, so the second one sees what was done before the lock was granted.

CREATE FUNCTION end_call(of_tenant uuid, of_job uuid, call uuid, new_outcome text, new_detail text, new_reason text, new_request_id text, new_usage jsonb,
  new_cost_micros bigint, counts boolean, lost text[],
  new_object_key text, new_sha256 bytea, new_bytes bigint, new_media_type text, new_width integer, new_height integer,
  OUT has_ended boolean, OUT has_calls_left boolean)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM set_config('platen.tenant', of_tenant::text, true);
  PERFORM FROM jobs WHERE id = of_job FOR NO KEY UPDATE;

  UPDATE calls SET ended_at = clock_timestamp(), outcome = new_outcome, detail = new_detail, reason = new_reason,
         provider_request_id = coalesce(new_request_id, provider_request_id), usage = new_usage,
         cost_micros = coalesce(new_cost_micros, cost_micros), counted = counts,
         object_key = new_object_key, sha256 = new_sha256, bytes = new_bytes, media_type = new_media_type, width = new_width, height = new_height
  WHERE id = call AND (ended_at IS NULL OR (outcome = ANY(lost) AND new_object_key IS NOT NULL
    AND EXISTS (SELECT FROM jobs WHERE jobs.id = job_id AND finished_at IS NULL)));
  has_ended := FOUND;

  -- A call that does not count gives its count back. A job that was requeued before this image was stored becomes `stocked`: `requeue` could not see
  -- the image. `stocked` makes the dispatcher run the job before its deadline, even while its lanes are unavailable.
  IF has_ended AND (NOT counts OR new_object_key IS NOT NULL) THEN
    UPDATE jobs SET calls_started = calls_started - (NOT counts)::integer, stocked = stocked OR new_object_key IS NOT NULL
    WHERE id = of_job AND (NOT counts OR state = 'queued');
  END IF;

  SELECT calls_started < max_calls INTO has_calls_left FROM jobs WHERE id = of_job;
END $$;
COMMENT ON FUNCTION end_call IS 'Ends a call that has not ended, and says whether it did and whether its job may make another. A lost call ends a second time if it has an image and its job is open';
