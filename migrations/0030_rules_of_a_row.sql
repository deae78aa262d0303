-- The rules of a row stand in one function for each table, and the table has one CHECK that calls it.
--
-- Postgres reads every CHECK from its text, anew for each statement that writes the table, which costs more than to evaluate it. A job
-- writes tables with 75 of them a dozen times. A function in PL/pgSQL is prepared once for each connection. The rules are those of before, and
-- a row that breaks one is refused by its name. As with a CHECK, a rule that cannot be decided because a value is null is kept.
-- Two rules stay where they are, because they never held for old rows: `traceparent_is_one` and `movements_are_bounded`.

CREATE FUNCTION breaks_rule(of_table text, rule text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_temp AS $$
BEGIN
  RAISE check_violation USING MESSAGE = format('a row of %s breaks the rule %s', of_table, rule), TABLE = of_table, CONSTRAINT = rule;
END $$;

CREATE FUNCTION keeps_rules(job jobs) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_temp AS $$
DECLARE broken text := CASE
  WHEN NOT (job.hold_amount = job.unit_price * job.n_requested) THEN 'hold_is_price_times_requested'
  WHEN NOT (job.captured = job.unit_price * job.n_delivered) THEN 'charged_is_delivered'
  WHEN NOT (CASE WHEN job.state IN ('queued', 'running') THEN job.captured = 0 AND job.released = 0 ELSE job.captured + job.released = job.hold_amount END) THEN 'one_full_settlement'
  WHEN NOT (job.refunded <= job.captured) THEN 'refund_follows_capture'
  WHEN NOT (least(job.unit_price, job.captured, job.released, job.refunded) >= 0) THEN 'credits_are_not_negative'
  WHEN NOT (job.n_requested BETWEEN 1 AND 16) THEN 'requested_is_bounded'
  WHEN NOT (job.n_delivered BETWEEN 0 AND job.n_requested) THEN 'delivered_within_requested'
  WHEN NOT (CASE job.state WHEN 'succeeded' THEN job.n_delivered = job.n_requested WHEN 'partial' THEN job.n_delivered > 0 AND job.n_delivered < job.n_requested ELSE job.n_delivered = 0 END) THEN 'state_tells_delivery'
  WHEN NOT (job.state IN ('queued', 'running', 'succeeded', 'partial', 'failed', 'canceled', 'expired')) THEN 'state_is_known'
  WHEN NOT ((job.state IN ('queued', 'running')) = (job.finished_at IS NULL)) THEN 'finished_when_terminal'
  WHEN NOT (job.state IN ('queued', 'running') OR job.outcome IS NOT NULL) THEN 'terminal_has_an_outcome'
  WHEN NOT ((job.state = 'running') = (job.lease_until IS NOT NULL)) THEN 'leased_while_running'
  WHEN NOT (job.calls_started <= job.max_calls) THEN 'calls_are_bounded'
  WHEN NOT (job.max_calls > 0) THEN 'a_call_is_allowed'
  WHEN NOT (least(job.calls_started, job.crash_count, job.fence) >= 0) THEN 'counts_are_not_negative'
  WHEN NOT (job.kind = 'image') THEN 'kind_is_known'
  WHEN NOT (job.priority BETWEEN -10 AND 10) THEN 'priority_is_bounded'
  WHEN NOT (length(job.model) BETWEEN 1 AND 100 AND length(job.request_id) BETWEEN 1 AND 64) THEN 'names_are_bounded'
  WHEN NOT (length(job.switched_from) BETWEEN 1 AND 100) THEN 'switched_from_is_bounded'
  WHEN NOT (length(job.name) <= 200) THEN 'name_is_bounded'
  WHEN NOT (length(job.reason) <= 2000) THEN 'reason_is_bounded'
  END;
BEGIN
  IF broken IS NULL THEN
    RETURN true;
  END IF;
  RETURN breaks_rule('jobs', broken);
END $$;
ALTER TABLE jobs ADD CONSTRAINT jobs_keep_rules CHECK (keeps_rules(jobs)) NOT VALID,
  DROP CONSTRAINT calls_are_bounded, DROP CONSTRAINT charged_is_delivered, DROP CONSTRAINT delivered_within_requested,
  DROP CONSTRAINT finished_when_terminal, DROP CONSTRAINT hold_is_price_times_requested, DROP CONSTRAINT leased_while_running,
  DROP CONSTRAINT one_full_settlement, DROP CONSTRAINT refund_follows_capture, DROP CONSTRAINT state_tells_delivery,
  DROP CONSTRAINT terminal_has_an_outcome, DROP CONSTRAINT jobs_calls_started_check, DROP CONSTRAINT jobs_captured_check,
  DROP CONSTRAINT jobs_crash_count_check, DROP CONSTRAINT jobs_fence_check, DROP CONSTRAINT jobs_kind_check, DROP CONSTRAINT jobs_max_calls_check,
  DROP CONSTRAINT jobs_model_check, DROP CONSTRAINT jobs_n_requested_check, DROP CONSTRAINT jobs_name_check, DROP CONSTRAINT jobs_priority_check,
  DROP CONSTRAINT jobs_reason_check, DROP CONSTRAINT jobs_refunded_check, DROP CONSTRAINT jobs_released_check, DROP CONSTRAINT jobs_request_id_check,
  DROP CONSTRAINT jobs_state_check, DROP CONSTRAINT jobs_switched_from_check, DROP CONSTRAINT jobs_unit_price_check;

CREATE FUNCTION keeps_rules(call calls) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_temp AS $$
DECLARE broken text := CASE
  WHEN NOT ((call.ended_at IS NULL) = (call.outcome IS NULL)) THEN 'ended_calls_have_outcomes'
  WHEN NOT (num_nonnulls(call.object_key, call.sha256, call.bytes, call.media_type, call.width, call.height) IN (0, 6)) THEN 'originals_are_whole'
  WHEN NOT (length(call.sha256) = 32) THEN 'sha256_has_32_bytes'
  WHEN NOT (least(call.bytes, call.width, call.height, call.fence) > 0) THEN 'sizes_and_fence_are_positive'
  WHEN NOT (least(call.output_idx, call.cost_micros) >= 0) THEN 'cost_and_place_are_not_negative'
  WHEN NOT (length(call.lane) BETWEEN 1 AND 300) THEN 'lane_is_bounded'
  WHEN NOT (length(call.operation) <= 1000) THEN 'operation_is_bounded'
  WHEN NOT (length(call.provider_request_id) <= 500) THEN 'provider_request_id_is_bounded'
  WHEN NOT (length(call.reason) <= 2000) THEN 'reason_is_bounded'
  WHEN NOT (length(call.detail) <= 4000) THEN 'detail_is_bounded'
  END;
BEGIN
  IF broken IS NULL THEN
    RETURN true;
  END IF;
  RETURN breaks_rule('calls', broken);
END $$;
ALTER TABLE calls ADD CONSTRAINT calls_keep_rules CHECK (keeps_rules(calls)) NOT VALID,
  DROP CONSTRAINT ended_calls_have_outcomes, DROP CONSTRAINT originals_are_whole, DROP CONSTRAINT calls_bytes_check,
  DROP CONSTRAINT calls_cost_micros_check, DROP CONSTRAINT calls_detail_check, DROP CONSTRAINT calls_fence_check, DROP CONSTRAINT calls_height_check,
  DROP CONSTRAINT calls_lane_check, DROP CONSTRAINT calls_operation_check, DROP CONSTRAINT calls_output_idx_check,
  DROP CONSTRAINT calls_provider_request_id_check, DROP CONSTRAINT calls_reason_check, DROP CONSTRAINT calls_sha256_check,
  DROP CONSTRAINT calls_width_check;

CREATE FUNCTION keeps_rules(artifact artifacts) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_temp AS $$
DECLARE broken text := CASE
  WHEN NOT (artifact.role IN ('original', 'rendition', 'thumbnail')) THEN 'role_is_known'
  WHEN NOT (artifact.c2pa_sha256 IS NULL OR length(artifact.c2pa_sha256) = 32 AND artifact.role = 'original') THEN 'only_originals_have_c2pa'
  WHEN NOT (length(artifact.sha256) = 32) THEN 'sha256_has_32_bytes'
  WHEN NOT (least(artifact.bytes, artifact.width, artifact.height, artifact.fence) > 0) THEN 'sizes_and_fence_are_positive'
  WHEN NOT (artifact.output_idx >= 0) THEN 'place_is_not_negative'
  END;
BEGIN
  IF broken IS NULL THEN
    RETURN true;
  END IF;
  RETURN breaks_rule('artifacts', broken);
END $$;
ALTER TABLE artifacts ADD CONSTRAINT artifacts_keep_rules CHECK (keeps_rules(artifacts)) NOT VALID,
  DROP CONSTRAINT artifacts_bytes_check, DROP CONSTRAINT artifacts_check, DROP CONSTRAINT artifacts_fence_check,
  DROP CONSTRAINT artifacts_height_check, DROP CONSTRAINT artifacts_output_idx_check, DROP CONSTRAINT artifacts_role_check,
  DROP CONSTRAINT artifacts_sha256_check, DROP CONSTRAINT artifacts_width_check;

CREATE FUNCTION keeps_rules(wallet wallets) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_temp AS $$
DECLARE broken text := CASE
  WHEN NOT (wallet.available >= 0) THEN 'never_overdrawn'
  WHEN NOT (least(wallet.held, wallet.debt) >= 0) THEN 'credits_are_not_negative'
  WHEN NOT (least(wallet.seq, wallet.turn) >= 0) THEN 'counts_are_not_negative'
  WHEN NOT (length(wallet.head) = 32) THEN 'head_has_32_bytes'
  WHEN NOT (wallet.status IN ('active', 'restricted', 'closing', 'erased')) THEN 'status_is_known'
  END;
BEGIN
  IF broken IS NULL THEN
    RETURN true;
  END IF;
  RETURN breaks_rule('wallets', broken);
END $$;
ALTER TABLE wallets ADD CONSTRAINT wallets_keep_rules CHECK (keeps_rules(wallets)) NOT VALID,
  DROP CONSTRAINT never_overdrawn, DROP CONSTRAINT wallets_debt_check, DROP CONSTRAINT wallets_head_check, DROP CONSTRAINT wallets_held_check,
  DROP CONSTRAINT wallets_seq_check, DROP CONSTRAINT wallets_status_check, DROP CONSTRAINT wallets_turn_check;

CREATE FUNCTION keeps_rules(lot grants) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_temp AS $$
DECLARE broken text := CASE
  WHEN NOT (lot.remaining + lot.held + lot.consumed + lot.forfeited = lot.amount) THEN 'every_credit_of_a_lot_is_somewhere'
  WHEN NOT (least(lot.remaining, lot.held, lot.consumed, lot.forfeited) >= 0) THEN 'credits_are_not_negative'
  WHEN NOT (lot.amount > 0) THEN 'amount_is_positive'
  WHEN NOT (length(lot.source_id) BETWEEN 1 AND 200) THEN 'source_id_is_bounded'
  WHEN NOT (lot.source_type IN ('purchase', 'promo', 'refund', 'adjust')) THEN 'source_type_is_known'
  END;
BEGIN
  IF broken IS NULL THEN
    RETURN true;
  END IF;
  RETURN breaks_rule('grants', broken);
END $$;
ALTER TABLE grants ADD CONSTRAINT grants_keep_rules CHECK (keeps_rules(grants)) NOT VALID,
  DROP CONSTRAINT every_credit_of_a_lot_is_somewhere, DROP CONSTRAINT grants_amount_check, DROP CONSTRAINT grants_consumed_check,
  DROP CONSTRAINT grants_forfeited_check, DROP CONSTRAINT grants_held_check, DROP CONSTRAINT grants_remaining_check,
  DROP CONSTRAINT grants_source_id_check, DROP CONSTRAINT grants_source_type_check;

CREATE FUNCTION keeps_rules(line transfers) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_temp AS $$
DECLARE broken text := CASE
  WHEN NOT (line.debit <> line.credit) THEN 'from_one_account_to_another'
  WHEN NOT (least(line.amount, line.seq) > 0) THEN 'amount_and_number_are_positive'
  WHEN NOT (length(line.hash) = 32) THEN 'hash_has_32_bytes'
  WHEN NOT (length(line.ref) BETWEEN 1 AND 200) THEN 'reference_is_bounded'
  WHEN NOT (line.kind IN ('purchase', 'promo', 'hold', 'capture', 'release', 'refund', 'expire', 'clawback', 'debt', 'debt_paid', 'adjust')) THEN 'cause_is_known'
  END;
BEGIN
  IF broken IS NULL THEN
    RETURN true;
  END IF;
  RETURN breaks_rule('transfers', broken);
END $$;
ALTER TABLE transfers ADD CONSTRAINT transfers_keep_rules CHECK (keeps_rules(transfers)) NOT VALID,
  DROP CONSTRAINT from_one_account_to_another, DROP CONSTRAINT transfers_amount_check, DROP CONSTRAINT transfers_hash_check,
  DROP CONSTRAINT transfers_kind_check, DROP CONSTRAINT transfers_ref_check, DROP CONSTRAINT transfers_seq_check;

CREATE FUNCTION keeps_rules(answer idempotency_keys) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_temp AS $$
DECLARE broken text := CASE
  WHEN NOT (length(answer.key) BETWEEN 1 AND 255) THEN 'key_is_bounded'
  WHEN NOT (length(answer.request_hash) = 32) THEN 'hash_has_32_bytes'
  WHEN NOT (answer.status BETWEEN 200 AND 299) THEN 'only_successes_are_kept'
  END;
BEGIN
  IF broken IS NULL THEN
    RETURN true;
  END IF;
  RETURN breaks_rule('idempotency_keys', broken);
END $$;
ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_keep_rules CHECK (keeps_rules(idempotency_keys)) NOT VALID,
  DROP CONSTRAINT idempotency_keys_key_check, DROP CONSTRAINT idempotency_keys_request_hash_check, DROP CONSTRAINT idempotency_keys_status_check;

-- The condition of a trigger is read from its text in the same way, so it stands in the function.
CREATE OR REPLACE FUNCTION too_many_credits() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF TG_TABLE_NAME = 'wallets' AND TG_OP = 'UPDATE' THEN
    IF NEW.available::numeric + NEW.held <= greatest(OLD.available::numeric + OLD.held, 1000000000000000) THEN
      RETURN NEW;
    END IF;
  END IF;
  RAISE EXCEPTION '%: one movement is of at most 10^12 credits, and a wallet holds at most 10^15', TG_NAME USING ERRCODE = 'check_violation';
END $$;
DROP TRIGGER wallets_are_bounded ON wallets;
CREATE TRIGGER wallets_are_bounded BEFORE UPDATE ON wallets FOR EACH ROW EXECUTE FUNCTION too_many_credits();

-- What the four triggers of calls did, in one. A call that ends is billed, and a call whose end changes is taken back and billed anew. The bytes of its original
-- count for its tenant's storage.
CREATE FUNCTION count_call() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  before calls;
BEGIN
  IF TG_OP = 'UPDATE' THEN
    before := OLD;
  END IF;
  IF NEW.ended_at IS NOT NULL AND (before.ended_at IS NULL OR (before.outcome, before.cost_micros) IS DISTINCT FROM (NEW.outcome, NEW.cost_micros)) THEN
    IF before.ended_at IS NOT NULL THEN
      INSERT INTO billing_lines (subject, provider, model, outcome, n, cost_micros)
      VALUES ('call', before.provider, before.model, before.outcome, -1, -coalesce(before.cost_micros, 0));
    END IF;
    INSERT INTO billing_lines (subject, provider, model, outcome, n, cost_micros)
    VALUES ('call', NEW.provider, NEW.model, NEW.outcome, 1, coalesce(NEW.cost_micros, 0));
  END IF;
  IF before.bytes IS DISTINCT FROM NEW.bytes THEN
    INSERT INTO storage_lines (tenant_id, bytes) VALUES (NEW.tenant_id, coalesce(NEW.bytes, 0) - coalesce(before.bytes, 0));
  END IF;
  RETURN NULL;
END $$;
DROP TRIGGER calls_may_begin_ended ON calls;
DROP TRIGGER calls_are_billed_at_their_end ON calls;
DROP TRIGGER originals_may_begin_counted ON calls;
DROP TRIGGER originals_are_counted ON calls;
CREATE TRIGGER calls_are_counted AFTER INSERT OR UPDATE ON calls FOR EACH ROW EXECUTE FUNCTION count_call();
DROP FUNCTION bill_call();
