// What api and worker of the peer share. All of it comes from the environment.
import { createRequire } from 'node:module';

// The packages are installed beside the results, not beside this file.
export const load = createRequire(`${process.env.PEER_MODULES}/`);

const redis = new URL(process.env.REDIS_URL);
export const connection = {
  host: redis.hostname,
  port: Number(redis.port),
  username: decodeURIComponent(redis.username),
  password: decodeURIComponent(redis.password),
  maxRetriesPerRequest: null,
  enableAutoPipelining: true,
};
export const QUEUE = 'generate';
export const CREDITS = { '1K': 1, '2K': 2 };
export const database = (max) => new (load('pg').Pool)({ connectionString: process.env.DATABASE_URL, max });
