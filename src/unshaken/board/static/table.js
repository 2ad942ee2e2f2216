// The table: which rows are shown, in which order, and their elements, made as they are scrolled to.
"use strict";
(function (B) {
  const { el } = B, FIRST = 60, CHUNK = 120, METRICS = ["AA", "RA", "CA", "SA"];

  /** The rows of a task that the filters leave. */
  function shown(rows, state) {
    const needle = state.q.trim().toLowerCase();
    return rows.filter((row) => {
      if (row.task !== state.task) return false;
      if (row.kind === "mine") return true;
      if (!state.measured && row.kind === "measured" || !state.reported && row.kind === "reported") return false;
      if (state.labels && row.labels !== state.labels) return false;
      if (state.extra && (state.extra === "yes") !== Boolean(row.extra)) return false;
      if (state.cost !== "" && !(row.cost.seconds <= 60 * Number(state.cost))) return false;
      if (state.mode !== "all" && !row.cells[state.mode]) return false;
      return !needle || haystack(row).includes(needle);
    });
  }

  function haystack(row) {
    if (!row.hay) {
      const source = row.source ? B.data.sources[row.source].title : "";
      row.hay = [row.method, row.detail, row.folder, row.venue, row.extra, row.by, source].join(" ").toLowerCase();
    }
    return row.hay;
  }

  const cellOf = (row, mode, metric) => (row.cells[mode] || {})[metric];
  const rankOf = (row, mode, metric) => ((row.ranks || {})[mode] || {})[metric];

  /** What a column sorts by; undefined comes last whichever way. */
  function value(row, column) {
    if (column === "method") return `${row.method} ${row.detail}`.toLowerCase();
    if (column === "cost") return row.cost.seconds;
    if (column === "date") return row.date || undefined;
    if (column === "labels") return row.labels;
    const [mode, metric] = column.split(".");
    const cell = cellOf(row, mode, metric);
    return cell && cell.mean;
  }

  /** Measured rows before reported ones, unless both are to stand in one order; by rank first where there is one. */
  function sorted(rows, state) {
    const [mode, metric] = state.sort.split("."), down = state.order === "down" ? -1 : 1;
    const block = (row) => (state.together ? 0 : row.kind === "reported" ? 1 : 0);
    const keyed = rows.map((row) => ({ row, block: block(row), v: value(row, state.sort),
      rank: metric && !state.together ? rankOf(row, mode, metric) : undefined }));
    const text = new Intl.Collator("en", { numeric: true });
    keyed.sort((a, b) => {
      if (a.block !== b.block) return a.block - b.block;
      if ((a.v === undefined) !== (b.v === undefined)) return a.v === undefined ? 1 : -1;
      if (a.rank !== b.rank && a.rank !== undefined && b.rank !== undefined) return down * (b.rank - a.rank);
      if (a.v === undefined || a.v === b.v) return text.compare(a.row.method + a.row.detail, b.row.method + b.row.detail);
      return down * (typeof a.v === "string" ? text.compare(a.v, b.v) : a.v - b.v);
    });
    return keyed.map((each) => each.row);
  }

  /** The columns for a task and a mode: those in which some row has something. */
  function columns(rows, state, task) {
    const modes = state.mode === "all" ? task.modes : [state.mode];
    const has = (mode, metric) => rows.some((row) => cellOf(row, mode, metric));
    const groups = modes.map((mode) => ({ mode, metrics: METRICS.filter((metric) => has(mode, metric)) }))
      .filter((group) => group.metrics.length);
    return { groups, single: state.mode !== "all", cost: rows.some((row) => row.cost.seconds !== undefined),
      date: rows.some((row) => row.date), labels: new Set(rows.map((row) => row.labels)).size > 1 || rows.length > 0 };
  }

  function head(shape, state, choose) {
    const button = (column, words, title, kind) => {
      const mine = state.sort === column;
      const aria = mine ? (state.order === "down" ? "descending" : "ascending") : false;
      return el("th", { scope: "col", class: kind, "aria-sort": aria },
        el("button", { type: "button", title, "data-sort": column, onclick: () => choose(column) }, words));
    };
    const narrow = (k) => (shape.single || k === 0 ? "" : "narrow-off");
    const heads = el("tr", { class: "heads" }, el("th", { scope: "col", class: "rank" }, el("span", { class: "sr" }, "Rank")),
      button("method", "Method", "Sort by name", "name left"));
    const top = el("tr", { class: "groups" }, el("td", { class: "rank" }), el("td", { class: "name" }));
    shape.groups.forEach((group, k) => {
      top.append(el("th", { scope: "colgroup", colspan: group.metrics.length + (shape.single ? 1 : 0),
        class: `first-of-group ${narrow(k)}`, title: B.MODE_WORDS[group.mode] }, B.modeName(group.mode)));
      group.metrics.forEach((metric, m) => heads.append(button(`${group.mode}.${metric}`, metric,
        B.METRIC_WORDS[metric], `${m ? "" : "first-of-group"} ${onPhone(shape, state, k, metric) ? "" : "narrow-off"}`)));
      if (shape.single) heads.append(el("th", { scope: "col", class: "narrow-off" }, el("span", { class: "plain" }, "95 % interval")));
    });
    const last = [["labels", "Labels", "Labels used before fine-tuning"], shape.cost && ["cost", "Cost", "Pre-training"],
      shape.date && ["date", "Date", "When it was made"]].filter(Boolean);
    top.append(el("td", { colspan: last.length, class: "narrow-off" }));
    last.forEach(([column, words, title], k) => heads.append(button(column, words, title,
      `narrow-off ${k ? "" : "first-of-group"} ${column === "labels" ? "left" : ""}`)));
    return el("thead", {}, top, heads);
  }

  /** A small screen has room for two numbers: the one that is sorted by, and clean accuracy. */
  const onPhone = (shape, state, k, metric) => (shape.single || k === 0) && (metric === "SA" || metric === state.main);

  function tableRow(row, shape, state, scale, best) {
    const [mode, metric] = state.sort.split("."), rank = metric && rankOf(row, mode, metric);
    const label = row.kind === "reported" ? el("span", { class: "tag warm", title: "Not measured here" }, "rep.") :
      row.kind === "mine" ? el("span", { class: "tag mine" }, "yours") :
        rank ? el("span", { class: `place ${rank === 1 ? "top-rank" : ""}` }, String(rank)) : el("span", { class: "none" }, "–");
    const under = row.kind === "reported" ? [row.detail, B.data.sources[row.source].title].filter(Boolean).join(" · ") :
      [row.detail, seedWords(row)].filter(Boolean).join(" · ");
    const warn = row.corrections && row.corrections.length ? el("abbr", { title: "There is a correction." }, " ⚑") : null;
    const line = el("tr", { class: `row ${row.kind}`, "data-id": row.id }, el("td", { class: "rank" }, label),
      el("th", { scope: "row", class: "name" }, el("a", { href: `#${B.permalink({ row: row.id })}` }, row.method), warn,
        el("small", { title: row.folder }, under)));
    shape.groups.forEach((group, k) => {
      group.metrics.forEach((each, m) => {
        const column = `${group.mode}.${each}`, cell = cellOf(row, group.mode, each);
        const kinds = [onPhone(shape, state, k, each) ? "" : "narrow-off", m ? "" : "first-of-group", column === state.sort ? "sorted" : "",
          cell && cell.mean !== undefined && cell.mean === best[column] && row.kind !== "reported" ? "best" : ""];
        line.append(B.number(cell, B.data.sources, kinds.join(" ")));
      });
      if (shape.single) line.append(B.whisker(cellOf(row, group.mode, state.main), row.kind, scale));
    });
    line.append(el("td", { class: "small left narrow-off first-of-group" }, tags(row)));
    if (shape.cost) line.append(costCell(row));
    if (shape.date) line.append(el("td", { class: "small narrow-off" }, row.date || "–"));
    return line;
  }

  function seedWords(row) {
    if (!row.seeds || !row.seeds.length) return "";
    return row.seeds.length === 1 ? "1 seed" : `${row.seeds.length} seeds`;
  }

  function tags(row) {
    const found = [];
    if (row.labels === "in pre-training") found.push(el("span", { class: "tag warm" }, "labels"));
    if (row.extra) found.push(el("span", { class: "tag warm", title: row.extra }, "extra data"));
    if (row.checks) found.push(el("span", { class: "tag bad", title: "The doctor had doubts" }, "doubts"));
    return found.length ? el("span", { class: "tags" }, found) : row.labels === "unknown" ? "unknown" : "none";
  }

  function costCell(row) {
    const { seconds, device } = row.cost;
    if (seconds === undefined) return el("td", { class: "small narrow-off" }, "–");
    const more = [row.cost.pflop !== undefined ? B.flop(row.cost.pflop) : "",
      row.cost.memory_gb !== undefined ? `${row.cost.memory_gb} GB` : ""].filter(Boolean).join(", ");
    return el("td", { class: "small narrow-off", title: more }, B.seconds(seconds),
      device ? el("span", { class: "sd" }, device) : null, more ? el("span", { class: "sd" }, more) : null);
  }

  /** Fill the table: a first part at once, the rest as it is scrolled to. Returns a function that makes all rows. */
  function fill(table, rows, shape, state, choose) {
    const measured = rows.filter((row) => row.kind !== "reported"), best = {};
    for (const group of shape.groups) {
      for (const metric of group.metrics) {
        const values = measured.map((row) => (cellOf(row, group.mode, metric) || {}).mean).filter((v) => v !== undefined);
        if (values.length > 1) best[`${group.mode}.${metric}`] = Math.max(...values);
      }
    }
    const scale = scaleOf(rows, state), body = el("tbody"), more = document.getElementById("more");
    let at = 0, banded = state.together || !measured.length && !rows.length;
    function add(count) {
      const part = document.createDocumentFragment();
      for (const row of rows.slice(at, at + count)) {
        if (!banded && row.kind === "reported") { part.append(band(rows, measured, state)); banded = true; }
        part.append(tableRow(row, shape, state, scale, best));
      }
      at += count;
      body.append(part);
      more.textContent = at < rows.length ? `${at} of ${rows.length} rows; scroll for more` : "";
    }
    if (state.together && measured.length) body.append(band(rows, measured, state));
    add(FIRST);
    table.replaceChildren(table.querySelector("caption"), head(shape, state, choose), body);
    if (B.watch) B.watch.disconnect();
    B.watch = new IntersectionObserver((seen) => { if (seen.some((s) => s.isIntersecting) && at < rows.length) add(CHUNK); },
      { rootMargin: "600px" });
    B.watch.observe(more);
    return () => { while (at < rows.length) add(CHUNK); };
  }

  function scaleOf(rows, state) {
    const cells = rows.map((row) => cellOf(row, state.mode, state.main)).filter((cell) => cell && cell.mean !== undefined);
    const high = Math.max(...cells.map((c) => (c.high === undefined ? c.mean : c.high)));
    const means = cells.map((c) => c.mean).sort((a, b) => a - b), middle = means[means.length >> 1];
    // rows far below the others end at the edge of the scale: the scale is for those that are close
    const low = Math.max(Math.min(...cells.map((c) => (c.low === undefined ? c.mean : c.low))), middle - 3 * (high - middle));
    const room = (high - low) * 0.04 || 1;
    return [low - room, high + room];
  }

  /** The line that keeps reported rows apart, or says that they are mixed in. */
  function band(rows, measured, state) {
    let words = "Reported elsewhere: numbers of papers and of another leaderboard. They were not measured here, and have no rank.";
    if (state.together) {
      const [mode, metric] = state.sort.split(".");
      const values = measured.map((row) => (cellOf(row, mode, metric) || {}).mean).filter((v) => v !== undefined);
      const top = Math.max(...values);
      const above = rows.filter((r) => r.kind === "reported" && (cellOf(r, mode, metric) || {}).mean > top).length;
      words = `Measured and reported rows in one order, without ranks: reported numbers come from other code and tests.` +
        (above ? ` ${above} of them stand above the best measured row by number alone.` : "");
    }
    return el("tr", { class: "band" }, el("th", { scope: "rowgroup", colspan: 40 }, el("span", {}, words)));
  }

  Object.assign(B, { shown, sorted, columns, fill, cellOf, rankOf, METRICS });
})(window.Board);
