// sharp, one thread, as a child process: a job a line on stdin, its cost a line on stdout. See images.py.
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';

// It is installed beside the results, not beside this file.
const sharp = createRequire(`${process.argv[2]}/`)('sharp');
sharp.concurrency(1);
sharp.cache(false);

const ENCODE = {
  png: (picture) => picture.png(),
  jpeg: (picture) => picture.jpeg({ quality: 90 }),
  webp: (picture) => picture.webp({ quality: 85 }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { source, width, height, format, light, out } = JSON.parse(line);
  const original = readFileSync(source);
  const before = process.cpuUsage();
  let picture = sharp(original);
  const { width: w, height: h } = await picture.metadata();
  if (w !== width || h !== height) {
    if (light === 'linear') picture = picture.pipelineColourspace('scrgb').toColourspace('srgb');
    picture = picture.resize(width, height, { fit: 'fill', kernel: 'lanczos3' });
  }
  const file = await ENCODE[format](picture).toBuffer();
  const { user, system } = process.cpuUsage(before);
  if (out) writeFileSync(out, file);
  console.log(JSON.stringify({ ms: (user + system) / 1000, bytes: file.length }));
}
