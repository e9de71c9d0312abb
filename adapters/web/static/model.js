// The model page: each act asks for its reason.

import { request } from "./session.js";

const find = (id) => document.getElementById(id);
let address = "";

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-reason-for]");
  if (!button) return;
  address = button.dataset.reasonFor;
  find("reason-title").textContent = `${button.textContent}: why?`;
  find("reason").value = "";
  find("reason-dialog").showModal();
});

find("reason-dialog").addEventListener("close", async () => {
  if (find("reason-dialog").returnValue !== "go") return;
  find("act-words").textContent = "Working …";
  try {
    find("act-words").textContent = (await request("POST", address, { reason: find("reason").value })).message;
    setTimeout(() => location.reload(), 1200);
  } catch (error) {
    find("act-words").textContent = `${error.message} ${error.hint}`;
  }
});
