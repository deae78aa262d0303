// The worker of the peer: takes a job from BullMQ, calls the model, resizes with sharp, stores the file and settles the
// credits in one transaction.
import { open, mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { connection, database, load, QUEUE } from './settings.mjs';

const { UnrecoverableError, Worker } = load('bullmq');
const { Agent, request } = load('undici');
const sharp = load('sharp');

const CONCURRENCY = Number(process.env.CONCURRENCY);
// How many answers are in memory at the same time: without this limit, many calls that end together need gigabytes.
const IMAGES = 4;
const FOLDER = process.env.FOLDER;
sharp.concurrency(1);
sharp.cache(false);

const pool = database(8);
const agent = new Agent({ connections: CONCURRENCY, pipelining: 1, headersTimeout: 180_000, bodyTimeout: 180_000 });
await mkdir(FOLDER, { recursive: true });

let free = IMAGES;
const waiting = [];
const acquire = () => (free > 0 ? (free--, Promise.resolve()) : new Promise((resume) => waiting.push(resume)));
const release = () => (waiting.length ? waiting.shift()() : free++);

const END = { name: 'end', text: "UPDATE jobs SET state = $2, file = $3, bytes = $4, error = $5, finished_at = now() WHERE id = $1 AND state = 'queued'" };
const LEDGER = { name: 'ledger', text: 'INSERT INTO ledger (job_id, tenant_id, cause, credits) VALUES ($1, $2, $3, $4)' };
const CAPTURE = { name: 'capture', text: 'UPDATE tenants SET held = held - $2 WHERE id = $1' };
const REFUND = { name: 'refund', text: 'UPDATE tenants SET held = held - $2, balance = balance + $2 WHERE id = $1' };

async function settle({ id, tenant, credits }, file, bytes, error) {
  const client = await pool.connect();
  let failed;
  try {
    client.query('BEGIN');
    const ended = await client.query({ ...END, values: [id, error ? 'failed' : 'succeeded', file, bytes, error] });
    if (ended.rowCount !== 1) {
      await client.query('ROLLBACK');
      return;
    }
    await Promise.all([
      client.query({ ...LEDGER, values: [id, tenant, error ? 'release' : 'capture', error ? credits : 0] }),
      client.query({ ...(error ? REFUND : CAPTURE), values: [tenant, credits] }),
      client.query('COMMIT'),
    ]);
  } catch (problem) {
    failed = problem;
    throw problem;
  } finally {
    client.release(failed);
  }
}

async function image({ id, model, prompt, size, format }) {
  const answer = await request(`${process.env.MODEL_URL}/v1beta/models/${model}:generateContent`, {
    method: 'POST',
    dispatcher: agent,
    headers: { 'content-type': 'application/json', 'x-goog-api-key': 'k' },
    body: JSON.stringify({ contents: [{ role: 'user', parts: [{ text: prompt }] }], generationConfig: { responseModalities: ['IMAGE'] } }),
  });
  if (answer.statusCode !== 200) {
    await answer.body.dump();
    throw new Error(`the model answered with ${answer.statusCode}`);
  }
  await acquire();
  try {
    const content = await answer.body.json();
    const part = content.candidates?.[0]?.content?.parts?.find((part) => part.inlineData);
    if (!part) throw new UnrecoverableError('no image in the answer');
    const edge = size === '1K' ? 1024 : 2048;
    const resized = sharp(Buffer.from(part.inlineData.data, 'base64')).resize(edge, edge, { fit: 'inside', kernel: 'lanczos3' });
    const bytes = await (format === 'jpeg' ? resized.jpeg({ quality: 90 }) : resized.png()).toBuffer();
    const name = `${id}.${format}`;
    const unfinished = join(FOLDER, `.${name}`);
    const file = await open(unfinished, 'w');
    await file.writeFile(bytes);
    await file.close();
    await rename(unfinished, join(FOLDER, name));
    return { name, bytes: bytes.length };
  } finally {
    release();
  }
}

async function generate(job) {
  try {
    const { name, bytes } = await image(job.data);
    await settle(job.data, name, bytes, null);
  } catch (error) {
    const isLast = error instanceof UnrecoverableError || job.attemptsMade + 1 >= (job.opts.attempts ?? 1);
    if (isLast) await settle(job.data, null, null, String(error.message));
    throw error;
  }
}

const worker = new Worker(QUEUE, generate, { connection, concurrency: CONCURRENCY, lockDuration: 60_000, stalledInterval: 30_000 });
worker.on('error', (error) => console.error(error.message));
await worker.waitUntilReady();
console.log('ready');
