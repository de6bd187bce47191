// Paints the pictures that the page sends, in a thread of its own, so that the page stays alive.
"use strict";

const sessions = new Map(); // of models, by their addresses
let runtime;

async function read(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} could not be loaded (${response.status})`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes[0] != 0x1f || bytes[1] != 0x8b) return bytes; // not compressed, or not any more
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function start(provider) {
  const [ort, wasm] = await Promise.all([import(`./runtime/${provider}.js`), read(`runtime/${provider}.wasm.gz`)]);
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more would need headers that few servers send
  return ort;
}

async function open(ort, address, provider) {
  return ort.InferenceSession.create(new Uint8Array(await read(address)), { executionProviders: [provider] });
}

async function paint({ model, mix, pixels, width, height, provider }) {
  const ort = await (runtime ??= start(provider));
  if (!sessions.has(model)) sessions.set(model, open(ort, model, provider));
  const session = await sessions.get(model), count = width * height;
  const picture = new Float32Array(3 * count);
  for (let i = 0; i < count; i++) for (let c = 0; c < 3; c++) picture[c * count + i] = pixels[4 * i + c] / 255;
  const given = { picture: new ort.Tensor("float32", picture, [1, 3, height, width]) };
  if (mix) given.mix = new ort.Tensor("float32", new Float32Array(mix), [mix.length]);
  const { painted } = await session.run(given), values = await painted.getData();
  painted.dispose();
  const made = new Uint8ClampedArray(4 * count).fill(255);
  for (let i = 0; i < count; i++) for (let c = 0; c < 3; c++) made[4 * i + c] = 255 * values[c * count + i];
  return made;
}

onmessage = async ({ data }) => {
  try {
    const made = await paint(data);
    postMessage({ ...data, made }, [data.pixels.buffer, made.buffer]);
  } catch (error) {
    postMessage({ ...data, problem: error.message || String(error) });
  }
};
