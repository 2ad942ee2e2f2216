// A result of the visitor's own: read, checked and compared in the browser; nothing is sent anywhere.
"use strict";
(function (B) {
  const { el } = B;
  const SCORES = { SA: "standard", RA: "robust", AA: "autoattack" };

  async function take(files) {
    const out = document.getElementById("dropped");
    out.replaceChildren();
    for (const file of files) {
      try {
        const text = await file.text(), { result } = B.read(text);
        refuseKnown(result);
        out.append(await shown(file.name, result));
      } catch (error) {
        out.append(el("div", { class: "finding bad", role: "alert" }, el("p", {}, el("b", {}, `${file.name} is refused. `), error.message)));
      }
    }
    out.scrollIntoView({ block: "nearest" });
  }

  /** The digest of a network belongs to one run: under other seeds or another name it is not what it says. */
  function refuseKnown(result) {
    const known = B.data.known[result.weights];
    if (!known) return;
    const [method, mode, seeds] = known, mine = [result.seeds.pretrain, result.seeds.finetune].join("/");
    if (method !== result.method || mode !== result.mode || seeds.split("/").slice(0, 2).join("/") !== mine) {
      throw new Error(`its weights (${result.weights.slice(0, 8)}) are on the board as ${method} (${mode}) with seeds ${seeds}`);
    }
  }

  async function shown(name, result) {
    const percent = (key) => (result[key] ? `${result[key].percent.toFixed(2)} % (${result[key].correct} of ${result[key].n})` : null);
    const facts = ["counts are those of the bits", "seeds are those of the recipes", "notes" in result ? "the digest of its evaluation fits" : null,
      "the checksum fits", B.data.known[result.weights] ? "this network is on the board already" : null];
    const scores = ["SA", "RA", "AA"].map((m) => percent(SCORES[m]) && `${m} ${percent(SCORES[m])}`).filter(Boolean).join(", ");
    const part = el("div", { class: "finding" }, el("h3", {}, `${name}: ${result.method}, ${B.modeName(result.mode)}`),
      el("p", {}, `${scores}; ${result.data.name}, ${result.data.n} images, ε ${Number(result.evaluation.attack.ball.eps.toPrecision(4))}`),
      el("ul", { class: "facts" }, facts.filter(Boolean).map((fact) => el("li", {}, fact))));
    const rows = B.data.rows.filter((row) => row.kind === "measured" && row.digest === result.data.digest && row.cells[result.mode] &&
      Math.abs(B.taskOf(row).epsilon - result.evaluation.attack.ball.eps) < 1e-9);
    if (!rows.length) {
      part.append(el("p", { class: "muted" }, "No row of the board was judged on these images under this attack, so there is nothing to test it against."));
      return part;
    }
    part.append(await tests(result, rows));
    B.addMine(result, rows[0].task);
    return part;
  }

  async function tests(result, rows) {
    const select = el("select", { "aria-label": "Score to compare by" }, ["AA", "RA", "SA"].filter((m) => result[SCORES[m]]).map((m) => el("option", {}, m))), out = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Paired tests" });
    if (result.robust) select.value = "RA";
    const bits = Object.assign({}, ...await Promise.all([...new Set(rows.map((r) => r.task))].map((task) => B.load("bits", task))));
    const show = () => {
      const metric = select.value, mine = B.verdicts([result[SCORES[metric]]]), lines = [];
      const alike = rows.filter((row) => bits[row.id][result.mode] && bits[row.id][result.mode][metric]);
      alike.sort((a, b) => B.cellOf(b, result.mode, metric).mean - B.cellOf(a, result.mode, metric).mean);
      for (const row of alike) {
        const theirs = B.verdicts(bits[row.id][result.mode][metric]);
        if (theirs.n === mine.n) lines.push(B.pairLine(`${B.nameOf(row)} (${B.cellOf(row, result.mode, metric).mean.toFixed(2)})`, B.pair(mine, theirs), "yours", row.method));
      }
      out.replaceChildren(B.pairs(lines));
    };
    select.addEventListener("change", show);
    show();
    return el("div", {}, el("label", { class: "muted" }, "Paired tests by ", select), out);
  }

  function listen() {
    const input = document.getElementById("file");
    input.addEventListener("change", () => { take(Array.from(input.files)); input.value = ""; });
    let depth = 0;
    const holds = (event) => event.dataTransfer && Array.from(event.dataTransfer.types).includes("Files");
    addEventListener("dragenter", (event) => { if (holds(event)) { depth++; document.body.classList.add("dragging"); } });
    addEventListener("dragleave", (event) => { if (holds(event) && --depth <= 0) { depth = 0; document.body.classList.remove("dragging"); } });
    addEventListener("dragover", (event) => { if (holds(event)) event.preventDefault(); });
    addEventListener("drop", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      depth = 0;
      document.body.classList.remove("dragging");
      take(Array.from(event.dataTransfer.files));
    });
  }

  Object.assign(B, { take, listen });
})(window.Board);
