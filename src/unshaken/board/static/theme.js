// Light or dark: the system's choice until a person makes one, which is then remembered.
"use strict";
(function () {
  const root = document.documentElement, button = document.getElementById("theme");
  button.addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const next = (root.dataset.theme || system) === "dark" ? "light" : "dark";
    root.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch { /* a browser may refuse to remember */ }
  });
})();
