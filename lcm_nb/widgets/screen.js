const h = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};
const FRAME = 512; // pixels: a frame of this side is a square that stays; a narrower one fits the picture
const bytes = (view) => view && view.byteLength > 0;

// Puts bytes into an <img>. The old picture stays until the new one can be drawn: nothing flickers.
function paint(img, data, alt) {
  img.alt = alt || "";
  img.hidden = !bytes(data);
  if (img.hidden || img.data === data) return;
  const old = img.src;
  img.data = data;
  img.src = URL.createObjectURL(new Blob([data]));
  if (old) URL.revokeObjectURL(old);
}

// -- the picture in its frame ---------------------------------------------------------

function makeFrame(model) {
  const hint = h("p", { class: "lcm-hint" });
  const before = h("img", { draggable: false }), after = h("img", { draggable: false });
  const tagBefore = h("span", { class: "lcm-tag" }), tagAfter = h("span", { class: "lcm-tag lcm-right" });
  const stage = h("div", { class: "lcm-stage" }, after, before, tagBefore, tagAfter);
  const frame = h("div", { class: "lcm-frame" }, hint, stage);
  const slider = h("input", {
    type: "range", min: "0", max: "100", class: "lcm-line",
    "aria-label": "how much of the picture before is shown",
  });

  // A picture is shown at a whole multiple of its own size, so that its pixels stay what they are.
  let side = 0; // of the frame, asked for when it has changed: to ask for each picture would lay out the page each time
  const fit = () => {
    const lead = stage.dataset.view === "given" ? before : after;
    const width = lead.naturalWidth * (stage.dataset.view === "side" ? 2 : 1), height = lead.naturalHeight;
    if (!width || !side) return;
    const room = side / Math.max(width, height), scale = room >= 1 ? Math.floor(room) : room;
    stage.style.width = `${width * scale}px`;
    stage.style.height = `${height * scale}px`;
    frame.style.height = side < FRAME ? `${Math.max(height * scale, 256)}px` : "";
    stage.classList.toggle("lcm-enlarged", scale >= 2);
  };
  const place = () => {
    const split = stage.dataset.view === "split";
    slider.value = model.get("position");
    before.style.clipPath = split ? `inset(0 ${100 - slider.value}% 0 0)` : "";
    stage.style.setProperty("--at", `${slider.value}%`);
  };
  const move = (value) => {
    model.set("position", Math.round(Math.min(Math.max(value, 0), 100)));
    model.save_changes();
    place();
  };
  const update = () => {
    paint(after, model.get("picture"), model.get("alt"));
    paint(before, model.get("before"), model.get("before_alt"));
    const pair = bytes(model.get("before"));
    const view = !pair ? "one" : bytes(model.get("picture")) ? model.get("view") : "given";
    const anew = stage.dataset.view !== view;
    stage.dataset.view = view;
    before.hidden = view === "one";
    tagBefore.textContent = model.get("before_name");
    tagAfter.textContent = model.get("before_name") === "A" ? "B" : "result";
    tagBefore.hidden = view === "one";
    tagAfter.hidden = view !== "split" && view !== "side";
    slider.hidden = view !== "split";
    hint.textContent = model.get("hint");
    hint.hidden = pair || bytes(model.get("picture"));
    frame.classList.toggle("lcm-preview", model.get("preview"));
    place();
    if (anew) fit();
  };
  after.addEventListener("load", fit);
  before.addEventListener("load", fit);
  slider.addEventListener("input", () => move(Number(slider.value)));
  stage.addEventListener("pointermove", (event) => {
    if (!event.buttons || stage.dataset.view !== "split") return;
    const box = stage.getBoundingClientRect();
    move((100 * (event.clientX - box.left)) / box.width);
  });
  const resized = new ResizeObserver(() => {
    side = frame.clientWidth;
    fit();
  });
  resized.observe(frame);
  for (const name of ["picture", "before", "alt", "before_alt", "before_name", "view", "hint", "preview"])
    model.on(`change:${name}`, update);
  model.on("change:position", place);
  update();
  return { nodes: [frame, slider], frame, end: () => resized.disconnect() };
}

