// Labelling: keys to states, states to a draft, Enter or N to labels; the model's result comes after them.

import { loadFilm } from "./film.js";
import { Outbox } from "./outbox.js";
import { request } from "./session.js";
import { FilmViewer, WINDOWS } from "./viewer.js";

const PREFETCH = 3;
const REFILL = 8;
const { session, reader, tasks: firstTasks } = document.getElementById("desk").dataset;
const find = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll(".finding")];
const rowOf = Object.fromEntries(rows.map((row) => [row.dataset.finding, row]));
const findingOfKey = Object.fromEntries(rows.map((row) => [row.dataset.key, row.dataset.finding]));
const wordsOf = (finding) => rowOf[finding].querySelector(".name").textContent;

const isPlain = new URLSearchParams(location.search).has("plain");
const viewer = new FilmViewer(find("film"), { plain: isPlain });
const outbox = new Outbox(reader);
const desk = {
  tasks: [], // the next ones
  task: null, // the one on the screen
  statement: null, // { states, points, comment }
  history: [],
  lastFinding: null,
  film: 0, // index in task.films
  result: null, // the model's result on this task, after the reader has spoken
  before: null, // { study, answer } of the reading before
  resumed: null, // the task to return to after a look back
  finished: new Set(), // studies that this page has finished: a list that the server made before may still name them
  counts: { remaining: 0, done: 0 },
  dropConfirmed: false,
};

/* ---- tasks ---- */

async function refill() {
  const waiting = outbox.studies.size;
  try {
    const content = await request("GET", `/label/tasks?limit=${REFILL}`);
    const known = new Set([...desk.finished, ...outbox.studies, desk.task?.study, desk.resumed?.task.study]);
    desk.tasks = content.tasks.filter((task) => !known.has(task.study));
    desk.counts = { remaining: content.remaining - waiting, done: content.done + waiting };
    showSession();
    for (const task of desk.tasks.slice(0, PREFETCH)) {
      for (const film of task.films.slice(0, 2)) loadFilm(film.instance).catch(() => undefined);
    }
  } catch (error) {
    if (error.status === 401) find("log-in-dialog").showModal();
  }
}

async function showNext(begun = performance.now()) {
  if (!desk.tasks.length) await refill();
  if (desk.task) return;
  const task = desk.tasks.shift();
  if (!task) return showEnd();
  await openTask(task, begun);
  refill();
}

async function openTask(task, begun = performance.now()) {
  desk.task = task;
  desk.result = null;
  desk.statement = structuredClone(outbox.findDraft(task.study) ?? task.draft);
  desk.history = [];
  desk.lastFinding = null;
  desk.dropConfirmed = false;
  find("comment").value = desk.statement.comment;
  showStatement();
  await showFilm(0);
  if (desk.task === task) performance.measure("next film", { start: begun, end: performance.now() });
}

async function showFilm(index, options = {}) {
  const { task } = desk;
  const film = task.films[index];
  desk.film = index;
  if (!film) return say("This study has no film that can be shown: skip it with S.");
  try {
    const loaded = await loadFilm(film.instance);
    if (desk.task !== task || desk.film !== index) return;
    say("");
    viewer.show(loaded, { ...options, points: listPoints() });
  } catch (error) {
    if (error.status === 401) find("log-in-dialog").showModal();
    else if (desk.task === task) say(`${error.message}. Skip it with S, or load the page again.`);
    viewer.clear();
  }
  showFilmWords();
}

function showEnd() {
  desk.task = null;
  viewer.clear();
  const more = document.createElement("button");
  more.type = "button";
  more.className = "primary";
  more.textContent = `Ask for ${session} more`;
  more.addEventListener("click", async () => {
    try {
      const { added } = await request("POST", "/label/more", { count: Number(session) });
      if (added) return showNext();
      say("No further study can be asked for now: each patient is asked for once, and only scored studies are.");
    } catch (error) {
      say(error.message);
    }
  });
  say("The worklist is empty.");
  find("film-message").append(more);
  showStatement();
}

