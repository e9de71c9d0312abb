// Films: stored values of 16 bits from the server, kept in memory for the films that come next.

const MAX_FILMS = 12;
const films = new Map(); // instance -> promise of a film, the last used last

/** Return the film: values Uint16Array [rows * columns], rows, columns, black, white, padding, low, high. */
export function loadFilm(instance) {
  const known = films.get(instance);
  if (known) {
    films.delete(instance);
    films.set(instance, known);
    return known;
  }
  const film = fetchFilm(instance);
  films.set(instance, film);
  film.catch(() => films.delete(instance));
  for (const key of films.keys()) {
    if (films.size <= MAX_FILMS) break;
    films.delete(key);
  }
  return film;
}

async function fetchFilm(instance) {
  const answer = await fetch(`/films?instance=${encodeURIComponent(instance)}`, { credentials: "same-origin" });
  if (!answer.ok) {
    const content = await answer.json().catch(() => ({}));
    const error = new Error(content.error ?? answer.statusText);
    error.status = answer.status;
    throw error;
  }
  const film = JSON.parse(answer.headers.get("X-Film"));
  film.values = decodeDifferences(new Uint8Array(await answer.arrayBuffer()), film.rows, film.columns);
  film.instance = instance;
  return film;
}

/** Undo the coding of adapters/web/film_bytes.py: low bytes, then high bytes, of the differences within each row. */
function decodeDifferences(planes, rows, columns) {
  const count = rows * columns;
  const values = new Uint16Array(count);
  for (let start = 0; start < count; start += columns) {
    let value = 0;
    for (let index = start; index < start + columns; index++) {
      value = (value + planes[index] + (planes[count + index] << 8)) & 0xffff;
      values[index] = value;
    }
  }
  return values;
}
