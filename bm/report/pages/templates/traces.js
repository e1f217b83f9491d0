"use strict";
const PER_PAGE = 20, CHOICES = ["verdict", "reason", "domain", "source"];
const traces = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters"), list = document.getElementById("traces");
let found = traces, page = 0;

for (const trace of traces) {
  const end = trace.response.lastIndexOf("</think>"), start = trace.response.indexOf("<think>");
  const closed = end > start;
  trace.reasoning = start < 0 ? "" : trace.response.slice(start + 7, closed ? end : undefined).trim();
  trace.said = start < 0 ? trace.response : closed ? trace.response.slice(end + 8).trim() : "";
  trace.open = start >= 0 && !closed;
  trace.text = [trace.system, trace.prompt, trace.response, trace.answer].join("\n").toLowerCase();
}

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function marked(text, term) {
  const parts = document.createDocumentFragment(), low = text.toLowerCase();
  let from = 0;
  for (let at; term && low.length === text.length && (at = low.indexOf(term, from)) >= 0; from = at + term.length)
    parts.append(text.slice(from, at), element("mark", "", text.slice(at, at + term.length)));
  parts.append(text.slice(from));
  return parts;
}

function part(title, text, term, folded) {
  const body = element("pre", "", marked(text, term));
  body.tabIndex = 0;
  if (folded === undefined) return element("div", "part", element("h4", "", title), body);
  const details = element("details", "", element("summary", "", title), body);
  details.open = Boolean(term) && text.toLowerCase().includes(term);
  return details;
}

function shown(trace, term) {
  const count = trace.response.length.toLocaleString("en");
  const head = element("p", "about", element("strong", "", trace.verdict === "kept" ? "kept" : `rejected: ${trace.reason}`),
    ` · ${trace.domain} · ${trace.source} · ${count} characters · ${trace.id}`);
  const article = element("article", `trace ${trace.verdict}`, head);
  if (trace.system) article.append(part("System", trace.system, term));
  article.append(part("Prompt", trace.prompt, term));
  if (trace.reasoning)
    article.append(part(`Reasoning, ${trace.reasoning.length.toLocaleString("en")} characters${trace.open ? ", never closed" : ""}`,
      trace.reasoning, term, true));
  if (trace.said) article.append(part("Response", trace.said, term));
  article.append(part(`Reference answer (${trace.verifier})`, trace.answer, term));
  if (trace.metadata && trace.metadata !== "{}") article.append(part("Metadata", trace.metadata, "", true));
  return article;
}

function draw() {
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE)), first = page * PER_PAGE;
  const term = form.elements.text.value.trim().toLowerCase();
  list.replaceChildren(...found.slice(first, first + PER_PAGE).map(trace => shown(trace, term)));
  document.getElementById("found").textContent = found.length
    ? `${first + 1} to ${Math.min(first + PER_PAGE, found.length)} of ${found.length.toLocaleString("en")}` : "No trace matches.";
  for (const below of ["", "-below"]) {
    document.getElementById(`previous${below}`).disabled = page === 0;
    document.getElementById(`next${below}`).disabled = page >= pages - 1;
  }
}

function filter() {
  const asked = Object.fromEntries(new FormData(form)), term = asked.text.trim().toLowerCase();
  const from = asked.from === "" ? 0 : Number(asked.from), to = asked.to === "" ? Infinity : Number(asked.to);
  found = traces.filter(trace => CHOICES.every(name => !asked[name] || trace[name] === asked[name])
    && trace.response.length >= from && trace.response.length <= to && trace.text.includes(term));
  if (asked.order) found.sort((a, b) => (a.response.length - b.response.length) * (asked.order === "long" ? -1 : 1));
  page = 0;
  draw();
}

function turn(by) {
  page += by;
  draw();
  document.getElementById("browse").scrollIntoView();
}

for (const name of CHOICES) {
  const counts = new Map();
  for (const trace of traces) if (trace[name]) counts.set(trace[name], (counts.get(trace[name]) || 0) + 1);
  const choices = [...counts].sort((a, b) => b[1] - a[1]).map(([value, count]) => new Option(`${value} (${count.toLocaleString("en")})`, value));
  form.elements[name].append(new Option("all", ""), ...choices);
}
let waiting;
form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
form.addEventListener("submit", event => event.preventDefault());
for (const below of ["", "-below"]) {
  document.getElementById(`previous${below}`).addEventListener("click", () => turn(-1));
  document.getElementById(`next${below}`).addEventListener("click", () => turn(1));
}
draw();