/* ---- what the reader says ---- */

function change(alter) {
  if (!desk.task) return;
  desk.history.push(structuredClone(desk.statement));
  alter(desk.statement);
  desk.dropConfirmed = false;
  keep();
}

function keep() {
  if (!desk.result) outbox.keepDraft(desk.task.study, structuredClone(desk.statement));
  viewer.points = listPoints();
  viewer.requestDraw();
  showStatement();
}

function toggleState(finding, state) {
  desk.lastFinding = finding;
  change(({ states, points }) => {
    if (states[finding] === state) delete states[finding];
    else states[finding] = state;
    if (states[finding] !== "present") delete points[finding];
  });
  showDefinition(finding);
}

function undo() {
  if (!desk.history.length) return;
  desk.statement = desk.history.pop();
  find("comment").value = desk.statement.comment;
  keep();
}

function finish(begun, { noFinding = false } = {}) {
  if (!desk.task) return;
  const { task, statement } = desk;
  const said = Object.values(statement.states).filter((state) => state !== "absent").length;
  if (noFinding && said && !desk.dropConfirmed) {
    desk.dropConfirmed = true;
    find("statement-words").textContent = `N would drop ${said} stated finding${said > 1 ? "s" : ""}: press N again, or Enter to keep them.`;
    return;
  }
  const stated = noFinding ? { ...statement, states: {}, points: {} } : statement;
  outbox.add("reading", task.study, { ...structuredClone(stated), key: crypto.randomUUID(), rest_absent: true });
  leave(begun);
}

function skip(reason, begun) {
  find("skip-dialog").close();
  if (!desk.task) return;
  outbox.add("skip", desk.task.study, { reason, key: crypto.randomUUID() });
  leave(begun);
}

function leave(begun) {
  if (desk.resumed) return resume();
  desk.finished.add(desk.task.study);
  desk.task = null; // keys of the next moments belong to no film
  desk.counts.done += 1;
  desk.counts.remaining -= 1;
  showSession();
  showNext(begun);
}

/* ---- the model's result, and a second look ---- */

outbox.addEventListener("sent", ({ detail: { entry, answer } }) => {
  refill();
  if (entry.kind !== "reading") return;
  desk.before = { study: entry.study, answer };
  showReveal();
});

async function lookBack() {
  if (desk.resumed) return resume();
  if (!desk.before) return;
  const { study, answer } = desk.before;
  const { task, statement, history } = desk;
  try {
    const again = await request("GET", `/label/task?study=${study}`);
    desk.resumed = { task, statement, history };
    await openTask(again);
    desk.result = answer;
    showStatement();
    showReveal();
  } catch (error) {
    find("statement-words").textContent = error.message;
  }
}

async function resume() {
  const { task, statement, history } = desk.resumed;
  desk.resumed = null;
  if (!task) return showNext();
  await openTask(task);
  Object.assign(desk, { statement, history });
  find("comment").value = statement.comment;
  showStatement();
  showReveal();
}

function differences(answer) {
  return answer.findings.filter(({ finding, decision }) => {
    const said = answer.states[finding];
    return (decision === "present" && said === "absent") || (decision === "absent" && said === "present");
  });
}

/* ---- the screen ---- */

const say = (words) => {
  find("film-message").textContent = words;
  find("film-message").hidden = !words;
};

function showStatement() {
  const states = desk.statement?.states ?? {};
  for (const row of rows) {
    const state = desk.task ? states[row.dataset.finding] : undefined;
    row.dataset.said = state ?? "";
    for (const button of row.querySelectorAll("[data-state]")) button.setAttribute("aria-pressed", String(button.dataset.state === state));
    showResult(row);
  }
  const counts = { absent: 0, present: 0, uncertain: 0 };
  for (const state of Object.values(states)) counts[state] += 1;
  const rest = rows.length - Object.keys(states).length;
  const absent = counts.absent + rest;
  const words = [[absent, "absent"], [counts.present, "present"], [counts.uncertain, "uncertain"]].filter(([count]) => count);
  find("statement-words").textContent = desk.task ? `Enter says: ${words.map((each) => each.join(" ")).join(", ")}.` : "";
  find("enter-words").textContent = desk.resumed ? "Second statement, back" : "Rest absent, next";
}

