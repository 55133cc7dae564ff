// What is heard: a source or one of its covers, at one place of the excerpt.

// Both play in step, one of them muted, so that going from one to the other leaves no gap.
const players = { source: new Audio(), cover: new Audio() };
const heard = () => players[now.side];

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
  if (clipOf(side).audio) start(Math.min(place, clipOf(side).seconds));
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
  const length = now.track ? clipOf(now.side).seconds : data.preview.seconds;
  for (const bar of document.querySelectorAll(".current > .wave i")) {
    bar.style.width = `${Math.min(100, (100 * time) / length)}%`;
  }
  const clock = document.querySelector(".time");
  if (clock) clock.textContent = `${seconds(time)} / ${seconds(length)}`;
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
