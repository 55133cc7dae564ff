"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const SCORE = "objective/score";
const key = data.measures.filter((measure) => measure.key);
// Both play in step, one of them muted, so that going from one to the other leaves no gap.
const players = { source: new Audio(), cover: new Audio() };
const now = { track: null, cell: null, side: "cover" };
let shownMeasure = key[0];

// ---- small things

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
  const heights = wide ? peaks : peaks.filter((_, k) => k % 2 === 0).map((peak, k) => Math.max(peak, peaks[2 * k + 1] ?? 0));
  const bar = (peak, x) => {
    const half = Math.max(0.7, 20 * peak);
    return `M${x} ${(20 - half).toFixed(1)}h.62v${(2 * half).toFixed(1)}h-.62z`;
  };
  return drawing(`0 0 ${heights.length} 40`, [heights.map(bar).join(""), "outline"]);
}

function text(value, unit = "") {
  if (value == null) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  const digits = Number.isInteger(value) && unit ? 0 : Math.abs(value) < 10 ? 2 : 1;
  return value.toFixed(digits).replace(/^-(0(\.0+)?)$/, "$1").replace("-", "\u2212") + (unit && ` ${unit}`);
}

const seconds = (time) => `0:${String(Math.floor(time)).padStart(2, "0")}`;
const coverOf = (cell) => cell.covers[cell.pick];
const clipOf = (side) => (side === "source" ? now.track.source : coverOf(now.cell));
const heard = () => players[now.side];

function player(clip, wide, onPlay, onSeek) {
  if (!clip.audio) return make("p", { className: "problem", title: clip.problem }, clip.problem);
  const button = make("button", { className: "play", type: "button", tabIndex: -1, ariaLabel: "play or pause" });
  button.append(drawing("0 0 10 10", ["M2 0.5L9.5 5L2 9.5Z", "arrow"], ["M1.5 0.5h2.5v9H1.5ZM6 0.5h2.5v9H6Z", "bars"]));
  button.addEventListener("click", onPlay);
  const wave = make("div", { className: "wave" }, outline(clip.peaks, wide), make("i"));
  wave.addEventListener("click", (event) => {
    const box = wave.getBoundingClientRect();
    onSeek((data.preview.seconds * (event.clientX - box.left)) / box.width);
  });
  return make("div", { className: "player" }, button, wave);
}

// ---- sound

const isPlaying = () => now.track !== null && !heard().paused && !heard().ended;

function start(at) {
  for (const [side, audio] of Object.entries(players)) {
    const clip = clipOf(side);
    if (!clip.audio) {
      audio.pause();
      continue;
    }
    if (audio.clip !== clip) {
      audio.clip = clip;
      audio.src = clip.audio;
    }
    audio.muted = side !== now.side;
    audio.currentTime = at;
    audio.play().catch((error) => {
      if (error.name !== "AbortError") tell(`This browser cannot play the preview: ${error.message}`);
    });
  }
  requestAnimationFrame(follow);
}

function stop() {
  for (const audio of Object.values(players)) audio.pause();
  follow();
}

/** Hear a side of a cell: from `at` seconds, or from where the playing has come to. */
function hear(track, cell, side, at = null) {
  const place = at ?? (track === now.track && !heard().ended ? heard().currentTime : 0);
  select(track, cell, side);
  if (clipOf(side).audio) start(Math.min(place, data.preview.seconds));
  else stop();
  showDeck();
}

function toggle(track, cell, side) {
  const same = track === now.track && cell === now.cell && side === now.side;
  if (same && isPlaying()) stop();
  else hear(track, cell, side);
}

function otherSide() {
  if (!now.track) return;
  const side = now.side === "source" ? "cover" : "source";
  if (!clipOf(side).audio) return tell(clipOf(side).problem);
  const [from, to] = [heard(), players[side]];
  now.side = side;
  if (!from.paused) {
    if (Math.abs(to.currentTime - from.currentTime) > 0.03) to.currentTime = from.currentTime;
    from.muted = true;
    to.muted = false;
  }
  showDeck();
}

/** Draw how far the playing has come, as long as it goes on. */
function follow() {
  const time = heard().currentTime;
  for (const bar of document.querySelectorAll(".current > .wave i")) {
    bar.style.width = `${Math.min(100, (100 * time) / data.preview.seconds)}%`;
  }
  const clock = document.querySelector(".time");
  if (clock) clock.textContent = `${seconds(time)} / ${seconds(data.preview.seconds)}`;
  markPlaying();
  if (isPlaying()) requestAnimationFrame(follow);
}