function showResult(row) {
  const cell = row.querySelector(".result");
  const told = desk.result?.findings.find((each) => each.finding === row.dataset.finding);
  cell.hidden = !told;
  cell.textContent = told?.decision ?? "";
  cell.title = told?.told ?? "";
  cell.dataset.decision = told?.decision ?? "";
}

function showReveal() {
  const { before } = desk;
  find("reveal").hidden = !before;
  if (!before) return;
  const { answer } = before;
  const differing = differences(answer);
  find("back-words").textContent = desk.resumed ? "Back to the next film" : "Look at it again";
  find("reveal-title").textContent = `${desk.resumed ? "This film" : "The film before"}: ${answer.words}`;
  const verdict = differing.length
    ? `The model differs: ${differing.map((each) => each.told).join("; ")}.`
    : answer.findings.length ? "You and the model agree." : "No version has scored it.";
  find("reveal-source").textContent = [answer.reason && `Asked for: ${answer.reason}.`, answer.version].filter(Boolean).join(" ");
  if (answer.is_withheld) {
    find("reveal-words").textContent = "The model's result on this film is shown later.";
    find("reveal-source").textContent = "";
    find("reveal").dataset.differs = "false";
    return;
  }
  find("reveal-words").textContent = verdict;
  find("reveal").dataset.differs = String(differing.length > 0);
}

function showSession() {
  const { remaining, done } = desk.counts;
  const goal = Math.max(1, Math.min(Number(session), done + Math.max(remaining, 0)));
  find("session-bar").max = goal;
  find("session-bar").value = Math.min(done, goal);
  find("session-words").textContent = `${done} read, ${Math.max(remaining, 0)} to read`;
}

function showFilmWords() {
  const film = desk.task?.films[desk.film];
  const day = film?.date.replace(/^(\d{4})(\d{2})(\d{2})$/, "$1-$2-$3") ?? "";
  find("film-words").textContent = film ? `${film.is_prior ? "PRIOR · " : ""}${[film.view, day, film.patient].filter(Boolean).join(" · ")}` : "";
  find("film-words").dataset.prior = String(film?.is_prior ?? false);
  const films = desk.task?.films ?? [];
  find("view-button").disabled = films.filter((each) => !each.is_prior).length < 2;
  find("prior-button").disabled = !films.some((each) => each.is_prior);
}

function showDefinition(finding) {
  const { counts, not } = rowOf[finding].dataset;
  const title = document.createElement("strong");
  title.textContent = wordsOf(finding);
  const against = document.createElement("span");
  against.className = "dim";
  against.textContent = ` ${not}`;
  const place = document.createElement("span");
  place.className = "place";
  place.textContent = desk.statement?.states[finding] === "present" && finding === desk.lastFinding ? " A click on the film marks its place." : "";
  find("definition").replaceChildren(title, ` ${counts}`, against, place);
}

const listPoints = () => {
  if (desk.film !== 0 || !desk.statement) return [];
  return Object.entries(desk.statement.points).map(([finding, point]) => ({ name: wordsOf(finding), point }));
};

viewer.addEventListener("window", () => {
  const name = viewer.windowName ? `window ${viewer.windowName}` : `${Math.round(viewer.black)} to ${Math.round(viewer.white)}`;
  find("window-words").textContent = `${name}${viewer.inverted ? ", inverted" : ""}`;
});

viewer.addEventListener("place", ({ detail }) => {
  const finding = desk.lastFinding;
  if (desk.film !== 0 || !finding || desk.statement?.states[finding] !== "present") return;
  change(({ points }) => {
    points[finding] = detail;
  });
});

