// Keeps the page itself for visits without a connection. The model is kept by worker.js, by its content.
//
// The page sends {keep: [addresses]} once it has drawn: its own address, and what it loaded.

const CACHE = "lcm-nb-page";

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("message", (event) => {
  const keep = async () => {
    const cache = await caches.open(CACHE);
    await Promise.allSettled(event.data.keep.map((address) => cache.add(address)));
    event.ports[0]?.postMessage("kept");
  };
  event.waitUntil(keep());
});

// The network first, so that a new version is seen at once; without one, what was kept.
addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method !== "GET" || new URL(url).origin !== location.origin) return;
  event.respondWith(fetch(event.request).catch((error) => kept(event.request, error)));
});

async function kept(request, error) {
  const cache = await caches.open(CACHE);
  const found = (await cache.match(request)) ?? (await cache.match(request, { ignoreSearch: true }));
  if (found) return found;
  throw error;
}
