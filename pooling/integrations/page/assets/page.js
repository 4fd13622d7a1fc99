// The page: asks for pools.json once a second and shows it. All text goes in as text, never as markup.

import { Bars, Timeline, span } from "./charts.js";

const EVERY = 1000; // milliseconds between two looks
const PATIENCE = 5000; // milliseconds that an answer may take
const views = new Map(); // name → View
let run = "", tick = 0, heard = 0, token = "";

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function say(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

// Replaces the children only where their text differs, so that a selection lives on.
function fill(node, children) {
  const before = [...node.children].map((child) => child.outerHTML).join("");
  if (before !== children.map((child) => child.outerHTML).join("")) node.replaceChildren(...children);
}

const whole = (number) => number.toLocaleString("en-GB");
const ago = (age) => (age < 1 ? "just now" : `${span(Math.floor(age))} ago`);
const TOTALS = { acquired: "acquired", opened: "opened", timeouts: "timeouts", leaks: "leaks", events_lost: "events lost" };
const FAILED = { connect: "failed connects", check: "failed checks", reset: "failed resets", close: "failed closes", use: "broken in use" };

class View {
  constructor(name) {
    this.rows = [];
    this.name = name;
    this.verdict = el("p");
    this.findings = el("ul");
    this.banner = el("section", { class: "verdict" }, this.verdict, this.findings);
    this.tiles = {};
    const tiles = el("dl", { class: "tiles" });
    for (const [key, title] of [["leased", "In use"], ["idle", "Idle"], ["waiting", "Waiting"], ["oldest", "Oldest wait"], ["rate", "Acquires / s"], ["timeouts", "Timeouts"]]) {
      const value = el("dd", { "data-number": key });
      this.tiles[key] = value;
      tiles.append(el("div", {}, el("dt", {}, title), value));
    }
    const reading = el("p", { class: "reading" });
    this.timeline = new Timeline(reading);
    this.wait = new Bars();
    this.use = new Bars();
    this.waitNote = el("p", { class: "note" });
    this.useNote = el("p", { class: "note" });
    this.holders = el("tbody");
    this.waiters = el("tbody");
    this.holdersNote = el("p", { class: "note" });
    this.waitersNote = el("p", { class: "note" });
    this.events = el("ol", { class: "events scroll" });
    this.closed = el("dl", { class: "pairs" });
    this.totals = el("dl", { class: "pairs" });
    this.error = el("p", { class: "error" });
    this.settings = el("dl", { class: "pairs settings" });
    const legend = el("ul", { class: "legend" },
      ...[["use", "in use"], ["other", "opening, checking, closing"], ["idle", "idle"], ["wait", "waiting"]].map(([kind, text]) => el("li", { class: kind }, text)));
    this.orders = el("section", { class: "card wide" });
    this.node = el("article", { id: anchor(name), "data-pool": name },
      el("h2", {}, name),
      this.banner,
      tiles,
      el("section", { class: "card wide" }, el("div", { class: "head" }, el("h3", {}, "Connections, and who waits"), legend), this.timeline.node, reading),
      el("div", { class: "grid" },
        el("section", { class: "card" }, el("h3", {}, "How long callers waited"), this.wait.node, this.waitNote),
        el("section", { class: "card" }, el("h3", {}, "How long connections were held"), this.use.node, this.useNote)),
      el("div", { class: "grid" },
        el("section", { class: "card" }, el("h3", {}, "Who holds a connection"), people("Acquired at", this.holders), this.holdersNote),
        el("section", { class: "card" }, el("h3", {}, "Who waits"), people("Waits at", this.waiters), this.waitersNote)),
      el("div", { class: "grid" },
        el("section", { class: "card" }, el("h3", {}, "What happened"), this.events),
        el("section", { class: "card" },
          el("h3", {}, "Last connect error"), this.error,
          el("h3", { class: "apart" }, "Closed, by reason"), this.closed,
          el("h3", { class: "apart" }, "So far"), this.totals)),
      this.orders,
      el("details", { class: "card wide" }, el("summary", {}, "Settings"), this.settings));
    this.orders.hidden = true;
  }

  update(pool, answer) {
    const { now, verdict } = pool;
    this.banner.className = `verdict ${verdict.level}`;
    say(this.verdict, verdict.text);
    fill(this.findings, pool.findings.map((finding) => el("li", { class: finding.level }, finding.text)));
    this.numbers(pool);
    this.remember(pool.history, answer);
    const rows = this.rows.map((row) => ({ ...row, age: Math.max(0, answer.time - row.at) }));
    this.timeline.update(rows, pool.events, answer.time);
    this.wait.update(pool.wait, pool.timeout, "waits");
    this.use.update(pool.use, pool.timeout, "holds");
    const at_once = pool.wait.count ? ` · ${percent(pool.wait.at_once / pool.wait.count)} at once` : "";
    say(this.waitNote, summary(pool.wait, "acquires", pool.window) + at_once);
    say(this.useNote, summary(pool.use, "holds", pool.window));
    for (const [body, listed] of [[this.holders, pool.holders], [this.waiters, pool.waiters]]) {
      fill(body, listed.map((each) => person(each)));
      body.closest(".scroll").hidden = !listed.length;
    }
    say(this.holdersNote, more(pool.holders, pool.more_holders, "Nobody."));
    say(this.waitersNote, more(pool.waiters, pool.more_waiters, "Nobody."));
    fill(this.events, pool.events.length
      ? pool.events.slice(0, 60).map((event) => el("li", {}, el("time", {}, ago(event.age - event.lasted)), el("span", { class: event.level }, event.text)))
      : [el("li", { class: "none" }, "Nothing of note.")]);
    say(this.error, pool.last_error ? `${ago(pool.last_error.age)}: ${pool.last_error.text}` : "None was seen.");
    const reasons = Object.entries(pool.closed).sort((one, other) => other[1] - one[1]);
    fill(this.closed, pairs(reasons.length ? reasons.map(([reason, count]) => [reason, whole(count)]) : [["none", "0"]]));
    const failed = Object.entries(pool.errors).map(([what, count]) => [FAILED[what] ?? what, whole(count)]);
    fill(this.totals, pairs([...Object.entries(TOTALS).map(([key, title]) => [title, whole(pool.totals[key])]), ...failed]));
    fill(this.settings, Object.entries(pool.settings).map(([key, value]) => el("div", {}, el("dt", {}, key), el("dd", {}, value))));
    if (answer.actions && this.orders.hidden) this.offer(now);
    if (this.toggle) say(this.toggle, pool.state === "suspended" ? "Resume" : "Suspend");
    this.state = pool.state;
  }

  numbers({ now, rate, events }) {
    const timeouts = events.filter((event) => event.kind === "timeouts").reduce((sum, event) => sum + event.number, 0);
    const tiles = this.tiles;
    say(tiles.leased, now.max_size === null ? now.leased : `${now.leased} / ${now.max_size}`);
    say(tiles.idle, now.idle);
    say(tiles.waiting, whole(now.waiting));
    say(tiles.oldest, now.waiting ? span(now.oldest_wait) : "–");
    say(tiles.rate, rate === null ? "–" : rate < 10 ? rate.toFixed(1) : whole(Math.round(rate)));
    say(tiles.timeouts, whole(timeouts));
    tiles.timeouts.parentNode.classList.toggle("alarm", timeouts > 0);
  }

  // Two looks that are under way at once, as when the page is seen again, are told the same.
  remember({ columns, rows }, answer) {
    const known = this.rows.at(-1)?.tick ?? 0;
    for (const row of rows) {
      const sample = Object.fromEntries(columns.map((column, i) => [column, row[i]]));
      if (sample.tick > known) this.rows.push({ ...sample, at: answer.time - sample.age });
    }
    while (this.rows.length && answer.time - this.rows[0].at > 900) this.rows.shift();
  }

  offer(now) {
    const key = el("input", { type: "password", autocomplete: "off", required: "" });
    const least = el("input", { type: "number", min: "0", value: now.min_size });
    const most = el("input", { type: "number", min: "1", value: now.max_size ?? "", placeholder: "no cap" });
    const said = el("output");
    const button = (text, order) => {
      const node = el("button", { type: "button" }, text);
      node.addEventListener("click", () => {
        token = key.value;
        command({ pool: this.name, ...order() }, said);
      });
      return node;
    };
    this.toggle = button("Suspend", () => ({ action: this.state === "suspended" ? "resume" : "suspend" }));
    const form = el("form", {},
      el("label", {}, "Token", key),
      button("Clear", () => ({ action: "clear" })),
      this.toggle,
      el("label", {}, "min_size", least),
      el("label", {}, "max_size", most),
      button("Resize", () => ({ action: "resize", min_size: Number(least.value), max_size: most.value === "" ? null : Number(most.value) })),
      said);
    form.addEventListener("submit", (event) => event.preventDefault());
    this.orders.append(el("h3", {}, "Orders"), form);
    this.orders.hidden = false;
  }
}

async function command(order, said) {
  try {
    const answer = await fetch("actions", { method: "POST", headers: { "Content-Type": "application/json", "X-Pooling-Token": token }, body: JSON.stringify(order) });
    const { done, error } = await answer.json();
    said.className = done ? "" : "bad";
    say(said, done ? `Done: ${done}.` : `Refused: ${error}.`);
  } catch {
    said.className = "bad";
    say(said, "No answer.");
  }
}

function people(place, body) {
  const head = el("tr", {}, el("th", {}, "For"), el("th", {}, "Thread"), el("th", {}, place));
  return el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "people" }, el("thead", {}, head), body));
}

