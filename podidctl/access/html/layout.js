// Objects and links of the graph, and their positions: one band for each identity, with its pods, bindings and hosts.

const data = JSON.parse(document.getElementById("data").textContent);
const KINDS = { pod: "pod", binding: "binding", identity: "AzureIdentity", other: "identity", host: "host" };
// Distances: between pods of a row, between rows, from the pods to the other columns, between lanes. In a sparse graph
// all objects have labels, and labelSpace is between a label and the next column.
const DENSE = { step: 14, row: 14, radius: 4, wide: 8, binding: 40, identity: 80, host: 260, gap: 60 };
const SPARSE = { step: 14, row: 26, radius: 6, wide: 1, binding: 120, gap: 0, labelSpace: 40 };
const SHAPE = 1.7;
const SPARSE_MAX = 120;

function makeObject(kind, at, name, parts) {
  const namespace = kind === "pod" || kind === "binding" || kind === "identity" ? name.split("/")[0] : "";
  const text = [name, ...parts].join(" ").toLowerCase();
  return { key: kind + ":" + at, kind, at, name, namespace, text, links: [], grants: [], x: 0, y: 0 };
}

function makeGraph() {
  const objects = {
    pod: data.pods.map((pod, at) =>
      makeObject("pod", at, pod.name, [pod.workload, pod.serviceAccount, pod.label, nodeName(pod.node)])),
    binding: data.bindings.map((binding, at) => makeObject("binding", at, binding.name, [binding.selector])),
    identity: data.identities.map((identity, at) =>
      makeObject("identity", at, identity.name, [identity.clientId, identity.resourceId])),
    other: data.others.map((resource, at) => makeObject("other", at, resource.name, [resource.resourceId])),
    host: data.hosts.map((host, at) => makeObject("host", at, host.name, [host.id])),
  };
  data.nodes.forEach((node) => { if (node.host >= 0) objects.host[node.host].text += " " + node.name.toLowerCase(); });
  const links = [];
  const known = new Set();
  function link(kind, from, to) {
    if (!from || !to || known.has(kind + from.key + to.key)) return;
    known.add(kind + from.key + to.key);
    const made = { kind, from, to };
    links.push(made);
    from.links.push(made);
    to.links.push(made);
  }
  data.bindings.forEach((binding, at) => link("grant", objects.binding[at], objects.identity[binding.identity]));
  for (const grant of data.grants) {
    const { pod, identity, binding } = grant;
    for (const object of [objects.pod[pod], objects.identity[identity], objects.binding[binding]]) {
      if (object) object.grants.push(grant);
    }
    link("grant", objects.pod[pod], binding >= 0 ? objects.binding[binding] : objects.identity[identity]);
    if (objects.pod[pod] && objects.pod[pod].band === undefined) objects.pod[pod].band = identity;
  }
  data.hosts.forEach((host, at) => {
    host.attached.flatMap((attached) => attachedObjects(objects, attached))
      .forEach((object) => link("attached", object, objects.host[at]));
  });
  data.pods.forEach((pod, at) => {
    const node = data.nodes[pod.node];
    if (pod.hostAccess.length && node) link("reach", objects.pod[at], objects.host[node.host]);
  });
  return { objects, all: Object.values(objects).flat(), links };
}

function attachedObjects(objects, { identities, other }) {
  return [...identities.map((at) => objects.identity[at]), ...(other >= 0 ? [objects.other[other]] : [])];
}

function nodeName(at) {
  return at >= 0 ? data.nodes[at].name : "";
}

function settingName({ way, detail }) {
  return detail ? way + ": " + detail : way;
}

