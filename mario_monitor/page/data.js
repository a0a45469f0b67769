// What the server says of runs; asked again only for those of which something is new.

export const data = {
  list: { runs: [], unread: [], states: {}, curves: [], root: "" },
  byName: new Map(),
  lost: false, // the server does not answer
};

let tag = null;

async function ask(path, headers = {}) {
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (answer.status === 304) return { answer, content: null };
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return { answer, content: await answer.json() };
}

// Returns whether the list is another than before.
export async function refreshList() {
  try {
    const { answer, content } = await ask("/api/runs", tag ? { "If-None-Match": tag } : {});
    const wasLost = data.lost;
    data.lost = false;
    if (content === null) return wasLost;
    tag = answer.headers.get("ETag");
    data.list = content;
    data.byName = new Map(content.runs.map((run) => [run.name, run]));
    return true;
  } catch {
    const changed = !data.lost;
    data.lost = true;
    return changed;
  }
}

// Answers by kind and run, each of one version of the run.
const kept = new Map();

export async function ofRuns(kind, names, extra = "") {
  const wanted = names.filter((name) => data.byName.has(name));
  const place = (name) => `${kind}\n${extra}\n${name}`;
  const missing = wanted.filter((name) => kept.get(place(name))?.version !== data.byName.get(name).version);
  for (let i = 0; i < missing.length; i += 32) {
    const some = missing.slice(i, i + 32);
    const versions = some.map((name) => data.byName.get(name).version);
    const query = some.map((name) => `run=${encodeURIComponent(name)}`).join("&");
    const { content } = await ask(`/api/${kind}?${query}${extra}`);
    some.forEach((name, j) => {
      if (content[name]) kept.set(place(name), { version: versions[j], content: content[name] });
    });
  }
  const found = new Map();
  for (const name of wanted) if (kept.has(place(name))) found.set(name, kept.get(place(name)).content);
  if (kept.size > 500) for (const key of [...kept.keys()].slice(0, 250)) kept.delete(key);
  return found;
}
