"use strict";

// Draws the charts, lets the reader choose a kind of layer and save the plan, and makes the page fit for paper.

const report = JSON.parse(document.getElementById("report-data").textContent);
const timeCharts = [...document.querySelectorAll(".time-chart")].map(
  (root) => new TimeChart(root, report.charts[root.dataset.chart]),
);
const curves = new Curves(document.querySelector('[data-chart="sensitivity"]'), report.sensitivity);

document.getElementById("layer-choice")?.addEventListener("change", (event) => {
  for (const block of document.querySelectorAll("[data-layer]")) {
    block.hidden = block.dataset.layer !== event.target.value;
  }
});

document.getElementById("save-plan").addEventListener("click", () => {
  const blob = new Blob([`${JSON.stringify(report.plan, null, 2)}\n`], { type: "application/json" });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "plan.json" });
  link.click();
  URL.revokeObjectURL(link.href);
});

function drawAll(scale, width) {
  for (const chart of timeCharts) {
    chart.draw(scale, width);
  }
  curves.draw(width);
}

// Paper is white, sharper than a screen, and as wide as this many pixels.
const PAPER = { scale: 3, width: 690 };
const closed = [];
window.addEventListener("beforeprint", () => {
  document.documentElement.dataset.paper = "";
  closed.push(...document.querySelectorAll("details:not([open])"));
  closed.forEach((details) => details.setAttribute("open", ""));
  drawAll(PAPER.scale, PAPER.width);
});
window.addEventListener("afterprint", () => {
  delete document.documentElement.dataset.paper;
  closed.splice(0).forEach((details) => details.removeAttribute("open"));
  drawAll();
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
document.documentElement.dataset.ready = "";
