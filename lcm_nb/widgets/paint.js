// A surface to paint on, by mouse, pen, touch or keys: two layers of the same size, the picture below and the ink.
// `kind` is "draw" (colours on white, sent as they are) or "mask" (what is marked is sent white on black).
const FRAME = 100, UNDO_BYTES = 48e6, MARK = "#d81b60"; // FRAME is milliseconds
const PALETTE = ["#1b1b1b", "#ffffff", "#d8432f", "#f28c28", "#f6c945", "#4f9d4a", "#3d8fd1", "#2b3f8f", "#7d4fa3", "#8a5a3b"];

function button(text, title, act) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text, title });
  made.className = "jupyter-button lcm-button";
  made.setAttribute("aria-label", title);
  made.addEventListener("click", act);
  return made;
}

// The bytes of a canvas as a file, at once: `toBlob` waits until the page idles, which took up to half a second.
function encoded(canvas, type, quality) {
  const letters = atob(canvas.toDataURL(type, quality).split(",")[1]), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes.buffer;
}

// Sends the kernel one frame at most in FRAME ms, and the next only when it has taken the last: nothing ever waits in a
// queue, and what is sent is the newest state. `picture` makes a file of it; `part` says what it is a part of: a
// "stroke" that goes on, its "end", or what the "camera" sees.
function courier({ model, picture, part }) {
  let dirty = false, onTheWay = 0, sentAt = -FRAME, timer = 0;
  const changed = (atOnce = false) => {
    dirty = true;
    clearTimeout(timer);
    timer = setTimeout(pump, atOnce ? 0 : Math.max(0, sentAt + FRAME - performance.now()));
  };
  const pump = () => {
    if (!dirty || onTheWay) return;
    dirty = false;
    onTheWay = model.get("taken") + 1; // another view of this control may have sent the last one
    sentAt = performance.now();
    model.send({ do: "paint", number: onTheWay, part: part() }, undefined, [picture()]);
  };
  const taken = () => {
    if (model.get("taken") < onTheWay) return;
    onTheWay = 0;
    if (dirty) changed(part() === "end");
  };
  model.on("change:taken", taken);
  return {
    changed,
    close: () => {
      clearTimeout(timer);
      model.off("change:taken", taken);
    },
  };
}

