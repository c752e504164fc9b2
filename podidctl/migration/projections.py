"""Projections of workloads, pods and service accounts: the fields that the migrations read."""

from typing import Any, Final

from podidentity.resources import BareMeta, Kind, Meta, OwnerReference, Resource, Wire


class ControllerReference(OwnerReference, frozen=True):
    """A reference to an owner, with the API group to distinguish kinds of the same name."""

    api_version: str = ""


class ContainerVariable(Wire, frozen=True):
    name: str = ""
    value: str = ""
    """Empty also for a value from a field, a ConfigMap or a Secret."""


class WorkloadContainer(Wire, frozen=True):
    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[ContainerVariable, ...] = ()


class TemplateSpec(Wire, frozen=True):
    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    containers: tuple[WorkloadContainer, ...] = ()


class PodTemplate(Wire, frozen=True):
    metadata: BareMeta = BareMeta()
    spec: TemplateSpec = TemplateSpec()


class OwnedMeta(BareMeta, frozen=True):
    """Metadata with the name and the owners of an object."""

    owner_references: list[ControllerReference] | None = None  # type: ignore[assignment]  # frozen, so narrower is safe

    @property
    def controller(self) -> ControllerReference | None:
        """The controller that manages this object, or None."""
        return next((each for each in self.owner_references or () if each.controller), None)


class OwnedObject(Resource, frozen=True):
    """Any object with an owner."""

    metadata: OwnedMeta = OwnedMeta()


class WorkloadSpec(Wire, frozen=True):
    template: PodTemplate = PodTemplate()


class JobCondition(Wire, frozen=True):
    type: str = ""
    status: str = ""


class JobStatus(Wire, frozen=True):
    completion_time: str | None = None
    conditions: list[JobCondition] | None = None

    @property
    def ended(self) -> bool:
        """Whether a Job has ended, successfully or not."""
        failed = any(each.type == "Failed" and each.status == "True" for each in self.conditions or ())
        return failed or bool(self.completion_time)


class WorkloadObject(OwnedObject, frozen=True):
    """A Deployment, DaemonSet, StatefulSet, ReplicaSet or Job."""

    spec: WorkloadSpec = WorkloadSpec()
    status: JobStatus = JobStatus()


class JobTemplate(Wire, frozen=True):
    spec: WorkloadSpec = WorkloadSpec()


class CronJobSpec(Wire, frozen=True):
    job_template: JobTemplate = JobTemplate()


class CronJob(OwnedObject, frozen=True):
    spec: CronJobSpec = CronJobSpec()


class RunningPodStatus(Wire, frozen=True):
    phase: str = ""


class RunningPod(OwnedObject, frozen=True):
    spec: TemplateSpec = TemplateSpec()
    status: RunningPodStatus = RunningPodStatus()


class ServiceAccount(Resource, frozen=True):
    metadata: Meta = Meta()
    image_pull_secrets: list[dict[str, Any]] | None = None
    automount_service_account_token: bool | None = None


DEPLOYMENTS: Final = Kind("Deployment", "deployments", WorkloadObject, "apps")
DAEMON_SETS: Final = Kind("DaemonSet", "daemonsets", WorkloadObject, "apps")
STATEFUL_SETS: Final = Kind("StatefulSet", "statefulsets", WorkloadObject, "apps")
REPLICA_SETS: Final = Kind("ReplicaSet", "replicasets", WorkloadObject, "apps")
JOBS: Final = Kind("Job", "jobs", WorkloadObject, "batch")
CRON_JOBS: Final = Kind("CronJob", "cronjobs", CronJob, "batch")
RUNNING_PODS: Final = Kind("Pod", "pods", RunningPod)
SERVICE_ACCOUNTS: Final = Kind("ServiceAccount", "serviceaccounts", ServiceAccount)
