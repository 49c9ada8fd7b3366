// The LCM itself, in a Web Worker of its own. The page's side is lcm.js, which also downloads: what runs in
// WebAssembly blocks the worker, and would block a download in it.
//
// In:   {type: "start", manifest}
//       {type: "part", name, data, done}  a piece of a file that was needed
//       {type: "draw", id, settings, painting}  prompt, steps, guidance, seed; with a painting, {number, pixels},
//                                         strength, too; a newer one replaces one that waits
// Out:  {type: "need", name}, {type: "progress", bytes, total}, {type: "ready", cached},
//       {type: "step", id, number, timestep}, {type: "picture", id, pixels, timesteps, seconds},
//       {type: "prediction", id, number, pixels}, {type: "kept"}, {type: "failed", message}

const CACHE = "lcm-nb";

// -- torch's random numbers ----------------------------------------------------------------------

/** MT19937, seeded as torch.manual_seed seeds a CPU generator. */
class Twister {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed;
    for (let i = 1; i < 624; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, before) + i;
    }
    this.next = 624;
  }

  uint32() {
    if (this.next === 624) this.refill();
    let word = this.state[this.next++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  refill() {
    const { state } = this;
    for (let i = 0; i < 624; i++) {
      const joined = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }
}

/** Return `size` numbers as torch.randn draws them on a CPU; `size` is a multiple of 16. */
function randn(twister, size) {
  const values = Float32Array.from({ length: size }, () => (twister.uint32() & 0xffffff) / 0x1000000);
  for (let block = 0; block < size; block += 16) {
    for (let i = block; i < block + 8; i++) {
      // Box-Muller: the first eight of a block are radii, the other eight angles.
      const radius = Math.sqrt(-2 * Math.log(1 - values[i]));
      const angle = 2 * Math.PI * values[i + 8];
      values[i] = radius * Math.cos(angle);
      values[i + 8] = radius * Math.sin(angle);
    }
  }
  return values;
}

// -- the LCM's sampler (lcm_nb/schedule.py has the same in Python) --------------------------------

/** Return the timesteps that an LCM visits: of `steps` of the schedule's points, evenly spread, the last by strength. */
function timesteps({ points }, steps, strength = 1) {
  const all = Array.from({ length: steps }, (_, i) => points[Math.floor((i * points.length) / steps)]);
  return all.slice(steps - Math.floor(steps * strength));
}

/** Return f(z, t): the clean latents that the UNet's output at timestep t stands for. */
function consistency(schedule, latents, output, timestep) {
  const alpha = schedule.alphas_cumprod[timestep];
  const scaled = schedule.timestep_scaling * timestep;
  const total = scaled ** 2 + schedule.sigma_data ** 2;
  const skip = schedule.sigma_data ** 2 / total;
  const out = scaled / Math.sqrt(total);
  const signal = Math.sqrt(alpha);
  const noise = Math.sqrt(1 - alpha);
  const clean = {
    v_prediction: (z, v) => signal * z - noise * v,
    epsilon: (z, e) => (z - noise * e) / signal,
    sample: (z, x) => x,
  }[schedule.prediction_type];
  return latents.map((z, i) => out * clean(z, output[i]) + skip * z);
}

/** Return clean latents with the noise of a timestep on top. */
function renoised(schedule, clean, timestep, twister) {
  const alpha = schedule.alphas_cumprod[timestep];
  const noise = randn(twister, clean.length);
  return clean.map((x, i) => Math.sqrt(alpha) * x + Math.sqrt(1 - alpha) * noise[i]);
}

// -- assets ---------------------------------------------------------------------------------------

/** The files of the manifest: from the browser's cache, else from the page, which knows where they lie. */
class Assets {
  constructor(manifest) {
    Object.assign(this, { manifest, asked: {}, open: {}, missing: 0, bytes: 0, fresh: new Map() });
    this.total = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0);
  }

  /** Return the bytes of a file as a promise; those asked for first come first. */
  get(name) {
    return (this.asked[name] ??= this.load(name));
  }

  async load(name) {
    const { sha256, bytes } = this.manifest.files[name];
    const kept = await (await this.cache())?.match(key(sha256));
    if (kept) {
      this.count(bytes);
      return new Uint8Array(await kept.arrayBuffer());
    }
    this.missing++;
    const data = await this.ask(name);
    await check(name, data, sha256);
    this.missing--;
    this.fresh.set(sha256, data);
    return data;
  }

  ask(name) {
    postMessage({ type: "need", name });
    return new Promise((resolve) => (this.open[name] = { pieces: [], resolve }));
  }

  part({ name, data, done }) {
    const { pieces, resolve } = this.open[name];
    pieces.push(new Uint8Array(data));
    this.count(data.byteLength);
    if (done) resolve(joined(pieces));
  }

  count(bytes) {
    this.bytes += bytes;
    postMessage({ type: "progress", bytes: Math.min(this.bytes, this.total), total: this.total });
  }

  /** Keep what came, and drop what an older version of the page kept; other sections' files stay. */
  async keep() {
    const cache = await this.cache();
    if (!cache) return;
    for (const [sha256, data] of this.fresh) await cache.put(key(sha256), new Response(data));
    this.fresh.clear();
    const wanted = new Set(this.manifest.kept.map(key));
    for (const { url } of await cache.keys()) if (!wanted.has(url)) await cache.delete(url);
  }

  /** Return the browser's cache, or nothing where there is none: private windows, pages without https. */
  async cache() {
    try {
      return await globalThis.caches?.open(CACHE);
    } catch {
      return undefined;
    }
  }
}

/** The address under which the cache knows a file: by its content, wherever it came from. */
function key(sha256) {
  return `${globalThis.origin}/lcm-nb/${sha256}`;
}

function joined(pieces) {
  const data = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
  let at = 0;
  for (const piece of pieces) {
    data.set(piece, at);
    at += piece.byteLength;
  }
  return data;
}

async function check(name, data, sha256) {
  // Some servers unpack a .gz on the way; crypto.subtle exists on https and on localhost alone.
  if (!globalThis.crypto?.subtle || (name.endsWith(".gz") && !zipped(data))) return;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  const found = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw new Error(`${name} is not the file that belongs here; load the page again`);
}

function zipped(data) {
  return data[0] === 0x1f && data[1] === 0x8b;
}

async function unzipped(data) {
  if (!zipped(data)) return data.buffer;
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function imported(source) {
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  try {
    return await import(address);
  } finally {
    URL.revokeObjectURL(address);
  }
}

// -- the model ------------------------------------------------------------------------------------

class Model {
  constructor(assets) {
    this.assets = assets;
    this.manifest = assets.manifest;
    this.size = this.manifest.latents.reduce((product, side) => product * side);
    this.last = Promise.resolve(); // sessions are made one after the other
  }

  /** Start everything at once; each part is made as soon as its files are here. */
  async load() {
    const runtime = this.loadRuntime();
    const tokenizers = this.loadTokenizers();
    const sessions = Object.entries(this.manifest.graphs).map(([name, files]) => this.loadSession(runtime, name, files));
    await Promise.all([runtime, tokenizers, ...sessions]);
  }

  async loadRuntime() {
    const [source, binary] = await Promise.all(this.manifest.runtime.map((name) => this.assets.get(name)));
    const ort = await imported(source);
    ort.env.wasm.numThreads = 1; // more would need headers that static hosts rarely send
    ort.env.wasm.wasmBinary = await unzipped(binary);
    ort.env.logLevel = "error";
    return (this.ort = ort);
  }

  async loadTokenizers() {
    const [source, ...files] = [this.manifest.tokenizer, ...this.manifest.tokenizers.map(({ file }) => file)];
    const [code, ...texts] = await Promise.all([source, ...files].map((name) => this.assets.get(name)));
    const { Tokenizer } = await imported(code);
    this.tokenizers = texts.map((text) => new Tokenizer(JSON.parse(new TextDecoder().decode(text)), {}));
  }

  async loadSession(runtime, name, files) {
    const [graph, ...weights] = await Promise.all(files.map((file) => this.assets.get(file)));
    const ort = await runtime;
    const make = () =>
      ort.InferenceSession.create(graph, {
        executionProviders: ["wasm"],
        externalData: weights.map((data, i) => ({ path: files[i + 1], data })),
      });
    this.last = this.last.then(make);
    this[name] = await this.last;
    if (this.assets.missing) await this.warm(this[name]); // the first run is the slowest
  }

  /** Run a session on zeros: V8 compiles what it uses, while other files are on their way. */
  async warm(session) {
    const feeds = session.inputMetadata.map(({ name, type, shape }) => {
      const size = shape.reduce((product, side) => product * side);
      return [name, this.tensor(type === "int32" ? new Int32Array(size) : new Float32Array(size), shape)];
    });
    await session.run(Object.fromEntries(feeds));
  }

  tensor(values, shape) {
    return new this.ort.Tensor(values instanceof Int32Array ? "int32" : "float32", values, shape);
  }

  /** Return a prompt's token ids, cut and padded as the pipeline's tokenizer does. */
  ids(prompt, which) {
    const { length, pad, end } = this.manifest.tokenizers[which];
    let { ids } = this.tokenizers[which].encode(prompt);
    if (ids.length > length) ids = [...ids.slice(0, length - 1), end];
    return Int32Array.from({ length }, (_, i) => ids[i] ?? pad);
  }

  /** Return what the text encoders make of a prompt, by the names of the UNet's inputs. */
  async embed(prompt) {
    if (this.embedded?.prompt === prompt) return this.embedded.made;
    const ids = this.tokenizers.map((_, which) => this.ids(prompt, which));
    const feeds = ids.map((values, which) => [["ids", "ids_2"][which], this.tensor(values, [1, values.length])]);
    const made = await this.text.run(Object.fromEntries(feeds));
    this.embedded = { prompt, made };
    return made;
  }

  /** Return a painting's latents; its pixels are RGBA. */
  async encode({ number, pixels }) {
    if (this.encoded?.number === number) return this.encoded.latents;
    const size = pixels.length / 4;
    const values = Float32Array.from({ length: 3 * size }, (_, i) => pixels[4 * (i % size) + Math.floor(i / size)] / 255);
    const side = this.manifest.side;
    const { latents } = await this.encoder.run({ picture: this.tensor(values, [1, 3, side, side]) });
    this.encoded = { number, latents: latents.data };
    return latents.data;
  }

  async predict(latents, timestep, guidance, embedded) {
    const feeds = { latents, timestep: [timestep], guidance: [guidance] };
    for (const name of ["timestep", "guidance"]) feeds[name] = this.tensor(Float32Array.from(feeds[name]), [1]);
    feeds.latents = this.tensor(latents, this.manifest.latents);
    return (await this.unet.run({ ...feeds, ...embedded })).output.data;
  }

  /** Return the picture of clean latents as RGBA bytes, rounded as NumPy rounds. */
  async decode(latents) {
    const { picture } = await this.decoder.run({ latents: this.tensor(latents, this.manifest.latents) });
    const size = picture.data.length / 3;
    const pixels = new Uint8ClampedArray(4 * size).fill(255);
    for (let i = 0; i < size; i++) {
      for (let channel = 0; channel < 3; channel++) pixels[4 * i + channel] = picture.data[channel * size + i] * 255;
    }
    return pixels;
  }

  /** Draw one picture, over a painting where there is one; `onStep` is called after each step. */
  async draw({ prompt, steps, strength, guidance, seed }, painting, onStep) {
    const { schedule } = this.manifest;
    const embedded = await this.embed(prompt);
    const twister = new Twister(seed);
    const visited = timesteps(schedule, steps, strength);
    const predictions = [];
    let latents = painting
      ? renoised(schedule, await this.encode(painting), visited[0], twister)
      : randn(twister, this.size);
    for (const [i, timestep] of visited.entries()) {
      const output = await this.predict(latents, timestep, guidance, embedded);
      predictions.push(consistency(schedule, latents, output, timestep));
      onStep(i + 1, timestep);
      if (i + 1 < visited.length) latents = renoised(schedule, predictions[i], visited[i + 1], twister);
    }
    return { visited, predictions, pixels: await this.decode(predictions.at(-1)) };
  }
}

// -- the mailbox ----------------------------------------------------------------------------------

let assets, model, loaded, letter, busy;

/** Let messages in: what runs in WebAssembly blocks the worker. */
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });
}

