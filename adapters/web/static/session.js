// Requests of the pages: each changing one carries the token of the session.

export const token = () => document.querySelector('meta[name="csrf-token"]')?.content ?? "";

export class Refusal extends Error {
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint ?? "";
  }
}

/** Fetch JSON. Throws a Refusal where the server refuses, a TypeError where it cannot be reached. */
export async function request(method, address, body) {
  const options = { method, headers: { Accept: "application/json", "X-CSRF-Token": token() }, credentials: "same-origin" };
  if (method !== "GET") {
    options.body = JSON.stringify(body ?? {});
    options.headers["Content-Type"] = "application/json";
  }
  const answer = await fetch(address, options);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, content.error ?? answer.statusText, content.hint);
  return content;
}

document.addEventListener("click", async (event) => {
  if (event.target.closest("[data-log-out]")) {
    await request("POST", "/log-out").catch(() => undefined);
    location.assign("/log-in");
  }
});

/* htmx asks with the same token. */
document.addEventListener("htmx:config:request", (event) => {
  event.detail.ctx.request.headers["X-CSRF-Token"] = token();
});
