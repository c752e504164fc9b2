"""Checks of the Secrets of service principals (types 1 and 2), and of the tokens that NMI refused. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from nmi.tokens.secrets import CredentialError
from podidctl.checks.dependence import for_the_pod
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.federated import subject
from podidctl.evaluation.federated_credentials import correction
from podidctl.evaluation.needs import CHECKED_MAX, NOT_READ, READ_PERMISSION, needed_identities
from podidctl.evaluation.pod import PodCase
from podidctl.evaluation.refusals import RECENT_SECONDS, is_latest, is_of_credential, names_unassigned, recent_refusal
from podidctl.evaluation.tokens import SERVICE_PRINCIPAL_TYPES, application_of, audience_of
from podidctl.facts.model import ReadFailure, RecentRefusal, SecretCheck
from podidctl.report.documents import Outcome
from podidctl.report.finding import Finding, Level, ok, problem, unknown, warning
from podidctl.report.text import by_turns, grouped, listed
from podidentity.azure.federation import Exchange
from podidentity.report import counted

SECRETS: Final = "secrets"
CREDENTIALS: Final = "credentials"
GRANT: Final = (
    "add them to the chart's rbac.secretNamespaces, or set nmi.servicePrincipals=true for all namespaces (auto: if "
    "such an identity exists when helm installs or upgrades); rbac.allowAccessToSecrets must be true"
)
TOKENS = "tokens"
QUIET: Final = timedelta(minutes=2)
"""NMI's log has the repeats of each minute."""


def secret_links(case: PodCase) -> Iterator[Finding]:
    """Yield the link of each Secret that the pod's service principals need."""
    for identity in case.identities:
        application = application_of(case.settings, identity)
        if application is not None and identity.key in case.credentials:
            link = _secret_link(application.secret, case.credentials[identity.key])
            yield for_the_pod(case, identity.key, link)


def _secret_link(about: str, check: SecretCheck) -> Finding:
    match check:
        case CredentialError() as error:
            # NMI's message states the fault, and the next action after a colon.
            message, _, then = error.message.partition(": ")
            return problem("secret", message, then or error.message, about=about)
        case ReadFailure(reason):
            return unknown("secret", f"it could not be checked: {reason}", READ_PERMISSION, about=about)
        case None:
            return ok("secret", "it exists and has the keys that NMI reads", about=about)


def token_links(case: PodCase) -> Iterator[Finding]:
    """Yield the link of NMI's last response if it is a refusal that the other links do not explain."""
    decision = case.decision
    if decision.outcome is not Outcome.GRANTED or decision.assigned is None:
        return
    identity = "/".join(decision.assigned.identity.key)
    refused = recent_refusal(case, identity=identity)
    if refused is not None:
        audience = audience_of(case.settings, Exchange.DIRECT)
        command = correction(decision.assigned.identity, refused, subject(case.pod), audience)
        # NMI's own command has placeholders; the action has the values.
        cause = refused.text.partition(": az identity ")[0] if command else refused.text
        message = f"{refused.description}: {cause}"
        if case.facts.server_time - refused.at > QUIET and is_latest(case.facts, refused):
            message += "; no request since: if you have corrected it, wait for the next one"
        yield problem("token", message, command or refused.text, about=identity)


def check_secrets(case: ClusterCase) -> Iterator[Finding]:
    """Check that NMI may read the Secrets that it needs, and that it needs the ones that it may read."""
    needed = any(identity.spec.type in SERVICE_PRINCIPAL_TYPES for identity in case.facts.identities)
    for access in case.read("secrets", case.facts.secrets):
        who = f"NMI's service account {access.account}"
        if access.unchecked:
            message = f"{who}: its permission was not checked for {counted(access.unchecked, 'more namespace')}"
            then = f"one run checks at most {CHECKED_MAX}; podidctl explain pod checks the Secret of one pod"
            yield unknown(SECRETS, message, then)
        if access.forbidden:
            message = (
                f"{who} may not get Secrets that AzureIdentities of type 1 or 2 name, in {listed(access.forbidden)}"
            )
            yield problem(SECRETS, message, GRANT)
        elif access.everywhere and not needed:
            message = f"{who} may get every Secret of the cluster, but no AzureIdentity is of type 1 or 2"
            then = "remove the permission: helm upgrade with nmi.servicePrincipals=auto or false"
            yield warning(SECRETS, message, then)
        elif access.everywhere:
            message = f"{who} may get every Secret of the cluster; rbac.secretNamespaces can limit it to "
            yield ok(SECRETS, message + listed(access.needed))
        elif needed and not access.unchecked:
            yield ok(SECRETS, f"{who} may get the Secrets that AzureIdentities of type 1 or 2 name")


