// Tables with the content of the graph, for screen readers and for copying. A page has at most PAGE rows.

const PAGE = 100;
const NOTHING_ATTACHED = { identities: [], other: -1, explained: "" };

function makeTables(onSelect, graph) {
  const name = (kind, at) => (at >= 0 ? graph.objects[kind][at].name : "");
  const hostOf = (node) => (node >= 0 ? name("host", data.nodes[node].host) : "");
  const names = (reach) => [...reach.identities.map((at) => name("identity", at)),
    ...reach.others.map((at) => name("other", at)), ...(reach.systemAssigned ? ["system-assigned"] : [])].join(", ");
  const ways = (settings) => settings.map(settingName).join(", ");
  const TABLES = {
    grants: {
      title: "Pods and their identities",
      columns: ["pod", "identity", "state", "binding", "node", "host"],
      rows: () => data.grants.map(({ pod, identity, state, binding }) => ({
        object: graph.objects.pod[pod], state,
        cells: [name("pod", pod), name("identity", identity), state, name("binding", binding),
          pod >= 0 ? nodeName(data.pods[pod].node) : "", pod >= 0 ? hostOf(data.pods[pod].node) : ""],
      })),
    },
    host: {
      title: "Pods with their node's identities",
      columns: ["pod", "node", "by", "undecided", "host", "identities"],
      rows: () => data.pods.map((pod, at) => [pod, at])
        .filter(([pod]) => pod.hostAccess.length || pod.undecidedAccess.length).map(([pod, at]) => ({
          object: graph.objects.pod[at],
          cells: [pod.name, nodeName(pod.node), ways(pod.hostAccess), ways(pod.undecidedAccess), hostOf(pod.node),
            pod.hostAccess.length && pod.node >= 0 ? names(data.nodes[pod.node].blastRadius.today) : ""],
        })),
    },
    identities: {
      title: "Identities",
      columns: ["identity", "type", "client id", "hosts", "pods through a host", "problem"],
      rows: () => data.identities.map((identity, at) => ({
        object: graph.objects.identity[at],
        cells: [identity.name, String(identity.type), identity.clientId,
          identity.hosts.map((host) => name("host", host)).join(", "), String(identity.hostPods), identity.problem],
      })),
    },
    bindings: {
      title: "Bindings",
      columns: ["binding", "identity", "selector", "problem"],
      rows: () => data.bindings.map((binding, at) => ({
        object: graph.objects.binding[at], cells: [binding.name, binding.target, binding.selector, binding.problem],
      })),
    },
    hosts: {
      title: "Identities on hosts",
      columns: ["host", "kind", "identity", "explained by", "problem"],
      rows: () => data.hosts.flatMap((host, at) => (host.attached.length ? host.attached : [NOTHING_ATTACHED])
        .map((attached) => ({
          object: graph.objects.host[at],
          cells: [host.name, host.kind,
            attachedObjects(graph.objects, attached).map((identity) => identity.name).join(", "),
            attached.explained, host.problem],
        }))),
    },
    nodes: {
      title: "Nodes and what a taken-over node reaches",
      columns: ["node", "host", "NMI", "identities today", "identities if all were federated"],
      rows: () => data.nodes.map(({ name: node, host, nmi, blastRadius }) => ({
        object: host >= 0 ? graph.objects.host[host] : null,
        cells: [node, name("host", host), nmi, names(blastRadius.today), names(blastRadius.federated)],
      })),
    },
    subjects: {
      title: "Subjects whose permissions lead to identities",
      columns: ["subject", "may", "namespaces", "by", "identities"],
      rows: () => data.subjects.flatMap((subject) => subject.rights.map((right) => ({
        object: null,
        cells: [subject.name, right.action, right.namespaces.join(", ") || "all", right.via.join(", "),
          String(right.identities)],
      }))),
    },
  };
  const choice = document.getElementById("table"), body = document.getElementById("body");
  const before = document.getElementById("before"), after = document.getElementById("after");
  let filter = { words: [], namespace: "", state: "" }, first = 0, made = {};

  for (const [key, table] of Object.entries(TABLES)) choice.append(element("option", table.title, { value: key }));

  function rows() {
    made[choice.value] = made[choice.value] || TABLES[choice.value].rows().map((row) =>
      ({ ...row, text: (row.cells.join(" ") + " " + (row.object ? row.object.text : "")).toLowerCase() }));
    return made[choice.value].filter((row) => filter.words.every((word) => row.text.includes(word)) &&
      (!filter.namespace || !row.object || row.object.namespace === filter.namespace) &&
      (!filter.state || row.state === undefined || row.state === filter.state));
  }

  function render() {
    const table = TABLES[choice.value], matching = rows();
    first = Math.max(0, Math.min(first, Math.floor(Math.max(matching.length - 1, 0) / PAGE) * PAGE));
    document.getElementById("caption").textContent = table.title;
    const head = element("tr");
    table.columns.forEach((column) => head.append(element("th", column, { scope: "col" })));
    document.getElementById("head").replaceChildren(head);
    body.replaceChildren(...matching.slice(first, first + PAGE).map(renderRow));
    const last = Math.min(first + PAGE, matching.length);
    document.getElementById("rows").textContent = matching.length
      ? "rows " + (first + 1) + " to " + last + " of " + matching.length : "no rows";
    before.disabled = first === 0;
    after.disabled = last >= matching.length;
  }

  function renderRow({ object, cells }) {
    const row = element("tr"), head = element("th", undefined, { scope: "row" });
    head.append(object ? objectLink(object, cells[0], onSelect) : cells[0]);
    row.append(head, ...cells.slice(1).map((text) => element("td", text)));
    return row;
  }

  choice.addEventListener("change", () => { first = 0; render(); });
  before.addEventListener("click", () => { first -= PAGE; render(); });
  after.addEventListener("click", () => { first += PAGE; render(); });
  return function show(newFilter) {
    filter = newFilter;
    first = 0;
    render();
  };
}