function person({ thread, age, where, slow }) {
  const [, file, line, name] = /^(.*):(\d+) (.*)$/.exec(where) ?? [null, where, "", ""];
  const short = file.split("/").slice(-2).join("/");
  const place = el("td", { class: "where", title: where }, line ? `${short}:${line} ` : short, el("small", {}, name));
  if (slow) place.append(el("span", { class: "why" }, slow));
  return el("tr", slow ? { class: "slow" } : {}, el("td", { class: "age" }, span(age)), el("td", { class: "thread" }, thread), place);
}

function more(listed, others, nobody) {
  return others ? `and ${whole(others)} more` : listed.length ? "" : nobody;
}

function pairs(entries) {
  return entries.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}

function summary({ count, p50, p99, max }, what, window) {
  const over = window && window >= 60 ? ` in ${span(Math.round(window / 60) * 60)}` : "";
  return count ? `${whole(count)} ${what}${over} · half within ${span(p50)} · 99 % within ${span(p99)} · longest ${span(max)}` : `No ${what} yet.`;
}

const percent = (share) => `${share > 0.995 && share < 1 ? (share * 100).toFixed(1) : Math.round(share * 100)} %`;
const anchor = (name) => `pool-${encodeURIComponent(name)}`; // in whatever letters, and no two alike
const ORDER = ["bad", "warn", "busy", "good", "off"];