function markPlaying() {
  for (const element of document.querySelectorAll(".player")) element.classList.remove("current", "playing");
  if (!now.track) return;
  const element = now.side === "source" ? now.track.player : now.cell.element.querySelector(".player");
  for (const one of [element, document.querySelector("#deck .player")]) {
    one?.classList.add("current");
    one?.classList.toggle("playing", isPlaying());
  }
}

for (const audio of Object.values(players)) {
  audio.preload = "auto";
  audio.addEventListener("ended", () => audio === heard() && stop());
  audio.addEventListener("error", () => tell("This browser cannot decode Ogg Opus."));
}

// ---- selection

function select(track, cell, side = now.side) {
  now.cell?.element.setAttribute("aria-selected", "false");
  Object.assign(now, { track, cell, side });
  for (const other of track.cells) other.element.tabIndex = other === cell ? 0 : -1;
  cell.element.setAttribute("aria-selected", "true");
}

function focusOn(cell) {
  cell.element.focus({ preventScroll: true });
  cell.element.scrollIntoView({ block: "nearest", inline: "nearest" });
}

/** The nearest cell in a direction, none at the edge. */
function neighbour(track, cell, right, down) {
  const ahead = track.cells.filter((other) => {
    const [dx, dy] = [other.column - cell.column, other.row - cell.row];
    return right ? dy === 0 && dx * right > 0 : dx === 0 && dy * down > 0;
  });
  const distance = (other) => Math.abs(other.column - cell.column) + Math.abs(other.row - cell.row);
  return ahead.sort((a, b) => distance(a) - distance(b))[0];
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select, input, summary, button")) return;
  const focused = data.tracks.flatMap((track) => track.cells).find((cell) => cell.element === event.target);
  if (event.key === "s" || event.key === "S") otherSide();
  else if (event.key === " " && (focused ?? now.cell)) {
    const cell = focused ?? now.cell;
    toggle(cell.track, cell, cell === now.cell ? now.side : "cover");
  } else if (focused && event.key in MOVES) {
    const next = neighbour(focused.track, focused, ...MOVES[event.key]);
    if (next && isPlaying()) hear(next.track, next, "cover");
    else if (next) select(next.track, next, "cover");
    if (next) focusOn(next);
    showDeck();
  } else return;
  event.preventDefault();
});

// ---- grid

/** Places by the shown measure, from 1; equals share one, and what has no value has none. */
function rank(track) {
  const sign = shownMeasure.better === "low" ? 1 : -1;
  const amount = (cell) => coverOf(cell).measures[shownMeasure.name];
  const ranked = track.cells.filter((cell) => amount(cell) != null);
  for (const cell of track.cells) {
    const better = ranked.filter((other) => sign * (amount(other) - amount(cell)) < 0).length;
    cell.rank = amount(cell) == null ? null : better + 1;
    cell.place = cell.rank === null ? 0 : 1 - better / Math.max(1, ranked.length - 1);
  }
  track.ranked = ranked.length;
}

function paint(track) {
  rank(track);
  for (const cell of track.cells) paintCell(track, cell);
}

function paintCell(track, cell) {
  const cover = coverOf(cell);
  const amount = text(cover.measures[shownMeasure.name]);
  const best = cell.rank === 1 && shownMeasure.better !== "" && cover.outcome !== "failed";
  const badge = ["lost", "copy", "failed"].includes(cover.outcome) ? cover.outcome : best ? "best" : null;
  const play = () => { toggle(track, cell, "cover"); focusOn(cell); };
  const seek = (at) => { hear(track, cell, "cover", at); focusOn(cell); };
  const parts = [["kept", "objective/kept"], ["moved", "objective/moved"]];
  fill(cell.element,
    make("div", { className: "letter" }, cell.letter),
    make("div", { className: "top" },
      cell.rank ? make("span", { className: "rank", title: `rank ${cell.rank} of ${track.ranked}` }, String(cell.rank)) : null,
      cell.rank && cover.outcome !== "failed" ? make("span", { className: "amount" }, amount) : null,
      badge ? make("span", { className: `badge ${badge}`, title: data.outcomes[badge] ?? "" }, badge) : null),
    player(cover, false, (event) => { event.stopPropagation(); play(); }, seek),
    cover.audio ? make("div", { className: "parts" },
      ...parts.map(([word, name]) => make("span", null, `${word} ${text(cover.measures[name])}`))) : null,
    cell.covers.length > 1 ? candidates(track, cell) : null);
  cell.element.style.setProperty("--place", cell.place.toFixed(3));
  cell.element.classList.toggle("best", best);
  const outcome = badge ? `, ${badge}` : "";
  cell.element.setAttribute("aria-label", document.body.classList.contains("blind") ? `cover ${cell.letter}`
    : `${cover.setting}, ${shownMeasure.label} ${amount}, rank ${cell.rank ?? "none"} of ${track.ranked}${outcome}`);
}

