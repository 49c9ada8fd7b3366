// An LCM that draws in this page: `mount` puts controls and picture into an element, and the default export
// does the same as an anywidget (lcm_nb.web_panel). The model runs in worker.js; nothing is sent anywhere. A section
// that starts from a picture has a surface to paint on, paint.js; pages have it, the widget has not.

const AT_ONCE = 3; // downloads
const BREATH = 8; // milliseconds after which a download lets the page draw
const STRIP = 96; // pixels of a prediction in the strip
const DRAWING = "drawing.png";
const SETTLED = 700; // milliseconds without a newer picture before one is announced

/** Make an element: attributes, listeners (on...), then children. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && name !== "form") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// -- where the assets come from -------------------------------------------------------------------

/** Assets that lie under an address. Those asked for first come first, a few at a time. */
function fromAddress(base) {
  const open = async (name, version) => {
    const response = await fetch(new URL(`assets/${name}${version ? `?v=${version}` : ""}`, base));
    if (!response.ok) throw new Error(`${name} did not come: the server answered ${response.status}`);
    return response;
  };
  const read = async (name, version) => new Uint8Array(await (await open(name, version)).arrayBuffer());
  const stream = async (name, version, onPiece) => {
    const reader = (await open(name, version)).body.getReader();
    let rested = performance.now();
    for (let piece; !(piece = await reader.read()).done; ) {
      onPiece(piece.value.buffer, false);
      if (performance.now() - rested < BREATH) continue;
      await new Promise((resolve) => setTimeout(resolve)); // pieces that wait would come without a frame between
      rested = performance.now();
    }
    onPiece(new ArrayBuffer(0), true);
  };
  const queue = [];
  let running = 0;
  const advance = async () => {
    if (running === AT_ONCE || !queue.length) return;
    running++;
    await queue.shift()();
    running--;
    advance();
  };
  const pieces = (name, version, onPiece) =>
    new Promise((resolve, reject) => {
      queue.push(() => stream(name, version, onPiece).then(resolve, reject));
      advance();
    });
  return { base: String(base), read, pieces };
}

/** Assets that a notebook's kernel sends, piece by piece. */
function fromKernel(model) {
  const listeners = new Map();
  const view = Math.random().toString(36).slice(2); // all views of a widget hear all messages
  model.on("msg:custom", ({ asset, view: whose, done }, buffers) => {
    if (whose !== view) return;
    const data = buffers[0];
    const bytes = data instanceof ArrayBuffer ? data : data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
    listeners.get(asset)?.(bytes, done);
  });
  const pieces = async (name, version, onPiece) => {
    listeners.set(name, onPiece);
    model.send({ need: name, view });
  };
  const read = (name, version) =>
    new Promise((resolve) => {
      const arrived = [];
      pieces(name, version, (bytes, done) => {
        arrived.push(bytes);
        if (done) resolve(new Blob(arrived).arrayBuffer().then((buffer) => new Uint8Array(buffer)));
      });
    });
  return { base: null, read, pieces };
}

// -- settings -------------------------------------------------------------------------------------

/** Return settings with every number inside its range and on its step, and what is missing from `defaults`.
 *
 * Where steps and strength would run no step, strength is raised until one runs. */
function complete(settings, defaults, limits) {
  const done = { ...defaults };
  if (typeof settings.prompt === "string" && settings.prompt.trim()) done.prompt = settings.prompt.slice(0, 500);
  for (const [name, { low, high, step }] of Object.entries(limits)) {
    const value = Number.parseFloat(settings[name]);
    if (Number.isFinite(value)) {
      const near = low + Math.round((value - low) / step) * step;
      done[name] = Number(Math.min(Math.max(near, low), high).toFixed(4));
    }
  }
  if (Math.floor(done.steps * done.strength) === 0) {
    const { step } = limits.strength;
    done.strength = Number((Math.ceil(1 / done.steps / step) * step).toFixed(4));
  }
  return done;
}

