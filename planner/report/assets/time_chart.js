"use strict";

// A chart of rows over time that can be zoomed and moved: by mouse, by touch, by keyboard and by its buttons.
// What is shown stands in the attributes data-from and data-to of its element, in seconds.

const LAYOUT = { row: 26, thin: 9, gap: 6, group: 24, axis: 24, top: 4, label: 11, leastLabel: 13 };
const ZOOM_STEP = 1.6;
const LEAST_SPAN = 1e-4; // of the whole
const MOVE_STEP = 0.15;

function paletteColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Seconds as text: in s, ms or µs by the size of `scale`, with the digits that `step` needs.
function timeText(seconds, scale, step) {
  const [unit, factor] = scale >= 2 ? ["s", 1] : scale >= 2e-3 ? ["ms", 1e3] : ["µs", 1e6];
  const digits = Math.min(6, Math.max(0, Math.ceil(-Math.log10(step * factor) - 1e-9)));
  return `${(seconds * factor).toFixed(digits)} ${unit}`;
}

// A step of 1, 2 or 5 times a power of ten, so that `span` has at most `most` of it.
function niceStep(span, most) {
  const raw = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= raw * (1 - 1e-9));
}

// Black or white, whichever can be read on a colour.
function inkOn(color) {
  const [red, green, blue] = color.match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16) / 255);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 ? "#16181d" : "#ffffff";
}

class TimeChart {
  constructor(root, chart) {
    this.root = root;
    this.chart = chart;
    this.canvas = root.querySelector("canvas");
    this.tooltip = document.createElement("div");
    this.tooltip.className = "tooltip";
    this.tooltip.hidden = true;
    root.querySelector(".plot").append(this.tooltip);
    this.from = 0;
    this.to = chart.end_s;
    this.pointers = new Map();
    this.placeRows();
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
    this.draw();
  }

  placeRows() {
    let y = LAYOUT.top;
    let group = "";
    this.rows = this.chart.rows.map((row) => {
      let title = null;
      if (row.group && row.group !== group) {
        y += group ? 8 : 0;
        title = { text: row.group, y };
        y += LAYOUT.group;
        group = row.group;
      }
      const height = row.thin ? LAYOUT.thin : LAYOUT.row;
      const placed = { ...row, y, height, title };
      y += height + (row.thin ? LAYOUT.gap : 2);
      return placed;
    });
    this.height = y + LAYOUT.axis;
  }

  // What is seen.

