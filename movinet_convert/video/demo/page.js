// While a video plays, the bars and the timeline follow it. The data are in the timeline that the
// server drew once the whole video was read (drawing.py).
(() => {
  let shown = null; // the timeline that is followed, what it says, and the bars of the whole video

  function following(video) {
    const panel = video.closest(".mv-panel");
    const timeline = panel?.querySelector(".mv-timeline[data-played]");
    const bars = panel?.querySelector(".mv-bars");
    if (!timeline || !bars) return null;
    if (!shown || shown.timeline !== timeline) {
      shown = { timeline, ...JSON.parse(timeline.dataset.played), whole: bars.innerHTML };
    }
    return { ...shown, bars };
  }

  function follow(event) {
    const now = following(event.target);
    if (!now) return;
    const time = event.target.currentTime;
    const next = now.moments.findIndex(([start]) => start > time);
    const [, best] = now.moments[Math.max(next < 0 ? now.moments.length - 1 : next - 1, 0)];
    now.bars.querySelector(".mv-when").textContent = `at ${time.toFixed(1)} s`;
    now.bars.querySelectorAll(".mv-row").forEach((row, i) => {
      const [index, probability] = best[i];
      const [label, colour] = now.classes[index];
      const share = `${(100 * probability).toFixed(1)}%`;
      row.className = `mv-row mv-${colour}`;
      row.querySelector(".mv-name").textContent = label;
      row.querySelector(".mv-share").textContent = share;
      row.querySelector(".mv-bar > span").style.width = share;
    });
    const cursor = now.timeline.querySelector(".mv-cursor");
    const x = (1000 * (time - now.start)) / (now.end - now.start);
    cursor.setAttribute("d", `M${Math.min(x, 1000)} 0V100`);
    cursor.style.visibility = "visible";
  }

  function restore(event) {
    const now = following(event.target);
    if (!now) return;
    now.bars.innerHTML = now.whole;
    now.timeline.querySelector(".mv-cursor").style.visibility = "hidden";
  }

  // These events do not bubble.
  document.addEventListener("timeupdate", (e) => e.target.ended || follow(e), true);
  document.addEventListener("ended", restore, true);
})();