outbox.addEventListener("connection", () => {
  const waiting = outbox.entries.length;
  find("connection").textContent = outbox.isConnected ? "" : `no connection${waiting ? `, ${waiting} to send` : ""}`;
});
outbox.addEventListener("ended", () => find("log-in-dialog").open || find("log-in-dialog").showModal());
outbox.addEventListener("refused", ({ detail }) => {
  find("connection").textContent = detail;
});

/* ---- keys and buttons ---- */

function stepView() {
  const own = desk.task?.films.map((film, index) => ({ film, index })).filter(({ film }) => !film.is_prior) ?? [];
  if (own.length < 2) return;
  const place = own.findIndex(({ index }) => index === desk.film);
  showFilm(own[(place + 1) % own.length].index);
}

function blinkPrior() {
  const films = desk.task?.films ?? [];
  if (films[desk.film]?.is_prior) return showFilm(0, { keepView: true });
  const prior = films.findIndex((film) => film.is_prior);
  if (prior >= 0) showFilm(prior, { keepView: true });
}

const acts = {
  fit: () => viewer.fit(),
  one: () => viewer.showOneToOne(),
  invert: () => viewer.invert(),
  magnify: () => {
    viewer.isMagnifying = !viewer.isMagnifying;
    viewer.requestDraw();
  },
  ruler: () => {
    viewer.isMeasuring = !viewer.isMeasuring;
    viewer.ruler = null;
    find("film").classList.toggle("measuring", viewer.isMeasuring);
    viewer.requestDraw();
  },
  view: stepView,
  prior: blinkPrior,
  screen: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  help: () => find("keys-dialog").showModal(),
  undo,
  skip: () => desk.task && find("skip-dialog").showModal(),
  back: lookBack,
  "rest-absent": (begun) => finish(begun),
  "no-finding": (begun) => finish(begun, { noFinding: true }),
};
const actOfKey = { 0: "fit", z: "one", i: "invert", g: "magnify", r: "ruler", v: "view", p: "prior", w: "screen", "?": "help", u: "undo", s: "skip", backspace: "back", enter: "rest-absent", n: "no-finding" };

document.addEventListener("keydown", (event) => {
  const begun = performance.now();
  const key = event.key.toLowerCase();
  const dialog = document.querySelector("dialog[open]");
  if (dialog) {
    const reason = dialog.id === "skip-dialog" && dialog.querySelectorAll("[data-skip]")[Number(key) - 1];
    if (reason) skip(reason.dataset.skip, begun);
    return;
  }
  if (event.target === find("comment")) {
    if (key === "escape") find("film").focus();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.repeat) return;
  const letter = event.code.startsWith("Key") ? event.code.slice(3).toLowerCase() : key;
  const finding = findingOfKey[/^[a-z]$/.test(key) ? key : letter];
  if (finding) toggleState(finding, event.altKey ? "absent" : event.shiftKey ? "uncertain" : "present");
  else if (key === "/") find("comment").focus();
  else if (WINDOWS[key]) viewer.setWindow(key);
  else if (actOfKey[key] && !event.altKey) {
    if (key === "enter" && event.target.closest("button, a")) return;
    acts[actOfKey[key]](begun);
  } else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.act) acts[button.dataset.act](performance.now());
  if (button.dataset.skip) skip(button.dataset.skip, performance.now());
  if ("close" in button.dataset) button.closest("dialog").close();
  if (button.dataset.state) toggleState(button.closest(".finding").dataset.finding, button.dataset.state);
  if (event.detail) button.blur(); // a click leaves the keys with the film
});

for (const row of rows) row.addEventListener("pointerenter", () => showDefinition(row.dataset.finding));
find("comment").addEventListener("input", () => {
  if (!desk.task) return;
  desk.statement.comment = find("comment").value;
  keep();
});

async function begin() {
  outbox.flush();
  const study = new URLSearchParams(location.search).get("study");
  if (!study) {
    desk.tasks = JSON.parse(firstTasks).tasks.filter((task) => !outbox.studies.has(task.study));
    return showNext();
  }
  try {
    await openTask(await request("GET", `/label/task?study=${encodeURIComponent(study)}`));
    refill();
  } catch (error) {
    say(error.message);
  }
}

begin();