def check_credentials(case: ClusterCase) -> Iterator[Finding]:
    """Check that each Secret exists and has the keys that NMI reads. An identity without pods is a warning."""
    checks = case.read("credentials", case.facts.credentials)
    needed = needed_identities(case.facts)
    invalid = set(_refused_principals(case))
    usable, unread, not_read = 0, defaultdict[str, list[str]](list), list[str]()
    for key, check in by_turns(sorted(checks.items()), lambda item: item[0][0]):
        name = "/".join(key)
        match check:
            case CredentialError() as error:
                level = Level.PROBLEM if key in needed else Level.WARNING
                message, _, then = error.message.partition(": ")
                yield Finding(CREDENTIALS, level, f"AzureIdentity {name}: {message}", then or error.message)
            case ReadFailure() if check == NOT_READ:
                not_read.append(name)
            case ReadFailure(reason):
                unread[reason].append(name)
            case None if name in invalid:
                pass  # the check of tokens reports it
            case None:
                usable += 1
    if unread:
        several = [name for names in unread.values() for name in names]
        message = f"the Secrets of {listed(several)} could not be checked: {next(iter(unread))}"
        yield unknown(CREDENTIALS, message, READ_PERMISSION)
    if not_read:
        message = f"{counted(len(not_read), 'more Secret was', 'more Secrets were')} not checked: {listed(not_read)}"
        then = f"{NOT_READ.reason}; podidctl explain pod checks the Secret of one pod"
        yield unknown(CREDENTIALS, message, then)
    if usable:
        yield ok(CREDENTIALS, f"{counted(usable, 'Secret exists', 'Secrets exist')} with the keys that NMI reads")


def _refused_principals(case: ClusterCase) -> Iterator[str]:
    """Yield the identities (`namespace/name`) whose credential Entra ID refused in the last minutes.

    An Event of NMI names the Secret and no identity: it counts for the identities that are bound to its pod.
    """
    recent = case.facts.refused if not isinstance(case.facts.refused, ReadFailure) else {}
    cases = _cases(case, recent)
    for pod, refusal in recent.items():
        if not is_of_credential(refusal):
            continue
        if refusal.identity:
            yield refusal.identity
            continue
        for identity in cases[pod].bound if pod in cases else ():
            application = application_of(case.usual.settings, identity)
            if application is not None and f"Secret {application.secret} " in refusal.text:
                yield "/".join(identity.key)


def _cases(case: ClusterCase, refused: Mapping[str, RecentRefusal]) -> Mapping[str, PodCase]:
    """Return each of the *refused* pods (`namespace/name`) that has a label, with the bindings that select it, their
    identities and what is assigned to it.
    """
    facts = case.facts
    identities = {identity.key: identity for identity in facts.identities}
    selecting = grouped((binding.spec.selector, binding) for binding in facts.bindings)
    assigned = grouped(((its.spec.pod_namespace, its.spec.pod), its) for its in facts.assigned)
    cases = {}
    for pod in facts.pods:
        if (name := "/".join(pod.key)) not in refused or not pod.binding_label:
            continue
        bindings = selecting.get(pod.binding_label, ())
        keys = {(binding.metadata.namespace, binding.spec.azure_identity) for binding in bindings}
        around = replace(
            facts,
            configuration=case.on(pod.spec.node_name),
            bindings=tuple(bindings),
            identities=tuple(identities[key] for key in keys & identities.keys()),
            assigned=tuple(assigned.get(pod.key, ())),
        )
        cases[name] = PodCase(around, pod)
    return cases


def check_tokens(case: ClusterCase) -> Iterator[Finding]:
    """Report the pods whose last request NMI refused, one finding for each cause."""
    every = case.read("tokens", case.facts.refused)
    cases = _cases(case, every)
    unassigned = [
        pod for pod, refusal in every.items() if pod in cases and names_unassigned(cases[pod], refusal.text, refusal.at)
    ]
    refused = {pod: refusal for pod, refusal in every.items() if pod not in unassigned}
    causes = grouped(((refusal.text, refusal.unanswered), pod) for pod, refusal in refused.items())
    minutes = round(RECENT_SECONDS / 60)
    # The cause that affects most pods first.
    for (text, unanswered), pods in sorted(causes.items(), key=lambda item: -len(item[1])):
        several = counted(len(pods), "pod")
        what = f"clients of {several} left before NMI's response" if unanswered else f"NMI refused tokens to {several}"
        message = f"{what} in the last {minutes} minutes: {listed(pods)}: {text}"
        yield problem(TOKENS, message, next(_corrections(case, {pod: refused[pod] for pod in pods}), text))
    if not causes:
        case.read(TOKENS, case.facts.nmi)  # without NMI's pods no log was read
        message = f"NMI's logs and Events have no refused token of the last {minutes} minutes"
        if unassigned:
            message += f" that counts: MIC had not assigned the requested identities of {listed(unassigned)}"
        yield ok(TOKENS, message)


def _corrections(case: ClusterCase, refused: Mapping[str, RecentRefusal]) -> Iterator[str]:
    """Yield the commands that create the federated credentials of these pods (`namespace/name`)."""
    identities = {"/".join(identity.key): identity for identity in case.facts.identities}
    pods = {"/".join(pod.key): pod for pod in case.facts.pods}
    audiences = {configuration.settings.federated_audience for configuration in case.configurations}
    for name, refusal in refused.items():
        identity, pod = identities.get(refusal.identity), pods.get(name)
        if identity is None or pod is None:
            continue
        for audience in audiences:
            if command := correction(identity, refusal, subject(pod), audience):
                yield command


POD_CHECKS: Final = (secret_links,)


CHECKS: Final = (check_secrets, check_credentials, check_tokens)
