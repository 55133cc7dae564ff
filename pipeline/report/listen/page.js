// The deck at the bottom, the head, and all of it put together.

function tell(message) {
  const status = document.querySelector(".status");
  if (status) status.textContent = message;
}

function facts(measures, values) {
  const fact = ({ name, label, unit, key: isKey }) => make("div", { className: isKey ? "key" : "" },
    make("dt", null, label), make("dd", null, text(values[name], unit)));
  return make("dl", { className: "facts" }, ...measures.map(fact));
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
  if (!blind && now.cell.covers.length > 1) which.push(cover.seed);
  if (!blind) which.push(isJudged(cover) ? rankInWords(now.track, now.cell) : cover.outcome);
  const all = data.measures.filter((measure) => cover.measures[measure.name] != null);
  deck.hidden = false;
  fill(deck,
    make("div", { className: "bar" },
      make("div", { className: "sides", role: "group", ariaLabel: "what is heard" },
        side("Source", "source"), side(name, "cover")),
      player(clipOf(now.side), true,
        () => toggle(now.track, now.cell, now.side), (at) => hear(now.track, now.cell, now.side, at)),
      make("span", { className: "time" }),
      make("span", { className: "where" }, which.filter(Boolean).join(" · "))),
    make("p", { className: "status", role: "status" }),
    facts(key, cover.measures),
    make("details", { open: wasOpen }, make("summary", null, "All measures"), make("div", null,
      facts(all, cover.measures),
      cover.name !== cover.setting ? make("p", { className: "where" }, `in the tables: ${cover.name}`) : null,
      cover.reason ? make("p", { className: "where" }, cover.reason) : null,
      cover.caption !== now.track.caption ? make("p", { className: "where" }, cover.caption) : null,
      ...cover.unmeasured.map((reason) => make("p", { className: "where" }, `not measured: ${reason}`)))));
  follow();
}

/** What the colours of the shown measure mean. */
function showScale() {
  const { name, unit, scale: [low, high] } = shownMeasure;
  const values = data.tracks.flatMap((track) => track.covers).filter(isJudged).map((cover) => cover.measures[name]);
  const beyond = (isBeyond, words) => (values.some((value) => value != null && isBeyond(value)) ? ` ${words}` : "");
  fill(document.getElementById("scale"),
    make("span", null, text(low, unit) + beyond((value) => value < low, "or less")),
    make("i", { className: "ramp" }),
    make("span", null, text(high, unit) + beyond((value) => value > high, "or more")),
    make("span", { className: "no-rank" }, make("i"), `no rank: ${Object.keys(data.outcomes).join(", ")}`));
}

function head() {
  const { seconds: length, lufs, kbps } = data.preview;
  const choice = make("select", { id: "measure" },
    ...key.map((measure, k) => make("option", { value: k }, measure.label)));
  choice.addEventListener("change", () => {
    shownMeasure = key[Number(choice.value)];
    data.tracks.forEach(paint);
    showScale();
    showDeck();
  });
  const blind = make("input", { type: "checkbox", id: "blind" });
  blind.addEventListener("change", () => {
    document.body.classList.toggle("blind", blind.checked);
    for (const track of data.tracks) layOut(track, blind.checked);
    if (now.cell) {
      select(now.track, now.cell);
      focusOn(now.cell);
    }
    showDeck();
  });
  const better = { high: "more is better", low: "less is better", "": "only describes" };
  const press = (name) => make("kbd", null, name);
  return [
    make("h1", null, data.title),
    make("p", { className: "about" },
      `Every preview is the same ${length} s of its track (all of a shorter one), in mono at ${kbps} kbit/s, brought to `
      + `${text(lufs, "LUFS")} so that loudness does not decide. Colour is the value of the chosen measure, on one scale `
      + "for all tracks. A cell with several covers shows the best-scoring one first."),
    make("ul", { className: "notes" }, ...data.notes.map((note) => make("li", null, note))),
    make("div", { className: "tools" },
      make("label", { className: "by-measure" }, "Rank and colour by", choice),
      make("label", null, blind, "Blind: shuffle, hide names and measures"),
      make("span", { className: "keys" }, press("Space"), " plays  ", press("S"), " source or cover  ",
        press("←"), press("↑"), press("↓"), press("→"), " next cover")),
    make("div", { id: "scale" }),
    make("details", { className: "legend" }, make("summary", null, "What the measures mean"),
      make("dl", null,
        ...data.measures.map((measure) => make("div", null,
          make("dt", null, measure.label, measure.key ? make("small", null, ` ${measure.name}`) : null),
          make("dd", null, measure.meaning, measure.unit && ` (${measure.unit})`, `; ${better[measure.better]}`))),
        ...Object.entries(data.outcomes).map(([outcome, meaning]) => make("div", null,
          make("dt", null, make("span", { className: `badge ${outcome.replace(" ", "-")}` }, outcome)),
          make("dd", null, meaning))))),
  ];
}

fill(document.getElementById("head"), ...head());
fill(document.getElementById("tracks"), ...data.tracks.map(section));
for (const track of data.tracks) layOut(track, false);
showScale();
