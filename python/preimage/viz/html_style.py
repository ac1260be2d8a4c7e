"""Style sheet and script of HTML pages."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --ink: #20242c; --quiet: #5f6672; --line: #dedbd5; --box: #f1efeb; --mark: #0b7285;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --ink: #e9e7e2; --quiet: #a0a6b1; --line: #31353d; --box: #1e2127; --mark: #5cc3d4; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: break-word;
}
h1 {
  font-size: 2rem; font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -0.02em;
  margin: 0 0 0.75rem;
}
h2 { font-size: 1.1rem; margin: 2.5rem 0 0.6rem; }
h3 { font-size: 1.1rem; margin: 2.25rem 0 0.6rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
.lead { max-width: 44rem; font-size: 1.1rem; color: var(--quiet); margin: 0; }
.text { max-width: 44rem; margin: 0 0 0.75rem; }
dl {
  display: grid; grid-template-columns: fit-content(40%) minmax(0, 1fr); gap: 0.4rem 1.25rem; max-width: 44rem;
  margin: 1.5rem 0 0;
}
section dl { margin: 0 0 0.75rem; }
.short { grid-template-columns: repeat(2, max-content minmax(0, 1fr)); }
dt { font-weight: 600; }
dd { margin: 0; color: var(--quiet); overflow-wrap: anywhere; }
.row { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0.75rem; }
.window { overflow-x: auto; width: 94vw; max-width: 110rem; margin-left: calc(50% - min(47vw, 55rem)); }
.window figure { min-width: 75rem; }
.page { overflow-x: auto; }
.page figure { min-width: 48rem; }
.page img { width: auto; max-width: 100%; }
.narrow { max-width: 44rem; }
.page + .columns { margin-top: 0.75rem; }
.points { max-width: 44rem; margin: 1.25rem 0 0; padding-left: 1.2rem; }
section .points { margin: 0 0 0.75rem; }
.points li { margin-bottom: 0.4rem; }
.row.columns { grid-template-columns: none; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); }
.column { display: grid; grid-template-columns: minmax(0, 1fr); gap: inherit; align-content: start; }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--box); }
@media (prefers-color-scheme: dark) {
  .on-white { filter: invert(0.91) hue-rotate(180deg); }
}
figcaption, .note { font-size: 0.875rem; color: var(--quiet); margin-top: 0.35rem; overflow-wrap: anywhere; }
.note { margin-bottom: 0; }
.scroll { overflow-x: auto; margin-top: 2.5rem; }
section .scroll { margin: 0 0 1.25rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; font-size: 1.1rem; padding-bottom: 0.6rem; }
section caption { font-size: 1rem; padding-bottom: 0.3rem; }
th, td { text-align: right; padding: 0.4rem 0 0.4rem 1.75rem; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--quiet); font-weight: 500; font-size: 0.875rem; vertical-align: bottom; }
tbody th { font-weight: 500; }
a { color: var(--mark); }
code { font: 0.9em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre {
  background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: 0.8rem 1rem; margin: 0;
  overflow-x: auto; font: 0.9rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
pre code { font: inherit; overflow-wrap: normal; }
footer {
  margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--quiet); font-size: 0.875rem;
}

/* A page of several parts: each begins with a rule and a large heading. */
.part { margin-top: 3.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.part h2 { font-size: 1.6rem; line-height: 1.2; letter-spacing: -0.01em; margin: 0 0 0.6rem; overflow-wrap: anywhere; }
.contents {
  margin: 1.25rem 0 1.75rem; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 0.4rem 1.25rem;
}
.numbers { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 1rem; margin: 1.25rem 0; padding: 0; }
.numbers li { list-style: none; border-top: 2px solid var(--mark); padding-top: 0.5rem; }
.numbers strong { display: block; font-size: 1.75rem; line-height: 1.2; font-weight: 600; letter-spacing: -0.01em; }
.numbers span { font-size: 0.875rem; color: var(--quiet); }

/* An image fills the window while its <details> is open; this works without scripts. */
.enlarge > summary { display: block; list-style: none; cursor: zoom-in; border-radius: 4px; }
.enlarge > summary::-webkit-details-marker { display: none; }
summary:focus-visible, a:focus-visible, button:focus-visible, .slider input:focus-visible + .edge {
  outline: 3px solid var(--mark); outline-offset: 2px;
}
.enlarge[open] > summary, .slider.large {
  position: fixed; inset: 0; z-index: 9; display: grid; grid-template-rows: minmax(0, 1fr) auto; gap: 0.5rem;
  justify-items: center; padding: 1rem; background: var(--paper); cursor: zoom-out; border-radius: 0;
}
.enlarge[open] img { width: 100%; height: 100%; object-fit: contain; background: none; }
.enlarge > summary::after { content: none; }
.enlarge[open] > summary::after { content: attr(data-caption) " (click to close)"; color: var(--quiet); }

/* Photograph, features and reconstruction; the slider over photograph and reconstruction is added by the script. */
.comparison { margin: 0 0 1.75rem; min-width: 0; }
.pairs { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); column-gap: 2rem; }
.comparison > p { margin: 0 0 0.35rem; font-size: 0.9rem; color: var(--quiet); overflow-wrap: anywhere; }
.comparison strong { color: var(--ink); font-weight: 600; margin-right: 0.5rem; }
.comparison .images {
  display: grid; grid-template-columns: none; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 0.75rem;
}
.comparison.of-2 .images { max-width: 54rem; }
.frame { position: relative; }
.frame img + img { position: absolute; inset: 0; height: 100%; clip-path: inset(0 0 0 var(--cut, 50%)); }
.frame input {
  position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y;
}
.frame .edge { position: absolute; inset: 0; pointer-events: none; border-radius: 4px; }
.frame .edge::before {
  content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut, 50%); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 0 1px rgb(0 0 0 / 45%);
}
.frame .edge::after {
  content: "\\2194"; position: absolute; top: 50%; left: var(--cut, 50%); width: 2rem; height: 2rem;
  margin: -1rem 0 0 -1rem; border-radius: 50%; background: #fff; color: #20242c; text-align: center;
  font: 1.2rem/2rem sans-serif; box-shadow: 0 0 0 1px rgb(0 0 0 / 35%), 0 1px 4px rgb(0 0 0 / 35%);
}
.slider figcaption { display: flex; justify-content: space-between; gap: 0.5rem; white-space: nowrap; }
.slider button {
  font: inherit; color: var(--mark); background: none; border: 0; padding: 0; cursor: pointer;
  text-decoration: underline;
}
.slider.large { cursor: default; }
.slider.large .frame { align-self: center; width: min(100%, (100vh - 5rem) * var(--shape)); }
.slider.large figcaption { gap: 2rem; }
details.more { margin: 0 0 0.75rem; border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 1rem; }
details.more > summary { cursor: pointer; font-weight: 500; }
.prose { max-width: 48rem; font-size: 0.95rem; }
.prose p, .prose ul, .prose pre { margin: 0 0 0.75rem; }
.prose .scroll { margin-bottom: 0.75rem; }
.prose table { font-size: 0.9rem; width: 100%; }
.prose td, .prose th { text-align: left; vertical-align: top; white-space: normal; }
.prose td { padding-left: 1rem; min-width: 6rem; }
.prose td:first-child { padding-left: 0; }

@media (max-width: 34rem) {
  .row { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.5rem; }
  /* Of three, the outer two stay side by side for comparison; the drawing between them moves below. */
  .row > figure:nth-child(2):nth-last-child(2) { grid-column: 1 / -1; order: 1; }
  .row.columns { grid-auto-flow: row; grid-template-columns: minmax(0, 1fr); }
  .column { grid-template-columns: none; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); }
  .comparison .images { grid-auto-flow: row; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.5rem; }
  .pairs { grid-template-columns: minmax(0, 1fr); }
  .comparison .after { order: -1; }
  .comparison .before { order: -2; }
  .comparison.of-2 .slider { grid-column: 1 / -1; }
  .numbers { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .numbers strong { font-size: 1.5rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: 0.6rem; }
  .short { grid-template-columns: max-content minmax(0, 1fr); gap: 0.2rem 1rem; }
  .short dd { margin: 0; }
  table { font-size: 0.9rem; }
  th, td { padding-left: 0.8rem; }
}
@media print {
  :root { --paper: #fff; --ink: #000; --quiet: #444; --line: #ccc; --box: #f4f4f4; --mark: #0b7285; }
  html { font-size: 10pt; }
  body { max-width: none; padding: 0; }
  .slider, .contents { display: none; }
  .window { width: auto; margin-left: 0; overflow: visible; }
  .page, .scroll { overflow: visible; }
  .window figure, .page figure { min-width: 0; }
  .part { break-before: page; border-top: 0; margin-top: 0; padding-top: 0; }
  h2, h3, h4, .text, .comparison > p { break-after: avoid; }
  figure, .comparison, tr, .numbers { break-inside: avoid; }
  .comparison .images { max-width: 40rem; }
  .page img { max-width: 36rem; }
  th, td { padding-left: 1rem; }
  pre { white-space: pre-wrap; }
}
""".strip()

