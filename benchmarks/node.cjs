// A pool of Node's, as node.py runs it. In a process of its own: `node node.cjs POOL SLOTS CALLERS HOLD SECONDS`, times in
// seconds. Prints what the callers saw as JSON; with no arguments, which pools are installed.
"use strict";

const { EventEmitter } = require("node:events");

const NOW = () => performance.now() / 1000;
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

const POOLS = {
  // Its default validates nothing, and hands the connection used last out first, as ours does.
  "generic-pool": (slots) => {
    const factory = { create: async () => ({}), destroy: async () => {} };
    const pool = require("generic-pool").createPool(factory, { max: slots, fifo: false });
    return { acquire: () => pool.acquire(), release: (held) => pool.release(held) };
  },
  // Its default closes what was idle for ten seconds.
  "pg-pool": (slots) => {
    const pool = new (require("pg-pool"))({ max: slots, Client: Stub });
    return { acquire: () => pool.connect(), release: (held) => held.release() };
  },
  // As many callers as there are connections, each with one of its own.
  none: () => ({ acquire: async () => null, release: () => {} }),
};

class Stub extends EventEmitter {
  _queryable = true;
  connect(done) { process.nextTick(done); }
  end(done) { process.nextTick(done); }
}

async function crowd(pool, callers, hold, seconds) {
  const services = [], start = NOW() + 0.1 * seconds, end = NOW() + seconds;
  const caller = async (number) => {
    for (let served = 0; served < end;) {
      const called = NOW();
      const held = await pool.acquire();
      served = NOW();
      if (hold && served < end) await sleep(hold);
      pool.release(held);
      if (served >= start && (served < end || called < start)) services.push([number, called, served]);
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, number) => caller(number)));
  return { services, seconds: 0.9 * seconds };
}

function installed() {
  return Object.keys(POOLS).filter((name) => {
    try { return require.resolve(name); } catch { return false; }
  });
}

async function main([name, ...numbers]) {
  if (name === undefined) return installed();
  const [slots, callers, hold, seconds] = numbers.map(Number);
  return crowd(POOLS[name](slots), callers, hold, seconds);
}

main(process.argv.slice(2)).then((found) => process.stdout.write(JSON.stringify(found), () => process.exit(0)));