function fromLink(hash) {
  return Object.fromEntries(new URLSearchParams(hash.replace(/^#/, "")));
}

function toLink({ prompt, steps, seed, guidance }) {
  return `#${new URLSearchParams({ prompt, steps, seed, guidance })}`;
}

/** Return Python code that draws the same picture. */
function pythonCode({ prompt, steps, strength, guidance, seed }, section) {
  const float = (value) => (Number.isInteger(value) ? `${value}.0` : value);
  const start = strength === undefined ? "" : `    image="${DRAWING}",  # as "Save drawing" keeps it
    strength=${float(strength)},
`;
  return `import lcm_nb

studio = lcm_nb.load("${section}", profile="mini")
result = studio.generate(
    prompt=${JSON.stringify(prompt)},
${start}    num_inference_steps=${steps},
    guidance_scale=${float(guidance)},
    seed=${seed},
)
result.image
`;
}

function fileName({ prompt, seed }) {
  const slug = prompt.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `${slug.replace(/-$/, "") || "picture"}-seed${seed}.png`;
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function described({ prompt, steps, strength, guidance, seed }) {
  const start = strength === undefined ? "" : `strength ${strength}, `;
  return `“${prompt}”, ${plural(steps, "step")}, ${start}guidance ${guidance}, seed ${seed}`;
}

// -- PNG files that carry their settings, as Result.save in lcm_nb/studio.py writes them ----------------

async function withSettings(png, { prompt, steps, strength, guidance, seed }, timesteps, { record, side }, source) {
  const settings = { prompt, num_inference_steps: steps, guidance_scale: guidance, seed };
  const model = record.checkpoints.unet ?? record.checkpoints.base;
  let fields = `Steps: ${steps}, Sampler: LCM, CFG scale: ${guidance}, Seed: ${seed}, Size: ${side}x${side}`;
  fields += `, Model hash: ${model.sha256.slice(0, 10)}, Model: ${model.name}`;
  const chunks = [];
  if (source) {
    Object.assign(settings, { image: DRAWING, strength });
    fields += `, Denoising strength: ${strength}`;
    chunks.push(chunk("lcSo", await source.arrayBuffer()));
  }
  chunks.push(textChunk("parameters", `${prompt}\n${fields}`));
  chunks.push(textChunk("lcm_nb", JSON.stringify({ ...record, settings, timesteps })));
  const header = 33; // signature and size come first in every PNG
  return new Blob([png.slice(0, header), ...chunks, png.slice(header)], { type: "image/png" });
}

/** Return an iTXt chunk: keyword, four fields that stay empty, text. */
function textChunk(keyword, text) {
  return chunk("iTXt", new TextEncoder().encode(`${keyword}\0\0\0\0\0${text}`));
}

/** Return a chunk: length, type, content, checksum. */
function chunk(type, content) {
  const made = new Uint8Array(content.byteLength + 12);
  const view = new DataView(made.buffer);
  view.setUint32(0, content.byteLength);
  made.set(new TextEncoder().encode(type), 4);
  made.set(new Uint8Array(content), 8);
  view.setUint32(made.length - 4, crc32(made.subarray(4, -4)));
  return made;
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

// -- the panel ------------------------------------------------------------------------------------

class Panel {
  constructor(root, source, manifest, options) {
    Object.assign(this, { root, source, manifest, options, id: 0, state: "empty", predictions: [] });
    this.limits = manifest.limits;
    this.settings = complete({ ...options.settings, ...this.linked() }, manifest.defaults, this.limits);
    this.build();
    this.show(this.settings);
    this.showPoster();
    this.showStart();
    if (options.link) addEventListener("hashchange", this.onHash);
    this.countMissing().then((bytes) => bytes || options.paint || this.load()); // nothing to download
  }

  linked() {
    return this.options.link ? fromLink(location.hash) : {};
  }

  onHash = () => {
    const { hash } = location;
    if (hash === toLink(this.settings) || !hash) return;
    this.change(complete(fromLink(hash), this.settings, this.limits));
  };

  // -- elements

  build() {
    const { manifest } = this;
    const [width, height] = [manifest.side, manifest.side];
    this.canvas = h("canvas", { width, height, role: "img" });
    this.canvas.setAttribute("aria-label", "No picture yet");
    this.size = h("span", {}, `${megabytes(manifest.bytes)} to download, once`);
    this.startButton = h(
      "button",
      { type: "button", className: "lcm-start", onclick: () => this.load() },
      h("strong", {}, "Load the model and draw"),
      this.size,
    );
    this.bar = h("progress", { max: 1, value: 0, hidden: true });
    this.bar.setAttribute("aria-label", "Download");
    this.note = h("p", { className: "lcm-note" });
    this.says = h("p", { className: "lcm-says", role: "status" });
    this.says.setAttribute("aria-live", "polite");
    this.strip = h("ol", { className: "lcm-strip" });
    this.stage = h("div", { className: "lcm-stage" }, this.canvas, this.startButton);
    const left = h("div", { className: "lcm-left" }, this.stage, this.bar, this.note, this.says);
    const right = h("div", { className: "lcm-right" }, ...this.buildPainter(), this.buildForm(), this.buildStrip());
    const below = h("div", { className: "lcm-below" }, this.buildCode());
    this.root.replaceChildren(h("div", { className: "lcm-panel" }, left, right, below));
  }

  /** Make what is painted on, where the section starts from a picture. Pixels are read from it as they are. */
  buildPainter() {
    if (!this.options.paint) return [];
    const { side } = this.manifest;
    this.painted = 0;
    let taken;
    const model = { // what the surface takes for a widget's: a frame is taken at once
      get: () => this.painted,
      on: (_, heard) => { taken = heard; },
      off: () => {},
      send: ({ number }) => {
        this.painted = number;
        this.onInput();
        taken();
      },
    };
    this.painter = this.options.paint({ model, kind: "draw", width: side, height: side });
    const save = h("button", { type: "button", onclick: () => this.saveDrawing() }, "Save drawing");
    const hint = h("p", { className: "lcm-note" }, "Paint here, and watch.");
    return [h("div", { className: "lcm-input" }, this.painter.el, hint, save)];
  }

  buildForm() {
    const { limits, manifest } = this;
    const unique = `lcm-${Math.random().toString(36).slice(2, 8)}`;
    this.prompt = h("input", { type: "text", id: `${unique}-prompt`, maxLength: 500, autocomplete: "off" });
    this.prompt.spellcheck = false;
    const examples = manifest.examples.map((prompt) =>
      h("button", { type: "button", onclick: () => this.change({ ...this.settings, prompt }) }, prompt),
    );
    this.steps = this.slider(`${unique}-steps`, limits.steps);
    this.guidance = this.slider(`${unique}-guidance`, limits.guidance);
    const strength = [];
    if (limits.strength) {
      this.strength = this.slider(`${unique}-strength`, limits.strength);
      strength.push(h("div", { className: "lcm-row" }, ...this.labelled("Strength", this.strength)));
    }
    const { low, high } = limits.seed;
    this.seed = h("input", { type: "number", id: `${unique}-seed`, min: low, max: high, step: 1, required: true });
    this.live = h("input", { type: "checkbox", id: `${unique}-live`, checked: true });
    this.drawButton = h("button", { type: "submit", className: "lcm-primary" }, "Draw");
    this.saveButton = h("button", { type: "button", disabled: true, onclick: () => this.save() }, "Save");
    const random = () => this.change({ ...this.settings, seed: Math.floor(Math.random() * 2 ** 31) });
    const buttons = [this.drawButton, h("button", { type: "button", onclick: random }, "New seed"), this.saveButton];
    if (this.options.link) buttons.push(h("button", { type: "button", onclick: () => this.copyLink() }, "Copy link"));
    const onsubmit = (event) => {
      event.preventDefault();
      this.change(this.values(), { always: true });
    };
    const form = h(
      "form",
      { onsubmit, oninput: () => this.onInput() },
      h("label", { htmlFor: this.prompt.id }, "Prompt"),
      this.prompt,
      h("div", { className: "lcm-examples", role: "group", ariaLabel: "Example prompts" }, ...examples),
      h("div", { className: "lcm-row" }, ...this.labelled("Steps", this.steps)),
      ...strength,
      h("div", { className: "lcm-row" }, ...this.labelled("Guidance", this.guidance)),
      h(
        "div",
        { className: "lcm-row" },
        h("label", { htmlFor: this.seed.id }, "Seed"),
        this.seed,
        h("label", { className: "lcm-check", htmlFor: this.live.id }, this.live, " live"),
      ),
      h("div", { className: "lcm-buttons" }, ...buttons),
    );
    form.noValidate = true;
    return form;
  }

  slider(id, { low, high, step }) {
    return h("input", { type: "range", id, min: low, max: high, step });
  }

  labelled(text, input) {
    input.shown = h("span", { className: "lcm-value", ariaHidden: "true" }); // the slider tells its value itself
    return [h("label", { htmlFor: input.id }, text), input, input.shown];
  }

  buildStrip() {
    const heading = h("h3", {}, "What f predicts after each step");
    const text = h(
      "p",
      { className: "lcm-note" },
      "At each timestep t the model jumps from noise straight to a clean picture; fresh noise goes on top, less " +
        "than before, and it jumps again. Press a step to see it large.",
    );
    return (this.stripBox = h("section", { hidden: true }, heading, this.strip, text));
  }

  buildCode() {
    this.code = h("code");
    const copy = h("button", { type: "button", onclick: () => this.copy(this.code.textContent, "The code") }, "Copy code");
    const pre = h("pre", { tabIndex: 0, role: "region", ariaLabel: "Python code" }, this.code);
    const { notebook, sampler } = this.options;
    const where = h("p", { className: "lcm-note" }, "The same in Python. Step by step in ");
    where.append(linked(`${this.manifest.notebook}.ipynb`, notebook), "; the loop that runs here, line by line, in ");
    where.append(linked("06_inside_the_sampler.ipynb", sampler), ".");
    return h("details", {}, h("summary", {}, "Show code"), pre, copy, where);
  }

  // -- values

  values() {
    const given = Object.fromEntries(Object.keys(this.settings).map((name) => [name, this[name].value]));
    return complete(given, this.settings, this.limits);
  }

  show(settings) {
    for (const [name, value] of Object.entries(settings)) {
      if (this[name].value !== String(value)) this[name].value = value;
    }
    this.told();
  }

  /** Tell sliders' values and code; a strength that was raised moves its slider. */
  told() {
    for (const [name, value] of Object.entries(this.settings)) {
      if (this[name].shown) this[name].shown.textContent = value;
    }
    if (this.strength) this.strength.value = this.settings.strength;
    this.code.textContent = pythonCode(this.settings, this.manifest.section);
  }

  onInput() {
    this.settings = this.values();
    this.told();
    if (this.live.checked && this.state !== "empty") this.draw();
    else this.options.onChange?.(this.settings);
  }

  /** Take new settings, and draw them if the panel is live or `always`. */
  change(settings, { always = false } = {}) {
    this.settings = settings;
    this.show(settings);
    if (this.state === "empty" && always) this.load();
    else if (this.state !== "empty" && (always || this.live.checked)) this.draw();
    else this.options.onChange?.(settings);
  }

  // -- the worker

  async load() {
    if (this.state !== "empty") return;
    this.state = "loading";
    this.startButton.hidden = true;
    this.bar.hidden = false;
    this.started = performance.now();
    this.note.textContent = "Loading ...";
    try {
      this.worker = await this.makeWorker();
    } catch (error) {
      this.onFailed(error);
      return;
    }
    this.worker.onmessage = ({ data }) => this[`on_${data.type}`]?.(data);
    this.worker.onerror = (event) => this.onFailed(event);
    this.worker.postMessage({ type: "start", manifest: this.manifest });
    this.draw();
  }

  /** Start worker.js: from the page's own host directly, else from its text, which browsers allow. */
  async makeWorker() {
    const { base } = this.source;
    if (base && new URL(base).origin === location.origin) {
      return new Worker(new URL(`assets/worker.js?v=${this.manifest.version}`, base), { type: "module" });
    }
    const address = URL.createObjectURL(new Blob([await this.source.read("worker.js")], { type: "text/javascript" }));
    return new Worker(address, { type: "module" });
  }

  draw() {
    if (this.state === "failed") return;
    this.stage.classList.add("lcm-busy");
    const painting = this.painter && { number: this.painted, pixels: this.pixels() };
    this.worker?.postMessage({ type: "draw", id: ++this.id, settings: this.settings, painting });
    (this.asked ??= new Map()).set(this.id, { settings: this.settings, painting });
    this.options.onChange?.(this.settings);
  }

  on_need({ name }) {
    const onPiece = (data, done) => this.worker.postMessage({ type: "part", name, data, done }, [data]);
    const version = this.manifest.files[name].sha256.slice(0, 12);
    this.source.pieces(name, version, onPiece).catch((error) => this.onFailed(error));
  }

  on_progress({ bytes, total }) {
    this.bar.value = bytes / total;
    const whole = bytes === total;
    this.note.textContent = whole ? "Starting the model ..." : `${megabytes(bytes)} of ${megabytes(total)}`;
  }

  on_ready({ cached }) {
    this.state = "ready";
    this.bar.hidden = true;
    this.note.textContent = cached ? "The model came from this browser's cache: nothing was downloaded." : "";
  }

  on_step({ id, number }) {
    if (id === this.id) this.root.dataset.step = number;
  }

  on_picture({ id, pixels, timesteps, seconds }) {
    const { settings, painting } = this.asked.get(id);
    for (const old of this.asked.keys()) if (old <= id) this.asked.delete(old);
    const first = !this.shown;
    this.shown = { id, settings, painting, timesteps, seconds };
    this.predictions = [];
    this.predictions[timesteps.length - 1] = pixels;
    this.paint(pixels, `Picture of ${described(settings)}`);
    this.layStrip(timesteps);
    this.saveButton.disabled = false;
    if (id === this.id) this.stage.classList.remove("lcm-busy");
    this.say(settings, timesteps, seconds);
    if (this.options.link) history.replaceState(null, "", toLink(settings));
    if (first) this.onFirst();
    this.root.dataset.drawn = id;
  }

  on_prediction({ id, number, pixels }) {
    if (id !== this.shown?.id) return;
    this.predictions[number - 1] = pixels;
    this.fillStrip(number);
  }

  on_kept() {
    this.root.dataset.kept = "yes";
    if (this.options.offline) keepPage(this.options.offline, this.manifest);
  }

  on_failed({ message }) {
    this.onFailed({ message });
  }

  onFailed({ message }) {
    this.state = "failed";
    this.worker?.terminate();
    this.bar.hidden = true;
    this.stage.classList.remove("lcm-busy");
    this.note.textContent = "";
    this.says.textContent = `The model does not run here: ${message || "this browser cannot start it"}.`;
    this.root.dataset.failed = "yes";
  }

  onFirst() {
    const seconds = (performance.now() - this.started) / 1000;
    this.root.dataset.first = seconds.toFixed(2);
  }

  // -- pictures

  paint(pixels, label) {
    const { side } = this.manifest;
    this.canvas.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
    this.canvas.setAttribute("aria-label", label);
  }

  layStrip(timesteps) {
    this.stripBox.hidden = false;
    if (this.strip.children.length !== timesteps.length) {
      this.strip.replaceChildren(...timesteps.map((_, i) => this.stripItem(i + 1)));
    }
    for (const [i, timestep] of timesteps.entries()) {
      this.strip.children[i].querySelector("span").textContent = `t = ${timestep}`;
    }
    this.mark(timesteps.length);
    this.fillStrip(timesteps.length);
  }

  stripItem(number) {
    const canvas = h("canvas", { width: STRIP, height: STRIP });
    canvas.setAttribute("aria-hidden", "true");
    const label = h("b", {}, `step ${number}`);
    const button = h("button", { type: "button", onclick: () => this.choose(number) }, canvas, label, h("span"));
    return h("li", {}, button);
  }

  fillStrip(number) {
    const { side } = this.manifest;
    const pixels = this.predictions[number - 1];
    const full = h("canvas", { width: side, height: side });
    full.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
    const context = this.strip.children[number - 1].querySelector("canvas").getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(full, 0, 0, STRIP, STRIP);
    this.root.dataset.predictions = this.predictions.filter(Boolean).length;
  }

  choose(number) {
    const { settings, timesteps } = this.shown;
    const pixels = this.predictions[number - 1];
    if (!pixels) return;
    const last = number === timesteps.length;
    const what = last ? "Picture of" : `What f predicts after step ${number} of ${timesteps.length} for`;
    this.paint(pixels, `${what} ${described(settings)}`);
    this.mark(number);
  }

  mark(number) {
    for (const [i, item] of [...this.strip.children].entries()) {
      item.firstChild.setAttribute("aria-pressed", String(i + 1 === number));
    }
  }

  async bitmap(file) {
    return createImageBitmap(new Blob([await this.source.read(file)]));
  }

  /** Lay the section's own picture under the brush. */
  async showStart() {
    if (!this.painter) return;
    const picture = await this.bitmap(this.manifest.start);
    if (this.painted) return; // the reader was faster
    this.painter.load(picture);
    this.painted = 1;
    if (this.state !== "empty") this.onInput();
  }

  /** Return the painting as RGBA bytes. */
  pixels() {
    const { side } = this.manifest;
    return this.painter.layer.getContext("2d").getImageData(0, 0, side, side).data;
  }

  /** Show the picture that was drawn beforehand with the default settings. */
  async showPoster() {
    const picture = await this.bitmap(this.manifest.poster);
    if (this.shown) return;
    this.canvas.getContext("2d").drawImage(picture, 0, 0);
    const label = `Drawn beforehand: ${described(this.manifest.defaults)}`;
    this.canvas.setAttribute("aria-label", label);
    if (this.state === "empty") this.note.textContent = `${label}.`;
  }

  // -- words

  /** Show what was drawn at once; tell those who listen when no newer picture follows. */
  say(settings, timesteps, seconds) {
    const at = `${plural(timesteps.length, "step")} at ${timesteps.length === 1 ? "timestep" : "timesteps"} ${timesteps.join(", ")}`;
    const text = `${at} - ${seconds.toFixed(2)} s`;
    this.note.textContent = text;
    clearTimeout(this.saying);
    this.saying = setTimeout(() => (this.says.textContent = `Drawn: ${described(settings)}.`), SETTLED);
  }

  async copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      this.says.textContent = `${what} is copied.`;
    } catch {
      this.says.textContent = `${what} could not be copied: the browser did not allow it.`;
    }
  }

  copyLink() {
    const address = new URL(toLink(this.settings), location.href);
    history.replaceState(null, "", address);
    this.copy(String(address), "The link");
  }

  /** Save the picture as a PNG that carries its settings: lcm_nb.reproduce draws it again. */
  async save() {
    const { settings, painting, timesteps } = this.shown;
    const source = painting && (await this.png(painting.pixels));
    const file = await withSettings(await this.png(this.predictions.at(-1)), settings, timesteps, this.manifest, source);
    this.download(file, fileName(settings));
  }

  async saveDrawing() {
    this.download(await this.png(this.pixels()), DRAWING);
  }

  /** Return pixels as a PNG file. */
  png(pixels) {
    const { side } = this.manifest;
    const full = h("canvas", { width: side, height: side });
    full.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
    return new Promise((resolve) => full.toBlob(resolve));
  }

  download(file, name) {
    const address = URL.createObjectURL(file);
    h("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    this.says.textContent = `Saved as ${name}.`;
  }

  /** Return how many bytes this browser's cache lacks, and say it. */
  async countMissing() {
    const files = Object.values(this.manifest.files);
    try {
      const cache = await globalThis.caches?.open("lcm-nb");
      const found = await Promise.all(files.map(({ sha256 }) => cache.match(`${location.origin}/lcm-nb/${sha256}`)));
      const bytes = files.reduce((sum, file, i) => sum + (found[i] ? 0 : file.bytes), 0);
      this.size.textContent = bytes ? `${megabytes(bytes)} to download, once` : "nothing to download";
      return bytes;
    } catch {
      return this.manifest.bytes;
    }
  }

  close() {
    removeEventListener("hashchange", this.onHash);
    clearTimeout(this.saying);
    this.painter?.close();
    this.worker?.terminate();
    this.state = "failed";
  }
}

/** Return a link, or the bare name where there is no address. */
function linked(name, address) {
  return address ? h("a", { href: address }, name) : h("code", {}, name);
}

/** Let the service worker keep this page and what it loaded, but for the model: worker.js keeps that. */
async function keepPage(address, { files, version }) {
  try {
    await navigator.serviceWorker.register(address);
    const { active } = await navigator.serviceWorker.ready;
    const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
    const keep = [location.href.split("#")[0], new URL(`assets/worker.js?v=${version}`, import.meta.url).href, ...loaded];
    const own = keep.filter((url) => url.startsWith(location.origin) && !(url.split("?")[0].split("/").at(-1) in files));
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (document.documentElement.dataset.lcmOffline = "yes");
    active.postMessage({ keep: [...new Set(own)] }, [port2]);
  } catch {
    // without https, or in a private window: the page works, but needs its server
  }
}

/** Return what a manifest says of one section, of its files alone. */
function only({ sections, ...common }, name = "text-to-image") {
  const section = sections[name];
  if (!section) throw new Error(`there is no section “${name}”; there is ${Object.keys(sections).join(" and ")}`);
  const files = Object.fromEntries(section.needs.map((file) => [file, common.files[file]]));
  const kept = Object.values(common.files).map(({ sha256 }) => sha256); // in the browser's cache: of all sections
  return { ...common, ...section, section: name, files, kept };
}

/** Bring the surface to paint on. */
async function painterOf(base, version) {
  const href = new URL("assets/paint.css", base).href;
  if (!document.querySelector(`link[href="${href}"]`)) document.head.append(h("link", { rel: "stylesheet", href }));
  return (await import(new URL(`assets/paint.js?v=${version}`, base))).painter;
}

/** Put the panel into an element.
 *
 * options: base (address of the built folder; default: where this module lies), section, settings, link (whether the
 * page's address carries the settings), offline (address of sw.js), notebook and sampler (addresses to link to),
 * onChange(settings), source (instead of base).
 */
export async function mount(root, options = {}) {
  const source = options.source ?? fromAddress(options.base ?? new URL(".", import.meta.url));
  root.classList.add("lcm-web");
  try {
    const manifest = only(JSON.parse(new TextDecoder().decode(await source.read("manifest.json"))), options.section);
    const paint = manifest.start ? await painterOf(source.base, manifest.version) : undefined;
    return new Panel(root, source, manifest, { ...options, paint });
  } catch (error) {
    root.replaceChildren(h("p", { role: "alert" }, `The LCM cannot be shown: ${error.message}.`));
    throw error;
  }
}

// -- anywidget ------------------------------------------------------------------------------------

const TRAITS = { prompt: "prompt", num_inference_steps: "steps", guidance_scale: "guidance", seed: "seed" };

function render({ model, el }) {
  const read = () =>
    Object.fromEntries(Object.entries(TRAITS).map(([trait, name]) => [name, model.get(trait)]));
  const onChange = (settings) => {
    for (const [trait, name] of Object.entries(TRAITS)) model.set(trait, settings[name]);
    model.save_changes();
  };
  const address = model.get("address");
  const source = address ? fromAddress(new URL(address.replace(/\/?$/, "/"), document.baseURI)) : fromKernel(model);
  const root = h("div");
  el.append(root);
  const mounted = mount(root, { source, settings: read(), onChange }).catch(() => undefined);
  const follow = async () => {
    const panel = await mounted;
    const wanted = read();
    if (panel && Object.keys(wanted).some((name) => panel.settings[name] !== wanted[name])) {
      panel.change(complete(wanted, panel.settings, panel.limits));
    }
  };
  for (const trait of Object.keys(TRAITS)) model.on(`change:${trait}`, follow);
  return async () => (await mounted)?.close();
}

export default { render };