// -- rows of small pictures: n pictures of a run, and the history --------------------------

// One stop for Tab; arrows move inside.
function roving(list) {
  list.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll("button")], at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined || !buttons[to]) return;
    event.preventDefault();
    for (const button of buttons) button.tabIndex = button === buttons[to] ? 0 : -1;
    buttons[to].focus();
    buttons[to].scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

function small(item, current, click, known) {
  const img = known || h("img", { draggable: false });
  if (!known) paint(img, item.data, item.alt);
  return h(
    "button",
    { type: "button", title: item.title, "aria-pressed": String(current), tabindex: current ? "0" : "-1",
      class: "lcm-small", onclick: click },
    img,
    h("span", { class: "lcm-small-text" }, `${item.starred ? "★ " : ""}${item.caption}`),
  );
}

function fill(list, items) {
  const focused = list.contains(document.activeElement), had = document.activeElement?.dataset?.key;
  for (const img of list.querySelectorAll("img")) URL.revokeObjectURL(img.src);
  list.replaceChildren(...items);
  if (items.length && !items.some((item) => item.tabIndex === 0)) items[0].tabIndex = 0;
  if (focused) (items.find((item) => item.dataset.key === had) || items.find((item) => item.tabIndex === 0))?.focus();
  list.hidden = !items.length;
}

function makeRow(model) {
  const list = h("div", { class: "lcm-row", role: "group", "aria-label": "pictures to choose from" });
  const update = () => fill(list, model.get("row").map((item, index) => {
    const button = small(item, index === model.get("chosen"), () => model.send({ do: "choose", index }));
    button.dataset.key = index;
    return button;
  }));
  roving(list);
  for (const name of ["row", "chosen"]) model.on(`change:${name}`, update);
  update();
  return list;
}

function makeHistory(model) {
  const list = h("div", { class: "lcm-history", role: "group", "aria-label": "pictures drawn before, the newest first" });
  let images = new Map(); // of each key the <img>: to make two dozen anew for each picture would hold up the page
  let keys = [], over = false; // while the mouse is over them, none moves away under it
  const update = () => {
    const known = new Map(model.get("history").map((item) => [item.key, item])), still = keys.filter((key) => known.has(key));
    keys = over && still.length ? still : [...known.keys()];
    const items = keys.map((key) => {
      const item = known.get(key), recall = () => model.send({ do: "recall", key });
      const button = small(item, key === model.get("shown"), recall, images.get(key));
      button.classList.toggle("lcm-pinned", key === model.get("pinned"));
      button.dataset.key = key;
      return button;
    });
    images = new Map(items.map((button) => [Number(button.dataset.key), button.querySelector("img")]));
    fill(list, items);
  };
  list.addEventListener("pointerenter", (event) => { over = event.pointerType === "mouse"; });
  list.addEventListener("pointerleave", () => {
    over = false;
    update();
  });
  roving(list);
  for (const name of ["history", "shown", "pinned"]) model.on(`change:${name}`, update);
  update();
  return list;
}

// -- what can be done with the picture ---------------------------------------------------

