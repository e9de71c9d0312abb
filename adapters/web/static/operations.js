// The operations page: a change of the queue, told by the server, makes htmx fetch the page's changing part.

import { request } from "./session.js";

const find = (id) => document.getElementById(id);
const events = new EventSource("/operations/events");
events.addEventListener("open", () => {
  find("live").textContent = "live";
});
events.addEventListener("error", () => {
  find("live").textContent = "no connection";
});
events.addEventListener("change", () => find("now").dispatchEvent(new Event("change-of-queue")));
addEventListener("pagehide", () => events.close());

document.addEventListener("click", async ({ target }) => {
  const job = target.closest("[data-retry]")?.dataset.retry;
  if (!job) return;
  try {
    find("act-words").textContent = (await request("POST", "/operations/retry", { jobs: [Number(job)] })).message;
  } catch (error) {
    find("act-words").textContent = error.message;
  }
});
