// A picture is sent in one message; a server may take no more than 10 MB in one, so larger ones are shrunk here.
const MOST_BYTES = 6_000_000, MOST_SIDE = 2048;

async function small(file) {
  if (file.size <= MOST_BYTES) return file.arrayBuffer();
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB and is no picture that this browser can read; ` +
      "convert it to a PNG, JPEG or WebP of at most 6 MB.");
  }
  const scale = Math.min(1, MOST_SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // what is transparent stands on white, as everywhere in lcm_nb
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
  return blob.arrayBuffer();
}

// The bytes of a picture as something to draw; null for none.
async function bitmapOf(bytes) {
  return bytes && bytes.byteLength ? createImageBitmap(new Blob([bytes])) : null;
}

function render({ model, el }) {
  el.classList.add("lcm-input");
  const kind = model.get("kind");
  const label = document.createElement("span"), choose = document.createElement("button");
  const example = document.createElement("button"), name = document.createElement("span");
  const file = Object.assign(document.createElement("input"), { type: "file", hidden: true });
  file.accept = ".png,.jpg,.jpeg,.webp";
  choose.textContent = "choose …";
  example.textContent = "example";
  choose.type = example.type = "button";
  name.className = "lcm-input-name";
  label.className = "widget-label";
  for (const button of [choose, example]) button.className = "jupyter-button lcm-button";

  const tell = () => {
    label.textContent = model.get("label");
    name.textContent = model.get("name");
    choose.title = `Choose a picture, or drop one here; now it is ${model.get("name")}`;
    choose.setAttribute("aria-label", `${model.get("label")}: choose a picture; now it is ${model.get("name")}`);
    example.title = "Use the section's own picture";
    example.setAttribute("aria-label", `${model.get("label")}: use the section's own picture`);
  };
  const take = async (chosen) => {
    if (!chosen) return;
    try {
      const content = await small(chosen);
      model.send({ do: "take", name: chosen.name }, undefined, [content]);
    } catch (error) {
      model.send({ do: "refuse", why: error.message });
    }
  };
  choose.addEventListener("click", () => file.click());
  example.addEventListener("click", () => model.send({ do: "example" }));
  file.addEventListener("change", () => {
    take(file.files[0]);
    file.value = ""; // so that the same file again is a change again
  });
  el.addEventListener("dragover", (event) => {
    event.preventDefault();
    event.stopPropagation();
    el.classList.add("lcm-over");
  });
  el.addEventListener("dragleave", () => el.classList.remove("lcm-over"));
  el.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    el.classList.remove("lcm-over");
    take(event.dataTransfer.files[0]);
  });
  for (const trait of ["label", "name"]) model.on(`change:${trait}`, tell);
  tell();
  el.append(label, choose, example);
  const surface = paintable({ model, el, kind });
  el.append(name, file);
  return surface;
}

// Let the picture, or the mask, be painted; return what is to be done when the view goes.
function paintable({ model, el, kind }) {
  const side = model.get("side");
  const send = (number, bytes) => model.send({ do: "paint", number }, undefined, [bytes]);
  const paint = painter({ kind, width: side, height: side, send });
  const onTaken = () => paint.taken(model.get("taken"));
  const show = async () => {
    const below = await bitmapOf(model.get("below")), ink = await bitmapOf(model.get("ink"));
    const sized = below || ink;
    if (sized) paint.resize(sized.width, sized.height);
    if (below) paint.background(below);
    if (ink) paint.load(ink);
  };
  const open = (now) => {
    paint.el.hidden = !now;
    draw.setAttribute("aria-pressed", String(now));
    el.classList.toggle("lcm-painting", now);
    model.send({ do: now ? "open" : "shut" });
  };
  const draw = button(kind === "mask" ? "paint" : "draw", kind === "mask" ? "Paint the mask on the picture" : "Draw the picture here", () => open(paint.el.hidden));
  el.append(draw, paint.el);
  // a wide part comes last in the row
  paint.el.style.order = 1;
  paint.el.hidden = kind !== "mask";
  draw.setAttribute("aria-pressed", String(!paint.el.hidden));
  model.on("change:taken", onTaken);
  model.on("change:laid", show);
  show();
  return () => {
    paint.close();
    model.off("change:taken", onTaken);
    model.off("change:laid", show);
  };
}

export default { render };
