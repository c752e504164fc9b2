"""An application with object_store, the Rust library of Polars and delta-rs, by its package obstore."""

import os
import sys

from obstore.store import AzureStore  # type: ignore[import-not-found] # not in .venv

named = {"client_id": os.environ["AZURE_CLIENT_ID"]} if "AZURE_CLIENT_ID" in os.environ else {}
endpoint = "http://169.254.169.254/metadata/identity/oauth2/token"
store = AzureStore("container", account_name="account", msi_endpoint=endpoint, **named)
for blobs in store.list():
    sys.stdout.writelines(f"{blob['path']}\n" for blob in blobs)
