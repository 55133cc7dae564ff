// The cells of a track: their places, ranks and looks, and moving among them.

function select(track, cell, side = now.side) {
  now.cell?.element.setAttribute("aria-selected", "false");
  Object.assign(now, { track, cell, side });
  for (const other of track.cells) other.element.tabIndex = other === cell ? 0 : -1;
  cell.element.setAttribute("aria-selected", "true");
}

/** Select a cell's cover; where something plays, that goes on in it. */
function goTo(cell) {
  if (isPlaying()) hear(cell.track, cell, "cover");
  else {
    select(cell.track, cell, "cover");
    showDeck();
  }
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
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest("select, input, summary, button")) return;
  const focused = data.tracks.flatMap((track) => track.cells).find((cell) => cell.element === event.target);
  if (event.key === "s" || event.key === "S") otherSide();
  else if (event.key === " " && (focused ?? now.cell)) {
    const cell = focused ?? now.cell;
    toggle(cell.track, cell, cell === now.cell ? now.side : "cover");
  } else if (focused && event.key in MOVES) {
    const next = neighbour(focused.track, focused, ...MOVES[event.key]);
    if (next) {
      goTo(next);
      focusOn(next);
    }
  } else return;
  event.preventDefault();
});

const isJudged = (cover) => !(cover.outcome in data.outcomes);
const amountOf = (cell) => coverOf(cell).measures[shownMeasure.name];

/** Ranks by the shown measure as it is printed, from 1, of covers that are neither lost nor in other trouble. */
function rank(track) {
  const sign = { high: 1, low: -1 }[shownMeasure.better];
  const printed = (cell) => Number(amountOf(cell).toFixed(digitsOf(amountOf(cell), "")));
  const ranked = track.cells.filter((cell) => sign && isJudged(coverOf(cell)) && amountOf(cell) != null);
  for (const cell of track.cells) cell.rank = null;
  for (const cell of ranked) {
    const ahead = ranked.filter((other) => sign * (printed(other) - printed(cell)) > 0);
    cell.rank = ahead.length + 1;
    cell.tied = ranked.some((other) => other !== cell && printed(other) === printed(cell));
  }
  track.ranked = ranked.length;
}

/** How far along the scale of the shown measure a cell's value is, 0 to 1; null where it has no colour. */
function shade(cell) {
  if (!isJudged(coverOf(cell)) || amountOf(cell) == null) return null;
  const [low, high] = shownMeasure.scale;
  return Math.min(1, Math.max(0, (amountOf(cell) - low) / (high - low)));
}

function rankInWords(track, cell) {
  if (!cell.rank) return "no rank";
  return `${cell.tied ? "shares rank" : "rank"} ${cell.rank} of ${track.ranked}`;
}

function paint(track) {
  rank(track);
  for (const cell of track.cells) paintCell(track, cell);
}

function paintCell(track, cell) {
  const cover = coverOf(cell);
  const amount = text(cover.measures[shownMeasure.name]);
  const best = cell.rank === 1 && !cell.tied;
  const badge = isJudged(cover) ? (best ? "best" : null) : cover.outcome;
  const play = (event) => {
    event.stopPropagation();
    toggle(track, cell, "cover");
    focusOn(cell);
  };
  const seek = (at) => {
    hear(track, cell, "cover", at);
    focusOn(cell);
  };
  const parts = [["kept", "objective/kept"], ["moved", "objective/moved"]];
  fill(cell.element,
    make("div", { className: "letter" }, cell.letter),
    make("div", { className: "top" },
      cell.rank ? make("span", { className: "rank" }, cell.rank + (cell.tied ? "=" : "")) : null,
      cover.outcome !== "failed" ? make("span", { className: "amount" }, amount) : null,
      badge ? make("span", { className: `badge ${badge.replace(" ", "-")}` }, badge) : null),
    player(cover, false, play, seek),
    cover.audio ? make("div", { className: "parts" },
      ...parts.map(([word, name]) => make("span", null, `${word} ${text(cover.measures[name])}`))) : null,
    cell.covers.length > 1 ? candidates(track, cell) : null);
  const shaded = shade(cell);
  cell.element.style.setProperty("--shade", (shaded ?? 0).toFixed(3));
  cell.element.classList.toggle("grey", shaded === null);
  cell.element.classList.toggle("best", best);
  const told = [cover.setting, `${shownMeasure.label} ${amount}`, rankInWords(track, cell), badge].filter(Boolean).join(", ");
  const blind = document.body.classList.contains("blind");
  cell.element.ariaLabel = blind ? `cover ${cell.letter}` : told;
  cell.element.title = blind ? "" : [told, data.outcomes[badge], cover.reason].filter(Boolean).join("\n");
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
  inOrder.forEach((cell, k) => {
    cell.letter = String.fromCharCode(65 + (k % 26)) + (k < 26 ? "" : Math.floor(k / 26));
  });
  const at = new Map(track.cells.map((cell) => [`${cell.row} ${cell.column}`, cell.element]));
  const down = track.down[0] !== "";
  fill(track.table,
    track.across[0] !== "" ? make("thead", null, make("tr", null,
      down ? make("td", { className: "down" }) : null,
      ...track.across.map((heading) => make("th", { scope: "col" }, heading)))) : null,
    make("tbody", null, ...track.down.map((heading, row) => make("tr", null,
      down ? make("th", { className: "down", scope: "row" }, heading) : null,
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
      if (!event.target.closest(".play, .wave, select")) goTo(cell);
    });
    cell.element.addEventListener("focus", () => {
      if (!isPlaying() && now.cell !== cell) goTo(cell);
    });
  }
  track.cells[0].element.tabIndex = 0;
  track.table = make("table", { role: "grid", ariaLabel: `covers of ${track.id}` });
  const own = () => (now.track === track ? now.cell : track.cells[0]);
  const play = () => toggle(track, own(), "source");
  track.player = player(track.source, true, play, (at) => hear(track, own(), "source", at));
  return make("section", { className: "track" },
    make("div", { className: "about-track" },
      make("h2", null, track.id), make("span", { className: "rule" }, track.rule)),
    track.caption ? make("p", { className: "caption" }, track.caption) : null,
    make("div", { className: "source" }, make("b", null, "Source"), track.player),
    make("div", { className: "scroll" }, track.table));
}
