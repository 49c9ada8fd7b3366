// What scrolls sideways can be reached, and scrolled, by keyboard.
const watch = new ResizeObserver((seen) => {
  for (const { target } of seen) target.toggleAttribute("tabindex", false);
  for (const { target } of seen) if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
});
for (const wide of document.querySelectorAll("pre, div.math, .table-wrapper")) watch.observe(wide);

// Puts the LCM that draws in the page wherever a page has an element for it.
const draw = new URL("../draw/", import.meta.url);
const places = document.querySelectorAll(".lcm-live");

if (places.length) {
  document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("lcm.css", draw) }));
  const lesson = (name) => new URL(`../notebooks/${name}.html`, import.meta.url).href;
  const lessons = { "text-to-image": "01_text_to_image", "image-to-image": "02_image_to_image" };
  const sampler = lesson("06_inside_the_sampler");
  const { mount } = await import(new URL("lcm.js", draw));
  for (const place of places) {
    const { first, section = "text-to-image", ...settings } = place.dataset;
    const notebook = lesson(lessons[section]);
    // The first page keeps its settings in its address, and itself for visits without a connection.
    const own = first === undefined ? {} : { link: true, offline: new URL("../sw.js", import.meta.url) };
    await mount(place, { base: draw, section, settings, notebook, sampler, ...own });
  }
}
