"""An application with msrestazure, the authentication of Azure's former libraries for Python."""

import os
import sys

from msrestazure.azure_active_directory import MSIAuthentication  # type: ignore[import-not-found] # not in .venv

named = {"client_id": os.environ["AZURE_CLIENT_ID"]} if "AZURE_CLIENT_ID" in os.environ else {}
credentials = MSIAuthentication(resource="https://management.azure.com/", timeout=10, **named)
url = "https://management.azure.com/subscriptions?api-version=2022-12-01"
response = credentials.signed_session().get(url, timeout=30)
response.raise_for_status()
sys.stdout.write(f"{len(response.json()['value'])} subscriptions\n")
