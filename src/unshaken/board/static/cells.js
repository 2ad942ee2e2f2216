// Numbers, tags and costs as text and as elements; content of files is inserted as text, never as HTML.
"use strict";
(function (B) {
  /** An element with attributes and children; text children are text. */
  function el(tag, attributes, ...children) {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === false || value === null || value === undefined) continue;
      if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
      else found.setAttribute(name, value === true ? "" : value);
    }
    found.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return found;
  }

  const MODES = { slf: "SLF", alf: "ALF", aff: "AFF", autolora: "AutoLoRa" };
  const MODE_WORDS = { slf: "standard linear fine-tuning", alf: "adversarial linear fine-tuning",
    aff: "adversarial full fine-tuning", autolora: "AutoLoRa fine-tuning" };
  const METRIC_WORDS = { AA: "robust accuracy under AutoAttack", RA: "robust accuracy under PGD",
    CA: "accuracy under common corruptions", SA: "accuracy on clean images" };
  const modeName = (mode) => MODES[mode] || mode.toUpperCase();

  function seconds(value) {
    if (value >= 5400) return `${(value / 3600).toFixed(value < 36000 ? 1 : 0)} h`;
    return value >= 90 ? `${(value / 60).toFixed(1)} min` : `${value.toFixed(0)} s`;
  }

  /** 10^15 operations in the unit that suits them. */
  function flop(value) {
    const [scaled, unit] = value < 0.1 ? [1e3 * value, "TFLOP"] : value < 1e3 ? [value, "PFLOP"] : [value / 1e3, "EFLOP"];
    return `${scaled.toFixed(scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0)} ${unit}`;
  }

  function p(value) {
    if (value === null) return "–";
    return value < 0.001 ? "< 0.001" : value.toFixed(value < 0.1 ? 3 : 2);
  }

  /** What a cell's tooltip says: counts of each seed, the interval, and what other sources say. */
  function words(cell, sources) {
    const lines = [];
    if (cell.counts) lines.push(...cell.counts.map(([s, right, n]) => `seeds ${s}: ${right} of ${n} right`));
    if (cell.low !== undefined) lines.push(`95 % interval: ${cell.low.toFixed(1)} to ${cell.high.toFixed(1)}`);
    if (cell.of) lines.push(`${cell.n} of ${cell.of} images were judged`);
    if (cell.levels) lines.push(Object.entries(cell.levels).map(([k, v]) => `${k} ${v.toFixed(2)}`).join(", "));
    for (const [source, value] of cell.others || []) lines.push(`${sources[source].title}: ${value.toFixed(2)}`);
    if (cell.status === "doubtful") lines.push("doubtful: see the corrections");
    return lines.join("\n");
  }

  /** One number of the table. */
  function number(cell, sources, extra) {
    if (!cell || (cell.mean === undefined && !cell.status && !cell.levels)) {
      return el("td", { class: `num none ${extra}` }, "–");
    }
    if (cell.mean === undefined) {
      const what = cell.status ? "missing" : "CS only";
      const why = cell.status === "copied" ? "The source repeats another mode's numbers here." :
        cell.status ? "The source holds a placeholder here." : words(cell, sources);
      return el("td", { class: `num none ${extra}`, title: why }, el("small", {}, what));
    }
    const marks = [];
    if (cell.others) marks.push(el("abbr", { title: `Other sources differ.\n${words(cell, sources)}` }, "‡"));
    if (cell.status === "doubtful") marks.push(el("abbr", { title: "Doubtful: see the corrections." }, "?"));
    if (cell.of) marks.push(el("abbr", { title: `Of ${cell.n} images of ${cell.of}.` }, "*"));
    const sd = cell.sd === undefined ? null : el("span", { class: "sd" }, `± ${cell.sd.toFixed(2)}`);
    return el("td", { class: `num ${extra}`, title: words(cell, sources) }, el("b", {}, cell.mean.toFixed(2)), marks, sd);
  }

  /** Mean and interval on a common scale from low to high. */
  function whisker(cell, kind, [low, high]) {
    if (!cell || cell.mean === undefined) return el("td", { class: "narrow-off" });
    const at = (value) => `${Math.max(0, Math.min(100, 100 * (value - low) / (high - low))).toFixed(2)}%`;
    const ends = cell.low !== undefined ? [cell.low, cell.high] : [cell.mean, cell.mean];
    const style = `--low:${at(ends[0])};--high:${at(ends[1])};--mean:${at(cell.mean)}`;
    const said = cell.low !== undefined ? `${cell.low.toFixed(1)} to ${cell.high.toFixed(1)}` : "no interval is known";
    const mark = el("span", { class: `whisker ${kind}`, style, role: "img", "aria-label": said }, el("i"), el("u"));
    return el("td", { class: "narrow-off", title: said }, mark);
  }

  function copyable(text, label) {
    const button = el("button", { class: "copy", type: "button", "aria-label": `Copy: ${label}` }, "Copy");
    button.addEventListener("click", () => { B.copy(text); button.textContent = "Copied"; });
    return el("div", { class: "code" }, el("pre", { tabindex: 0, "aria-label": label }, text), button);
  }

  function copy(text) {
    const hand = () => {
      const area = el("textarea", { readonly: true, style: "position:fixed;opacity:0" }, text);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    };
    if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(text).catch(hand); else hand();
  }

  function save(name, text, type) {
    const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    document.body.append(link);
    link.click();
    setTimeout(() => { URL.revokeObjectURL(link.href); link.remove(); }, 1000);
  }

  Object.assign(B, { el, modeName, MODE_WORDS, METRIC_WORDS, seconds, flop, pWords: p, cellWords: words, number, whisker,
    copyable, copy, save });
})(window.Board);
