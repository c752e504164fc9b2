"""Projections of the workloads: the kinds with a pod template."""

from typing import Final, NamedTuple

from podidctl.facts.kinds import DaemonContainer
from podidentity.resources import BareMeta, Kind, OwnerReference, PodSpec, Resource, Wire

OWNERS_MAX: Final = 3
"""Maximum depth of owners; a CronJob's pod has one owner of an owner. Owner references can be circular."""


class TemplateSpec(PodSpec, frozen=True):
    containers: tuple[DaemonContainer, ...] = ()


class PodTemplate(Wire, frozen=True):
    metadata: BareMeta = BareMeta()
    spec: TemplateSpec = TemplateSpec()


class JobSpec(Wire, frozen=True):
    template: PodTemplate = PodTemplate()


class JobTemplate(Wire, frozen=True):
    spec: JobSpec = JobSpec()


class SelectorRequirement(Wire, frozen=True):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class LabelSelector(Wire, frozen=True):
    match_labels: dict[str, str] | None = None
    match_expressions: list[SelectorRequirement] | None = None


class WorkloadSpec(JobSpec, frozen=True):
    selector: LabelSelector | None = None
    job_template: JobTemplate | None = None
    """Of a CronJob, which has no other template."""


class JobCondition(Wire, frozen=True):
    type: str = ""
    status: str = ""


class JobStatus(Wire, frozen=True):
    completion_time: str | None = None
    conditions: list[JobCondition] | None = None

    @property
    def ended(self) -> bool:
        """Whether a Job has ended, successfully or not."""
        failed = any(condition.type == "Failed" and condition.status == "True" for condition in self.conditions or ())
        return failed or bool(self.completion_time)


class WorkloadObject(Resource, frozen=True):
    """An object of one of the kinds TEMPLATED."""

    spec: WorkloadSpec = WorkloadSpec()
    status: JobStatus = JobStatus()

    @property
    def template(self) -> PodTemplate:
        job = self.spec.job_template
        return job.spec.template if job is not None else self.spec.template


DEPLOYMENTS: Final = Kind("Deployment", "deployments", WorkloadObject, "apps")
DAEMON_SETS: Final = Kind("DaemonSet", "daemonsets", WorkloadObject, "apps")
STATEFUL_SETS: Final = Kind("StatefulSet", "statefulsets", WorkloadObject, "apps")
REPLICA_SETS: Final = Kind("ReplicaSet", "replicasets", WorkloadObject, "apps")
JOBS: Final = Kind("Job", "jobs", WorkloadObject, "batch")
CRON_JOBS: Final = Kind("CronJob", "cronjobs", WorkloadObject, "batch")
TEMPLATED: Final = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, CRON_JOBS, JOBS, REPLICA_SETS)
"""Kinds with a pod template. Objects of the last two kinds are short-lived and usually have an owner."""


class Owner(NamedTuple):
    """A workload, which creates pods."""

    kind: Kind[WorkloadObject]
    workload: WorkloadObject


def controller(item: Resource) -> OwnerReference | None:
    """Return the controller that manages this object, or None."""
    return next((owner for owner in item.metadata.owner_references or () if owner.controller), None)