function painter({ model, kind, width, height }) {
  const el = document.createElement("div"), board = document.createElement("div"), tools = document.createElement("div");
  const below = document.createElement("canvas"), layer = document.createElement("canvas");
  const ink = layer.getContext("2d", { willReadFrequently: true }), masks = kind === "mask";
  const cursor = { x: 0, y: 0, shown: false };
  let tool = "brush", colour = masks ? MARK : PALETTE[0], size = 24, done = [], undone = [], stroke = null;

  // -- the layers ---------------------------------------------------------------------
  const blank = () => {
    ink.globalCompositeOperation = "source-over";
    ink.clearRect(0, 0, layer.width, layer.height);
    if (masks) return;
    ink.fillStyle = "#ffffff";
    ink.fillRect(0, 0, layer.width, layer.height);
  };
  const resize = (w, h) => {
    for (const each of [below, layer]) Object.assign(each, { width: w, height: h });
    board.style.aspectRatio = `${w} / ${h}`;
    done = []; undone = [];
    blank();
  };
  const snapshot = () => ink.getImageData(0, 0, layer.width, layer.height);
  const remember = () => {
    done.push(snapshot());
    undone = [];
    while (done.length > 1 && done.length * layer.width * layer.height * 4 > UNDO_BYTES) done.shift();
  };
  const step = (from, to) => {
    if (!from.length) return;
    to.push(snapshot());
    ink.putImageData(from.pop(), 0, 0);
    changed(true);
  };

  // -- what the kernel is sent ----------------------------------------------------------
  const picture = () => {
    const flat = document.createElement("canvas"), context = Object.assign(flat, { width: layer.width, height: layer.height }).getContext("2d");
    context.drawImage(layer, 0, 0);
    if (masks) { // white where there is ink, black elsewhere
      context.globalCompositeOperation = "source-in";
      context.fillStyle = "#ffffff";
      context.fillRect(0, 0, flat.width, flat.height);
      context.globalCompositeOperation = "destination-over";
      context.fillStyle = "#000000";
      context.fillRect(0, 0, flat.width, flat.height);
    }
    return encoded(flat, masks ? "image/png" : "image/jpeg", 0.92);
  };
  const { changed, close } = courier({ model, picture, part: () => (stroke ? "stroke" : "end") });

  // -- strokes ------------------------------------------------------------------------
  const place = (event) => {
    const around = layer.getBoundingClientRect();
    const scale = layer.width / around.width;
    return { x: (event.clientX - around.left) * scale, y: (event.clientY - around.top) * scale, force: event.pointerType === "pen" ? event.pressure * 2 : 1 };
  };
  const line = (from, to) => {
    ink.globalCompositeOperation = tool === "eraser" && masks ? "destination-out" : "source-over";
    ink.strokeStyle = tool === "eraser" && !masks ? "#ffffff" : colour;
    ink.lineWidth = Math.max(1, size * (to.force ?? 1)); // a pen that is lifted presses with 0
    ink.lineCap = ink.lineJoin = "round";
    ink.beginPath();
    ink.moveTo(from.x, from.y);
    ink.lineTo(to.x + 0.01, to.y);
    ink.stroke();
    changed();
  };
  const fill = (at) => {
    const image = snapshot(), { width: w, height: h } = image, cells = new Uint32Array(image.data.buffer);
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = colour;
    probe.fillRect(0, 0, 1, 1);
    const now = new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer)[0];
    const start = Math.floor(at.y) * w + Math.floor(at.x), old = cells[start];
    if (old === now) return;
    remember();
    for (const todo = [start]; todo.length;) {
      let here = todo.pop();
      const row = here - (here % w);
      while (here > row && cells[here - 1] === old) here--;
      for (let up = false, down = false; here < row + w && cells[here] === old; here++) {
        cells[here] = now;
        const above = here >= w && cells[here - w] === old, under = here + w < w * h && cells[here + w] === old;
        if (above && !up) todo.push(here - w);
        if (under && !down) todo.push(here + w);
        up = above; down = under;
      }
    }
    ink.putImageData(image, 0, 0);
    changed(true);
  };
  layer.addEventListener("pointerdown", (event) => {
    if (event.button || stroke) return;
    event.preventDefault();
    layer.focus({ preventScroll: true });
    const at = place(event);
    if (tool === "fill") return fill(at);
    remember();
    layer.setPointerCapture(event.pointerId);
    stroke = { id: event.pointerId, last: at };
    line(at, at);
  });
  layer.addEventListener("pointermove", (event) => {
    if (!stroke || event.pointerId !== stroke.id) return;
    const moves = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const each of moves.length ? moves : [event]) {
      const at = place(each);
      line(stroke.last, at);
      stroke.last = at;
    }
  });
  const end = (event) => {
    if (!stroke || event.pointerId !== stroke.id) return;
    stroke = null;
    changed(true);
  };
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) layer.addEventListener(name, end);

  // -- keys: arrows move a mark, Space paints there, with Shift a line is drawn -----------
  const mark = document.createElement("div");
  mark.className = "lcm-paint-mark";
  mark.hidden = true;
  const showMark = () => {
    mark.hidden = !cursor.shown;
    mark.style.left = `${(100 * cursor.x) / layer.width}%`;
    mark.style.top = `${(100 * cursor.y) / layer.height}%`;
    mark.style.width = `${(100 * size) / layer.width}%`;
  };
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  layer.addEventListener("keydown", (event) => {
    const move = ARROWS[event.key], control = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
    if (move) {
      const from = { ...cursor };
      if (!cursor.shown) Object.assign(cursor, { x: layer.width / 2, y: layer.height / 2, shown: true });
      else {
        cursor.x = Math.min(Math.max(cursor.x + move[0] * size * 0.5, 0), layer.width - 1);
        cursor.y = Math.min(Math.max(cursor.y + move[1] * size * 0.5, 0), layer.height - 1);
        if (event.shiftKey && tool !== "fill") { remember(); line(from, cursor); changed(true); }
      }
    } else if (event.key === " ") {
      if (!cursor.shown) Object.assign(cursor, { x: layer.width / 2, y: layer.height / 2, shown: true });
      if (tool === "fill") fill(cursor);
      else { remember(); line(cursor, cursor); }
      changed(true);
    } else if (control && key === "z") step(event.shiftKey ? undone : done, event.shiftKey ? done : undone);
    else if (control && key === "y") step(undone, done);
    else return;
    event.preventDefault();
    event.stopPropagation();
    showMark();
  });
  layer.addEventListener("blur", () => { cursor.shown = false; showMark(); });

  // -- tools --------------------------------------------------------------------------
  const choices = ["brush", "eraser", "fill"].map((name) => button(name, `${name}: paint with it`, () => choose(name)));
  const choose = (name) => {
    tool = name;
    for (const each of choices) each.setAttribute("aria-pressed", String(each.textContent === name));
  };
  const width_ = Object.assign(document.createElement("input"), { type: "range", min: 4, max: 96, value: size, title: "brush size" });
  width_.setAttribute("aria-label", "brush size");
  width_.addEventListener("input", () => { size = Number(width_.value); showMark(); });
  tools.className = "lcm-paint-tools";
  tools.append(...choices, width_);
  if (!masks) {
    const picker = Object.assign(document.createElement("input"), { type: "color", value: colour, title: "another colour" });
    picker.setAttribute("aria-label", "another colour");
    const take = (value) => {
      colour = picker.value = value;
      for (const each of tools.querySelectorAll(".lcm-paint-colour")) each.setAttribute("aria-pressed", String(each.dataset.colour === value));
    };
    picker.addEventListener("input", () => take(picker.value));
    for (const value of PALETTE) {
      const dot = button("", `colour ${value}`, () => take(value));
      dot.classList.add("lcm-paint-colour");
      dot.dataset.colour = value;
      dot.style.background = value;
      tools.append(dot);
    }
    tools.append(picker);
    take(colour);
  }
  tools.append(
    button("undo", "undo (Ctrl+Z)", () => step(done, undone)),
    button("redo", "redo (Ctrl+Y)", () => step(undone, done)),
    button("clear", "clear all", () => { remember(); blank(); changed(true); }),
  );
  choose("brush");

  board.className = `lcm-paint-board lcm-paint-${kind}`;
  layer.tabIndex = 0;
  layer.setAttribute("role", "img");
  layer.setAttribute("aria-label", masks
    ? "mask: paint what is to be drawn anew; arrow keys move, Space paints, Shift and arrows draw"
    : "drawing: arrow keys move, Space paints, Shift and arrows draw");
  board.append(below, layer, mark);
  el.className = "lcm-paint";
  el.append(tools, board);
  resize(width, height);

  return {
    el, layer, resize, close,
    background: (bitmap) => below.getContext("2d").drawImage(bitmap, 0, 0, below.width, below.height),
    // Put a picture into the ink, of a mask what is light; nothing is sent for it.
    load: (bitmap) => {
      blank();
      ink.drawImage(bitmap, 0, 0, layer.width, layer.height);
      if (masks) {
        const image = snapshot(), probe = document.createElement("canvas").getContext("2d");
        probe.fillStyle = MARK;
        probe.fillRect(0, 0, 1, 1);
        const now = new Uint32Array(probe.getImageData(0, 0, 1, 1).data.buffer)[0], cells = new Uint32Array(image.data.buffer);
        for (let i = 0; i < cells.length; i++) cells[i] = image.data[4 * i] >= 128 ? now : 0;
        ink.putImageData(image, 0, 0);
      }
    },
  };
}
