// What a click on a row opens: the receipt behind every cell.
"use strict";
(function (B) {
  const { el } = B, waiting = new Map(), loaded = new Map();

  /** Data in a script of its own, which works from a disk too; resolves to what it holds. */
  function load(kind, name) {
    const key = `${kind}/${name}`;
    if (!loaded.has(key)) {
      loaded.set(key, new Promise((resolve, reject) => {
        waiting.set(key, resolve);
        const script = el("script", { src: `${key}.js`, onerror: () => reject(new Error(`${key}.js is not there`)) });
        document.head.append(script);
      }));
    }
    return loaded.get(key);
  }
  B.gotRow = (name, value) => waiting.get(`rows/${name}`)(value);
  B.gotBits = (name, value) => waiting.get(`bits/${name}`)(value);

  async function open(row, rows) {
    const dialog = document.getElementById("detail");
    if (dialog.open && dialog.dataset.row === row.id) return;
    dialog.dataset.row = row.id;
    const close = el("button", { class: "icon", type: "button", "aria-label": "Close" }, "✕");
    close.addEventListener("click", () => dialog.close());
    const title = el("h2", { id: "detail-title" }, row.method);
    const chips = [el("span", { class: row.kind === "reported" ? "tag warm" : "tag" }, row.kind === "reported" ? "reported, not measured here" : "measured here"),
      row.venue ? el("span", { class: "tag" }, row.venue) : null, el("span", { class: "tag" }, `labels in pre-training: ${row.labels === "in pre-training" ? "yes" : row.labels}`),
      row.extra ? el("span", { class: "tag warm" }, `extra data: ${row.extra}`) : null];
    const body = el("div", { class: "detail" }, el("header", {}, el("div", {}, title, el("p", {}, row.detail || ""), el("div", { class: "tags" }, chips)), close));
    body.append(scores(row, rows));
    if (row.kind === "reported") body.append(source(row));
    dialog.replaceChildren(body);
    if (!dialog.open) dialog.showModal();
    close.focus();
    dialog.scrollTop = 0;
    if (row.kind !== "measured") return;
    body.append(await compareWith(row, rows));
    const detail = await load("rows", row.id);
    body.append(...receipt(row, detail));
  }

  function scores(row, rows) {
    const lines = [];
    for (const [mode, cells] of Object.entries(row.cells)) {
      for (const metric of B.METRICS) {
        const cell = cells[metric];
        if (!cell) continue;
        const counted = row.kind !== "reported";
        const rank = B.rankOf(row, mode, metric);
        lines.push(el("tr", {}, el("th", { scope: "row", class: "left" }, `${B.modeName(mode)} ${metric}`), B.number(cell, B.data.sources, ""),
          counted ? [el("td", {}, cell.low === undefined ? "–" : `${cell.low.toFixed(1)} to ${cell.high.toFixed(1)}`), el("td", {}, rank ? String(rank) : "–")] : null,
          el("td", { class: "counts left" }, countWords(cell))));
      }
    }
    const table = el("table", {}, el("thead", {}, el("tr", {}, (row.kind === "reported" ? ["score", "%", "other sources"] :
      ["score", "mean, %", "95 % interval", "rank", "right answers by seed"]).map((w, k, all) => el("th", { scope: "col", class: k === 0 || k === all.length - 1 ? "left" : "" }, w)))), el("tbody", {}, lines));
    const part = el("section", {}, el("h3", {}, "Scores"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Scores" }, table)), axes = radarAxes(row, rows);
    if (axes.length < 3) return part;
    return el("div", {}, part, el("section", { style: "max-width:290px;margin:18px auto 0" }, el("h3", {}, `In one picture: ${B.modeName(Object.keys(row.cells)[0])}`), B.radar(axes)));
  }

  function countWords(cell) {
    if (cell.counts) return cell.counts.map(([, right, n]) => `${right}/${n}`).join(", ");
    return (cell.others || []).map(([s, v]) => `${B.data.sources[s].title}: ${v.toFixed(2)}`).join("; ") || (cell.levels ? B.cellWords(cell, B.data.sources) : "–");
  }

  /** SA, RA, AA, CS-1, 3, 5 of a row's first mode, and its mean robust accuracy on other image sets as transfer. */
  function radarAxes(row, rows) {
    const [mode, cells] = Object.entries(row.cells)[0], found = [];
    for (const metric of ["SA", "RA", "AA"]) if (cells[metric] && cells[metric].mean !== undefined) found.push({ name: metric, value: cells[metric].mean });
    const levels = (cells.CA || {}).levels || {};
    if (!levels["CS-1"] && cells.CA && cells.CA.mean !== undefined) found.push({ name: "CA", value: cells.CA.mean });
    for (const level of ["CS-1", "CS-3", "CS-5"]) if (levels[level] !== undefined) found.push({ name: level, value: levels[level] });
    const mine = B.taskOf(row), away = rows.filter((r) => r.kind === row.kind && r.method === row.method && r.detail === row.detail && r.source === row.source)
      .filter((r) => { const t = B.taskOf(r); return t.pretrain === mine.pretrain && t.judged !== mine.judged; })
      .map((r) => (r.cells[mode] || {}).AA || (r.cells[mode] || {}).RA).filter((c) => c && c.mean !== undefined);
    if (away.length) found.push({ name: "transfer", value: B.mean(away.map((c) => c.mean)) });
    return found;
  }

  function source(row) {
    const told = B.data.sources[row.source], corrections = (row.corrections || []).map((k) => B.data.corrections[k]);
    return el("section", {}, el("h3", {}, "Source"), el("p", {}, `${told.title}. ${told.where}. ${told.protocol}.`),
      row.notes.map((note) => el("p", { class: "warn" }, `Note: ${note}.`)),
      corrections.map((c) => el("p", { class: "warn" }, el("b", {}, `Correction, ${c.date}: `), `${c.what} ${c.why} (${c.source})`)));
  }

  /** A paired test against any other row of the same images. */
  async function compareWith(row, rows) {
    const others = rows.filter((r) => r.kind === "measured" && r.task === row.task && r.id !== row.id && r.digest === row.digest);
    const part = el("section", {}, el("h3", {}, "Paired test against another row"));
    if (!others.length) { part.append(el("p", { class: "muted" }, "No other row was judged on these images.")); return part; }
    const select = el("select", { "aria-label": "Compare with" }, others.map((r) => el("option", { value: r.id }, B.nameOf(r)))), out = el("div", { class: "scroll", role: "status" });
    const bits = await load("bits", row.task);
    const show = () => out.replaceChildren(pairTable(bits[row.id], bits[select.value], row.method, others.find((r) => r.id === select.value).method));
    select.addEventListener("change", show);
    show();
    part.append(select, out);
    return part;
  }

  function pairTable(mine, theirs, a, b) {
    const lines = [];
    for (const mode of Object.keys(mine)) {
      for (const metric of ["AA", "RA", "SA"]) {
        if (!(mine[mode][metric] && theirs[mode] && theirs[mode][metric])) continue;
        const x = B.verdicts(mine[mode][metric]), y = B.verdicts(theirs[mode][metric]);
        if (x.n !== y.n) continue;
        lines.push(pairLine(`${B.modeName(mode)} ${metric}`, B.pair(x, y), a, b));
      }
    }
    return pairs(lines);
  }

  const pairLine = (name, t, a, b) => el("tr", {}, el("th", { scope: "row", class: "left" }, name), el("td", {}, `${t.more} : ${t.less}`), el("td", {}, B.pWords(t.images)),
    el("td", {}, B.pWords(t.seeds)), el("td", { class: "left" }, t.better ? el("b", {}, `${t.better === "a" ? a : b} is better`) : "no difference shown"));
  const pairs = (lines) => el("table", {}, el("thead", {}, el("tr", {}, ["score", "better on images", "p, images", "p, seeds", "verdict"].map((w, k) =>
    el("th", { scope: "col", class: k === 0 || k === 4 ? "left" : "" }, w)))), el("tbody", {}, lines));

  /** What pre-training took, and when and by what a row was made; what its results do not say is said so. */
  function facts(row) {
    const { cost } = row, spent = Object.entries(cost.spent || {}).map(([part, value]) => `${part} ${B.seconds(value)}`).join(", ");
    const known = [["pre-training", cost.seconds !== undefined && B.seconds(cost.seconds) + (spent ? ` (${spent})` : "")], ["device", cost.device],
      ["operations, counted", cost.pflop !== undefined && B.flop(cost.pflop) + (cost.beside ? `, without ${cost.beside}` : "")], ["peak memory", cost.memory_gb !== undefined && `${cost.memory_gb.toFixed(2)} GB`],
      ["date", row.date], ["version", row.version && `unshaken ${row.version}`]];
    return el("section", {}, el("h3", {}, "Cost and origin"), el("dl", { class: "facts-grid" }, known.map(([name, value]) =>
      el("div", {}, el("dt", {}, name), value ? el("dd", {}, value) : el("dd", { class: "none" }, "not recorded")))));
  }

  function receipt(row, detail) {
    const found = [facts(row)];
    if (detail.commands) found.push(el("section", {}, el("h3", {}, "Make it again"), B.copyable(detail.commands.join("\n"), "commands that make the row again")));
    const checks = detail.runs.flatMap((run) => run.checks.map((c) => el("li", {}, el("b", {}, `${c.check} (${c.sure}): `), c.says)));
    found.push(el("section", {}, el("h3", {}, "Checks"), checks.length ? el("ul", {}, checks) : el("p", { class: "muted" }, "The doctor's checks found nothing, or were not part of this evaluation.")));
    found.push(el("section", {}, el("h3", {}, "Receipts"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Receipts" }, el("table", {}, el("thead", {}, el("tr", {}, ["file", "mode", "seeds", "weights", "device"].map((w) => el("th", { scope: "col", class: "left" }, w)))),
      el("tbody", {}, detail.runs.map((run) => el("tr", {}, el("td", { class: "left" }, el("a", { href: run.copy }, run.file.split("/").slice(-2).join("/"))), el("td", { class: "left" }, B.modeName(run.mode)),
        el("td", { class: "left" }, Object.values(run.seeds).join("/")), el("td", { class: "left" }, el("code", {}, run.weights.slice(0, 8)), run.beside.weights_url && /^https?:/.test(run.beside.weights_url) ? [" ", el("a", { href: run.beside.weights_url, rel: "noopener" }, "file")] : null),
        el("td", { class: "left" }, [run.world.gpu || (run.world.device === "cpu" ? "CPU" : run.world.device), run.world.torch && `torch ${run.world.torch}`].filter(Boolean).join(", "))))))),
      el("p", { class: "muted" }, el("code", {}, `unshaken verify ${detail.runs[0].file}`), " attacks a hundred of its images again.")));
    const kept = detail.runs.filter((run) => (run.files || []).length);
    found.push(el("section", {}, el("h3", {}, "Logs, curves and model cards"), kept.length ? el("ul", { class: "files" }, kept.map((run) => el("li", {}, el("b", {}, `${B.modeName(run.mode)}, seeds ${Object.values(run.seeds).join("/")}`),
      el("span", {}, run.files.map(([name, href]) => el("a", { href }, name)))))) : el("p", { class: "muted" }, "The folders of these runs were not given to the board.")));
    found.push(el("details", {}, el("summary", {}, "BibTeX"), B.copyable(detail.bibtex, "BibTeX")));
    found.push(el("details", {}, el("summary", {}, "Recipe"), B.copyable(JSON.stringify({ pretrain: detail.pretrain, finetune: detail.finetune, evaluation: detail.evaluation }, null, 1), "recipe")));
    return found;
  }

  Object.assign(B, { load, open, pairLine, pairs });
})(window.Board);