// Set x and y of the visible objects, whose labels have the width that *widthOf* returns. Return the size of objects and rows.
function place(graph, visible, widthOf) {
  const shown = (kind) => graph.objects[kind].filter((object) => visible.has(object));
  const pods = shown("pod");
  const size = pods.length <= SPARSE_MAX ? sparse(shown, widthOf) : DENSE;
  const bands = new Map();
  const bandOf = (key) => {
    if (!bands.has(key)) bands.set(key, { pods: [], bindings: [], identity: null });
    return bands.get(key);
  };
  shown("identity").forEach((identity) => { bandOf(identity.at).identity = identity; });
  shown("binding").forEach((binding) => bandOf(data.bindings[binding.at].identity).bindings.push(binding));
  pods.forEach((pod) => bandOf(pod.band === undefined ? -2 : pod.band).pods.push(pod));
  shown("other").forEach((object) => { bandOf("other " + object.at).identity = object; });
  const right = placeBands([...bands.values()], size);
  const hosts = shown("host");
  const [first, last] = d3.extent([...visible].filter((object) => object.kind !== "host"), (object) => object.y);
  const height = Math.max((last || 0) - (first || 0), hosts.length * size.row * 1.5);
  const wanted = new Map(hosts.map((host) => {
    const near = host.links.map((link) => link.from).filter((object) => visible.has(object));
    return [host, near.reduce((sum, object) => sum + object.y, 0) / (near.length || 1)];
  }));
  hosts.sort((a, b) => wanted.get(a) - wanted.get(b)).forEach((host, at) => {
    host.x = right + size.host;
    host.y = (first || 0) + ((at + 0.5) / hosts.length) * height;
  });
  return size;
}

function sparse(shown, widthOf) {
  const column = (...kinds) => (d3.max(kinds.flatMap(shown), widthOf) || 0) + SPARSE.labelSpace;
  return { ...SPARSE, identity: SPARSE.binding + column("binding"), host: column("identity", "other") };
}

// Place the bands one below the other, in as many lanes as give the graph the shape of the screen. Return the right end.
function placeBands(bands, size) {
  let wide = 1;
  for (const band of bands) {
    band.wide = size.labelSpace ? 1 : Math.max(1, Math.min(size.wide, Math.ceil(Math.sqrt(band.pods.length * 2))));
    band.rows = Math.max(1, Math.ceil(band.pods.length / band.wide), band.bindings.length);
    wide = Math.max(wide, band.wide);
  }
  const rows = bands.reduce((sum, band) => sum + band.rows + 1, 0);
  const laneWidth = (wide - 1) * size.step + size.identity + size.gap;
  const lanes = size.labelSpace ? 1 : Math.max(1, Math.round(Math.sqrt((rows * size.row * SHAPE) / laneWidth)));
  let row = 0, left = 0;
  for (const band of bands) {
    if (row && row + band.rows > rows / lanes + 1) {
      row = 0;
      left += laneWidth;
    }
    const middle = row + (band.rows - 1) / 2, x = left + (wide - 1) * size.step;
    band.pods.forEach((pod, at) => {
      pod.x = x - (at % band.wide) * size.step;
      pod.y = (row + Math.floor(at / band.wide)) * size.row;
    });
    band.bindings.forEach((binding, at) => {
      binding.x = x + size.binding;
      binding.y = (middle + at - (band.bindings.length - 1) / 2) * size.row;
    });
    if (band.identity) {
      band.identity.x = x + size.identity;
      band.identity.y = middle * size.row;
    }
    row += band.rows + 1;
  }
  return left + (wide - 1) * size.step + size.identity;
}

// The objects that *object* reaches or that reach it, with itself.
function related(graph, object) {
  const connected = new Set([object]);
  for (const { kind, from, to } of object.links) {
    connected.add(from).add(to);
    if (kind === "reach" && from === object) {
      data.hosts[to.at].attached.flatMap((attached) => attachedObjects(graph.objects, attached))
        .forEach((near) => connected.add(near));
    }
  }
  for (const { pod, identity } of object.kind === "binding" ? [] : object.grants) {
    const other = object.kind === "pod" ? graph.objects.identity[identity] : graph.objects.pod[pod];
    if (other) connected.add(other);
  }
  return connected;
}
