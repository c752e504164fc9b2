"""Bills of materials and provenance statements, checked by the libraries of their standards."""

import json

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from tools.release.commands import ReleaseError
from tools.release.provenance import PREDICATE


def check_bill(text: str) -> None:
    """Raise ReleaseError if *text* is not a bill of materials of CycloneDX 1.6."""
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        raise ReleaseError(f"not a CycloneDX document: {problem}")


def check_statement(text: str) -> None:
    """Raise ReleaseError if *text* is not an in-toto statement v1 with a SLSA provenance v1.

    The definitions of both are protocol buffers: an unknown field, a wrong type, or a missing required field is
    refused.
    """
    try:
        parsed = json_format.Parse(text, statement_pb2.Statement())
        Statement.copy_from_pb(parsed).validate()
        predicate = json_format.Parse(json.dumps(json.loads(text)["predicate"]), provenance_pb2.Provenance())
    except (json_format.ParseError, ValueError) as error:
        raise ReleaseError(f"not an in-toto statement with a SLSA provenance: {error}") from error
    if parsed.predicate_type != PREDICATE:
        raise ReleaseError(f"the predicate type is {parsed.predicate_type}, not {PREDICATE}")
    definition = predicate.build_definition
    for name, value in {
        "buildDefinition.buildType": definition.build_type,
        "buildDefinition.externalParameters": definition.external_parameters.fields,
        "runDetails.builder.id": predicate.run_details.builder.id,
    }.items():
        if not value:
            raise ReleaseError(f"the provenance lacks {name}")
