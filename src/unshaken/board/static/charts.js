// Charts as SVG: cost against accuracy, robustness against ε, agreement as a matrix, a radar.
"use strict";
(function (B) {
  const NS = "http://www.w3.org/2000/svg";
  const COLOURS = ["#2f8fd8", "#e08214", "#1aa179", "#a678d8", "#cc6fa8", "#c0504d", "#8a8f98", "#b59b00"];

  function svg(tag, attributes, ...children) {
    const found = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes || {})) found.setAttribute(name, value);
    found.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return found;
  }
  const label = (x, y, words, more) => svg("text", { x, y, ...more }, words);

  /** 4 to 9 round values between low and high. */
  function ticks(low, high) {
    const power = 10 ** Math.floor(Math.log10((high - low) / 4));
    const step = [5, 2, 1].map((k) => k * power).find((s) => (high - low) / s >= 4) || power;
    const found = [];
    for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) found.push(Number(v.toPrecision(8)));
    return found;
  }

  function frame(title, x, y, [width, height], box) {
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "group", "aria-label": title });
    for (const tick of y.ticks) {
      chart.append(svg("line", { x1: box.left, x2: box.right, y1: y.at(tick), y2: y.at(tick), class: "grid" }),
        label(box.left - 8, y.at(tick) + 4, String(tick), { "text-anchor": "end" }));
    }
    for (const [tick, words] of x.ticks) {
      chart.append(label(x.at(tick), box.bottom + 19, words, { "text-anchor": "middle" }));
    }
    chart.append(svg("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "axis" }),
      label((box.left + box.right) / 2, height - 4, x.title, { "text-anchor": "middle", class: "ink" }),
      label(box.left - 38, box.top - 12, y.title, { class: "strong" }));
    return chart;
  }

  /** Cost on a logarithmic axis against accuracy, with what no other row beats in both joined by a line. */
  function frontier(points, yTitle) {
    const size = [560, 350], box = { left: 44, right: 545, top: 30, bottom: 298 };
    const xs = points.map((p) => p.x), low = Math.min(...xs) / 1.25, high = Math.max(...xs) * 1.35;
    const ys = points.flatMap((p) => [p.y - (p.sd || 0), p.y + (p.sd || 0)]);
    const pad = (Math.max(...ys) - Math.min(...ys)) * 0.08 || 1, bottom = Math.min(...ys) - pad, top = Math.max(...ys) + pad;
    const x = { at: (v) => box.left + (Math.log(v / low) / Math.log(high / low)) * (box.right - box.left),
      title: "pre-training, seconds (logarithmic)", ticks: logTicks(low, high) };
    const y = { at: (v) => box.bottom - ((v - bottom) / (top - bottom)) * (box.bottom - box.top), title: yTitle,
      ticks: ticks(bottom, top) };
    const chart = frame("Cost against robust accuracy", x, y, size, box), best = pareto(points);
    chart.append(svg("path", { class: "pareto", d: best.map((p, k) => `${k ? "L" : "M"}${x.at(p.x)} ${y.at(p.y)}`).join("") }));
    for (const p of points) {
      const kind = best.includes(p) ? "" : "dominated";
      if (p.sd) chart.append(svg("line", { x1: x.at(p.x), x2: x.at(p.x), y1: y.at(p.y - p.sd), y2: y.at(p.y + p.sd), class: `bar ${kind}` }));
      const said = `${p.name}: ${p.y.toFixed(2)} %, ${B.seconds(p.x)}`;
      chart.append(svg("a", { href: p.href, "aria-label": said }, svg("circle", { class: `dot ${kind}`, cx: x.at(p.x), cy: y.at(p.y), r: 5 },
        svg("title", {}, said))));
    }
    const placed = points.map((p) => [x.at(p.x), y.at(p.y)]);
    for (const p of place(points.filter((each) => best.includes(each)), points.filter((each) => !best.includes(each)), x, y, box, placed)) {
      if (p.leader) chart.append(svg("line", { ...p.leader, class: "leader" }));
      chart.append(label(p.x, p.y, p.words, { class: `halo ${p.strong ? "strong" : ""}`, "text-anchor": p.anchor, "aria-hidden": "true" }));
    }
    return chart;
  }

  /** Labels where they cover neither a dot nor another label; those of the Pareto line first, others only if there is room. */
  function place(first, others, x, y, box, dots) {
    const taken = dots.map(([cx, cy]) => [cx - 6, cy - 6, cx + 6, cy + 6]), found = [];
    const free = (r) => r[0] > box.left - 30 && r[2] < box.right + 12 && r[1] > box.top - 8 && r[3] < box.bottom + 2 &&
      !taken.some((t) => r[0] < t[2] && r[2] > t[0] && r[1] < t[3] && r[3] > t[1]);
    for (const [list, strong] of [[first, true], [others, false]]) {
      for (const p of list) {
        const cx = x.at(p.x), cy = y.at(p.y), words = p.name.length > 26 ? `${p.name.slice(0, 25)}…` : p.name, wide = words.length * (strong ? 7.6 : 7);
        const spots = [];
        for (const far of strong ? [9, 20, 34, 50] : [9, 16]) {
          spots.push([cx + far, cy + 4, "start", far], [cx - far, cy + 4, "end", far], [cx, cy - far - 2, "middle", far], [cx, cy + far + 9, "middle", far],
            [cx + far, cy - far, "start", far], [cx - far, cy - far, "end", far], [cx + far, cy + far, "start", far], [cx - far, cy + far, "end", far]);
        }
        for (const [sx, sy, anchor, far] of spots) {
          const left = anchor === "start" ? sx : anchor === "end" ? sx - wide : sx - wide / 2, r = [left, sy - 10, left + wide, sy + 3];
          if (!free(r)) continue;
          taken.push(r);
          const leader = far > 12 ? { x1: cx, y1: cy, x2: anchor === "middle" ? sx : sx + (anchor === "start" ? -2 : 2), y2: sy - 4 } : null;
          found.push({ x: sx, y: sy, words, anchor, strong, leader });
          break;
        }
      }
    }
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let power = 10 ** Math.floor(Math.log10(low)); power < high; power *= 10) {
      for (const k of [1, 2, 5]) if (k * power >= low && k * power <= high) found.push([k * power, (k * power).toLocaleString("en")]);
    }
    return found;
  }

  /** The points that none beats: cheaper and better at once. */
  function pareto(points) {
    const found = [];
    for (const p of [...points].sort((a, b) => a.x - b.x || b.y - a.y)) {
      if (!found.length || p.y > found[found.length - 1].y) found.push(p);
    }
    return found;
  }

  /** Accuracy against ε: a line a row. */
  function lines(curves, norm) {
    const size = [560, 330], box = { left: 44, right: 545, top: 30, bottom: 278 };
    const high = Math.max(...curves.flatMap((c) => c.points.map(([e]) => e)));
    const eps = [...new Set(curves.flatMap((c) => c.points.map(([e]) => e)))].sort((a, b) => a - b);
    const x = { at: (v) => box.left + (v / high) * (box.right - box.left), title: `ε of the attack (${norm}); at 0: clean images`,
      ticks: eps.map((e) => [e, Number(e.toPrecision(3)).toString()]) };
    const y = { at: (v) => box.bottom - (v / 100) * (box.bottom - box.top), title: "accuracy, %", ticks: [0, 20, 40, 60, 80, 100] };
    const chart = frame("Robustness against epsilon", x, y, size, box);
    curves.forEach((c, k) => {
      const colour = COLOURS[k % COLOURS.length];
      chart.append(svg("path", { class: "line", stroke: colour, d: c.points.map(([e, v], i) => `${i ? "L" : "M"}${x.at(e)} ${y.at(v)}`).join("") }));
      for (const [e, v] of c.points) {
        chart.append(svg("circle", { cx: x.at(e), cy: y.at(v), r: 3.6, fill: colour }, svg("title", {}, `${c.name}, ε ${e}: ${v.toFixed(1)} %`)));
      }
    });
    const legend = B.el("ul", { class: "legend" }, curves.map((c, k) => B.el("li", {},
      B.el("i", { style: `background:${COLOURS[k % COLOURS.length]}` }), c.name)));
    return [chart, legend];
  }

  /** Agreement of rows in percent, darker where they agree more. */
  function matrix(names, percent) {
    const n = names.length, cell = Math.max(17, Math.min(34, 430 / n)), wide = Math.min(170, 12 + 6.4 * Math.max(...names.map((w) => w.length)));
    const flat = percent.flatMap((line, i) => line.filter((_, j) => i !== j)), low = Math.min(...flat), high = Math.max(...flat);
    const width = wide + n * cell + 12, height = n * cell + 34;
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", style: `max-width:${Math.round(width * 1.12)}px`,
      "aria-label": `Agreement of ${n} rows, from ${low} to ${high} percent of the images` });
    percent.forEach((line, i) => {
      const words = names[i].length > 25 ? `${names[i].slice(0, 24)}…` : names[i];
      chart.append(label(wide - 8, 12 + i * cell + cell / 2 + 4, words, { "text-anchor": "end", class: "ink", "font-size": Math.min(12, cell * 0.62) }));
      line.forEach((value, j) => {
        const share = i === j ? 0 : (value - low) / (high - low || 1);
        chart.append(svg("rect", { x: wide + j * cell, y: 12 + i * cell, width: cell - 1.5, height: cell - 1.5, rx: 2.5,
          fill: i === j ? "var(--hover)" : `color-mix(in oklab, var(--accent) ${Math.round(6 + 88 * share)}%, var(--card))` },
        svg("title", {}, `${names[i]} and ${names[j]}: ${value} %`)));
      });
    });
    chart.append(label(wide, height - 4, `${low.toFixed(0)} %`, {}), label(wide + n * cell - 2, height - 4, `${high.toFixed(0)} % of images`, { "text-anchor": "end" }));
    return chart;
  }

  /** One encoder on several axes, each from 0 to 100 percent. */
  function radar(axes) {
    const size = 250, middle = size / 2, r = 78, n = axes.length;
    const at = (k, share) => [middle + r * share * Math.sin(2 * Math.PI * k / n), middle - r * share * Math.cos(2 * Math.PI * k / n)];
    const said = axes.map((a) => `${a.name} ${a.value.toFixed(1)} %`).join(", ");
    const chart = svg("svg", { viewBox: `0 0 ${size} ${size}`, class: "chart", role: "img", "aria-label": said });
    for (const ring of [0.25, 0.5, 0.75, 1]) {
      chart.append(svg("polygon", { points: axes.map((_, k) => at(k, ring).join(",")).join(" "), class: "grid", fill: "none" }));
    }
    axes.forEach((a, k) => {
      const [x, y] = at(k, 1), [tx, ty] = at(k, 1.2), sin = Math.sin(2 * Math.PI * k / n);
      chart.append(svg("line", { x1: middle, y1: middle, x2: x, y2: y, class: "grid" }),
        label(tx, ty, a.name, { "text-anchor": sin > 0.3 ? "start" : sin < -0.3 ? "end" : "middle", class: "strong" }),
        label(tx, ty + 13, a.value.toFixed(1), { "text-anchor": sin > 0.3 ? "start" : sin < -0.3 ? "end" : "middle" }));
    });
    chart.append(svg("polygon", { points: axes.map((a, k) => at(k, a.value / 100).join(",")).join(" "),
      fill: "color-mix(in srgb, var(--accent) 22%, transparent)", stroke: "var(--accent)", "stroke-width": 2, "stroke-linejoin": "round" }));
    return chart;
  }

  Object.assign(B, { svg, frontier, pareto, epsilonLines: lines, matrix, radar });
})(window.Board);
