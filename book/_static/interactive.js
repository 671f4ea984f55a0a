// Brings the figures of nbrepro/book/interactive/ to life. Plain JavaScript: nothing is fetched, nothing is
// stored. Each figure is an element with data-nbrepro="<kind>"; its numbers are a JSON script inside it.
(() => {
  "use strict";

  // As Python's `written` writes it: three digits behind the point at most, a true minus.
  const number = value => String(+value.toFixed(3)).replace("-", "−");
  const points = pairs => pairs.map(pair => pair.map(value => value.toFixed(2)).join(" "));

  // Shows the sliders, and calls draw with their values now and whenever one is moved.
  function sliders(root, draw) {
    const inputs = [...root.querySelectorAll('input[type="range"]')];
    const update = () => {
      const chosen = {};
      for (const input of inputs) {
        const value = JSON.parse(input.dataset.values)[input.value];
        chosen[input.name] = value;
        input.setAttribute("aria-valuetext", number(value));
        input.parentElement.querySelector("output").textContent = number(value);
      }
      draw(chosen);
    };
    root.querySelector(".controls").hidden = false;
    for (const input of inputs) input.addEventListener("input", update);
    update();
  }

  const parts = (root, name) => [...root.querySelectorAll(`[data-part="${name}"]`)];
  const set = (root, name, attribute, value) => parts(root, name).forEach(part => part.setAttribute(attribute, value));
  const say = (root, name, text) => { root.querySelector(`[data-say="${name}"]`).textContent = text; };

  // --- questions ---

  function guess(root, data) {
    const form = root.querySelector("form");
    const { slide, typed } = form.elements;
    const unit = data.unit && ` ${data.unit}`;
    const fold = root.querySelector("details");
    const mark = (name, value) => {
      const share = Math.min(1, Math.max(0, (value - data.low) / (data.high - data.low)));
      root.querySelector(`[data-mark="${name}"]`).setAttribute("transform", `translate(${(20 + 360 * share).toFixed(2)} 0)`);
    };
    form.hidden = false;
    fold.hidden = true;
    slide.addEventListener("input", () => { typed.value = slide.value; });
    typed.addEventListener("input", () => { slide.value = typed.value; });
    form.addEventListener("submit", event => {
      event.preventDefault();
      const value = Number(typed.value);
      const off = +(value - data.answer).toFixed(3);
      const told = off === 0 ? "Exactly right." : `You are ${number(Math.abs(off))}${unit} too ${off > 0 ? "high" : "low"}.`;
      root.querySelector(".guess-result").textContent = `Your guess: ${number(value)}${unit}. Answer: ${data.shown}${unit}. ${told}`;
      root.querySelector(".guess-scale").hidden = false;
      mark("guess", value);
      mark("answer", data.answer);
      fold.hidden = false;
      fold.open = true;
    });
  }

  // --- figures with sliders ---

  function lambda_ball(root, { tip, length, angle }) {
    const to = share => {
      const reach = share * length;
      return "M" + points([tip]).join("").replace(/\.00/g, "") + " " + points([[tip[0] + Math.cos(angle) * reach, tip[1] - Math.sin(angle) * reach]]);
    };
    sliders(root, ({ clipping, ratio }) => {
      const clips = ratio > clipping;
      const factor = clips ? clipping / ratio : 1;  // equation 3
      set(root, "ball", "r", (clipping * length).toFixed(2));
      set(root, "gradient", "d", to(ratio));
      set(root, "clipped", "d", to(ratio * factor));
      say(root, "ratio", `‖G‖ / ‖W‖ is ${clips ? "above λ" : "not above λ"}`);
      say(root, "factor", number(factor));
    });
  }

  // nbrepro.layers.expected_stds, for stages of equal depth, as one list.
  function expectedStds(stages, blocks, alpha) {
    const stds = [];
    let variance = 1;
    for (let stage = 0; stage < stages; stage++) {
      for (let block = 0; block < blocks; block++) {
        stds.push(Math.sqrt(variance));
        variance = (block === 0 ? 1 : variance) + alpha ** 2;
      }
    }
    return stds;
  }

  function betas(root, { stages, left, right, top, bottom, tops }) {
    sliders(root, ({ alpha, blocks }) => {
      const stds = expectedStds(stages, blocks, alpha);
      const largest = Math.max(...stds);
      const end = tops.find(candidate => candidate >= largest);
      const places = points(stds.map((beta, index) => [
        left + (index + 0.5) * (right - left) / stds.length,
        bottom - (beta - 1) / (end - 1) * (bottom - top),
      ]));
      set(root, "line", "d", "M" + places.join(" "));
      set(root, "dots", "d", places.map(place => `M${place}h0`).join(""));
      parts(root, "tick").forEach((tick, index) => { tick.textContent = number(1 + index / 2 * (end - 1)); });
      say(root, "largest", largest.toFixed(3));
      say(root, "share", `${(100 * alpha ** 2 / (1 + blocks * alpha ** 2)).toFixed(1)} %`);
    });
  }

  function stages(root, { rows, said }) {
    sliders(root, ({ member }) => {
      parts(root, "stage").forEach((stage, index) => {
        const { tall, dark, side } = rows[member][index];
        parts(stage, "side")[0].textContent = side;
        stage.querySelectorAll("rect").forEach((block, place) => {
          block.setAttribute("height", tall);
          block.setAttribute("transform", `translate(0 -${tall})`);
          block.setAttribute("fill-opacity", dark[place]);
        });
      });
      root.querySelector('[role="status"]').textContent = said[member];
    });
  }

  function gamma_threshold(root, { x, said }) {
    const names = [...root.querySelectorAll("text.bold")].map(node => node.textContent);
    const [veil] = parts(root, "veil");
    const input = root.querySelector("input");
    const told = root.querySelector('[role="status"]');
    sliders(root, ({ threshold }) => {
      const place = x[input.value];
      veil.setAttribute("width", (place - veil.getAttribute("x")).toFixed(2));
      set(root, "cursor", "d", parts(root, "cursor")[0].getAttribute("d").replace(/^M[\d.]+/, `M${place.toFixed(2)}`));
      parts(root, "said").forEach((node, index) => { node.textContent = said[index][input.value]; });
      told.textContent = `|γ| < ${number(threshold)} set to zero. ` + names.map((name, index) => `${name}: ${said[index][input.value]}`).join("; ");
    });
  }

  // The error function: a series without differences, so that nothing is lost.
  function erf(x) {
    if (Math.abs(x) > 6) return Math.sign(x);
    let sum = 0;
    for (let n = 0, term = x; sum + term !== sum; n++, term *= 2 * x * x / (2 * n + 1)) sum += term;
    return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
  }

  function gain_and_bias(root, { zero, one, bottom, standard, highest, end, tail, pieces, faint, width }) {
    const halves = (scale, beta) => {
      let [first, last, cut] = [-tail, tail, beta > 0 ? -tail : tail];
      if (scale) {
        [first, last] = [Math.max(first, (-end - beta) / scale), Math.min(last, (end - beta) / scale)];
        cut = Math.min(Math.max(-beta / scale, first), last);
      }
      const tall = scale ? Math.min(standard / scale, highest) : highest;
      const outline = (begin, stop) => {
        const walked = points(Array.from({ length: pieces + 1 }, (_, piece) => {
          const u = begin + (stop - begin) * piece / pieces;
          return [zero + one * (beta + scale * u), bottom - tall * Math.exp(-u * u / 2)];
        }));
        return `M${walked[0].split(" ")[0]} ${bottom}L${walked.join(" ")}V${bottom}Z`;
      };
      return [outline(first, cut), outline(cut, last)];
    };
    const meaning = (off, mean, std) => {
      if (std < faint) return mean < faint ? "As good as off, whatever the image." : "As good as constant, whatever the image.";
      return off < 0.01 ? "Always on: next to nothing is cut." : "What is left depends on the image.";
    };
    sliders(root, ({ gamma, beta }) => {
      const scale = Math.abs(gamma);
      const off = scale ? (1 + erf(-beta / scale / Math.SQRT2)) / 2 : Number(beta <= 0);
      const height = scale ? Math.exp(-((beta / scale) ** 2) / 2) / Math.sqrt(2 * Math.PI) : 0;
      const mean = beta * (1 - off) + scale * height;
      const std = Math.sqrt(Math.max(0, (beta ** 2 + scale ** 2) * (1 - off) + beta * scale * height - mean ** 2));
      const [below, above] = halves(scale, beta);
      set(root, "off", "d", below);
      set(root, "on", "d", above);
      set(root, "share", "width", (width * off).toFixed(2));
      say(root, "gamma", number(gamma));
      say(root, "beta", number(beta));
      say(root, "off", `${(100 * off).toFixed(1)} %`);
      say(root, "mean", mean.toFixed(2));
      say(root, "std", std.toFixed(2));
      say(root, "state", meaning(off, mean, std));
    });
  }

  function companions(root, { x, said, bands, alone }) {
    const input = root.querySelector("input");
    const heights = parts(root, "dots")[0].getAttribute("d").match(/ [\d.]+h0/g);
    sliders(root, ({ images }) => {
      const now = input.value;
      set(root, "dots", "d", heights.map((height, row) => `M${x[now][row].toFixed(1)}${height}`).join(""));
      set(root, "band", "x", (alone - bands[now]).toFixed(1));
      set(root, "band", "width", (2 * bands[now]).toFixed(1));
      say(root, "images", number(images));
      say(root, "deviation", said[now][0]);
      say(root, "beyond", said[now][1]);
    });
  }

  // --- figures with a dot for each run ---

  function link(href, text) {
    const node = document.createElement("a");
    node.href = href;
    node.textContent = text;
    return node;
  }

  // One stop of the tab key; arrow keys move along a row and between rows. Returns what says the chosen dot again.
  function choice(root, rows, more = () => {}) {
    const dots = rows.flat();
    const told = root.querySelector(".said");
    const x = dot => dot.querySelector("circle").getBoundingClientRect().x;
    let chosen = null;
    let touched = null;

    function tell() {
      if (!chosen) return;
      told.replaceChildren(chosen.querySelector("title").textContent, document.createElement("br"), link(chosen.getAttribute("href"), "record of the run"));
      more(chosen, told);
    }

    function choose(dot) {
      if (chosen) chosen.classList.remove("chosen");
      chosen = dot;
      dot.classList.add("chosen");
      for (const other of dots) other.tabIndex = other === dot ? 0 : -1;
      tell();
    }

    function move(dot, key) {
      const row = rows.findIndex(candidates => candidates.includes(dot));
      const place = rows[row].indexOf(dot);
      if (key === "ArrowLeft") return rows[row][place - 1];
      if (key === "ArrowRight") return rows[row][place + 1];
      const next = rows[row + { ArrowUp: -1, ArrowDown: 1 }[key]];
      return next && next.reduce((best, other) => Math.abs(x(other) - x(dot)) < Math.abs(x(best) - x(dot)) ? other : best);
    }

    told.hidden = false;
    dots.forEach((dot, index) => {
      dot.tabIndex = index ? -1 : 0;
      dot.addEventListener("focus", () => choose(dot));
      dot.addEventListener("pointerenter", event => { if (event.pointerType === "mouse") choose(dot); });
      // A first touch only chooses; a finger cannot hover.
      dot.addEventListener("pointerdown", event => { touched = event.pointerType !== "mouse" && dot !== chosen ? dot : null; });
      dot.addEventListener("click", event => {
        if (touched === dot) event.preventDefault();
        touched = null;
        choose(dot);
      });
      dot.addEventListener("keydown", event => {
        const next = event.key.startsWith("Arrow") && move(dot, event.key);
        if (!next) return;
        event.preventDefault();
        next.focus();
      });
    });
    return tell;
  }

  function rate_map(root, { claims }) {
    const rows = [...root.querySelectorAll("svg > g")].map(row => [...row.querySelectorAll("a")]).filter(row => row.length);
    choice(root, rows, (dot, told) => {
      const links = claims[dot.dataset.run] || [];
      if (links.length) told.append(links.length > 1 ? "; claims " : "; claim ");
      links.forEach(([id, address], index) => told.append(index ? ", " : "", link(address, id)));
    });
  }

  function epochs(root, { left, right, end, when, marks, rows }) {
    const dots = [...root.querySelectorAll("svg > g")].map(row => [...row.querySelectorAll("a")]);
    const [said, means] = ["said", "mean"].map(name => parts(root, name));
    const input = root.querySelector("input");
    const told = root.querySelector('[role="status"]');
    const tell = choice(root, dots);
    const per_cent = accuracy => `${accuracy.toFixed(1)}\u00a0%`;
    const x = accuracy => (left + Math.min(Math.max(accuracy, 0), end) * (right - left) / end).toFixed(2);

    function place(dot, path, step) {
      const { name, failed } = dot.dataset;
      const ended = failed && step >= path.length - 1;
      const accuracy = path[Math.min(step, path.length - 1)];
      const mark = dot.querySelector("path");
      dot.setAttribute("transform", dot.getAttribute("transform").replace(/[\d.]+/, x(accuracy)));
      mark.setAttribute("d", marks[+!!ended]);
      mark.setAttribute("class", ended ? "line" : "dots");
      dot.querySelector("title").textContent = `${name}: ${per_cent(accuracy)}${ended ? `, ${failed}` : ""}`;
    }

    sliders(root, ({ epoch }) => {
      const step = Number(input.value);
      const texts = rows.map(({ who, means }) => [who, ...means.slice(step, step + 1).map(([mean]) => per_cent(mean))].filter(Boolean).join(": "));
      rows.forEach((row, index) => {
        const [mean, ...interval] = (row.means[step] || []).map(x);
        means[index].setAttribute("d", mean ? `M${mean} -9V9${interval.length ? `M${interval[0]} 0H${interval[1]}` : ""}` : "");
        said[index].textContent = texts[index];
        row.paths.forEach((path, number) => place(dots[index][number], path, step));
      });
      set(root, "paper", "visibility", input.value === input.max ? "visible" : "hidden");
      told.textContent = `${when.replace("#", number(epoch))}. ${rows.map(({ name }, index) => `${name}: ${texts[index]}`).join("; ")}`;
      tell();
    });
  }

  const kinds = { guess, lambda_ball, betas, gain_and_bias, companions, stages, gamma_threshold, rate_map, epochs };

  function start() {
    for (const root of document.querySelectorAll("[data-nbrepro]")) {
      kinds[root.dataset.nbrepro](root, JSON.parse(root.querySelector('script[type="application/json"]').textContent));
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
