// Search, filters and selection, and the first drawing.

const graph = makeGraph();
const search = document.getElementById("search");
const namespace = document.getElementById("namespace"), state = document.getElementById("state");
const onlyHost = document.getElementById("only-host"), onlySelected = document.getElementById("only-selected");
const kinds = [...document.querySelectorAll("[data-kind]")];
let selected = null, results = [];

const canvas = makeCanvas(graph, (object) => select(object, false));
const showDetails = makeDetails(graph, (object) => select(object, true));
const showTable = makeTables((object) => select(object, true), graph);

function options(into, values) {
  [...new Set(values)].filter(Boolean).sort().forEach((value) => into.append(element("option", value, { value })));
}

function currentFilter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  return { words, namespace: namespace.value, state: state.value };
}

function matches(object, filter) {
  return filter.words.every((word) => object.text.includes(word)) &&
    (!filter.namespace || object.namespace === filter.namespace) &&
    (!filter.state || object.grants.some((grant) => grant.state === filter.state)) &&
    (!onlyHost.checked || (object.kind === "pod" && data.pods[object.at].hostAccess.length > 0));
}

// Show the matches with what they reach, in the selected kinds.
function apply() {
  const filter = currentFilter();
  const active = filter.words.length || filter.namespace || filter.state || onlyHost.checked;
  const shownKinds = new Set(kinds.filter((box) => box.checked).map((box) => box.dataset.kind));
  const isShown = (object) => shownKinds.has(object.kind === "other" ? "identity" : object.kind);
  results = graph.all.filter((object) => isShown(object) && matches(object, filter));
  let visible = new Set(results);
  if (active) {
    for (const object of results) related(graph, object).forEach((near) => visible.add(near));
  }
  if (onlySelected.checked && selected) visible = related(graph, selected);
  visible = new Set([...visible].filter(isShown));
  showTable(filter); // first: it may change the width of the page
  canvas.show(visible);
  canvas.fit();
  document.getElementById("count").textContent =
    (active ? results.length + " matches, " : "") + visible.size + " of " + graph.all.length + " objects shown";
}

function select(object, move) {
  selected = object;
  canvas.mark(object, object ? related(graph, object) : null);
  showDetails(object);
  if (onlySelected.checked) apply();
  if (object && move) canvas.center(object);
}

// The lower, the better an object fits the search. Of equal ones, an identity is first.
function rank(object, query) {
  const name = object.name.toLowerCase(), kind = object.kind === "identity" ? 0 : 0.5;
  if (name === query || name.endsWith("/" + query)) return kind;
  return (name.includes(query) ? 1 : 2) + kind;
}

let waiting = 0;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(apply, 120);
});
for (const control of [namespace, state, onlyHost, onlySelected, ...kinds]) control.addEventListener("change", apply);
document.getElementById("fit").addEventListener("click", () => canvas.fit());
document.getElementById("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(waiting);
  apply();
  const query = search.value.trim().toLowerCase();
  const ranks = results.map((object) => rank(object, query));
  if (results.length) select(results[ranks.indexOf(d3.min(ranks))], true);
});
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (event.key === "Escape") {
    if (search.value) { search.value = ""; apply(); }
    select(null, false);
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    search.focus();
  }
});

options(namespace, graph.all.map((object) => object.namespace));
options(state, data.grants.map((grant) => grant.state));
select(null, false);
apply();
canvas.draw();
requestAnimationFrame(() => { document.documentElement.dataset.ready = "yes"; });
