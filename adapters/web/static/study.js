// The study page: its films, and the acts of an operator.

import { loadFilm } from "./film.js";
import { request } from "./session.js";
import { FilmViewer } from "./viewer.js";

const find = (id) => document.getElementById(id);
const { films } = JSON.parse(find("study").dataset.films);
const viewer = new FilmViewer(find("film"));
let index = 0;

async function show(number) {
  index = number;
  const film = films[index];
  const say = (words) => {
    find("film-message").textContent = words;
    find("film-message").hidden = !words;
  };
  if (!film) return say("The study has no film that can be shown.");
  const day = film.date.replace(/^(\d{4})(\d{2})(\d{2})$/, "$1-$2-$3");
  find("film-words").textContent = `${film.is_prior ? "PRIOR · " : ""}${[film.view, day, film.patient].filter(Boolean).join(" · ")} (${index + 1} of ${films.length})`;
  try {
    viewer.show(await loadFilm(film.instance));
    say("");
  } catch (error) {
    say(error.message);
  }
}

const acts = { fit: () => viewer.fit(), one: () => viewer.showOneToOne(), invert: () => viewer.invert(), next: () => show((index + 1) % films.length) };

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("button");
  if (button?.dataset.act) acts[button.dataset.act]();
  if (!button?.dataset.post) return;
  try {
    find("act-words").textContent = (await request("POST", button.dataset.post, JSON.parse(button.dataset.body ?? "{}"))).message;
  } catch (error) {
    find("act-words").textContent = error.message;
  }
});

show(0);