  view(from, to) {
    const whole = this.chart.end_s;
    const span = Math.min(whole, Math.max(whole * LEAST_SPAN, to - from));
    this.from = Math.min(Math.max(0, from), whole - span);
    this.to = this.from + span;
    this.tooltip.hidden = true;
    if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }
  }

  zoom(factor, at = (this.from + this.to) / 2) {
    this.view(at - (at - this.from) / factor, at + (this.to - at) / factor);
  }

  move(fraction) {
    const by = fraction * (this.to - this.from);
    this.view(this.from + by, this.to + by);
  }

  reset() {
    this.view(0, this.chart.end_s);
  }

  timeAt(x) {
    return this.from + ((x - this.left) / (this.width - this.left)) * (this.to - this.from);
  }

  xOf(time) {
    return this.left + ((time - this.from) / (this.to - this.from)) * (this.width - this.left);
  }

  // What is drawn.

  draw(scale = window.devicePixelRatio || 1, width = this.canvas.parentElement.clientWidth) {
    const { canvas } = this;
    this.width = width;
    if (!this.width) {
      return;
    }
    canvas.width = Math.round(this.width * scale);
    canvas.height = Math.round(this.height * scale);
    canvas.style.aspectRatio = `${this.width} / ${this.height}`;
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.textBaseline = "middle";
    this.font = getComputedStyle(this.root).fontFamily;
    this.labelFont = `12px ${this.font}`;
    context.font = this.labelFont;
    const widest = Math.max(...this.rows.map((row) => (row.thin ? 0 : context.measureText(row.label).width)));
    this.left = Math.ceil(widest) + 10;
    this.colors = {};
    this.drawAxis(context);
    for (const row of this.rows) {
      this.drawRow(context, row);
    }
    this.tellView();
  }

  drawAxis(context) {
    const span = this.to - this.from;
    const step = niceStep(span, (this.width - this.left) / 84);
    const bottom = this.height - LAYOUT.axis;
    context.fillStyle = paletteColor("quiet");
    context.strokeStyle = paletteColor("grid");
    context.lineWidth = 1;
    for (let tick = Math.ceil(this.from / step - 1e-9); tick * step <= this.to * (1 + 1e-12); tick += 1) {
      const x = Math.round(this.xOf(tick * step)) + 0.5;
      context.beginPath();
      context.moveTo(x, LAYOUT.top);
      context.lineTo(x, bottom + 4);
      context.stroke();
      const words = timeText(tick * step, this.to, step);
      const half = context.measureText(words).width / 2;
      context.fillText(words, Math.min(Math.max(x - half, this.left), this.width - 2 * half), bottom + 14);
    }
  }

  drawRow(context, row) {
    context.font = this.labelFont;
    if (row.title) {
      context.fillStyle = paletteColor("ink");
      context.font = `600 12px ${this.font}`;
      context.fillText(row.title.text, 0, row.title.y + LAYOUT.group / 2);
      context.font = this.labelFont;
    }
    if (!row.thin) {
      context.fillStyle = paletteColor("quiet");
      context.fillText(row.label, 0, row.y + row.height / 2);
    }
    context.fillStyle = paletteColor("track");
    context.fillRect(this.left, row.y, this.width - this.left, row.height);
    context.save();
    context.beginPath();
    context.rect(this.left, row.y, this.width - this.left, row.height);
    context.clip();
    context.font = `${LAYOUT.label}px ${this.font}`;
    let drawnTo = -Infinity;
    for (let index = this.firstShown(row.slices); index < row.slices.length; index += 1) {
      const slice = row.slices[index];
      if (slice[0] >= this.to) {
        break;
      }
      const x = this.xOf(slice[0]);
      const end = this.xOf(slice[1]);
      if (end > drawnTo + 0.2) {
        this.drawSlice(context, row, slice, x, end);
        drawnTo = end;
      }
    }
    context.restore();
  }

  // Slices of a row are in order and do not overlap: the first one that ends inside the view.
  firstShown(slices) {
    let low = 0;
    let high = slices.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (slices[middle][1] <= this.from) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  drawSlice(context, row, [, , name, label, , opacity], x, end) {
    const color = (this.colors[name] ??= paletteColor(name));
    const wide = end - x;
    const gap = wide > 3 ? 0.75 : 0;
    context.globalAlpha = opacity;
    context.fillStyle = color;
    context.fillRect(x + gap / 2, row.y, Math.max(0.6, wide - gap), row.height);
    context.globalAlpha = 1;
    if (!label || row.thin || wide < LAYOUT.leastLabel) {
      return;
    }
    const from = Math.max(x, this.left);
    const room = Math.min(end, this.width) - from - 4;
    const words = this.fitting(context, label, room);
    if (words) {
      context.fillStyle = opacity < 0.75 && paletteColor("scheme") === "light" ? "#16181d" : inkOn(color);
      context.fillText(words, from + 2 + Math.max(0, (room - context.measureText(words).width) / 2), row.y + row.height / 2 + 0.5);
    }
  }

  // A label as it fits: whole, or cut with an ellipsis where at least some letters are left.
  fitting(context, label, room) {
    if (context.measureText(label).width <= room) {
      return label;
    }
    for (let length = label.length - 1; length >= 4; length -= 1) {
      const cut = `${label.slice(0, length)}…`;
      if (context.measureText(cut).width <= room) {
        return cut;
      }
    }
    return "";
  }

  tellView() {
    const whole = this.chart.end_s;
    const span = this.to - this.from;
    this.root.dataset.from = this.from;
    this.root.dataset.to = this.to;
    const step = niceStep(span, 200);
    this.root.querySelector(".shown").textContent =
      span >= whole * (1 - 1e-9)
        ? `all of ${timeText(whole, whole, whole / 1000)}`
        : `${timeText(this.from, this.to, step)} to ${timeText(this.to, this.to, step)} of ${timeText(whole, whole, whole / 1000)}`;
    const bar = this.root.querySelector(".range span");
    bar.style.left = `${(100 * this.from) / whole}%`;
    bar.style.width = `${(100 * span) / whole}%`;
    this.root.querySelector('[data-zoom="out"]').disabled = span >= whole * (1 - 1e-9);
    this.root.querySelector('[data-zoom="reset"]').disabled = span >= whole * (1 - 1e-9);
  }

  // What the reader does.

  listen() {
    const actions = { in: () => this.zoom(ZOOM_STEP), out: () => this.zoom(1 / ZOOM_STEP), reset: () => this.reset() };
    for (const button of this.root.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", actions[button.dataset.zoom]);
    }
    const keys = {
      "+": actions.in,
      "=": actions.in,
      "-": actions.out,
      0: actions.reset,
      ArrowLeft: () => this.move(-MOVE_STEP),
      ArrowRight: () => this.move(MOVE_STEP),
    };
    this.root.addEventListener("keydown", (event) => {
      if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        keys[event.key]();
      }
    });
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoom(2.5, this.timeAt(event.offsetX)));
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("pointerleave", () => {
      this.tooltip.hidden = true;
    });
  }

  wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 300), this.timeAt(event.offsetX));
    } else if (event.deltaX && this.to - this.from < this.chart.end_s) {
      event.preventDefault();
      this.move(event.deltaX / this.width);
    }
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event.offsetX);
    if (event.pointerType === "touch") {
      this.point(event);
    }
  }

  drag(event) {
    if (!this.pointers.has(event.pointerId)) {
      this.point(event);
      return;
    }
    const before = [...this.pointers.values()];
    const moved = event.offsetX - this.pointers.get(event.pointerId);
    this.pointers.set(event.pointerId, event.offsetX);
    const after = [...this.pointers.values()];
    if (before.length === 2) {
      const [was, is] = [Math.abs(before[0] - before[1]), Math.abs(after[0] - after[1])];
      this.zoom(Math.max(1, is) / Math.max(1, was), this.timeAt((after[0] + after[1]) / 2));
    } else if (moved) {
      this.move(-moved / (this.width - this.left));
    }
  }

  // Tells what lies under the pointer.
  point(event) {
    const [x, y] = [event.offsetX, event.offsetY];
    const row = this.rows.find((one) => y >= one.y && y <= one.y + one.height);
    const time = this.timeAt(x);
    const slice = row && x >= this.left ? row.slices[this.indexAt(row.slices, time)] : undefined;
    this.tooltip.hidden = !slice;
    if (!slice) {
      return;
    }
    const [start, end, , , text] = slice;
    const step = niceStep(this.chart.end_s, 1e5);
    const length = timeText(end - start, end - start, (end - start) / 1000);
    this.tooltip.replaceChildren(
      Object.assign(document.createElement("strong"), { textContent: this.chart.texts[text] }),
      Object.assign(document.createElement("span"), {
        textContent: `${length}, from ${timeText(start, this.chart.end_s, step)} to ${timeText(end, this.chart.end_s, step)}`,
      }),
    );
    const left = Math.min(Math.max(0, x - this.tooltip.offsetWidth / 2), this.width - this.tooltip.offsetWidth);
    const above = row.y - this.tooltip.offsetHeight - 6;
    this.tooltip.style.left = `${left}px`;
    this.tooltip.style.top = `${above >= 0 ? above : row.y + row.height + 6}px`;
  }

  indexAt(slices, time) {
    return slices.findIndex((slice) => slice[0] <= time && time < slice[1]);
  }
}
