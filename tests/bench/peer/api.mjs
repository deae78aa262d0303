// The API of the peer: Fastify takes a job, holds its credits and writes it to Postgres in one transaction, and puts it
// into BullMQ.
import { randomUUID } from 'node:crypto';
import { connection, CREDITS, database, load, QUEUE } from './settings.mjs';

const { Queue } = load('bullmq');
const pool = database(16);
const queue = new Queue(QUEUE, {
  connection,
  defaultJobOptions: { attempts: 5, backoff: { type: 'exponential', delay: 500 }, removeOnComplete: true, removeOnFail: 1000 },
});

// Named statements are prepared once for each connection.
const HOLD = { name: 'hold', text: 'UPDATE tenants SET balance = balance - $2, held = held + $2 WHERE id = $1 AND balance >= $2' };
const JOB = { name: 'job', text: 'INSERT INTO jobs (id, tenant_id, model, prompt, size, format, credits) VALUES ($1, $2, $3, $4, $5, $6, $7)' };
const LEDGER = { name: 'ledger', text: "INSERT INTO ledger (job_id, tenant_id, cause, credits) VALUES ($1, $2, 'hold', $3)" };

const app = load('fastify')({ logger: false });
const body = {
  type: 'object',
  required: ['model', 'prompt', 'size', 'format'],
  properties: {
    model: { type: 'string', maxLength: 100 },
    prompt: { type: 'string', minLength: 1, maxLength: 4000 },
    size: { enum: ['1K', '2K'] },
    format: { enum: ['png', 'jpeg'] },
  },
};

app.post('/v1/jobs', { schema: { body } }, async (request, reply) => {
  const tenant = Number(request.headers['x-tenant'] ?? 1);
  const { model, prompt, size, format } = request.body;
  const credits = CREDITS[size];
  const id = randomUUID();
  const client = await pool.connect();
  let failed;
  try {
    // The statements are sent without waiting for the answers, except for the check.
    client.query('BEGIN');
    const held = await client.query({ ...HOLD, values: [tenant, credits] });
    if (held.rowCount !== 1) {
      await client.query('ROLLBACK');
      return reply.code(402).send({ error: 'insufficient credits' });
    }
    await Promise.all([
      client.query({ ...JOB, values: [id, tenant, model, prompt, size, format, credits] }),
      client.query({ ...LEDGER, values: [id, tenant, -credits] }),
      client.query('COMMIT'),
    ]);
  } catch (error) {
    failed = error;
    throw error;
  } finally {
    client.release(failed);
  }
  await queue.add('generate', { id, tenant, model, prompt, size, format, credits }, { jobId: id });
  return reply.code(202).send({ id, state: 'queued' });
});
app.get('/livez', async () => 'ok');

await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT), backlog: 4096 });
