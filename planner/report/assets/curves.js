"use strict";

// The step time over multiples of each resource, as lines. Drawn anew for each width, so that text keeps its size.

const CURVES = { height: 280, left: 52, right: 12, top: 30, bottom: 40, narrow: 560 };
const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes, words) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  if (words !== undefined) {
    made.textContent = words;
  }
  return made;
}

function percentText(fraction) {
  const words = `${fraction > 0 ? "+" : ""}${(fraction * 100).toFixed(0)} %`;
  return words.replace("-", "−");
}

class Curves {
  constructor(root, { step_time_s: own, resources }) {
    this.root = root;
    this.curves = resources
      .filter((one) => one.points.some((point) => Math.abs(point.step_time_s / own - 1) > 5e-5))
      .map((one, index) => ({
        words: one.words,
        color: `curve-${index}`,
        points: [...one.points.map((point) => [point.factor, point.step_time_s / own - 1]), [1, 0]].sort((a, b) => a[0] - b[0]),
      }));
    new ResizeObserver(() => this.draw()).observe(root);
    this.draw();
  }

  draw(width = this.root.clientWidth) {
    if (!width || !this.curves.length) {
      return;
    }
    const all = this.curves.flatMap((curve) => curve.points.map((point) => point[1]));
    const step = niceStep(Math.max(...all) - Math.min(...all), 6);
    const [low, high] = [Math.floor(Math.min(...all) / step) * step, Math.ceil(Math.max(...all) / step) * step];
    const toX = (factor) => CURVES.left + (Math.log2(factor) + 1) * ((width - CURVES.left - CURVES.right) / 2);
    const toY = (change) => CURVES.top + ((high - change) / (high - low)) * (CURVES.height - CURVES.top - CURVES.bottom);
    const svg = shape("svg", { width, height: CURVES.height, viewBox: `0 0 ${width} ${CURVES.height}`, "aria-hidden": "true" });
    this.axes(svg, { toX, toY, low, high, step, width });
    for (const curve of this.curves) {
      svg.append(this.line(curve, toX, toY));
    }
    const names = this.curves.map((curve) => {
      const entry = document.createElement("li");
      const sample = Object.assign(document.createElement("i"), { className: "swatch" });
      sample.style.background = `var(--${curve.color})`;
      entry.append(sample, curve.words);
      return entry;
    });
    const legend = Object.assign(document.createElement("ul"), { className: "legend" });
    legend.append(...names);
    this.root.replaceChildren(svg, legend);
  }

  axes(svg, { toX, toY, low, high, step, width }) {
    for (let change = low; change <= high + step / 2; change += step) {
      const y = toY(change);
      const zero = Math.abs(change) < step / 2;
      svg.append(
        shape("line", { x1: CURVES.left, x2: width - CURVES.right, y1: y, y2: y, class: zero ? "zero" : "grid" }),
        shape("text", { x: CURVES.left - 6, y: y + 4, "text-anchor": "end" }, zero ? "0 %" : percentText(change)),
      );
    }
    const bottom = CURVES.height - CURVES.bottom;
    for (const factor of width < CURVES.narrow ? [0.5, 1, 2] : [0.5, 0.75, 1, 1.25, 1.5, 2]) {
      const words = factor === 1 ? "as it is" : percentText(factor - 1);
      const anchor = factor === 0.5 ? "start" : factor === 2 ? "end" : "middle";
      svg.append(shape("text", { x: toX(factor), y: bottom + 16, "text-anchor": anchor }, words));
    }
    svg.append(shape("text", { x: 0, y: 12 }, "change of the step time"));
    const middle = (CURVES.left + width - CURVES.right) / 2;
    svg.append(shape("text", { x: middle, y: bottom + 34, "text-anchor": "middle" }, "amount of the resource"));
  }

  line(curve, toX, toY) {
    const group = shape("g", { style: `color:var(--${curve.color})`, class: "curve" });
    const path = curve.points.map(([factor, change], index) => `${index ? "L" : "M"}${toX(factor)} ${toY(change)}`).join("");
    group.append(shape("path", { d: path }));
    for (const [factor, change] of curve.points) {
      const dot = shape("circle", { cx: toX(factor), cy: toY(change), r: 3.2 });
      dot.append(shape("title", {}, `${curve.words} ${percentText(factor - 1)}: step ${(change * 100).toFixed(1)} %`));
      group.append(dot);
    }
    return group;
  }
}
