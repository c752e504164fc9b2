"""A pod's volumes as files of this machine: its service account's, the node's, Secrets' and empty ones."""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from podidentity.exits import StartError
from podidentity.kube.access import SERVICE_ACCOUNT_ROOT
from podidentity.kube.client import Client
from podidentity.resources import Kind, Resource
from podidentity_sandbox.containers import Mount
from podidentity_sandbox.pod_projection import Container, NodePod, Volume

TOKEN_SECONDS: Final = 86_400
"""A token is not renewed: a sandbox of more than a day is none."""
TRUSTED: Final = PurePosixPath("/etc/ssl/certs/sandbox.pem")
"""Where a program finds `NodeFiles.trusted`."""
SERVICE_ACCOUNTS: Final = Kind("ServiceAccount", "serviceaccounts", Resource)


class Data(Resource, frozen=True):
    """A ConfigMap, or a Secret with its values in base64."""

    data: dict[str, str] = msgspec.field(default_factory=dict)


CONFIG_MAPS: Final = Kind("ConfigMap", "configmaps", Data)
SECRETS: Final = Kind("Secret", "secrets", Data)


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """A node's own files: *root* contains its paths, *given* are files elsewhere."""

    root: Path
    given: Mapping[str, Path]
    ca_certificate: str
    """PEM of the API server's CA certificate."""
    trusted: Path
    """PEM of the CA certificates that the programs trust, instead of an image's own."""

    def at(self, path: str, kind: str) -> Path:
        """Return the node's file at this path, created if a hostPath volume of this *kind* is. Raise StartError."""
        if path in self.given:
            return self.given[path]
        here = self.root / PurePosixPath(path).relative_to("/")
        if here == self.root:  # which is there before any file of it is
            here.mkdir(exist_ok=True)
        if kind.endswith("OrCreate"):
            here.parent.mkdir(parents=True, exist_ok=True)
            here.touch() if kind.startswith("File") else here.mkdir(exist_ok=True)
        if not here.exists():
            raise StartError(f"the sandbox's nodes have no {path}; they have {', '.join(sorted(self.given))}")
        return here


async def mounts(client: Client, pod: NodePod, container: Container, node: NodeFiles, folder: Path) -> list[Mount]:
    """Return the mounts of the container. *folder* is the pod's own. Raise StartError and ApiError."""
    volumes = {volume.name: volume for volume in pod.spec.volumes}
    mounted = [Mount(node.trusted, TRUSTED, read_only=True)]
    for mount in container.volume_mounts:
        target = PurePosixPath(mount.mount_path)
        if target == PurePosixPath(SERVICE_ACCOUNT_ROOT):
            continue  # below
        source = await _source(client, pod, volumes[mount.name], node, folder / f"volume-{mount.name}")
        mounted.append(Mount(source, target, mount.read_only))
    if pod.spec.automount_service_account_token is not False:
        account = await _service_account(client, pod, node.ca_certificate, folder / "serviceaccount")
        mounted.append(Mount(account, PurePosixPath(SERVICE_ACCOUNT_ROOT), read_only=True))
    return mounted


async def secret_value(client: Client, namespace: str, name: str, key: str) -> str:
    """Return one value of a Secret, decoded. Raise ApiError, and StartError where there is no such key."""
    data = (await client.get(SECRETS, namespace, name)).data
    if key not in data:
        raise StartError(f"the Secret {namespace}/{name} has no key {key}; it has {', '.join(sorted(data))}")
    return base64.b64decode(data[key]).decode()


async def _source(client: Client, pod: NodePod, volume: Volume, node: NodeFiles, folder: Path) -> Path:
    if volume.host_path is not None:
        return node.at(volume.host_path.path, volume.host_path.type)
    namespace, files = pod.metadata.namespace, {}
    if volume.secret is not None:
        data = (await client.get(SECRETS, namespace, volume.secret.secret_name)).data
        files = {key: base64.b64decode(value) for key, value in data.items()}
    elif volume.config_map is not None:
        data = (await client.get(CONFIG_MAPS, namespace, volume.config_map.name)).data
        files = {key: value.encode() for key, value in data.items()}
    elif volume.empty_dir is None:
        raise StartError(f"the sandbox's kubelet has no volumes of the kind of {volume.name!r}")
    return await asyncio.to_thread(_written, folder, files)


async def _service_account(client: Client, pod: NodePod, ca_certificate: str, folder: Path) -> Path:
    """Return a token bound to the pod, as the kubelet requests it."""
    bound = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
    path = SERVICE_ACCOUNTS.path(pod.metadata.namespace, pod.spec.service_account_name, "token")
    body = msgspec.json.encode({"spec": {"expirationSeconds": TOKEN_SECONDS, "boundObjectRef": bound}})
    response = json.loads(await client.request("POST", path, body=body))
    files = {"token": response["status"]["token"], "ca.crt": ca_certificate, "namespace": pod.metadata.namespace}
    return await asyncio.to_thread(_written, folder, {name: text.encode() for name, text in files.items()})


def _written(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Return the folder with the files. Any user of a container can read it; only this user can open its parent."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
