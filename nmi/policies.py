"""The settings in the words of the rooms: what of them decides, what of them limits."""

from _native.lane import Limits
from nmi.connection_limits import ConnectionLimits
from nmi.flag_table import OperationMode
from nmi.identity.decide import DecisionPolicy
from nmi.server.policy import PIPELINE_SECONDS, ServerPolicy, Sizes
from nmi.server.target import Forwarding
from nmi.settings import Settings
from nmi.tokens.endpoints import SignInPolicy
from podidentity.azure import clouds
from podidentity.exits import StartError
from podidentity.telemetry import logs


def decision_policy(settings: Settings) -> DecisionPolicy:
    """What of *settings* decides who gets what, and how long a request is held."""
    return DecisionPolicy(
        force_namespaced=settings.force_namespaced,
        created_attempts=settings.attempts_for_created,
        assigned_attempts=settings.attempts_for_assigned,
        interval_seconds=float(settings.find_interval_seconds),
        max_hold_seconds=settings.max_hold_seconds,
        managed=settings.operation_mode is OperationMode.MANAGED,
        host_token_types=settings.host_token_types,
    )


def server_policy(settings: Settings) -> ServerPolicy:
    """What of *settings* decides how requests are treated. Raises StartError for a path that may never be proxied."""
    try:
        forwarding = Forwarding(settings.allowed_metadata_paths, everything=settings.proxy_all_metadata)
    except ValueError as error:
        raise StartError(f"--allow-metadata-path: {error}") from error
    return ServerPolicy(
        require_metadata_header=settings.metadata_header_required,
        allow_x_forwarded_for=settings.allow_x_forwarded_for,
        block_instance_metadata=settings.block_instance_metadata,
        set_retry_after=settings.set_retry_after_header,
        forwarding=forwarding,
        host_tokens=bool(settings.host_token_types),
        redirected_from=(settings.metadata_ip, settings.metadata_port) if settings.require_redirected else None,
        answer_seconds=settings.max_hold_seconds + 10,
        log_each_request=settings.verbosity >= logs.VERBOSE,
        sizes=Sizes(
            head_bytes=settings.max_head_bytes,
            fields=settings.max_header_fields,
            target_bytes=settings.max_target_bytes,
            body_bytes=settings.max_body_bytes,
        ),
        # The lane ends a connection whose next head is not whole after head_seconds: stop reading before it does.
        pipeline_seconds=min(PIPELINE_SECONDS, settings.head_seconds / 2),
    )


def limits(settings: Settings, sizes: ConnectionLimits) -> Limits:
    """The listener's limits out of *settings*, and of what its container may use."""
    return Limits(
        connections=sizes.places,
        connections_per_peer=sizes.places_per_pod,
        receive_bytes=sizes.receive_bytes,
        send_bytes=sizes.send_bytes,
        memory_bytes=sizes.memory_bytes,
        first_byte_seconds=settings.first_byte_seconds,
        head_seconds=settings.head_seconds,
        idle_seconds=settings.idle_seconds,
        write_seconds=settings.write_seconds,
    )


def sign_in_policy(settings: Settings) -> SignInPolicy:
    """What of *settings* decides which Secrets service principals may use, and whither they are sent.

    Reads the file of AZURE_ENVIRONMENT_FILEPATH if there is one: not for the event loop. Raises StartError for one that
    cannot be used.
    """
    try:
        return SignInPolicy(
            clouds.of_environment(settings.azure_environment_file),
            allowed_endpoints=settings.allowed_ad_endpoints,
            allow_cross_namespace=settings.allow_cross_namespace_secrets,
        )
    except (clouds.CloudError, ValueError) as error:
        raise StartError(f"the endpoint of Azure AD cannot be told: {error}") from error
