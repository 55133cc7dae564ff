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
  const trouble = cover.outcome in data.outcomes;
  const best = cell.rank === 1 && shownMeasure.better !== "" && !trouble;
  const badge = trouble ? cover.outcome : best ? "best" : null;
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
      cell.rank ? make("span", { className: "rank", title: `of ${track.ranked}` }, String(cell.rank)) : null,
      cell.rank && cover.outcome !== "failed" ? make("span", { className: "amount" }, amount) : null,
      badge ? make("span", { className: `badge ${badge}`, title: [data.outcomes[badge], cover.reason].filter(Boolean).join(" ") }, badge) : null),
    player(cover, false, play, seek),
    cover.audio ? make("div", { className: "parts" },
      ...parts.map(([word, name]) => make("span", null, `${word} ${text(cover.measures[name])}`))) : null,
    cell.covers.length > 1 ? candidates(track, cell) : null);
  cell.element.style.setProperty("--place", cell.place.toFixed(3));
  cell.element.classList.toggle("best", best);
  const place = cell.rank ? `rank ${cell.rank} of ${track.ranked}` : "no rank";
  const told = [cover.setting, `${shownMeasure.label} ${amount}`, place];
  const blind = document.body.classList.contains("blind");
  cell.element.ariaLabel = blind ? `cover ${cell.letter}` : [...told, badge].filter(Boolean).join(", ");
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
      if (!event.target.closest(".play, .wave, select")) goTo(cell);
    });
    cell.element.addEventListener("focus", () => {
      if (!isPlaying() && now.cell !== cell) goTo(cell);
    });
  }
  track.cells[0].element.tabIndex = 0;
  track.table = make("table", { role: "grid", ariaLabel: `covers of ${track.id}` });
  const { across, down } = data.axes;
  const own = () => (now.track === track ? now.cell : track.cells[0]);
  const play = () => toggle(track, own(), "source");
  track.player = player(track.source, true, play, (at) => hear(track, own(), "source", at));
  return make("section", { className: "track" },
    make("div", { className: "about-track" },
      make("h2", null, track.id), make("span", { className: "rule" }, track.rule)),
    track.caption ? make("p", { className: "caption" }, track.caption) : null,
    make("div", { className: "source" }, make("b", null, "Source"), track.player),
    across ? make("p", { className: "axis" }, across + (down && ` across, ${down} down`)) : null,
    make("div", { className: "scroll" }, track.table));
}