function makeTools(model) {
  const tool = (text, title, click, attributes = {}) =>
    h("button", { type: "button", class: "jupyter-button lcm-button", title, onclick: click, ...attributes }, text);
  const star = tool("☆ keep", "Keep this picture in the history for good", () => model.send({ do: "star" }));
  const pin = tool("pin as A", "Compare what you draw next with this picture", () => model.send({ do: "pin" }));
  const remix = tool("remix", "Draw with this picture's settings and a new seed", () => model.send({ do: "remix" }));
  const side = tool("side by side", "Two pictures beside each other, or on one spot", () => {
    model.set("view", model.get("view") === "side" ? "split" : "side");
    model.save_changes();
  });
  const file = h("input", { type: "file", accept: ".png", hidden: true });
  const open = tool("open PNG …", "Take the settings of a PNG that lcm_nb saved; or drop it on the picture", () => file.click());
  file.addEventListener("change", () => {
    read(model, file.files[0]);
    file.value = "";
  });
  const save = h("a", { class: "lcm-file" });
  const update = () => {
    const key = model.get("shown"), entry = model.get("history").find((item) => item.key === key);
    star.setAttribute("aria-pressed", String(Boolean(entry?.starred)));
    star.textContent = entry?.starred ? "★ kept" : "☆ keep";
    star.disabled = pin.disabled = remix.disabled = !key;
    pin.setAttribute("aria-pressed", String(model.get("pinned") > 0));
    pin.textContent = model.get("pinned") ? "unpin A" : "pin as A";
    side.hidden = !bytes(model.get("before")) || !key;
    side.setAttribute("aria-pressed", String(model.get("view") === "side"));
    open.hidden = !model.get("reads");
  };
  const offer = () => {
    if (save.href) URL.revokeObjectURL(save.href);
    save.hidden = !bytes(model.get("file"));
    if (save.hidden) return;
    save.href = URL.createObjectURL(new Blob([model.get("file")], { type: `image/${model.get("file_name").split(".").pop()}` }));
    save.download = model.get("file_name");
    save.textContent = `⬇ download ${model.get("file_name")}`;
  };
  for (const name of ["history", "shown", "pinned", "before", "view", "reads"]) model.on(`change:${name}`, update);
  for (const name of ["file", "file_name"]) model.on(`change:${name}`, offer);
  update();
  offer();
  return h("div", { class: "lcm-tools", role: "toolbar", "aria-label": "the picture" }, star, pin, remix, side, open, file, save);
}

async function read(model, file) {
  if (!file) return;
  if (file.size > 9_000_000) {
    model.send({ do: "refuse", why: `${file.name} has ${(file.size / 1e6).toFixed(0)} MB; at most 9 MB can be sent.` });
    return;
  }
  model.send({ do: "read" }, undefined, [await file.arrayBuffer()]);
}

// -- words ----------------------------------------------------------------------------

function makeWords(model) {
  const bar = h("div", { class: "lcm-bar", role: "progressbar", "aria-label": "steps done", "aria-valuemin": "0", "aria-valuemax": "100" }, h("div"));
  const caption = h("p", { class: "lcm-caption" });
  const status = h("p", { class: "lcm-status", role: "status", "aria-live": "polite" });
  const judge = h("p", { class: "lcm-judge" });
  const differ = h("table", { class: "lcm-differ" });
  const code = h("div", { class: "lcm-code", hidden: true });
  const text = h("pre", { tabindex: "0", "aria-label": "plain code of the picture" });
  const copy = h("button", { type: "button", class: "jupyter-button lcm-button", onclick: () => navigator.clipboard?.writeText(model.get("code")) }, "copy");
  code.append(copy, text);
  const update = () => {
    const busy = model.get("mood") === "busy";
    const part = Math.round(100 * model.get("progress"));
    bar.firstChild.style.transform = `scaleX(${part / 100})`; // a width would lay out the page anew
    bar.classList.toggle("lcm-busy", busy);
    bar.setAttribute("aria-valuenow", part);
    bar.setAttribute("aria-hidden", String(!busy));
    caption.textContent = model.get("caption");
    caption.title = model.get("caption");
    status.dataset.mood = model.get("mood");
    if (status.textContent !== model.get("status")) status.textContent = model.get("status");
    judge.textContent = model.get("words");
    judge.hidden = !model.get("words");
  };
  const compare = () => {
    const lines = model.get("differences");
    differ.hidden = !model.get("pinned");
    const head = h("tr", {}, h("th", { scope: "col" }, lines.length ? "differs" : "A and B have the same settings"));
    if (lines.length) head.append(h("th", { scope: "col" }, "A"), h("th", { scope: "col" }, "B"));
    differ.replaceChildren(head, ...lines.map(([label, a, b]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, a), h("td", {}, b))));
  };
  const list = () => {
    const closed = code.hidden;
    code.hidden = !model.get("code");
    text.textContent = model.get("code");
    if (closed && !code.hidden) code.scrollIntoView({ block: "nearest" });
  };
  for (const name of ["mood", "progress", "caption", "status", "words"]) model.on(`change:${name}`, update);
  for (const name of ["differences", "pinned"]) model.on(`change:${name}`, compare);
  model.on("change:code", list);
  update();
  compare();
  list();
  return { bar, words: h("div", { class: "lcm-words" }, caption, status, judge, differ), code };
}

