"""Conversion of the settings into the policies and limits of each package."""

from nmi.choices import OperationMode
from nmi.identity.decide import DecisionPolicy
from nmi.server.policy import ServerPolicy, Sizes
from nmi.server.target import ProxiedPaths
from nmi.settings import NmiSettings
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.token_proxy import DIRECT_ONLY, Exchanges, ProxySettings, TokenProxy, TokenProxyError
from podidentity.azure import clouds
from podidentity.azure.ca_bundle import CaBundle, CaBundleError
from podidentity.azure.federation import Exchange
from podidentity.exits import StartError
from podidentity.telemetry import logs


def decision_policy(settings: NmiSettings) -> DecisionPolicy:
    """Return the policy for decisions and for the hold of requests."""
    return DecisionPolicy(
        force_namespaced=settings.force_namespaced,
        created_attempts=settings.attempts_for_created,
        assigned_attempts=settings.attempts_for_assigned,
        interval_seconds=float(settings.find_interval_seconds),
        max_hold_seconds=settings.max_hold_seconds,
        managed=settings.operation_mode is OperationMode.MANAGED,
        host_token_types=settings.host_token_types,
    )


def server_policy(settings: NmiSettings) -> ServerPolicy:
    """Return the policy for the treatment of requests. Raises StartError for a path that must not be proxied."""
    try:
        proxied_paths = ProxiedPaths(settings.allowed_metadata_paths, everything=settings.proxy_all_metadata)
    except ValueError as error:
        raise StartError(f"--allow-metadata-path: {error}") from error
    return ServerPolicy(
        require_metadata_header=settings.metadata_header_required,
        allow_x_forwarded_for=settings.allow_x_forwarded_for,
        block_instance_metadata=settings.block_instance_metadata,
        set_retry_after=settings.set_retry_after_header,
        proxied_paths=proxied_paths,
        host_tokens=bool(settings.host_token_types),
        redirected_from=(settings.metadata_ip, settings.metadata_port) if settings.require_redirected else None,
        # After the time limit of the token service, whose refusal states the cause.
        response_seconds=settings.max_hold_seconds + 10,
        log_each_request=settings.verbosity >= logs.VERBOSE,
        sizes=Sizes(head_bytes=settings.max_head_bytes),
    )


def sign_in_policy(settings: NmiSettings) -> SignInPolicy:
    """Return the policy for the Secrets of service principals and the endpoints that receive them.

    Reads the file of AZURE_ENVIRONMENT_FILEPATH if there is one, so do not call it in the event loop. Raises StartError
    if the file cannot be used.
    """
    try:
        return SignInPolicy(
            clouds.of_environment(settings.azure_environment_file),
            allowed_endpoints=settings.allowed_ad_endpoints,
            allow_cross_namespace=settings.allow_cross_namespace_secrets,
        )
    except (clouds.CloudError, ValueError) as error:
        raise StartError(f"cannot determine the endpoint of Azure AD: {error}") from error


def exchanges(settings: NmiSettings) -> Exchanges:
    """Return the exchanges of federated identities. An unusable token proxy does not end NMI, which also serves other
    identities: those with identity bindings are refused, with the reason."""
    default, by_annotation = settings.federated_exchange, settings.federated_exchange_annotation
    if not settings.federated_identities or (default is Exchange.DIRECT and not by_annotation):
        return DIRECT_ONLY
    given = ProxySettings(
        settings.token_proxy,
        settings.token_proxy_server_name,
        settings.token_proxy_ca_file,
        settings.token_proxy_ca_data,
    )
    try:
        return Exchanges(default, by_annotation, TokenProxy(given))
    except TokenProxyError as error:
        return Exchanges(default, by_annotation, proxy_problem=str(error))


def sign_in_trust(settings: NmiSettings) -> CaBundle | None:
    """Return the CA certificates that NMI trusts for sign-ins, None for the machine's only.

    Blocking: reads files. Raises StartError for a bundle that cannot be used.
    """
    try:
        return None if settings.ca_bundle is None else CaBundle(settings.ca_bundle)
    except CaBundleError as error:
        raise StartError(str(error)) from error
