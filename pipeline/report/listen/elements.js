// What the page is made from, and how its elements are made.

"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const key = data.measures.filter((measure) => measure.key);
const now = { track: null, cell: null, side: "cover" };
let shownMeasure = key[0];

function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  return fill(element, ...children);
}

/** Replace what an element holds; null stands for nothing. */
function fill(element, ...children) {
  element.replaceChildren(...children.filter((child) => child != null));
  return element;
}

function drawing(viewBox, ...paths) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", viewBox);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const [d, name] of paths) {
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("d", d);
    path.setAttribute("class", name);
    svg.append(path);
  }
  return svg;
}

/** A bar for every peak, or for every two where there is little room. */
function outline(peaks, wide) {
  const higher = (k) => Math.max(peaks[k], peaks[k + 1] ?? 0);
  const heights = wide ? peaks : peaks.flatMap((_, k) => (k % 2 ? [] : [higher(k)]));
  const bar = (peak, x) => {
    const half = Math.max(0.7, 20 * peak);
    return `M${x} ${(20 - half).toFixed(1)}h.62v${(2 * half).toFixed(1)}h-.62z`;
  };
  return drawing(`0 0 ${heights.length} 40`, [heights.map(bar).join(""), "outline"]);
}

const digitsOf = (value, unit) => (Number.isInteger(value) && unit ? 0 : Math.abs(value) < 10 ? 2 : 1);

function text(value, unit = "") {
  if (value == null) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return value.toFixed(digitsOf(value, unit)).replace(/^-(0(\.0+)?)$/, "$1").replace("-", "\u2212") + (unit && ` ${unit}`);
}

const seconds = (time) => `0:${String(Math.floor(time)).padStart(2, "0")}`;
const coverOf = (cell) => cell.covers[cell.pick];
const clipOf = (side) => (side === "source" ? now.track.source : coverOf(now.cell));

function player(clip, wide, onPlay, onSeek) {
  if (!clip.audio) return make("p", { className: "problem", title: clip.problem }, clip.problem);
  const button = make("button", { className: "play", type: "button", tabIndex: wide ? 0 : -1, ariaLabel: wide ? "play or pause the source" : "play or pause" });
  const [arrow, bars] = ["M2 0.5L9.5 5L2 9.5Z", "M1.5 0.5h2.5v9H1.5ZM6 0.5h2.5v9H6Z"];
  button.append(drawing("0 0 10 10", [arrow, "arrow"], [bars, "bars"]));
  button.addEventListener("click", onPlay);
  const wave = make("div", { className: "wave" }, outline(clip.peaks, wide), make("i"));
  wave.addEventListener("click", (event) => {
    const box = wave.getBoundingClientRect();
    onSeek((clip.seconds * (event.clientX - box.left)) / box.width);
  });
  return make("div", { className: "player" }, button, wave);
}
