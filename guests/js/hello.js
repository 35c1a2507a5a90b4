// Answers "Hello from JavaScript!", and reflects what is posted to /echo.
// Runs in StarlingMonkey, which answers one fetch event an instance: the host
// must not reuse instances.

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

function answer(request) {
  const { pathname } = new URL(request.url);
  if (request.method === "POST" && pathname === "/echo") {
    const type = request.headers.get("content-type") ?? "application/octet-stream";
    return new Response(request.body, { headers: { "content-type": type } });
  }
  return new Response("Hello from JavaScript!\n", {
    headers: { "content-type": "text/plain" },
  });
}