function candidates(track, cell) {
  const choice = make("select", { ariaLabel: "which cover of this cell" },
    ...cell.covers.map((cover, k) => make("option", { value: k }, cover.label)));
  choice.value = cell.pick;
  choice.addEventListener("change", () => {
    cell.pick = Number(choice.value);
    if (cell === now.cell && isPlaying()) hear(track, cell, now.side);
    paint(track);
    showDeck();
  });
  choice.addEventListener("click", (event) => event.stopPropagation());
  return choice;
}

/** Cells at their places; blind, at random ones with letters for names. */
function layOut(track, blind) {
  const places = track.cells.map(({ home }) => home);
  const shuffled = places.map((place) => [blind ? Math.random() : 0, place]).sort((a, b) => a[0] - b[0]);
  track.cells.forEach((cell, k) => { [cell.row, cell.column] = shuffled[k][1]; });
  const inOrder = [...track.cells].sort((a, b) => a.row - b.row || a.column - b.column);
  inOrder.forEach((cell, k) => { cell.letter = String.fromCharCode(65 + (k % 26)) + (k < 26 ? "" : Math.floor(k / 26)); });
  const at = new Map(track.cells.map((cell) => [`${cell.row} ${cell.column}`, cell.element]));
  const { across, down } = data.axes;
  fill(track.table,
    across ? make("thead", null, make("tr", null,
      down ? make("td", { className: "down" }) : null,
      ...track.across.map((value) => make("th", { scope: "col" }, value)))) : null,
    make("tbody", null, ...track.down.map((value, row) => make("tr", null,
      down ? make("th", { className: "down", scope: "row" }, value) : null,
      ...track.across.map((_, column) => at.get(`${row} ${column}`) ?? make("td"))))));
  paint(track);
}

function section(track) {
  const places = new Map();
  for (const cover of track.covers) {
    const name = `${cover.row} ${cover.column}`;
    if (!places.has(name)) places.set(name, { track, home: [cover.row, cover.column], covers: [], pick: 0 });
    places.get(name).covers.push(cover); // the best-scoring comes first
  }
  track.cells = [...places.values()];
  for (const cell of track.cells) {
    cell.element = make("td", { className: "cell", tabIndex: -1, role: "gridcell" });
    cell.element.addEventListener("click", (event) => {
      if (event.target.closest(".play, .wave, select")) return;
      select(track, cell, "cover");
      showDeck();
    });
    cell.element.addEventListener("focus", () => { if (!isPlaying() && now.cell !== cell) { select(track, cell, "cover"); showDeck(); } });
  }
  track.cells[0].element.tabIndex = 0;
  track.table = make("table", { role: "grid", ariaLabel: `covers of ${track.id}` });
  const { across, down } = data.axes;
  const own = () => (now.track === track ? now.cell : track.cells[0]);
  track.player = player(track.source, true, () => toggle(track, own(), "source"), (at) => hear(track, own(), "source", at));
  return make("section", { className: "track" },
    make("div", { className: "about-track" }, make("h2", null, track.id), make("span", { className: "rule" }, track.rule)),
    track.caption ? make("p", { className: "caption" }, track.caption) : null,
    make("div", { className: "source" }, make("b", null, "Source"), track.player),
    across ? make("p", { className: "axis" }, across + (down && ` across, ${down} down`)) : null,
    make("div", { className: "scroll" }, track.table));
}

// ---- deck

function tell(message) {
  const status = document.querySelector(".status");
  if (status) status.textContent = message;
}

