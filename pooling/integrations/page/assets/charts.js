// Drawing: SVG made node by node, never from text.

const NS = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// As the server says it: 35 ms, 4.2 s, 12 s, 3 min 20 s.
export function span(seconds) {
  if (seconds < 0.0009995) return seconds < 5e-7 ? "0 ms" : `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.00995) return `${(seconds * 1000).toFixed(1).replace(".0", "")} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1).replace(".0", "")} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  return whole < 3600 ? two(whole, "min", "s") : two(Math.floor(whole / 60), "h", "min");
}

function two(whole, large, small) {
  const rest = whole % 60;
  return `${Math.floor(whole / 60)} ${large}` + (rest ? ` ${rest} ${small}` : "");
}

const SPANS = [60, 120, 300, 900]; // seconds that the timeline may show
const GAP = 5; // seconds without a sample after which nothing is drawn

// Use, idle and waiting over time, with what happened. `rows` are objects with at (seconds before now, falling).
export class Timeline {
  constructor(reading) {
    this.reading = reading;
    this.node = svg("svg", { role: "img" });
    this.rows = [];
    this.events = [];
    this.node.addEventListener("pointermove", (event) => this.point(event));
    this.node.addEventListener("pointerdown", (event) => this.point(event));
    this.node.addEventListener("pointerleave", () => {
      this.pointed = undefined;
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  update(rows, events, now) {
    Object.assign(this, { rows, events, now });
    this.draw();
  }

  point(event) {
    this.pointed = event.clientX - this.node.getBoundingClientRect().left;
    this.draw();
  }

  draw() {
    const width = this.node.clientWidth;
    if (!width || !this.rows.length) return;
    const left = 30, right = width - 8, top = 14, middle = 150, low = 166, bottom = 216, height = 234;
    this.node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.node.setAttribute("height", height);
    const oldest = this.rows[0].age;
    const shown = SPANS.find((seconds) => oldest <= seconds) ?? SPANS[SPANS.length - 1];
    const rows = this.rows.filter((row) => row.age <= shown);
    const limits = rows.map((row) => row.limit ?? 0);
    const most = Math.max(1, ...limits, ...rows.map((row) => row.leased + row.idle + row.other)) * 1.08;
    const queue = Math.max(4, ...rows.map((row) => row.waiting));
    const x = (age) => right - (age / shown) * (right - left);
    const y = (count) => middle - (count / most) * (middle - top);
    const w = (count) => bottom - (count / queue) * (bottom - low);
    const parts = [];

    for (const count of ticks(Math.floor(most))) {
      parts.push(svg("line", { class: "grid-line", x1: left, x2: right, y1: y(count), y2: y(count) }));
      parts.push(label(left - 6, y(count) + 4, count, "end"));
    }
    parts.push(svg("line", { class: "grid-line", x1: left, x2: right, y1: bottom, y2: bottom }));
    parts.push(label(left - 6, w(queue) + 8, queue, "end"));
    for (const part of [1, 0.75, 0.5, 0.25, 0]) {
      const anchor = part === 1 ? "start" : part === 0 ? "end" : "middle";
      parts.push(label(x(part * shown), height - 4, part ? `−${span(part * shown)}` : "now", anchor));
    }
    for (const event of this.events) if (event.lasted > 0 && event.age - event.lasted < shown) {
      const from = x(Math.min(event.age, shown));
      const to = Math.max(x(Math.max(event.age - event.lasted, 0)), from + 2);
      parts.push(svg("rect", { class: `mark-band ${event.level}`, x: from, y: 4, width: to - from, height: 5, rx: 2.5 }));
    }
    for (const run of runs(rows)) {
      const sums = run.map((row) => [0, row.leased, row.leased + row.other, row.leased + row.other + row.idle]);
      for (const [layer, name] of [[1, "use"], [2, "other"], [3, "idle"]]) {
        parts.push(area(run, (i) => x(run[i].age), (i) => y(sums[i][layer]), (i) => y(sums[i][layer - 1]), name));
      }
      parts.push(area(run, (i) => x(run[i].age), (i) => w(run[i].waiting), () => bottom, "wait"));
      if (run.some((row) => row.limit !== null)) {
        parts.push(svg("polyline", { class: "limit", points: steps(run.filter((row) => row.limit !== null), (row) => x(row.age), (row) => y(row.limit)) }));
      }
    }
    for (const event of this.events) if (event.lasted === 0 && event.age < shown) {
      parts.push(svg("line", { class: `mark ${event.level}`, x1: x(event.age), x2: x(event.age), y1: 7, y2: bottom }));
      parts.push(svg("circle", { class: `mark-dot ${event.level}`, cx: x(event.age), cy: 6.5, r: 3.5 }));
    }
    this.read(rows, x, shown, parts, left, right, top, bottom);
    this.node.replaceChildren(...parts);
    const last = rows[rows.length - 1];
    this.node.setAttribute("aria-label", `Last ${span(shown)}: now ${this.say(last)}`);
  }

  read(rows, x, shown, parts, left, right, top, bottom) {
    if (this.pointed === undefined) {
      this.reading.textContent = `Now: ${this.say(rows[rows.length - 1])}`;
      return;
    }
    const row = rows.reduce((best, next) => (Math.abs(x(next.age) - this.pointed) < Math.abs(x(best.age) - this.pointed) ? next : best));
    const near = this.events.filter((event) => {
      const from = x(event.age), to = x(Math.max(event.age - event.lasted, 0));
      return this.pointed >= from - 5 && this.pointed <= to + 5;
    });
    parts.push(svg("line", { class: "cursor", x1: x(row.age), x2: x(row.age), y1: top, y2: bottom }));
    const when = new Date((this.now - row.age) * 1000).toLocaleTimeString();
    this.reading.textContent = [`${when}: ${this.say(row)}`, ...near.map((event) => event.text)].join(" · ");
  }

  say(row) {
    return `${row.leased} in use, ${row.idle} idle, ${row.waiting} waiting`;
  }
}

// How long something took, by a logarithmic scale, against the timeout.
export class Bars {
  constructor() {
    this.node = svg("svg", { role: "img" });
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  update(histogram, timeout, what) {
    Object.assign(this, { histogram, timeout, what });
    this.draw();
  }

  draw() {
    const width = this.node.clientWidth;
    if (!width || !this.histogram) return;
    const { bins, p50, p99, count } = this.histogram;
    const left = 2, right = width - 2, top = 30, bottom = 112, height = 130;
    this.node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.node.setAttribute("height", height);
    const ends = [...bins.flatMap(([from, below]) => [from, below]), this.timeout || 1];
    const first = Math.max(-5, Math.floor(Math.log10(Math.min(...ends, 0.001)) + 1e-9));
    const last = Math.max(first + 2, Math.ceil(Math.log10(Math.max(...ends)) - 1e-9), 1);
    const x = (seconds) => left + ((Math.log10(Math.max(seconds, 10 ** first)) - first) / (last - first)) * (right - left);
    const most = Math.max(1, ...bins.map((bin) => bin[2]));
    const parts = [svg("line", { class: "grid-line", x1: left, x2: right, y1: bottom, y2: bottom })];
    for (let power = first; power <= last; power++) {
      const at = x(10 ** power);
      parts.push(svg("line", { class: "grid-line", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
      const anchor = power === first ? "start" : power === last ? "end" : "middle";
      parts.push(label(at, height - 3, power > 1 ? `${10 ** power} s` : span(10 ** power), anchor));
    }
    for (const [from, below, number] of bins) {
      const tall = Math.max(2, (number / most) * (bottom - top));
      const bar = svg("rect", {
        class: this.timeout && from >= this.timeout ? "bar late" : "bar",
        x: x(from) + 0.5, y: bottom - tall, width: Math.max(1, x(below) - x(from) - 1), height: tall, rx: 1.5,
      });
      bar.append(svg("title", {}, `${span(from)} to ${span(below)}: ${number.toLocaleString()}`));
      parts.push(bar);
    }
    if (bins.length) for (const [name, value] of [["p50", p50], ["p99", p99]]) if (value > 0) {
      const close = p50 > 0 && Math.abs(x(p50) - x(p99)) < 30;
      const anchor = !close ? "middle" : name === "p50" ? "end" : "start";
      parts.push(svg("line", { class: "point", x1: x(value), x2: x(value), y1: top - 4, y2: bottom }));
      parts.push(label(inside(x(value), left, right, 14), top - 8, name, anchor));
    }
    if (this.timeout) {
      const at = x(this.timeout);
      parts.push(svg("line", { class: "timeout", x1: at, x2: at, y1: 14, y2: bottom }));
      const text = label(at > right - 40 ? at : inside(at, left, right, 44), 10, `timeout ${span(this.timeout)}`, at > right - 44 ? "end" : "middle");
      text.classList.add("timeout-text");
      parts.push(text);
    }
    this.node.replaceChildren(...parts);
    this.node.setAttribute("aria-label", `${count} ${this.what}: half within ${span(p50)}, 99 % within ${span(p99)}`);
  }
}

function label(x, y, text, anchor) {
  return svg("text", { x, y, "text-anchor": anchor }, String(text));
}

function inside(x, left, right, room) {
  return Math.min(Math.max(x, left + room), right - room);
}

function ticks(most) {
  const steps = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10000];
  const step = steps.find((size) => most / size <= 4) ?? most;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
}

// Stretches without a gap.
function runs(rows) {
  const found = [];
  rows.forEach((row, i) => {
    if (i === 0 || rows[i - 1].age - row.age > GAP) found.push([]);
    found[found.length - 1].push(row);
  });
  return found;
}

// A line in steps.
function steps(rows, x, y) {
  return rows.map((row, i) => `${i ? `${x(row).toFixed(1)},${y(rows[i - 1]).toFixed(1)} ` : ""}${x(row).toFixed(1)},${y(row).toFixed(1)}`).join(" ");
}

// Between two lines, in steps: a number holds until the next one is known.
function area(run, x, high, low, name) {
  const over = [], under = [];
  run.forEach((_, i) => {
    const from = x(i).toFixed(1), to = (i + 1 < run.length ? x(i + 1) : x(i) + 1).toFixed(1);
    over.push(`${from},${high(i).toFixed(1)}`, `${to},${high(i).toFixed(1)}`);
    under.push(`${from},${low(i).toFixed(1)}`, `${to},${low(i).toFixed(1)}`);
  });
  return svg("polygon", { class: name, points: [...over, ...under.reverse()].join(" ") });
}
