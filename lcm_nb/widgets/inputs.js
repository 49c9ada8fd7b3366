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
    for (const way of ways) way.still();
    try {
      const content = await small(chosen);
      model.send({ do: "take", name: chosen.name }, undefined, [content]);
    } catch (error) {
      model.send({ do: "refuse", why: error.message });
    }
  };
  choose.addEventListener("click", () => file.click());
  example.addEventListener("click", () => {
    for (const way of ways) way.still();
    model.send({ do: "example" });
  });
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
  const alone = (way) => ways.filter((other) => other !== way).forEach((other) => other.shut());
  const ways = [paintable({ model, el, kind, alone }), ...(kind === "mask" ? [] : [filmable({ model, el, alone })])];
  el.append(name, file);
  return () => {
    for (const way of ways) way.close();
    model.off("change:label", tell);
    model.off("change:name", tell);
  };
}

// Let the picture, or the mask, be painted. A way to give a picture can `shut`, `close` for good, and hold `still`.
function paintable({ model, el, kind, alone }) {
  const side = model.get("side");
  const paint = painter({ model, kind, width: side, height: side });
  const show = async () => {
    const below = await bitmapOf(model.get("below")), ink = await bitmapOf(model.get("ink"));
    const sized = below || ink;
    if (sized) paint.resize(sized.width, sized.height);
    if (below) paint.background(below);
    if (ink) paint.load(ink);
  };
  const open = (now) => {
    if (now) alone(way);
    paint.el.hidden = !now;
    draw.setAttribute("aria-pressed", String(now));
    el.classList.toggle("lcm-painting", now);
    model.send({ do: now ? "open" : "shut" });
  };
  const draw = button(kind === "mask" ? "paint" : "draw", kind === "mask" ? "Paint the mask on the picture" : "Draw the picture here", () => open(paint.el.hidden));
  const way = {
    shut: () => { if (!paint.el.hidden) open(false); },
    still: () => {}, // what is chosen is laid out to draw on
    close: () => {
      paint.close();
      model.off("change:laid", show);
    },
  };
  el.append(draw, paint.el);
  // a wide part comes last in the row
  paint.el.style.order = 1;
  paint.el.hidden = kind !== "mask";
  draw.setAttribute("aria-pressed", String(!paint.el.hidden));
  model.on("change:laid", show);
  show();
  return way;
}

const REFUSED = {
  NotAllowedError: "the camera is refused to this page; allow it in the browser",
  NotFoundError: "this computer has no camera; connect one",
  NotReadableError: "another program has the camera; end it there",
};

// Let the picture be what the camera sees: the middle square of it, not mirrored, so that writing stays legible.
function filmable({ model, el, alone }) {
  const square = document.createElement("canvas"), context = square.getContext("2d");
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, hidden: true });
  let wanted = false, stream = null, ticking = 0;
  video.className = "lcm-camera";
  video.setAttribute("aria-label", "what the camera sees");
  const picture = () => {
    const side = Math.min(video.videoWidth, video.videoHeight);
    square.width = square.height = model.get("side");
    context.drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, square.width, square.height);
    return encoded(square, "image/jpeg", 0.85);
  };
  const { changed, close } = courier({ model, picture, part: () => "camera" });
  const roll = (now) => {
    wanted = now;
    film.setAttribute("aria-pressed", String(now));
    video.hidden = !now;
    clearInterval(ticking);
    if (now) return;
    stream?.getTracks().forEach((track) => track.stop());
    video.srcObject = stream = null;
    model.set("filming", false);
    model.save_changes();
  };
  const shut = () => { if (wanted) roll(false); };
  const begin = async () => {
    alone(way);
    roll(true);
    film.disabled = true; // until the browser has asked
    try {
      if (!navigator.mediaDevices) throw new Error("this page gets no camera: it needs https or localhost");
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } } });
      stream.getVideoTracks()[0].addEventListener("ended", shut);
      video.srcObject = stream;
      await video.play();
      if (!wanted) return roll(false); // it was shut while the browser asked
      model.set("filming", true);
      model.save_changes();
      ticking = setInterval(() => video.videoWidth && changed(), FRAME);
    } catch (error) {
      if (wanted) model.send({ do: "refuse", why: `${REFUSED[error.name] || error.message}, or choose a picture.` });
      roll(false);
    } finally {
      film.disabled = false;
    }
  };
  const film = button("camera", "Take what the camera sees, again and again", () => (wanted ? roll(false) : begin()));
  const onFilming = () => { if (!model.get("filming")) shut(); }; // the kernel has another picture
  const way = {
    shut,
    still: shut,
    close: () => {
      close();
      shut();
      model.off("change:filming", onFilming);
    },
  };
  film.setAttribute("aria-pressed", "false");
  video.style.order = 1;
  model.on("change:filming", onFilming);
  el.append(film, video);
  return way;
}

export default { render };