SCRIPT = """
for (const box of document.querySelectorAll(".comparison[data-slider]")) {
  const before = box.querySelector(".before img"), after = box.querySelector(".after img");
  const slider = document.createElement("figure"), frame = document.createElement("div");
  const range = document.createElement("input"), edge = document.createElement("span");
  const caption = document.createElement("figcaption"), label = document.createElement("span");
  const button = document.createElement("button");
  const copies = [before, after].map((image) => Object.assign(image.cloneNode(), { alt: "" }));
  slider.className = "slider";
  slider.style.setProperty("--shape", before.getAttribute("width") / before.getAttribute("height"));
  frame.className = "frame";
  edge.className = "edge";
  Object.assign(range, { type: "range", min: 0, max: 100, step: 1, value: 50 });
  range.setAttribute("aria-label", box.dataset.slider);
  label.textContent = "Compare";
  button.type = "button";
  const show = () => frame.style.setProperty("--cut", range.value + "%");
  const enlarge = (large) => {
    slider.classList.toggle("large", large);
    button.textContent = large ? "close" : "enlarge";
  };
  range.addEventListener("input", show);
  button.addEventListener("click", () => enlarge(!slider.classList.contains("large")));
  slider.addEventListener("keydown", (event) => { if (event.key === "Escape") enlarge(false); });
  show();
  enlarge(false);
  frame.append(...copies, range, edge);
  caption.append(label, button);
  slider.append(frame, caption);
  box.querySelector(".images").append(slider);
}
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const open of document.querySelectorAll(".enlarge[open]")) open.open = false;
});
addEventListener("beforeprint", () => {
  for (const more of document.querySelectorAll("details.more")) more.open = true;
});
""".strip()