async function work() {
  if (busy) return;
  busy = true;
  try {
    await loaded;
    while (letter) {
      const taken = letter;
      letter = undefined;
      await serve(taken);
    }
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
  }
}

async function serve({ id, settings, painting }) {
  const start = performance.now();
  const onStep = (number, timestep) => postMessage({ type: "step", id, number, timestep });
  const { visited, predictions, pixels } = await model.draw(settings, painting, onStep);
  const seconds = (performance.now() - start) / 1000;
  postMessage({ type: "picture", id, pixels, timesteps: visited, seconds }, [pixels.buffer]);
  for (let number = 1; number < predictions.length; number++) {
    await breathe();
    if (letter) return; // newer settings wait
    const earlier = await model.decode(predictions[number - 1]);
    postMessage({ type: "prediction", id, number, pixels: earlier }, [earlier.buffer]);
  }
  if (assets.fresh.size) await assets.keep().then(() => postMessage({ type: "kept" }), () => {});
}

function fail(error) {
  postMessage({ type: "failed", message: error?.message ?? String(error) });
}

async function start({ manifest }) {
  assets = new Assets(manifest);
  model = new Model(assets);
  await model.load();
  postMessage({ type: "ready", cached: assets.fresh.size === 0 });
}

onmessage = ({ data }) => {
  if (data.type === "start") loaded = start(data);
  if (data.type === "part") assets.part(data);
  if (data.type === "draw") {
    letter = data;
    work();
  }
};
