// Paints the pictures that the page sends, in a thread of its own, so that the page stays alive.
const sessions = new Map(); // of models, by their addresses
let runtime;

async function read(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} could not be loaded (${response.status})`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes[0] != 0x1f || bytes[1] != 0x8b) return bytes; // not compressed, or not any more
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

async function start(provider) {
  const [ort, wasm] = await Promise.all([import(`./runtime/${provider}.js`), read(`runtime/${provider}.wasm.gz`)]);
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more would need headers that few servers send
  return ort;
}

async function paint({ model, mix, picture, provider }) {
  const ort = await (runtime ??= start(provider));
  const open = async () => ort.InferenceSession.create(await read(model), { executionProviders: [provider] });
  if (!sessions.has(model)) sessions.set(model, open());
  const session = await sessions.get(model), given = { picture: await ort.Tensor.fromImage(picture) };
  if (mix) given.mix = new ort.Tensor("float32", mix, [mix.length]);
  return (await session.run(given)).painted.toImageData();
}

onmessage = async ({ data }) => {
  try {
    postMessage({ ...data, painted: await paint(data) });
  } catch (error) {
    postMessage({ ...data, problem: error.message || String(error) });
  }
};