// -- the whole panel: keys, and what the stock widgets do not say -----------------------

function sayNames(root) {
  for (const slider of root.querySelectorAll(".widget-slider")) {
    const name = slider.querySelector(".widget-label")?.textContent || "value";
    const readout = slider.querySelector(".widget-readout");
    for (const handle of slider.querySelectorAll(".noUi-handle, .ui-slider-handle")) {
      handle.setAttribute("aria-label", name);
      if (handle.classList.contains("noUi-handle")) continue;
      handle.setAttribute("role", "slider"); // ipywidgets 7 says nothing
      handle.setAttribute("aria-valuenow", readout?.textContent || "");
    }
    readout?.setAttribute("role", "textbox");
    readout?.setAttribute("aria-label", `${name}, as a number`);
  }
  for (const button of root.querySelectorAll(".widget-toggle-button"))
    button.setAttribute("aria-pressed", String(button.classList.contains("mod-active")));
}

function onKey(model, root, event) {
  if (!root?.contains(event.target)) return;
  const control = event.ctrlKey || event.metaKey;
  // JupyterLab would take letters and arrows for its own, even on a slider; Ctrl+S and the like it may have.
  event.target.toggleAttribute("data-lm-suppress-shortcuts", !control || event.key === "Enter");
  const box = event.target.closest("input[type=text], textarea");
  const enter = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (enter && (control || box)) {
    const set = [...(box?.closest("[class*=lcm-set-]")?.classList || [])].find((name) => name.startsWith("lcm-set-"));
    model.send({ do: "run", ...(set ? { name: set.slice(8), text: box.value } : {}) });
    event.preventDefault();
  } else if (event.key === "Escape") {
    model.send({ do: "stop" });
  }
}

function onDrop(model, frame) {
  const over = (on) => frame.classList.toggle("lcm-over", on);
  frame.addEventListener("dragover", (event) => {
    if (!model.get("reads")) return;
    event.preventDefault();
    event.stopPropagation();
    over(true);
  });
  frame.addEventListener("dragleave", () => over(false));
  frame.addEventListener("drop", (event) => {
    if (!model.get("reads")) return;
    event.preventDefault();
    event.stopPropagation();
    over(false);
    read(model, event.dataTransfer.files[0]);
  });
}

// Waits until the page holds the panel, and wakes it: the line for those who have no kernel goes.
function settle(model, el) {
  let root, watcher;
  const keys = (event) => onKey(model, root, event);
  const begin = () => {
    root = el.closest(".lcm-panel");
    if (!root) return false;
    window.addEventListener("keydown", keys, true); // before JupyterLab, and before boxes that pass no key on
    watcher = new MutationObserver(() => sayNames(root));
    watcher.observe(root, { childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["class"] });
    sayNames(root);
    for (let above = root.parentElement; above; above = above.parentElement) {
      const asleep = above.querySelectorAll(".lcm-asleep");
      for (const line of asleep) line.hidden = true;
      if (asleep.length || above.matches(".jp-OutputArea, .output, body")) break;
    }
    return true;
  };
  let waiting = 0;
  const wait = () => { if (!begin()) waiting = requestAnimationFrame(wait); };
  wait();
  return () => {
    cancelAnimationFrame(waiting);
    watcher?.disconnect();
    window.removeEventListener("keydown", keys, true);
  };
}

function render({ model, el }) {
  el.classList.add("lcm-screen");
  const { nodes, frame, end } = makeFrame(model);
  const { bar, words, code } = makeWords(model);
  onDrop(model, frame);
  const view = h("div", { class: "lcm-view" }, ...nodes, bar, words, makeTools(model), makeRow(model));
  el.append(view, h("div", { class: "lcm-before-now" }, makeHistory(model)), code);
  const leave = settle(model, el);
  return () => {
    leave();
    end();
    for (const img of el.querySelectorAll("img")) URL.revokeObjectURL(img.src);
  };
}

export default { render };
