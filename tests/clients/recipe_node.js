// Behind the settings of docs/clients.md, which take the place of the line RECIPE: stores with both clients, says
// "stored", waits for a line (their server is killed and started again meanwhile), and reads everything again.
// RECIPE
const lines = require("readline").createInterface({ input: process.stdin });
const line = () => new Promise(resolve => lines.once("line", resolve));
const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
const called = start => new Promise((resolve, reject) => start((error, value) => (error ? reject(error) : resolve(value))));
const within = promise => Promise.race([promise, pause(10000).then(() => { throw new Error("no answer at all"); })]);

const clients = {
  memjs: {
    set: (key, value) => memjs.set(key, value, {}),
    get: async key => { const { value } = await memjs.get(key); return value && value.toString(); },
  },
  memcached: {
    set: (key, value) => called(done => cache.set(key, value, 0, done)),
    get: key => called(done => cache.get(key, done)),
  },
};

// Again and again, as an application does that was asked by a user; how often it failed.
async function insist(action) {
  for (let failures = 0; ; failures++) {
    try { await within(action()); return failures; }
    catch (error) { if (failures === 200) throw error; await pause(50); }
  }
}

async function main() {
  for (const [name, client] of Object.entries(clients))
    for (let n = 0; n < 100; n++) await insist(() => client.set(`${name}-${n}`, `value-${n}`));
  console.log("stored");
  await line();
  for (const [name, client] of Object.entries(clients)) {
    let failures = 0;
    for (let n = 0; n < 100; n++) {
      let value;
      failures += await insist(async () => { value = await client.get(`${name}-${n}`); });
      if (value !== `value-${n}`) throw new Error(`${name}-${n} is ${value}`);
    }
    console.log(`${name} ${failures}`);
  }
  process.exit(0);
}
main().catch(error => { console.error(error); process.exit(1); });
