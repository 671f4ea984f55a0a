// Brings the figures of nbrepro/book/interactive.py to life. Plain JavaScript, nothing is fetched, nothing is
// stored. Each figure is an element with data-nbrepro="<kind>", its numbers a JSON script inside it.
(() => {
  "use strict";

  // Numbers as Python's _number writes them: three digits behind the point at most, a true minus.
  const number = value => String(+value.toFixed(3)).replace("-", "−");
  const place = (node, x) => node.setAttribute("transform", `translate(${x.toFixed(2)} 0)`);

  function guess(root, data) {
    const form = root.querySelector("form");
    const { slide, typed } = form.elements;
    const unit = data.unit && ` ${data.unit}`;
    const fold = root.querySelector("details");
    const x = value => 20 + 360 * Math.min(1, Math.max(0, (value - data.low) / (data.high - data.low)));
    form.hidden = false;
    fold.hidden = true;
    slide.addEventListener("input", () => { typed.value = slide.value; });
    typed.addEventListener("input", () => { slide.value = typed.value; });
    form.addEventListener("submit", event => {
      event.preventDefault();
      const value = Number(typed.value);
      const off = +(value - data.answer).toFixed(3);
      const verdict = off === 0 ? "Exactly right." : `Your guess is ${number(Math.abs(off))}${unit} too ${off > 0 ? "high" : "low"}.`;
      root.querySelector(".guess-result").textContent = `You: ${number(value)}${unit}. Answer: ${data.shown}${unit}. ${verdict}`;
      root.querySelector(".guess-scale").hidden = false;
      place(root.querySelector('[data-mark="guess"]'), x(value));
      place(root.querySelector('[data-mark="answer"]'), x(data.answer));
      fold.hidden = false;
      fold.open = true;
    });
  }

  const kinds = { guess };

  function start() {
    for (const root of document.querySelectorAll("[data-nbrepro]")) {
      kinds[root.dataset.nbrepro](root, JSON.parse(root.querySelector('script[type="application/json"]').textContent));
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