function show(answer) {
  if (answer.run !== run) {
    // Another process has answered, or this one was started anew: its past is another one.
    for (const view of views.values()) view.rows = [];
    run = answer.run;
  }
  tick = answer.tick;
  say(document.getElementById("process"), `process ${answer.pid} on ${answer.host} · Python ${answer.python} · pooling ${answer.pooling}`);
  const main = document.getElementById("pools");
  for (const pool of answer.pools) {
    if (!views.has(pool.name)) {
      views.set(pool.name, new View(pool.name));
      main.append(views.get(pool.name).node);
    }
    views.get(pool.name).update(pool, answer);
  }
  const names = new Set(answer.pools.map((pool) => pool.name));
  for (const [name, view] of views) if (!names.has(name)) {
    view.node.remove();
    views.delete(name);
  }
  const several = answer.pools.length > 1;
  fill(document.getElementById("overview"), (several ? answer.pools : []).map((pool) =>
    el("a", { class: pool.verdict.level, href: `#${encodeURIComponent(anchor(pool.name))}` }, pool.name, el("span", {}, pool.verdict.condition))));
  const worst = [...answer.pools].sort((one, other) => ORDER.indexOf(one.verdict.level) - ORDER.indexOf(other.verdict.level))[0];
  document.title = worst ? `${worst.verdict.condition} · ${worst.name} · pooling` : "no pools · pooling";
  document.body.dataset.tick = answer.tick;
}

async function look() {
  const live = document.getElementById("live");
  try {
    const asked = await fetch(`pools.json?run=${run}&since=${tick}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!asked.ok) throw new Error(asked.statusText);
    show(await asked.json());
    heard = Date.now();
    live.className = "on";
    say(live, "live");
  } catch (error) {
    live.className = "lost";
    say(live, heard ? `no answer for ${span((Date.now() - heard) / 1000)}` : "no answer");
    console.warn(error);
  }
}

async function watch() {
  if (!document.hidden) await look();
  setTimeout(watch, EVERY);
}

document.addEventListener("visibilitychange", () => document.hidden || look());
watch();