function facts(measures, values) {
  return make("dl", { className: "facts" },
    ...measures.map(({ name, label, unit }) =>
      make("div", null, make("dt", null, label), make("dd", null, text(values[name], unit)))));
}

function showDeck() {
  if (!now.track) return;
  const deck = document.getElementById("deck");
  const wasOpen = deck.querySelector("details")?.open ?? false;
  const blind = document.body.classList.contains("blind");
  const cover = coverOf(now.cell);
  const name = blind ? `Cover ${now.cell.letter}` : cover.setting;
  const side = (label, which) => {
    const button = make("button", { type: "button", ariaPressed: String(now.side === which) }, label);
    button.addEventListener("click", () => { if (now.side !== which) otherSide(); });
    return button;
  };
  const which = [now.track.id];
  if (!blind && now.cell.covers.length > 1) which.push(cover.label);
  if (!blind && now.cell.rank) which.push(`rank ${now.cell.rank} of ${now.track.ranked}`);
  const all = data.measures.filter((measure) => cover.measures[measure.name] != null);
  deck.hidden = false;
  fill(deck,
    make("div", { className: "bar" },
      make("div", { className: "sides", role: "group", ariaLabel: "what is heard" }, side("Source", "source"), side(name, "cover")),
      player(clipOf(now.side), true, () => toggle(now.track, now.cell, now.side), (at) => hear(now.track, now.cell, now.side, at)),
      make("span", { className: "time" }),
      make("span", { className: "where" }, which.join(" · "))),
    make("p", { className: "status", role: "status" }),
    facts(key, cover.measures),
    make("details", { open: wasOpen }, make("summary", null, "All measures"), make("div", null, facts(all, cover.measures),
      cover.caption && cover.caption !== now.track.caption ? make("p", { className: "where" }, cover.caption) : null,
      ...cover.unmeasured.map((reason) => make("p", { className: "where" }, `not measured: ${reason}`)))));
  follow();
}

// ---- page

function head() {
  const { seconds: length, lufs, kbps } = data.preview;
  const choice = make("select", { id: "measure" },
    ...key.map((measure, k) => make("option", { value: k }, measure.label)));
  choice.addEventListener("change", () => {
    shownMeasure = key[Number(choice.value)];
    data.tracks.forEach(paint);
    showDeck();
  });
  const blind = make("input", { type: "checkbox", id: "blind" });
  blind.addEventListener("change", () => {
    document.body.classList.toggle("blind", blind.checked);
    for (const track of data.tracks) layOut(track, blind.checked);
    if (now.cell) select(now.track, now.cell);
    showDeck();
  });
  const better = { high: "more is better", low: "less is better", "": "only describes" };
  const press = (name) => make("kbd", null, name);
  return [
    make("h1", null, data.title),
    make("p", { className: "about" },
      `Every preview is the same ${length} s of its track, in mono at ${kbps} kbit/s, brought to ${text(lufs, "LUFS")} `
      + "so that loudness does not decide. Within a track, rank 1 has the deepest blue. A cell with several covers "
      + "shows the best-scoring one first."),
    data.notes.length ? make("ul", { className: "notes" }, ...data.notes.map((note) => make("li", null, note))) : null,
    make("div", { className: "tools" },
      make("label", null, "Rank and colour by", choice),
      make("label", null, blind, "Blind: shuffle, hide names and measures"),
      make("span", { className: "keys" }, press("Space"), " plays  ", press("S"), " source or cover  ",
        press("←"), press("↑"), press("↓"), press("→"), " next cover")),
    make("details", { className: "legend" }, make("summary", null, "What the measures mean"),
      make("dl", null,
        ...data.measures.map((measure) => make("div", null,
          make("dt", null, measure.label, make("small", null, measure.key && measure.label !== measure.name ? ` ${measure.name}` : "")),
          make("dd", null, `${measure.meaning}${measure.unit && ` (${measure.unit})`}; ${better[measure.better]}`))),
        ...Object.entries(data.outcomes).map(([outcome, meaning]) => make("div", null,
          make("dt", null, make("span", { className: `badge ${outcome}` }, outcome)), make("dd", null, meaning))))),
  ];
}

fill(document.getElementById("head"), ...head());
fill(document.getElementById("tracks"), ...data.tracks.map(section));
for (const track of data.tracks) layOut(track, false);
