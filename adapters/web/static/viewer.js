// The viewer: one film on a canvas. WebGL2 with a 16-bit texture; a plain 2D canvas where there is none.

const TEXTURE_EDGE = 256; // the greys of 65 536 values as a square
const MAX_TAPS = 8; // per axis, where a pixel of the screen covers several of the film
const MIN_SCALE = 0.02;
const MAX_SCALE = 40;
const LOUPE_EDGE = 260; // of the magnifier, CSS pixels
const LOUPE_ZOOM = 2.5;

const VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(float((gl_VertexID << 1) & 2), float(gl_VertexID & 2));
  gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D film;
uniform usampler2D greys;
uniform vec2 offset; // of the film's corner on the canvas, pixels
uniform float scale; // pixels of the canvas per pixel of the film
uniform float canvasHeight;
out vec4 colour;
void main() {
  ivec2 size = textureSize(film, 0);
  vec2 here = vec2(gl_FragCoord.x, canvasHeight - gl_FragCoord.y);
  vec2 first = (here - 0.5 - offset) / scale;
  int taps = clamp(int(ceil(1.0 / scale - 0.001)), 1, ${MAX_TAPS});
  float total = 0.0;
  float count = 0.0;
  for (int y = 0; y < taps; y++) {
    for (int x = 0; x < taps; x++) {
      vec2 within = (vec2(float(x), float(y)) + 0.5) / (float(taps) * scale);
      ivec2 place = ivec2(floor(first + within));
      if (any(lessThan(place, ivec2(0))) || any(greaterThanEqual(place, size))) continue;
      uint value = texelFetch(film, place, 0).r;
      total += float(texelFetch(greys, ivec2(int(value & 255u), int(value >> 8)), 0).r);
      count += 1.0;
    }
  }
  float grey = count > 0.0 ? total / count / 255.0 : 0.0;
  colour = vec4(grey, grey, grey, 1.0);
}`;

/** The greys of all values, Uint8Array [65536]: black..white to 0..255, padding black, inverted last. */
export function computeGreys(film, black, white, inverted) {
  const greys = new Uint8Array(65536);
  const width = white - black || 1;
  for (let value = film.low; value <= film.high; value++) {
    let share = (value - black) / width;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    if (film.padding && value >= film.padding[0] && value <= film.padding[1]) share = 0;
    greys[value] = Math.round(255 * (inverted ? 1 - share : share));
  }
  return greys;
}

class GlPainter {
  static open(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) return null;
    try {
      return new GlPainter(gl);
    } catch {
      return null;
    }
  }

  constructor(gl) {
    this.gl = gl;
    this.name = "webgl2";
    this.maxEdge = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    this.place = Object.fromEntries(["film", "greys", "offset", "scale", "canvasHeight"].map((name) => [name, gl.getUniformLocation(program, name)]));
    gl.bindVertexArray(gl.createVertexArray());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.film = this.createTexture();
    this.greys = this.createTexture();
  }

  createTexture() {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    return texture;
  }

  setFilm(film) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, this.film);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R16UI, film.columns, film.rows, 0, gl.RED_INTEGER, gl.UNSIGNED_SHORT, film.values);
  }

  setGreys(greys) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, this.greys);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8UI, TEXTURE_EDGE, TEXTURE_EDGE, 0, gl.RED_INTEGER, gl.UNSIGNED_BYTE, greys);
  }

  /** Draw the film; `loupe`: a square of it larger, at the film's own resolution, or null. */
  draw(view, loupe) {
    const { gl, place } = this;
    gl.viewport(0, 0, gl.canvas.width, gl.canvas.height);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.film);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.greys);
    gl.uniform1i(place.film, 0);
    gl.uniform1i(place.greys, 1);
    gl.uniform1f(place.canvasHeight, gl.canvas.height);
    this.drawView(view);
    if (loupe) {
      gl.enable(gl.SCISSOR_TEST);
      gl.scissor(loupe.left, gl.canvas.height - loupe.top - loupe.edge, loupe.edge, loupe.edge);
      this.drawView(loupe.view);
      gl.disable(gl.SCISSOR_TEST);
    }
    gl.activeTexture(gl.TEXTURE0);
  }

  drawView(view) {
    const { gl, place } = this;
    gl.uniform2f(place.offset, view.x, view.y);
    gl.uniform1f(place.scale, view.scale);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

class PlainPainter {
  constructor(canvas) {
    this.name = "2d";
    this.maxEdge = 16384;
    this.context = canvas.getContext("2d", { alpha: false });
    this.picture = document.createElement("canvas");
  }

  setFilm(film) {
    this.values = film.values;
    this.picture.width = film.columns;
    this.picture.height = film.rows;
    this.image = new ImageData(film.columns, film.rows);
  }

  setGreys(greys) {
    const packed = new Uint32Array(this.image.data.buffer);
    const colours = new Uint32Array(65536);
    for (let value = 0; value < 65536; value++) colours[value] = (0xff000000 | (greys[value] * 0x010101)) >>> 0;
    for (let index = 0; index < packed.length; index++) packed[index] = colours[this.values[index]];
    this.picture.getContext("2d").putImageData(this.image, 0, 0);
  }

  draw(view, loupe) {
    const { context } = this;
    const { width, height } = context.canvas;
    this.drawView(view, 0, 0, width, height);
    if (loupe) this.drawView(loupe.view, loupe.left, loupe.top, loupe.edge, loupe.edge);
  }

  drawView(view, left, top, width, height) {
    const { context } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    context.fillStyle = "#000";
    context.fillRect(left, top, width, height);
    context.imageSmoothingEnabled = view.scale < 1;
    context.imageSmoothingQuality = "high";
    context.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
    context.drawImage(this.picture, 0, 0);
    context.restore();
  }
}

/** Windows by key, as parts of the stored window; of the whole range where `whole` is set. */
export const WINDOWS = {
  1: { name: "as stored", from: 0, to: 1 },
  2: { name: "whole range", whole: true },
  3: { name: "lung", from: -0.05, to: 0.65 },
  4: { name: "bone", from: 0.35, to: 1.1 },
  5: { name: "soft tissue", from: 0.2, to: 0.85 },
  6: { name: "high contrast", from: 0.25, to: 0.75 },
  7: { name: "low contrast", from: -0.4, to: 1.4 },
  8: { name: "mediastinum", from: 0.55, to: 1.05 },
  9: { name: "periphery", from: -0.1, to: 0.4 },
};

export class FilmViewer extends EventTarget {
  constructor(canvas, { plain = false } = {}) {
    super();
    this.canvas = canvas;
    this.painter = (!plain && GlPainter.open(canvas)) || new PlainPainter(canvas);
    this.marks = document.createElement("canvas");
    this.marks.className = "marks";
    this.marks.setAttribute("aria-hidden", "true");
    canvas.after(this.marks);
    this.film = null;
    this.view = { x: 0, y: 0, scale: 1 };
    this.isFitted = true;
    this.inverted = false;
    this.isMagnifying = false;
    this.isMeasuring = false;
    this.ruler = null;
    this.points = [];
    this.pointer = null;
    this.frame = 0;
    this.greysChanged = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
    this.resize();
  }

  /** Show a film. Zoom is fitted anew; `keepView` keeps zoom, as for a prior that blinks. */
  show(film, { keepView = false, points = [] } = {}) {
    if (Math.max(film.rows, film.columns) > this.painter.maxEdge) throw new Error("the film is larger than this browser can show");
    this.film = film;
    this.points = points;
    this.ruler = null;
    this.painter.setFilm(film);
    this.setWindow("1");
    if (!keepView || this.isFitted) this.fit();
    this.drawNow();
  }

  clear() {
    this.film = null;
    this.requestDraw();
  }

  setWindow(key) {
    if (!this.film) return;
    const wanted = WINDOWS[key];
    const { black, white, low, high } = this.film;
    const width = white - black;
    if (wanted.whole) [this.black, this.white] = width >= 0 ? [low, high] : [high, low];
    else [this.black, this.white] = [black + wanted.from * width, black + wanted.to * width];
    this.windowName = wanted.name;
    this.changeGreys();
  }

  moveWindow(sideways, upwards) {
    const width = this.white - this.black;
    const whole = this.film.high - this.film.low || 1;
    const centre = (this.white + this.black) / 2 + Math.sign(width) * upwards * Math.max(Math.abs(width), whole / 64) * 0.002;
    const wider = Math.max(Math.abs(width) * Math.exp(sideways * 0.004), whole / 4096) * Math.sign(width || 1);
    [this.black, this.white] = [centre - wider / 2, centre + wider / 2];
    this.windowName = "";
    this.changeGreys();
  }

  invert() {
    this.inverted = !this.inverted;
    this.changeGreys();
  }

  fit() {
    if (!this.film) return;
    const { width, height } = this.canvas;
    const scale = Math.min(width / this.film.columns, height / this.film.rows);
    this.view = { scale, x: Math.round((width - this.film.columns * scale) / 2), y: Math.round((height - this.film.rows * scale) / 2) };
    this.isFitted = true;
    this.requestDraw();
  }

  /** One pixel of the film on one of the screen, about a place of the canvas. */
  showOneToOne(x = this.canvas.width / 2, y = this.canvas.height / 2) {
    this.zoomTo(1, x, y);
    this.view.x = Math.round(this.view.x);
    this.view.y = Math.round(this.view.y);
  }

  zoomTo(scale, x, y) {
    const bounded = Math.min(MAX_SCALE, Math.max(MIN_SCALE, scale));
    const ratio = bounded / this.view.scale;
    this.view = { scale: bounded, x: x - (x - this.view.x) * ratio, y: y - (y - this.view.y) * ratio };
    this.isFitted = false;
    this.requestDraw();
  }

  changeGreys() {
    this.greysChanged = true;
    this.requestDraw();
    this.dispatchEvent(new Event("window"));
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    for (const canvas of [this.canvas, this.marks]) {
      canvas.width = Math.max(1, Math.round(box.width * ratio));
      canvas.height = Math.max(1, Math.round(box.height * ratio));
    }
    if (this.isFitted) this.fit();
    this.requestDraw();
  }

  requestDraw() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (!this.film) return;
    if (this.greysChanged) this.painter.setGreys(computeGreys(this.film, this.black, this.white, this.inverted));
    this.greysChanged = false;
    this.painter.draw(this.view, this.placeLoupe());
    this.drawMarks();
    this.canvas.dataset.instance = this.film.instance;
  }

  drawMarks() {
    const context = this.marks.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.marks.width, this.marks.height);
    context.font = `${Math.round(13 * (window.devicePixelRatio || 1))}px system-ui, sans-serif`;
    for (const { point, name } of this.points) {
      const [x, y] = this.toCanvas(point);
      drawStroke(context, () => context.arc(x, y, 9, 0, 2 * Math.PI));
      drawWords(context, name, x + 14, y + 4);
    }
    if (this.ruler) {
      const [from, to] = this.ruler.map((point) => this.toCanvas(point));
      drawStroke(context, () => {
        context.moveTo(...from);
        context.lineTo(...to);
      });
      drawWords(context, this.describeRuler(), to[0] + 10, to[1]);
    }
    const loupe = this.placeLoupe();
    if (loupe) drawStroke(context, () => context.rect(loupe.left, loupe.top, loupe.edge, loupe.edge));
  }

  /** The square about the pointer that shows the film larger; null: the magnifier is off. */
  placeLoupe() {
    if (!this.isMagnifying || !this.pointer) return null;
    const [x, y] = this.pointer.map(Math.round);
    const edge = Math.round(LOUPE_EDGE * (window.devicePixelRatio || 1));
    const { scale } = this.view;
    const view = { scale: scale * LOUPE_ZOOM, x: x - (x - this.view.x) * LOUPE_ZOOM, y: y - (y - this.view.y) * LOUPE_ZOOM };
    return { left: x - Math.round(edge / 2), top: y - Math.round(edge / 2), edge, view };
  }

  describeRuler() {
    const [[x1, y1], [x2, y2]] = this.ruler;
    const { spacing } = this.film;
    if (!spacing) return `${Math.hypot(x2 - x1, y2 - y1).toFixed(0)} px, spacing not stated`;
    const length = Math.hypot((x2 - x1) * spacing.column, (y2 - y1) * spacing.row);
    return `${length.toFixed(1)} mm${spacing.at_detector ? " at the detector" : ""}`;
  }

  toCanvas([x, y]) {
    return [this.view.x + x * this.view.scale, this.view.y + y * this.view.scale];
  }

  toFilm([x, y]) {
    return [(x - this.view.x) / this.view.scale, (y - this.view.y) / this.view.scale];
  }

  placeOf(event) {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  listen() {
    let begun = null;
    let last = null;
    let moves = false;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.film) return;
      this.canvas.setPointerCapture(event.pointerId);
      begun = last = this.placeOf(event);
      moves = event.button === 2 || event.button === 1 || event.ctrlKey;
      if (this.isMeasuring && !moves) this.ruler = [this.toFilm(begun), this.toFilm(begun)];
    });
    this.canvas.addEventListener("pointermove", (event) => {
      this.pointer = this.placeOf(event);
      if (this.isMagnifying) this.requestDraw();
      if (!begun || !this.film) return;
      const [dx, dy] = [this.pointer[0] - last[0], this.pointer[1] - last[1]];
      last = this.pointer;
      if (moves) {
        this.view = { ...this.view, x: this.view.x + dx, y: this.view.y + dy };
        this.isFitted = false;
        this.requestDraw();
      } else if (this.isMeasuring) {
        this.ruler = [this.ruler[0], this.toFilm(this.pointer)];
        this.requestDraw();
      } else if (isFar(begun, this.pointer)) {
        this.moveWindow(dx, dy);
      }
    });
    this.canvas.addEventListener("pointerup", (event) => {
      const place = this.placeOf(event);
      if (begun && this.film && !moves && !this.isMeasuring && !isFar(begun, place)) {
        const [x, y] = this.toFilm(place);
        if (x >= 0 && y >= 0 && x < this.film.columns && y < this.film.rows) {
          this.dispatchEvent(new CustomEvent("place", { detail: [Math.round(x * 10) / 10, Math.round(y * 10) / 10] }));
        }
      }
      begun = null;
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.requestDraw();
    });
    this.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (this.film) this.zoomTo(this.view.scale * Math.exp(-event.deltaY * 0.0015), ...this.placeOf(event));
    }, { passive: false });
  }
}

const isFar = ([x1, y1], [x2, y2]) => Math.hypot(x2 - x1, y2 - y1) > 4;

function drawStroke(context, path) {
  for (const [colour, width] of [["rgba(0, 0, 0, 0.7)", 4], ["#ffcf5c", 2]]) {
    context.beginPath();
    context.strokeStyle = colour;
    context.lineWidth = width;
    path();
    context.stroke();
  }
}

function drawWords(context, words, x, y) {
  context.lineWidth = 4;
  context.strokeStyle = "rgba(0, 0, 0, 0.8)";
  context.strokeText(words, x, y);
  context.fillStyle = "#ffcf5c";
  context.fillText(words, x, y);
}
