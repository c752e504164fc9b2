// The details of the selected object. All texts are set as text, never as markup.

function element(name, text, attributes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  return made;
}

function objectLink(object, text, onSelect) {
  const button = element("button", text, { type: "button", class: "link" });
  button.addEventListener("click", () => onSelect(object));
  return button;
}

const LISTED = 100;

function makeDetails(graph, onSelect) {
  const panel = document.getElementById("details");

  function facts(pairs) {
    const list = element("dl");
    for (const [title, value] of pairs) {
      if (value === "" || value === undefined || value === null) continue;
      list.append(element("dt", title), element("dd", String(value)));
    }
    panel.append(list);
  }

  function warn(text) {
    if (text) panel.append(element("p", text, { class: "warning" }));
  }

  function list(title, items) {
    if (!items.length) return;
    const made = element("ul");
    for (const content of items) {
      const item = element("li");
      item.append(content);
      made.append(item);
    }
    panel.append(element("h3", title), made);
  }

  function objects(title, entries) {
    const unique = [...new Set(entries)].filter(Boolean);
    const items = unique.slice(0, LISTED).map((object) => objectLink(object, object.name, onSelect));
    if (unique.length > LISTED) items.push(unique.length - LISTED + " more: use the tables");
    list(title + " (" + unique.length + ")", items);
  }

  const texts = (title, lines) => list(title, lines.slice(0, LISTED));
  const pick = (kind, ats) => ats.map((at) => graph.objects[kind][at]);

  function reach(title, reached) {
    objects(title, [...pick("identity", reached.identities), ...pick("other", reached.others)]);
    if (reached.systemAssigned) texts(title + ", also", ["the system-assigned identity of the host"]);
    if (!reached.complete) warn(title + ": not complete, because Azure was not read");
  }

  const shown = {
    pod(at) {
      const pod = data.pods[at];
      facts([["node", nodeName(pod.node)], ["label", pod.label], ["service account", pod.serviceAccount],
        ["workload", pod.workload], ["program", pod.program]]);
      warn(pod.note);
      if (pod.takesOver) warn("It can take over its node, with the credentials of the kubelet and of NMI.");
      texts("Uses its node's identities by", pod.hostAccess.map(settingName));
      texts("May use them, undecided",
        pod.undecidedAccess.map((access) => settingName(access) + " (" + access.why + ")"));
      texts("Its service account may", pod.rights);
      const grants = graph.objects.pod[at].grants;
      objects("Identities", pick("identity", grants.map((grant) => grant.identity)));
      texts("Paths", grants.map(describeGrant));
      objects("Bindings", pick("binding", grants.map((grant) => grant.binding)));
      const node = data.nodes[pod.node];
      if (pod.hostAccess.length && node) {
        objects("Host", pick("host", [node.host]));
        reach("Identities of the node", node.blastRadius.today);
      }
    },
    identity(at) {
      const identity = data.identities[at];
      facts([["type", identity.type], ["client id", identity.clientId], ["resource id", identity.resourceId],
        ["secret", identity.secret], ["namespaced", identity.namespaced ? "yes" : "no"],
        ["pods through a host", identity.hostPods]]);
      warn(identity.problem);
      const { grants, links } = graph.objects.identity[at];
      objects("Pods", pick("pod", grants.map((grant) => grant.pod)));
      objects("Bindings", links.map((link) => link.from)
        .filter((object) => object.kind === "binding"));
      objects("Attached to", pick("host", identity.hosts));
    },
    other(at) {
      facts([["resource id", data.others[at].resourceId]]);
      warn("No AzureIdentity has this resource id.");
      objects("Attached to", graph.objects.other[at].links.map((link) => link.to));
    },
    binding(at) {
      const binding = data.bindings[at];
      facts([["selector", binding.selector], ["identity", binding.target]]);
      warn(binding.problem);
      objects("Identity", pick("identity", [binding.identity]));
      objects("Pods", pick("pod", graph.objects.binding[at].grants.map((grant) => grant.pod)));
    },
    host(at) {
      const host = data.hosts[at];
      facts([["kind", host.kind], ["id", host.id], ["read from Azure", host.read ? "yes" : "no"],
        ["system-assigned", host.systemAssigned === null ? "unknown" : host.systemAssigned ? "yes" : "no"]]);
      warn(host.problem);
      texts("Attached", host.attached.map((attached) =>
        attachedObjects(graph.objects, attached).map((identity) => identity.name).join(", ") +
        " (explained by " + attached.explained + ")"));
      objects("Identities", host.attached.flatMap((attached) => attachedObjects(graph.objects, attached)));
      texts("Nodes", data.nodes.filter((node) => node.host === at).map(({ name, nmi, blastRadius }) => name + ": NMI " + nmi +
        ", a taken-over node reaches " + count(blastRadius.today) + " identities, " + count(blastRadius.federated) +
        " if all were federated"));
      objects("Pods with its identities", graph.objects.host[at].links.map((link) => link.from)
        .filter((object) => object.kind === "pod"));
    },
  };

  function count(reached) {
    return reached.identities.length + reached.others.length + (reached.systemAssigned ? 1 : 0);
  }

  return function show(object) {
    panel.replaceChildren();
    if (!object) {
      panel.append(element("p", "Nothing is selected."));
      return;
    }
    panel.append(element("h3", KINDS[object.kind] + " " + object.name));
    shown[object.kind](object.at);
  };
}

function describeGrant({ identity, state, binding, assignedIdentity, serviceAccount }) {
  const parts = [identity >= 0 ? data.identities[identity].name : "unknown identity", state];
  if (binding >= 0) parts.push("binding " + data.bindings[binding].name);
  if (assignedIdentity) parts.push("assigned by " + assignedIdentity);
  if (serviceAccount) parts.push("service account " + serviceAccount);
  return parts.join(", ");
}
